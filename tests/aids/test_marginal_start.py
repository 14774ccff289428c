"""Initial weights from marginal distributions."""

from __future__ import annotations

import pytest
import torch
from model_samples import Rows, fit, geant4_showers, sparse_showers, toy_detector, training_batch

from caloforge.aids.marginal_start import start_from_marginals
from caloforge.detectors import load_detector
from caloforge.models import build_model, load_preset
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.nn.convolutional import ConvolutionalFlow
from caloforge.nn.coupling import CouplingFlow, SplineKind
from caloforge.nn.flow import ConditionalFlow
from caloforge.nn.permutations import reverse_all
from caloforge.nn.splines import SplineSettings
from caloforge.parts.flows import FlowStage
from caloforge.random import Streams
from caloforge.stage import GradientStage, TrainingConfig

STREAMS = Streams(4, "start")


def flow(bins: int = 8) -> MaskedAutoregressiveFlow:
    torch.manual_seed(0)
    return MaskedAutoregressiveFlow(
        features=4, context_features=1, blocks=3, hidden_features=20, hidden_layers=1, splines=SplineSettings(bins)
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


@pytest.mark.parametrize("spline", ["rqs", "cubic"])
@torch.no_grad()
def test_every_variable_of_a_coupling_flow_starts_standard_normal(spline: SplineKind) -> None:
    """Mutation: start every block from the variables of the first one, not from what comes out of those before it."""
    generator = torch.Generator().manual_seed(2)
    spike = -3.5 + 0.1 * torch.randn(4000, 3, dtype=torch.float64, generator=generator)
    broad = 2 * torch.rand(4000, 4, dtype=torch.float64, generator=generator) ** 2
    x = torch.cat([spike, broad], dim=1)
    coupling = CouplingFlow(
        features=7, context_features=0, blocks=8, hidden_features=8, layers=2, splines=SplineSettings(10, 4.0), spline=spline,
        permutations=[reverse_all(7)] * 7,
    ).double()  # fmt: skip
    before = coupling.log_prob(x).mean()
    start_from_marginals(coupling, x)
    z, _ = coupling(x)
    assert float(coupling.log_prob(x).mean()) > float(before) + 7
    ordered = z.sort(dim=0).values
    at = torch.special.ndtri(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    for column in ordered.t():
        torch.testing.assert_close(column[[400, 2000, 3600]], at, atol=0.35, rtol=0)


@torch.no_grad()
def test_pixels_of_a_convolutional_flow_start_standard_normal() -> None:
    torch.manual_seed(1)
    images = ConvolutionalFlow((4, 4), 1, steps=6, hidden_channels=2, splines=SplineSettings(10, 4.0)).double().eval()
    generator = torch.Generator().manual_seed(1)
    one, two, three = torch.randn(3, 500, 4, 4, generator=generator, dtype=torch.float64)
    data, context = torch.where(one > 0.5, two + 3, 0.1 * three), torch.randn(500, 1, 4, 4, dtype=torch.float64)
    before = float(images.log_prob(data, context).mean())
    start_from_marginals(images, data.flatten(1))
    after = float(images.log_prob(data, context).mean())
    z, _ = images(data, context)
    assert after > before + 5
    assert float(z.mean().abs()) < 0.2
    assert float(z.std()) == pytest.approx(1, abs=0.2)


STAGES = {
    "caloflow": ["energies", "shapes"],
    "icaloflow": ["energies", "first", "following"],
    "caloinn": ["flow"],
    "caloinn-factorised": ["energies", "flow"],
    "l2lflows": ["energies", "layers_00"],
    "l2lflows-conv": ["energies", "layers_00"],
}


@pytest.mark.parametrize("kind", STAGES)
def test_every_stage_that_trains_a_flow_starts_lower(kind: str) -> None:
    """And without the aid nothing but activation norms is set from the data."""
    detector = toy_detector((4, 4), (4, 4), (4, 4))
    showers = sparse_showers(detector, 200)
    losses: dict[bool, dict[str, float]] = {}
    for helped in (False, True):
        torch.manual_seed(0)
        preset = load_preset(f"{kind}-tiny")
        model = build_model(kind, preset.model, detector, aids=[{"kind": "marginal-start"}] if helped else [])
        fit(model.eval(), showers)
        losses[helped] = {}
        for stage in model.training_stages(TrainingConfig()):
            if not isinstance(stage, GradientStage):
                continue
            assert isinstance(stage, FlowStage)
            before = {key: value.clone() for key, value in stage.state().items()}
            with torch.no_grad():
                stage.begin(Rows(showers), STREAMS)
                losses[helped][stage.name] = float(stage.validate(training_batch(showers), STREAMS)["loss"])
            changed = {key for key, value in stage.state().items() if not torch.equal(value, before[key])}
            assert helped == any("norm" not in key for key in changed)
            assert isinstance(stage.flow, ConditionalFlow | ConvolutionalFlow)
    assert list(losses[True]) == STAGES[kind]
    for name, loss in losses[True].items():
        assert loss < losses[False][name] - 3


@pytest.mark.parametrize("name", ["energies", "shapes"])
def test_on_real_showers_the_first_loss_of_caloflow_is_a_fraction(name: str) -> None:
    sizes = {"energies": {"blocks": 3, "hidden_features": 16}, "shapes": {"blocks": 3, "hidden_features": 24}}
    showers = geant4_showers(22)
    losses = []
    for aids in ([], [{"kind": "marginal-start"}]):
        torch.manual_seed(0)
        model = build_model("caloflow", sizes | {"energy_scale": 1.0}, load_detector("calogan"), aids=aids)
        fit(model, showers)
        (stage,) = (stage for stage in model.training_stages(TrainingConfig()) if stage.name == name)
        assert isinstance(stage, GradientStage)
        with torch.no_grad():
            stage.begin(Rows(showers), STREAMS)
            losses.append(float(stage.validate(training_batch(showers), STREAMS)["loss"]))
    assert losses[1] < 0.2 * losses[0]
