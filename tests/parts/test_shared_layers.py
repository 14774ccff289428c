"""L2LFlows whose layers share flows: which ones, what each is told, and what it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_samples import fit, sparse_showers, toy_detector, training_batch

from caloforge.detectors import load_detector
from caloforge.models import Conditions, build_model
from caloforge.parts.layer_voxels import LayerByLayer, LayerEmbedding, LayerFlow
from caloforge.random import Streams
from caloforge.representation import EnergyFractions, LayerSums, NoisyShowers, SingleFractions
from caloforge.showers import Showers
from caloforge.stage import GradientStage, TrainingConfig

STREAMS = Streams(12, "test")
SMALL: dict[str, dict[str, Any]] = {
    "l2lflows": {
        "layer": {"blocks": 2, "hidden_features": 8},
        "embedding": {"hidden_features": 8, "features": 4},
    },
    "l2lflows-conv": {"steps": 2, "hidden_channels": 3, "levels": 1},
}
KINDS = sorted(SMALL)
EQUAL = toy_detector(*[(2, 2)] * 4)


def shared(kind: str, detector: Any, **changes: Any) -> LayerByLayer:
    torch.manual_seed(3)
    common = {"energies": {"blocks": 2, "hidden_features": 8}, "share": True, "previous": 2}
    model = build_model(kind, SMALL[kind] | common | changes, detector)
    assert isinstance(model, LayerByLayer)
    return model.eval()


@torch.no_grad()
def shake(model: LayerByLayer) -> None:
    """Away from where layers do not yet matter to each other."""
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("detector", "stages"),
    [
        ("ild-ecal/10x10", ["layers_00"]),
        ("calogan", ["layer_00", "layer_01", "layer_02"]),
        # Layers 3 and 4 have other layers before them than those behind.
        (toy_detector(*[(2, 2)] * 3, *[(4, 1)] * 4), ["layers_00", "layer_03", "layer_04", "layers_05"]),
        # A layer of one voxel needs no flow, and hides nothing from the others.
        (toy_detector((2, 2), (1, 1), (2, 2)), ["layer_00", "layer_02"]),
    ],
)
def test_layers_that_look_alike_share_a_flow(kind: str, detector: Any, stages: list[str]) -> None:
    model = shared(kind, load_detector(detector) if isinstance(detector, str) else detector)
    assert [s.name for s in model.training_stages(TrainingConfig())] == ["scale", "energies", *stages]
    assert sorted(number for group in model.groups.values() for number in group) == list(range(len(model.names)))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_layer_depends_on_those_before_it_its_place_and_nothing_behind(kind: str) -> None:
    model = shared(kind, EQUAL)
    showers = sparse_showers(EQUAL, 12)
    fit(model, showers)
    shake(model)
    deposits = torch.from_numpy(showers.deposits)
    incident = torch.from_numpy(showers.incident_energy).double()
    flow = next(iter(model.layers.values()))
    assert isinstance(flow, LayerFlow)
    y = flow.encode(deposits[:, 4:8].double() + 1e-3).y

    def density(number: int, changed: torch.Tensor) -> torch.Tensor:
        energy = torch.full((len(incident), 1), 100.0, dtype=torch.float64)
        before = model._before(number, NoisyShowers(changed, energy, changed))
        conditions = model.layer_conditions(number, incident, energy, before)
        return flow.log_prob(y.float(), conditions.float())

    for number in range(4):
        plain = density(number, deposits)
        for changed in range(4):
            other = deposits.clone()
            other[:, 4 * changed : 4 * changed + 4] += 5.0
            differs = not torch.equal(density(number, other), plain)
            assert differs == (max(0, number - 2) <= changed < number)
    empty = torch.zeros_like(deposits)
    assert not torch.allclose(density(2, empty), density(3, empty))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_loss_is_the_mean_over_the_layers(kind: str) -> None:
    model = shared(kind, EQUAL, noise=0.0, energy_noise=0.0).double()
    showers = sparse_showers(EQUAL, 6)
    fit(model, showers)
    shake(model)
    batch = training_batch(showers)
    stages = {s.name: s for s in model.training_stages(TrainingConfig()) if isinstance(s, GradientStage)}
    total = float(stages["energies"].loss("main", batch, STREAMS)["loss"])
    total += 4 * float(stages["layers_00"].loss("main", batch, STREAMS)["loss"])
    deposits = torch.from_numpy(showers.above(0.010).deposits).double()
    assert model.energies is not None
    sums = LayerSums(showers.readout.layer_sizes)(deposits)
    logdet = model.energies.representation.encode(sums, batch.incident_energy).logdet
    flow = model.layers["layers_00"]
    assert isinstance(flow, LayerFlow)
    for where in showers.readout.layer_slices:
        logdet = logdet + flow.encode(deposits[:, where]).logdet
    assert total == pytest.approx(float((logdet - model.log_prob(showers, STREAMS)).mean()), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_density_and_sampling_have_the_same_conditions(kind: str) -> None:
    """The conditions under which a shower is drawn are those under which its density is evaluated."""
    model = shared(kind, EQUAL, noise=0.0, energy_noise=0.0, cut=0.0, cut_first=False).double()
    fit(model, sparse_showers(EQUAL, 40))
    shake(model)
    heard: list[torch.Tensor] = []
    flow = next(iter(model.layers.values()))
    for name in ("sample", "log_prob"):
        plain = getattr(flow, name)

        def listening(values: torch.Tensor, conditions: torch.Tensor, plain: Any = plain) -> torch.Tensor:
            heard.append(conditions)
            result: torch.Tensor = plain(values, conditions)
            return result

        setattr(flow, name, listening)
    conditions = Conditions.first(np.geomspace(2e3, 9e4, 10), 22)
    made, valid = model.decode(conditions, model.latents(conditions, STREAMS))
    assert isinstance(made, Showers)
    assert valid.all()
    model.log_prob(made, STREAMS)
    assert len(heard) == 8
    for drawn, evaluated in zip(heard[:4], heard[4:], strict=True):
        # Showers are kept in float32; the energy of a nearly empty layer loses digits in the logarithm.
        torch.testing.assert_close(drawn, evaluated, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("layers", "fractions", "recursive"),
    [(10, "auto", True), (11, "auto", False), (3, "single", False), (11, "recursive", True)],
)
def test_fractions_of_few_and_of_many_layers(layers: int, fractions: str, recursive: bool) -> None:
    model = shared("l2lflows", toy_detector(*[(2, 1)] * layers), energy_fractions=fractions)
    assert model.energies is not None
    assert isinstance(model.energies.representation.fractions, EnergyFractions if recursive else SingleFractions)


def test_the_numbers_of_a_layer_are_learnt() -> None:
    embedding = LayerEmbedding(3)
    numbers = embedding(torch.tensor([2.0, 0.0, 2.0]))
    assert numbers.shape == (3, 8)
    numbers.sum().backward()
    assert embedding.numbers.grad is not None
    assert embedding.numbers.grad.sum(dim=1).tolist() == [8.0, 0.0, 16.0]
