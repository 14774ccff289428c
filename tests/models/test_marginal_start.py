"""Initial weights from marginal distributions."""

from __future__ import annotations

import pytest
import torch
from model_samples import Rows, fit, geant4_showers, sparse_showers, toy_detector, training_batch

from caloforge.detectors import load_detector
from caloforge.models import build_model
from caloforge.models.caloflow import CaloFlow
from caloforge.models.marginals import collect_rows, start_from_marginals
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.random import Streams
from caloforge.stage import GradientStage, TrainingConfig

STREAMS = Streams(4, "start")


def flow(bins: int = 8) -> MaskedAutoregressiveFlow:
    torch.manual_seed(0)
    return MaskedAutoregressiveFlow(
        features=4, context_features=1, blocks=3, hidden_features=20, hidden_layers=1, bins=bins, bound=14.0
    ).double()


def awkward(rows: int = 4000) -> torch.Tensor:
    """A normal variable, a far one, a skewed one, and a narrow spike with a tail."""
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    spike = torch.where(normal[:, 3] < 0.5, -13.8 + 0.05 * normal[:, 3].abs(), -9 + normal[:, 3])
    return torch.stack([normal[:, 0], 9 + 0.1 * normal[:, 1], -normal[:, 2].exp().clamp_max(13), spike], dim=1)


def test_every_variable_starts_standard_normal() -> None:
    made = flow()
    values = awkward()
    context = torch.zeros(len(values), 1, dtype=torch.float64)
    start_from_marginals(made, values)
    with torch.no_grad():
        z, _ = made(values, context)
    # Splines pass through the quantiles at their knots; between them they only interpolate.
    expected = torch.linspace(-2.2, 2.2, 7, dtype=torch.float64)
    found = torch.quantile(z, torch.special.ndtr(expected), dim=0)
    assert float((found - expected[:, None]).abs().max()) < 0.3


def test_it_starts_far_below_the_loss_of_random_weights() -> None:
    random, started = flow(), flow()
    values = awkward()
    context = torch.zeros(len(values), 1, dtype=torch.float64)
    start_from_marginals(started, values)
    with torch.no_grad():
        losses = [-float(made.log_prob(values, context).mean()) for made in (random, started)]
    assert losses[1] < losses[0] - 50


def test_later_blocks_start_close_to_the_identity() -> None:
    made = flow()
    start_from_marginals(made, awkward())
    values = torch.randn(500, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        for block in list(made.blocks)[1:]:
            out, _ = block(values, torch.zeros(500, 1, dtype=torch.float64))
            assert float((out - values).abs().mean()) < 0.15


@pytest.mark.parametrize("bins", [2, 3, 5, 10])
def test_any_number_of_bins_and_constant_variables(bins: int) -> None:
    made = flow(bins)
    values = awkward(50)
    values[:, 1] = -13.8
    start_from_marginals(made, values)
    with torch.no_grad():
        assert bool(torch.isfinite(made.log_prob(values, torch.zeros(50, 1, dtype=torch.float64))).all())


def test_rows_are_spread_over_all_batches() -> None:
    rows = Rows(sparse_showers(toy_detector(), 95))
    assert collect_rows(rows, 10, lambda batch: batch.row[:, None]).flatten().tolist() == list(range(0, 95, 10))
    assert len(collect_rows(rows, 1000, lambda batch: batch.row[:, None])) == 95


@pytest.mark.parametrize("name", ["energies", "shapes"])
def test_preparing_a_stage_of_caloflow_lowers_its_first_loss(name: str) -> None:
    sizes = {"energies": {"blocks": 3, "hidden_features": 16}, "shapes": {"blocks": 3, "hidden_features": 24}}
    showers = geant4_showers(22)
    losses = {}
    for start in ("random", "marginals"):
        torch.manual_seed(0)
        config = sizes | {"energy_scale": 1.0, "start": start}
        model = build_model("caloflow", config, load_detector("calogan"))
        assert isinstance(model, CaloFlow)
        fit(model, showers)
        (stage,) = (stage for stage in model.stages(TrainingConfig()) if stage.name == name)
        assert isinstance(stage, GradientStage)
        before = {key: value.clone() for key, value in stage.state().items()}
        stage.prepare(Rows(showers), STREAMS)
        changed = any(not torch.equal(value, before[key]) for key, value in stage.state().items())
        assert changed == (start == "marginals")
        with torch.no_grad():
            losses[start] = float(stage.validate(training_batch(showers), STREAMS)["loss"])
    assert losses["marginals"] < 0.2 * losses["random"]
