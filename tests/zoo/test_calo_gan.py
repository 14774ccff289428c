"""CaloGAN: published sizes layer by layer, in-painting, energies and comparisons whose truth is known, any grid."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, geant4_showers, sparse_showers, toy_detector, training_batch
from torch import Tensor, nn

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError
from caloforge.models import Conditions, build_model, load_preset, profile_settings
from caloforge.nn.detector_images import CriticStream, GeneratorStream, InPainting
from caloforge.parts.layer_grids import Resampling, layer_groups
from caloforge.random import Streams
from caloforge.showers import Showers, create_showers
from caloforge.stage import FitStage, GradientStage, StageTraining, TrainingConfig
from caloforge.training import loop, train
from caloforge.zoo.calo_gan import CaloGAN

STREAMS = Streams(5, "gan")
SMALL: dict[str, Any] = {"latent": 6, "channels": 2, "critic_channels": [4, 3, 3, 2]}


def published(*, small: bool = True, **changes: Any) -> CaloGAN:
    """As published, but small; or in full size."""
    torch.manual_seed(1)
    settings = profile_settings(CaloGAN.differences, "published") | (SMALL if small else {}) | changes
    model = build_model("calo-gan", settings, load_detector("calogan"), profile="published")
    assert isinstance(model, CaloGAN)
    return model


def improved(detector: Any = None, **changes: Any) -> CaloGAN:
    torch.manual_seed(1)
    settings = profile_settings(CaloGAN.differences, "improved") | SMALL | changes
    model = build_model("calo-gan", settings, detector or toy_detector())
    assert isinstance(model, CaloGAN)
    return model


def size(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def game(model: CaloGAN, training: TrainingConfig | None = None) -> GradientStage:
    stage = model.training_stages(training or TrainingConfig())[-1]
    assert isinstance(stage, GradientStage)
    return stage


# ---- published sizes ------------------------------------------------------------------------------------------------


def test_the_generator_has_the_published_weights_layer_by_layer() -> None:
    model = published(small=False)
    found = []
    for stream in model.generator.streams:
        assert isinstance(stream, GeneratorStream)
        found.append(
            (size(stream.dense), size(stream.convolution), size(stream.norm), size(stream.first), size(stream.second))
        )
    assert found == [
        (18_081_000, 2_320, 32, 151_320, 6_912),
        (7_232_400, 2_320, 32, 65_910, 3_456),
        (4_132_800, 2_320, 32, 35_490, 1_728),
    ]
    assert [size(painting) for painting in model.generator.painting] == [5_472, 2_736]
    assert size(model.generator) == 29_726_280
    moving = sum(buffer.numel() for name, buffer in model.generator.named_buffers() if "running" in name)
    assert moving == 96
    assert size(published(small=False, inpainting=False).generator) == 29_718_072
    assert size(published(small=False, latent=500).generator) == 14_672_808


def test_the_critic_has_the_published_weights_layer_by_layer() -> None:
    model = published(small=False)
    found = []
    for stream in model.critic.streams:
        assert isinstance(stream, CriticStream)
        steps = [size(step) for step in stream.steps]
        found.append((size(stream.convolution), *steps, size(stream.alike), size(stream.alike_shares), stream.flat))
    assert found == [
        (320, 1_329_408, 101_920, 33_000, 100_100, 200, 1_000),
        (320, 664_704, 47_320, 14_784, 44_900, 200, 448),
        (320, 332_352, 27_040, 11_088, 33_700, 200, 336),
    ]
    assert [size(norm) for norm in model.critic.streams[0].norms] == [32, 16, 16]  # type: ignore[union-attr]
    assert size(model.critic.alike) == 400
    assert model.critic.score.in_features == 1_863
    assert size(model.critic) == 2_744_332
    moving = sum(buffer.numel() for name, buffer in model.critic.named_buffers() if "running" in name)
    assert moving == 192


def test_saved_models_of_former_versions_have_these_names() -> None:
    """Mutation: a part moves to another attribute, or one more module owns the scales."""
    names = set(improved().state_dict())
    assert {name.split(".")[0] for name in names} == {"critic", "generator", "scales", "separations"}
    assert {name.split(".")[1] for name in names if name.startswith("generator")} == {"streams", "painting", "head"}
    assert {name for name in names if name.startswith("scales")} == {"scales.shares", "scales.cells", "scales.lit"}
    assert {"generator.streams.0.dense.weight", "generator.painting.0.gates.bias", "critic.score.weight"} <= names


def test_the_published_training() -> None:
    preset = load_preset("calo-gan-calogan")
    training = preset.training.for_stage("game")
    assert (training.steps, training.batch_size) == (19_500, 256)  # 50 epochs of 390 batches
    model = preset.model_copy(update={"model": SMALL}).build(load_detector("calogan"))
    assert isinstance(model, CaloGAN)
    critic, generator = game(model, preset.training).players
    assert (critic.optimiser.learning_rate, generator.optimiser.learning_rate) == pytest.approx((2e-5, 2e-4))
    assert (critic.optimiser.betas, critic.optimiser.eps) == ((0.5, 0.999), 1e-8)
    assert (critic.steps_per_batch, generator.steps_per_batch) == (1, 2)


# ---- in-painting and carry ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_in_painting_begins_with_own_images() -> None:
    painting = InPainting(1, (3, 4), periodic=False, fans="cell")
    painting.gates.weight.zero_()
    own, carried = torch.rand(2, 1, 3, 4), torch.rand(2, 1, 3, 4)
    share = 1 / (1 + math.exp(10))
    assert share == pytest.approx(4.54e-5, rel=1e-3)
    torch.testing.assert_close(painting(own, carried), own * (1 - share) + carried * share)


def test_the_published_carry_averages_and_does_not_conserve() -> None:
    carry = Resampling(load_detector("calogan").readout, 0, 1, "average")
    image = torch.full((1, 1, 3, 96), 2.5)
    found = carry(image)
    torch.testing.assert_close(found, torch.full((1, 1, 12, 12), 2.5))
    assert float(image.sum()) == 288 * 2.5
    assert float(found.sum()) == pytest.approx(144 * 2.5)
    image = torch.rand(1, 1, 3, 96)
    wanted = image.reshape(1, 1, 3, 12, 8).mean(dim=4).repeat_interleave(4, dim=2)
    torch.testing.assert_close(carry(image), wanted)


@pytest.mark.parametrize("detector", ["calogan", "par04-ds2", "ds1-photons"])
def test_a_carry_by_area_keeps_the_energy(detector: str) -> None:
    """Mutation: weigh rings by their widths instead of their areas, or divide by the area of the target."""
    readout = load_detector(detector).readout
    for target in range(1, min(readout.n_layers, 4)):
        carry = Resampling(readout, target - 1, target, "conserving")
        rows, columns = readout.layer_shapes[target - 1]
        areas = readout.layers[target - 1].grid.areas.reshape(1, 1, rows, columns)  # type: ignore[union-attr]
        flat = carry(torch.from_numpy(areas).double())
        wanted = torch.from_numpy(readout.layers[target].grid.areas).reshape(flat.shape)  # type: ignore[union-attr]
        same = readout.layers[target].grid.radius == pytest.approx(readout.layers[target - 1].grid.radius)  # type: ignore[union-attr]
        if same:  # a flat density stays flat, so every cell gets its area
            torch.testing.assert_close(flat, wanted, rtol=1e-4, atol=1e-4)
            image = torch.rand(2, 1, rows, columns)
            torch.testing.assert_close(carry(image).sum(dim=(2, 3)), image.sum(dim=(2, 3)))


def test_many_layers_share_streams_and_shapes_part_them() -> None:
    groups = layer_groups(load_detector("par04-ds2").readout, 8)
    assert [len(group.layers) for group in groups] == [6] * 7 + [3]
    assert all(group.periodic for group in groups)
    mixed = layer_groups(toy_detector((2, 2), (2, 2), (3, 1), (3, 1)).readout, 2)
    assert [group.layers for group in mixed] == [(0, 1), (2, 3)]
    alone = layer_groups(load_detector("calogan").readout, 8)
    assert [group.layers for group in alone] == [(0,), (1,), (2,)]


# ---- energies -------------------------------------------------------------------------------------------------------


def test_the_published_energy_term_and_its_gradient() -> None:
    """Mutations: MeV; the batch summed; the square."""
    model = published()
    deposits = 10 * torch.rand(5, 504, dtype=torch.float64)
    incident = torch.tensor([100.0, 1e5, 1e4, 50.0, 2e4], dtype=torch.float64)
    made = deposits.clone().requires_grad_(True)
    found = model.energy_loss(made, deposits, incident)
    assert float(found.detach()) == pytest.approx(float((deposits.sum(dim=1) - incident).abs().mean()) / 1000)
    (0.05 * found).backward()
    assert made.grad is not None
    sign = (deposits.sum(dim=1) - incident).sign()
    torch.testing.assert_close(made.grad * 1000, (0.05 * sign / 5)[:, None].expand(5, 504))


def test_mean_and_width_of_energies_are_compared_not_showers() -> None:
    """Mutations: abs within the mean, which would take away what showers fluctuate; no widths."""
    model = improved(energy_loss="moments")
    real = torch.rand(6, 21) * 100
    incident = torch.full((6,), 5e3, dtype=torch.float64)
    assert float(model.energy_loss(real[torch.randperm(6)], real, incident)) == pytest.approx(0.0, abs=1e-6)
    assert float(model.energy_loss(1.1 * real, real, incident)) > 0.0
    narrow = real.mean(dim=0) + 0.5 * (real - real.mean(dim=0))
    assert float(model.energy_loss(narrow, real, incident)) > 0.5  # half the width, in all and by layer


def test_distributions_are_compared_together_with_the_incident_energy() -> None:
    """Mutations: observables without the incident energy; each by itself only, which does not see that they go together."""
    model = improved()
    showers = sparse_showers(model.detector, 300, faint=False)
    for stage in model.training_stages(TrainingConfig())[:2]:
        assert isinstance(stage, FitStage)
        stage.load_state(stage.fit(Rows(showers), STREAMS))
    batch = training_batch(showers)
    real, energy = batch.deposits, batch.incident_energy
    half = slice(0, 150)
    same = model.energy_loss(real[150:], real[half], energy[half])  # other showers, with wrong energies
    dim = model.energy_loss(0.8 * real[half], real[half], energy[half])
    right = model.energy_loss(real[half], real[half], energy[half])
    assert float(right) < 1e-3 < float(same)
    assert float(dim) > 10 * abs(float(right))
    # Every layer of another shower of the same energy: each observable has its distribution, all together have not.
    order = energy.argsort()
    real, energy = real[order][::2], energy[order][::2]
    torn = torch.cat(
        [block.roll(k, dims=0) for k, block in enumerate(real.split(model.detector.readout.layer_sizes, dim=1))], dim=1
    )
    assert float(model.energy_loss(torn, real, energy)) > 3 * abs(float(right))


def test_weights_of_a_model_with_moments_are_those_of_former_versions() -> None:
    """Mutation: centroids and widths among the histograms of every model."""
    layers = toy_detector().readout.n_layers
    former = improved(energy_loss="moments", layer_energies="images")
    assert former.separations.edges.shape[0] == 3 * layers + 1
    assert former.generator.head is None
    assert improved().separations.edges.shape[0] == 8 * layers + 1


@torch.no_grad()
def test_layers_have_the_energies_of_the_head() -> None:
    """Mutations: shares of the shower's energy without the response; images scaled in all, not by layer; empty ones left."""
    model = improved()
    model.separations.edges[0] = torch.linspace(0.9, 0.98, 9)
    model.scales.shares.copy_(torch.tensor([0.2, 0.7, 0.1])[: len(model.scales.shares)])
    assert model.generator.head is not None
    energy = torch.tensor([1e3, 1e4, 5e4], dtype=torch.float64)
    noise = torch.randn(3, 6)
    given = model.given(noise, energy, None)
    last = model.generator.head.steps[-1]
    saved = last.weight.clone()  # type: ignore[union-attr]
    last.weight.zero_()  # type: ignore[operator, union-attr]
    shares = model.scales.shares / model.scales.shares.sum()
    torch.testing.assert_close(model.layer_energies(given, energy), 0.94 * shares * energy[:, None].float())
    last.bias[0] = 1.0  # type: ignore[index, union-attr]
    wanted = 0.94 * np.exp(0.08 / 0.94) * energy.float()
    torch.testing.assert_close(model.layer_energies(given, energy).sum(dim=1), wanted, rtol=1e-5, atol=1e-3)
    last.weight.copy_(saved)  # type: ignore[operator, union-attr]
    found = model.make(noise, energy, None)
    torch.testing.assert_close(model.scales.sums(found), model.layer_energies(given, energy))
    dark = model.generator.streams[0].second  # type: ignore[union-attr]
    dark.bias.fill_(-1e3)  # type: ignore[operator, union-attr]
    found = model.make(noise, energy, None)
    torch.testing.assert_close(model.scales.sums(found), model.layer_energies(given, energy))


def test_images_in_gev_have_their_own_energies() -> None:
    with pytest.raises(ConfigError, match="'units' must be shares"):
        improved(units="GeV", start="random")


@torch.no_grad()
def test_no_energy_no_difference() -> None:
    """Published: latent numbers are multiplied by the energy, so at 0 all showers are the same."""
    model = published().eval()
    noise = torch.randn(7, 6)
    same = model.make(noise, torch.zeros(7, dtype=torch.float64), None)
    torch.testing.assert_close(same, same[:1].expand_as(same))
    other = model.make(noise, torch.full((7,), 5e4, dtype=torch.float64), None)
    assert float((other - other[:1]).abs().max()) > 0


@pytest.mark.parametrize("build", [published, improved])
def test_showers_are_not_negative_and_come_alone_too(build: Any) -> None:
    model = build().eval()
    conditions = Conditions.first(np.array([3e4]), 22, start=12)
    made, valid = model.decode(conditions, model.latents(conditions, STREAMS))
    assert isinstance(made, Showers)
    assert valid.all()
    assert (made.deposits >= 0).all()


@torch.no_grad()
def test_a_generator_begins_with_the_mean_and_the_lit_cells_of_the_training() -> None:
    """Mutations: the mean of all normal numbers instead of the positive ones; scale and bias in another order."""
    showers = geant4_showers(22)
    model = improved(load_detector("calogan"))
    for stage in model.training_stages(TrainingConfig())[:2]:
        assert isinstance(stage, FitStage)
        stage.load_state(stage.fit(Rows(showers), STREAMS))
    game(model).prepare(Rows(showers), STREAMS)
    batch = training_batch(showers)
    noise = torch.from_numpy(STREAMS.child("z").normal(np.arange(len(showers)), 6))
    made = model.train().make(noise, batch.incident_energy, None)
    relative = made.double() / batch.incident_energy[:, None]
    clean = showers.above(0.010).deposits / showers.incident_energy[:, None]
    assert float(relative.sum(dim=1).mean()) == pytest.approx(clean.sum(axis=1).mean(), rel=0.1)
    lit = np.abs((relative > 0).double().mean(dim=0).numpy() - (clean > 0).mean(axis=0))
    assert lit.mean() < 0.1


# ---- the game -------------------------------------------------------------------------------------------------------


def test_batch_norms_rest_while_the_published_critic_learns() -> None:
    """Mutation: leave the generator in train mode."""
    batch = training_batch(geant4_showers(22)[:8])
    moved = {}
    for fakes in ("moving", "batch"):
        model = published(fakes=fakes).train()
        norms = [buffer for name, buffer in model.generator.named_buffers() if "running_mean" in name]
        before = [norm.clone() for norm in norms]
        game(model).loss("critic", batch, STREAMS)
        moved[fakes] = any(not torch.equal(one, two) for one, two in zip(before, norms, strict=True))
        assert model.generator.training
    assert moved == {"moving": False, "batch": True}


def test_published_energies_are_uniform_whatever_the_data() -> None:
    batch = training_batch(geant4_showers(22)[:200])
    stage: Any = game(published())
    asked = stage._asked(batch, STREAMS)
    assert not torch.equal(asked, batch.incident_energy)
    assert 1e3 <= float(asked.min()) < 1.2e4
    assert 9e4 < float(asked.max()) <= 1e5
    stage = game(improved())
    assert torch.equal(stage._asked(batch, STREAMS), batch.incident_energy)


def test_a_penalty_wants_rows_judged_by_themselves() -> None:
    for changes in ({}, {"norm": "layer"}, {"minibatch": False}):
        with pytest.raises(ConfigError, match="gradient penalty wants every shower judged by itself"):
            improved(game={"loss": "wasserstein", "penalty": 10.0}, **changes)
    with pytest.raises(ConfigError, match="'energies' must be data"):
        improved(energies="uniform")
    model = improved(norm="layer", minibatch=False, game={"loss": "wasserstein", "penalty": 10.0}).double()
    showers = sparse_showers(model.detector, 9)

    def scores(rows: Showers) -> Tensor:
        batch = training_batch(rows)
        return model.scores(batch.deposits.double(), batch.incident_energy, None)

    torch.testing.assert_close(scores(showers)[3:5], scores(showers[3:5]))


def test_the_dense_layers_of_any_detector_stay_within_bounds() -> None:
    model = build_model("calo-gan", SMALL | {"latent": 128, "channels": None}, load_detector("par04-ds2"))
    huge = build_model("calo-gan", SMALL | {"latent": 128, "channels": None}, load_detector("calogan"))
    assert isinstance(model, CaloGAN)
    assert isinstance(huge, CaloGAN)
    weights = [sum(size(stream.dense) for stream in m.generator.streams) for m in (model, huge)]  # type: ignore[attr-defined]
    assert max(weights) < 1.1e7


def test_a_short_training_beats_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command's code to the file: response and separation powers are better than those of random weights."""
    monkeypatch.setattr(loop, "draw_curves", lambda *_, **__: None)
    detector = toy_detector()
    with create_showers(tmp_path / "g.h5", detector=detector, particle=22) as writer:
        writer.write(sparse_showers(detector, 400, faint=False))
    preset = load_preset("calo-gan-tiny", ["training.steps=150", "model.latent=8", "training.batch_size=32"])
    result = train(preset, tmp_path / "g.h5", tmp_path / "run", threads=1, show=False)
    assert result.record is not None
    stage = result.stages[-1]
    assert stage.stage == "game"
    assert stage.best is not None
    assert stage.best < 0.6
    assert isinstance(preset.training.for_stage("game"), StageTraining)
