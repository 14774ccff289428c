"""BIB-AE for one angle and for two, against what is known of them, without training anything for long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, sparse_showers, toy_detector, training_batch
from torch import Tensor, nn

from caloforge.detectors import Detector, load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions, ShowerModel, build_model, load_preset
from caloforge.parts import bottleneck_model
from caloforge.parts.bottleneck_model import BottleneckModel
from caloforge.parts.bottleneck_stages import AutoencoderStage, PostProcessorStage, divergence_from_normal
from caloforge.random import Streams
from caloforge.representation import CellUnits, conditions_of
from caloforge.showers import Showers
from caloforge.stage import FitStage, GradientStage, TrainingConfig

SMALL: dict[str, Any] = {
    "hidden": [12, 8],
    "latents": 3,
    "noise_latents": 5,
    "channels": 2,
    "critic_channels": 2,
    "critic_width": 8,
    "post_width": 4,
    "flow": {"blocks": 1, "hidden_features": 8},
}
CUBE = toy_detector(*[(3, 4)] * 3)


def small(
    kind: str = "bib-ae", detector: Detector = CUBE, *, published: bool = False, fitted: bool = True, **changes: Any
) -> BottleneckModel:
    torch.manual_seed(5)
    settings = SMALL | changes
    model = build_model(kind, settings, detector, profile="published" if published else "improved")
    assert isinstance(model, BottleneckModel)
    if fitted:
        fit(model, sparse_showers(detector, 40, faint=False))
    return model.eval()


def stage_of(model: ShowerModel, kind: type[GradientStage]) -> Any:
    return next(stage for stage in model.training_stages(TrainingConfig()) if isinstance(stage, kind))


def made(model: ShowerModel, energies: Any, directions: Any = None) -> Showers:
    conditions = Conditions.first(np.asarray(energies, dtype=np.float64), 22, direction=directions)
    showers = sample_showers(model, conditions, generation_streams(3)).showers
    assert isinstance(showers, Showers)
    return showers


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def no_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow looks at its masks when it is made, which have no values on the meta device."""
    monkeypatch.setattr(bottleneck_model, "LatentFlow", lambda *_: None)


# ---- sizes ----------------------------------------------------------------------------------------------------------


def test_published_sizes_of_the_model_for_ild() -> None:
    with torch.device("meta"):
        model = load_preset("bib-ae-ild").build(load_detector("ild-ecal"))
    assert isinstance(model, BottleneckModel)
    assert [size(part) for part in (model.encoder, model.decoder)] == [35_224_598, 36_218_496]
    assert [size(part) for part in (model.critic, model.latent_critic)] == [4_762_753, 10_301]
    assert size(model.post_processor) == 299_136
    assert model.fresh_critic is None
    assert model.flow is None


def test_published_sizes_of_the_model_for_two_angles(no_flow: None) -> None:
    preset = load_preset("bib-ae-two-angles-ild")
    with torch.device("meta"):
        model = build_model(preset.kind, preset.settings(), toy_detector(*[(30, 49)] * 30), profile="published")
    assert isinstance(model, BottleneckModel)
    assert [size(part) for part in (model.encoder, model.decoder)] == [6_117_446, 5_118_936]
    assert model.fresh_critic is not None
    assert [size(part) for part in (model.critic, model.fresh_critic)] == [9_387_873, 9_387_873]
    assert [size(part) for part in (model.latent_critic, model.post_processor)] == [10_301, 83_329]


def test_networks_follow_the_readout(no_flow: None) -> None:
    """Few cells or unequal layers have no convolutions, and those of a polar grid go around."""
    small_model = {"hidden": [4, 4], "channels": 1, "critic_channels": 1, "critic_width": 4, "post_width": 1}
    wanted = {
        "calogan": ("dense", False),
        "ild-ecal": ("convolutions", False),
        "par04-ds2": ("convolutions", True),
    }
    for name, (network, periodic) in wanted.items():
        with torch.device("meta"):
            model = build_model("bib-ae", small_model, load_detector(name))
        assert isinstance(model, BottleneckModel)
        assert (model.network, model.periodic) == (network, periodic)
    with pytest.raises(ConfigError, match=r"convolutions only where all layers have one shape.*'calogan'.*'dense'"):
        build_model("bib-ae", small_model | {"network": "convolutions"}, load_detector("calogan"))
    with pytest.raises(ConfigError, match="needs voxels"):
        build_model("bib-ae", small_model, load_detector("ild-ecal/points"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": "shares", "sampling": "normal"}, "need the energies of the layers"),
        ({"network": "published"}, "has no 'cell_noise'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(fitted=False, **changes)


# ---- losses ---------------------------------------------------------------------------------------------------------


def test_divergence_from_normal_numbers() -> None:
    zeros, ones = torch.zeros(4, 6), torch.ones(4, 6)
    assert float(divergence_from_normal(zeros, zeros)) == 0
    assert float(divergence_from_normal(ones, zeros)) == pytest.approx(0.5 * 6)


@pytest.mark.parametrize(("terms", "number"), [("all", 8), ("learnt", 3)])
def test_penalty_of_a_linear_latent_critic(terms: str, number: int) -> None:
    """f(z) = w z summed over n latents has a gradient of the norm w sqrt(n), so its optimum is w = 1/sqrt(n), not 1."""
    model = small(latent_terms=terms)
    model.latent_critic.network = nn.Sequential(nn.Linear(1, 1, bias=False))
    stage = stage_of(model, AutoencoderStage)
    for weight in (1.0, 0.3, 1 / math.sqrt(number)):
        nn.init.constant_(model.latent_critic.network[0].weight, weight)
        found = stage.loss("latent-critic", training_batch(sparse_showers(CUBE, 20)), Streams(1, "x"))
        assert float(found["penalty"].detach()) == pytest.approx((weight * math.sqrt(number) - 1) ** 2, abs=1e-5)
        whole = 10 * float(found["penalty"].detach()) - float(found["distance"].detach())
        assert float(found["loss"].detach()) == pytest.approx(whole, abs=1e-5)


def test_noise_beside_the_learnt_latents_is_noise() -> None:
    """Mutation: let the encoder make all latents."""
    model, batch = small(), training_batch(sparse_showers(CUBE, 2000))
    cells, condition, energies = model.encoded(batch)
    one, two = (model.reconstructed(cells, condition, energies, batch, Streams(k, "x")).latents for k in (1, 2))
    assert one.shape == (2000, 8)
    noise = one[:, 3:].detach()
    assert torch.allclose(noise.mean(dim=0), torch.zeros(5), atol=0.1)
    assert torch.allclose(noise.std(dim=0), torch.ones(5), atol=0.1)
    assert float((one[:, 3:] - two[:, 3:]).abs().mean().detach()) > 1  # anew for each reconstruction


def test_published_critics_see_the_true_shower_beside_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the made shower in both places, which makes it a plain Wasserstein GAN."""
    model, batch = small(published=True), training_batch(sparse_showers(CUBE, 8))
    seen: list[tuple[Tensor, Tensor]] = []
    original = type(model.critic).forward

    def looking(self: Any, truth: Tensor, cells: Tensor, conditions: Tensor) -> Tensor:
        seen.append((truth, cells))
        return original(self, truth, cells, conditions)

    monkeypatch.setattr(type(model.critic), "forward", looking)
    stage_of(model, AutoencoderStage).loss("critic", batch, Streams(1, "x"))
    true = batch.deposits.float()  # type: ignore[attr-defined]
    assert len(seen) == 3  # real, made, and between them
    assert all(torch.equal(truth, true) for truth, _ in seen[:2])
    assert torch.equal(seen[0][1], true)
    assert not torch.equal(seen[1][1], true)
    assert torch.allclose(seen[2][0], true, rtol=1e-5)


def test_the_second_critic_begins_anew_and_nothing_else_does() -> None:
    model = small(critics=2)
    stage = stage_of(model, AutoencoderStage)
    assert [player.name for player in stage.players] == ["critic", "fresh-critic", "latent-critic", "autoencoder"]
    before = {name: value.clone() for name, value in stage.state().items()}
    assert stage.start_epoch(3) == ("fresh-critic",)
    for name, value in stage.state().items():
        weight = name.startswith("fresh_critic") and value.ndim > 1
        assert torch.equal(value, before[name]) != weight or "bias" in name
    assert stage_of(small(critics=1), AutoencoderStage).start_epoch(3) == ()


def test_the_post_processor_learns_to_change_nothing_first() -> None:
    model, showers = small(warm_up=2), sparse_showers(CUBE, 10)
    nn.init.constant_(model.post_processor.last.weight, 0.1)
    stage = stage_of(model, PostProcessorStage)
    losses = [stage.loss("main", training_batch(showers, epoch), Streams(1, "x")) for epoch in range(3)]
    assert [bool(loss["loss"] == loss["change"]) for loss in losses] == [True, True, False]
    # Validation knows no number of the epoch, so it always has all terms.
    with torch.no_grad():
        found = stage.validate(training_batch(showers), Streams(1, "x"))
    assert bool(found["cells"] > losses[0]["change"])


# ---- conditions, cells and energies ---------------------------------------------------------------------------------


def test_conditions_of_two_angles() -> None:
    """Mutations: radians; the azimuth of the other axis."""
    direction = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8], [0.0, -0.6, 0.8]])
    conditions = {"incident_energy": torch.tensor([1e4, 2e4, 5e4], dtype=torch.float64), "direction": direction}
    raw = small("bib-ae-two-angles", published=True, fitted=False).particle(conditions)
    tilt = math.degrees(math.asin(0.6))
    assert torch.allclose(raw, torch.tensor([[10.0, 0, 0], [20.0, tilt, 0], [50.0, tilt, -90.0]]), atol=1e-4)
    scaled = small("bib-ae-two-angles", incident_reference=1e4, fitted=False).particle(conditions)
    assert torch.allclose(scaled[:, 0], torch.tensor([0.0, 2.0, 5.0]).clamp_min(1).log10(), atol=1e-6)
    assert torch.equal(scaled[:, 1:], direction)


def test_only_one_of_both_knows_directions() -> None:
    showers = sparse_showers(CUBE, 40, faint=False)
    tilted = np.tile(np.asarray([[0.6, 0.0, 0.8]], dtype=np.float32), (40, 1))
    at_an_angle = Showers(
        showers.deposits, showers.incident_energy, 22, showers.readout, tilted, detector=showers.detector
    )
    batch = training_batch(at_an_angle)
    object.__setattr__(batch, "direction", torch.from_numpy(tilted))

    class Tilted(Rows):
        def __iter__(self) -> Any:
            yield batch

    for kind in ("bib-ae", "bib-ae-two-angles"):
        model = small(kind, fitted=False)
        units = next(stage for stage in model.training_stages(TrainingConfig()) if stage.name == "units")
        assert isinstance(units, FitStage)
        if kind == "bib-ae":
            with pytest.raises(UsageError, match=r"knows no directions.*'bib-ae-two-angles' does"):
                units.fit(Tilted(at_an_angle), Streams(1, "units"))
        else:
            units.load_state(units.fit(Tilted(at_an_angle), Streams(1, "units")))
    model = small("bib-ae-two-angles")
    straight = np.tile(np.asarray([[0.0, 0.0, 1.0]], dtype=np.float32), (5, 1))
    one, two = (made(model, [1e4] * 5, d).deposits for d in (straight, tilted[:5]))
    assert not np.allclose(one, two, rtol=1e-3)
    assert np.array_equal(one, made(model, [1e4] * 5).deposits)  # no direction is along the axis


@pytest.mark.parametrize("cut", [0.0, 0.05])
def test_energies_of_the_layers_are_kept(cut: float) -> None:
    """What the flow draws is what the layers hold, behind post-processor and threshold."""
    model = small(cut=cut)
    nn.init.normal_(model.post_processor.last.weight, std=0.3)
    conditions = Conditions.first(np.linspace(2e3, 9e4, 30), 22)
    latents = model.latents(conditions, Streams(1, "g"))
    assert model.flow is not None
    tensors = conditions.tensors()
    drawn, _ = model.flow.draw(latents["flow"], model.particle(tensors), tensors["incident_energy"])
    deposits = model.decode_tensors(tensors, latents)[0]["deposits"].double()
    sums = model.sums(deposits)
    assert torch.allclose(sums, drawn, rtol=1e-3, atol=0.2)
    assert bool(((deposits == 0) | (deposits >= cut * (1 - 1e-6))).all())


def test_the_energy_of_a_shower_is_kept_where_it_is_drawn() -> None:
    model = small("bib-ae-two-angles", published=True)
    model.post_processor.last.weight.data.abs_().mul_(3e3)
    conditions = Conditions.first(np.linspace(2e3, 9e4, 30), 22)
    latents = model.latents(conditions, Streams(1, "g"))
    assert model.flow is not None
    tensors = conditions.tensors()
    drawn, _ = model.flow.draw(latents["flow"], model.particle(tensors), tensors["incident_energy"])
    deposits = model.decode_tensors(tensors, latents)[0]["deposits"].double()
    assert torch.allclose(deposits.sum(dim=1), drawn[:, 0], rtol=1e-4)


def test_flow_learns_ratios_of_energies_as_they_are() -> None:
    """Variables of the energies and energies of the variables, of both flows."""
    energies = torch.tensor([[100.0, 300.0, 50.0], [10.0, 0.5, 2.0]], dtype=torch.float64)
    incident = torch.tensor([1000.0, 20.0], dtype=torch.float64)
    for published in (False, True):
        model = small("bib-ae-two-angles", published=published)
        flow = model.flow
        assert flow is not None

        class Straight(nn.Module):
            def inverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
                return z, z[:, 0]

        variables = flow.variables(energies, incident)
        flow.flow = Straight()  # type: ignore[assignment]
        latents = torch.cat([variables, torch.ones(2, 3, dtype=torch.float64)], dim=1)
        again, learnt = flow.draw(latents, torch.zeros(2, 4), incident)
        expected = energies.sum(dim=1, keepdim=True) if published else energies
        assert torch.allclose(again, expected, rtol=1e-4)
        assert torch.equal(learnt, torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["units", "shares"])
def test_cells_and_deposits(kind: Any) -> None:
    """There and back; shares of unit spread; a layer makes up all of itself, and an empty one nothing."""
    detector = toy_detector()
    showers = sparse_showers(detector, 400)
    deposits = torch.from_numpy(showers.deposits)
    units = CellUnits(detector, kind, None)
    units.load_state_dict(units.fitted(deposits))
    energies = units.sums(deposits, dtype=torch.float64)
    cells = units.encode(deposits, energies)
    assert torch.allclose(units.decode(cells, energies), deposits.double(), rtol=1e-6)
    assert float(units.unit) == pytest.approx(float(deposits[deposits > 0].median()))
    if kind == "units":
        assert torch.equal(units.balanced(cells, energies), cells)
        return
    lit = units.sums.spread(energies > 0)
    spread = torch.stack([cells[lit[:, v], v].std(correction=0) for v in range(cells.shape[1])])
    assert torch.allclose(spread, torch.ones_like(spread), rtol=1e-4)
    factors = torch.rand(400, 3, dtype=torch.float64) + 0.1
    assert torch.allclose(units.balanced(cells * units.sums.spread(factors), energies), cells, rtol=1e-6)
    nothing = units.decode(units.balanced(torch.zeros_like(cells), energies), energies)
    assert torch.allclose(units.sums(nothing), energies, rtol=1e-6)


def test_what_is_below_the_threshold_is_not_seen() -> None:
    model = small()
    batch = training_batch(sparse_showers(CUBE, 20))
    faint = Showers(
        np.where(batch.deposits < 0.01, 0.009, batch.deposits).astype(np.float32),  # type: ignore[attr-defined]
        batch.incident_energy.numpy(), 22, CUBE.readout, detector=CUBE,
    )  # fmt: skip
    one, two = (model.encoded(b) for b in (batch, training_batch(faint)))
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


def test_the_layer_energies_are_conditions() -> None:
    model = small()
    conditions: Mapping[str, Tensor] = conditions_of(training_batch(sparse_showers(CUBE, 4)))
    energies = torch.full((4, 3), 100.0, dtype=torch.float64)
    assert model.condition(conditions, energies).shape == (4, 4)
    assert small(published=True).condition(conditions, None).shape == (4, 1)
