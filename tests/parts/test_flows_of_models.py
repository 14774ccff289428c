"""Flows as parts: rows from which they start, the flow of the layer energies, and the stages that train them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from model_samples import Rows, fit, sparse_showers, toy_detector, training_batch
from torch import Tensor

from caloforge.conditions import Conditions
from caloforge.errors import ConfigError, ShowerFileError
from caloforge.models import build_model
from caloforge.nn.permutations import FixedPermutation
from caloforge.parts.flows import FlowSize, FlowStage, normal_latents
from caloforge.parts.layer_energies import LayerEnergyFlow, ScaleStage
from caloforge.parts.rows import collect_rows
from caloforge.random import Streams
from caloforge.representation import Dequantisation, EnergyScale, LayerEnergies, LogEnergy, VoxelSettings
from caloforge.stage import TrainingBatch, TrainingConfig

STREAMS = Streams(6, "parts")
SIZE = FlowSize(blocks=3, hidden_features=12)


def energy_flow(fractions: Any = "recursive", layers: int = 3, **changes: Any) -> LayerEnergyFlow:
    torch.manual_seed(1)
    settings: dict[str, Any] = {"scale": 1.2, "extra_energy": 0.0, "alpha": 1e-6} | changes
    representation = LayerEnergies(layers, fractions=fractions, **settings)
    return LayerEnergyFlow(representation, LogEnergy(1e4), SIZE, masks="even", permutation_seed=2).double()


# ---- rows


def test_rows_are_spread_over_all_batches() -> None:
    rows = Rows(sparse_showers(toy_detector(), 95))
    assert collect_rows(rows, 10, lambda batch: batch.row[:, None]).flatten().tolist() == list(range(0, 95, 10))
    assert len(collect_rows(rows, 1000, lambda batch: batch.row[:, None])) == 95


def test_a_stage_starts_from_all_layers_of_its_showers() -> None:
    """Mutation: count rows of showers instead of those that the flow learns."""
    seen: list[int] = []

    def variables(batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        seen.append(len(batch))
        y = torch.stack([100.0 * batch.row, 100.0 * batch.row + 1], dim=1).reshape(-1, 1).expand(-1, 3)
        return y, y[:, :1]

    detector = toy_detector((1, 1), (2, 1))
    flow = torch.nn.Linear(1, 1)
    rows = Rows(sparse_showers(detector, 4500))
    for per_shower, expected in ((1, 2250), (2, 1500)):
        stage = FlowStage(
            "flow", "flow", flow, variables, TrainingConfig().for_stage("flow"), rows_per_shower=per_shower
        )
        values = stage.start_values(rows, STREAMS)
        assert values.shape == (2 * expected, 3)
        assert values[:4, 0].tolist() == [0.0, 1.0, 100.0 * (4500 // expected), 100.0 * (4500 // expected) + 1]
    assert sum(seen) == 9000


def test_latents_of_a_flow_do_not_depend_on_other_flows() -> None:
    conditions = Conditions.first(torch.linspace(1e3, 1e5, 5).double().numpy(), 22, start=7)
    both = normal_latents({"a": 3, "b": 2}, conditions, STREAMS)
    assert torch.equal(normal_latents({"b": 2}, conditions, STREAMS)["b"], both["b"])
    assert torch.equal(normal_latents({"a": 3}, conditions[2:4], STREAMS)["a"], both["a"][2:4])
    assert not torch.equal(both["a"][:, :2], both["b"])
    assert both["a"].dtype == torch.float32


# ---- the flow of the layer energies


@pytest.mark.parametrize(
    ("fractions", "changes"),
    [("recursive", {}), ("single", {}), ("single", {"scale": None, "reference": 6.5e4})],
    ids=["recursive", "single", "single of 65 GeV"],
)
def test_density_and_samples_of_layer_energies_belong_together(fractions: Any, changes: dict[str, Any]) -> None:
    """log p(E) = log N(z) + log |dz/dE|, with the Jacobian from autograd; and sampling with z gives E."""
    flow = energy_flow(fractions, **changes)
    energies = torch.tensor([[900.0, 30.0, 2.0], [40.0, 5e3, 70.0], [9e3, 8e3, 1e2]], dtype=torch.float64)
    incident = torch.tensor([2e3, 1e4, 3e4], dtype=torch.float64)
    found, volume, possible = flow.log_prob(energies, incident)
    assert bool(possible.all())

    def latents(e: Tensor, one: Tensor) -> Tensor:
        return flow.flow(flow.representation.transform(e[None], one), flow.context(one))[0][0]

    for k in range(3):
        one = incident[k : k + 1]
        z = latents(energies[k], one).detach()
        matrix = torch.autograd.functional.jacobian(lambda e, one=one: latents(e, one), energies[k])
        expected = -0.5 * z.square().sum() - 1.5 * math.log(2 * math.pi) + torch.linalg.slogdet(matrix).logabsdet
        assert float((found + volume)[k].detach()) == pytest.approx(float(expected), abs=1e-8)
        with torch.no_grad():
            torch.testing.assert_close(flow.sample(z[None], one)[0], energies[k], rtol=1e-6, atol=1e-6)


def test_recursive_fractions_are_permuted_and_single_ones_stay_in_order() -> None:
    """Mutation: permute single fractions at random; layers that follow each other would no longer stand together."""
    orders = {
        fractions: [
            p.index.tolist() for p in energy_flow(fractions, 12).flow.permutations if isinstance(p, FixedPermutation)
        ]
        for fractions in ("recursive", "single")
    }
    assert any(order not in (list(range(12)), list(range(12))[::-1]) for order in orders["recursive"])
    assert list(range(12))[::-1] in orders["single"]
    assert len(orders["recursive"]) == SIZE.blocks


def test_a_margin_beyond_the_splines_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"reaches 18\.4, where the splines of the flow 'energies', which end at 14"):
        energy_flow(alpha=1e-8)


def test_its_stages_are_a_scale_and_a_flow_that_needs_it() -> None:
    settings = VoxelSettings()
    dequantisation = Dequantisation(settings, toy_detector())
    scaled, fixed = (flow.stages("e", dequantisation, TrainingConfig()) for flow in (
        energy_flow(scale=None), energy_flow("single", scale=None, reference=6.5e4)
    ))  # fmt: skip
    assert [(stage.name, stage.needs) for stage in scaled] == [("scale", ()), ("energies", ("scale",))]
    assert [(stage.name, stage.needs) for stage in fixed] == [("energies", ())]
    assert list(scaled[0].state()) == ["e.representation.scale.value"]
    assert all(name.startswith("e.flow.") for name in scaled[1].state())


def test_the_scale_is_that_of_the_visible_deposits() -> None:
    """Mutation: sum the deposits as the file has them."""
    detector = toy_detector((2, 2), threshold=5.0)
    showers = sparse_showers(detector, 60)
    scale = EnergyScale(None)
    stage = ScaleStage("scale", scale, Dequantisation(VoxelSettings(), detector))
    stage.load_state(stage.fit(Rows(showers), STREAMS))
    visible = showers.above(5.0).total_energy() / showers.incident_energy
    assert float(scale.value) == pytest.approx(1.01 * visible.max(), rel=1e-6)
    with pytest.raises(ShowerFileError, match=r"more than the model's energy scale 0\.01 allows"):
        ScaleStage("scale", EnergyScale(0.01), stage.dequantisation).fit(Rows(showers), STREAMS)


def test_the_loss_of_the_energies_makes_no_noise_for_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    """With noise on the layers only their numbers are drawn: a calorimeter may have 40,500 voxels."""
    torch.manual_seed(0)
    small = {name: {"blocks": 1, "hidden_features": 4} for name in ("energies", "shapes")}
    model = build_model("caloflow", small, toy_detector())
    showers = sparse_showers(toy_detector(), 20)
    fit(model, showers)
    _, energies, _ = model.training_stages(TrainingConfig())
    purposes: list[str] = []
    plain = Streams.uniform

    def counted(streams: Streams, *args: Any, **kwargs: Any) -> Any:
        purposes.append(streams.purpose)
        return plain(streams, *args, **kwargs)

    monkeypatch.setattr(Streams, "uniform", counted)
    assert isinstance(energies, FlowStage)
    energies.loss("main", training_batch(showers), STREAMS)
    assert [purpose.rpartition("/")[2] for purpose in purposes] == ["layers"]
