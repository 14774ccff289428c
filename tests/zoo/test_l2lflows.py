"""L2LFlows, autoregressive and convolutional: layers in order, real showers, parallel training of layers."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, geant4_showers, sparse_showers, toy_detector, training_batch

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError, ModelFileError, UsageError
from caloforge.models import Conditions, build_model, load_model, load_preset
from caloforge.nn.convolutional import ConvolutionalFlow
from caloforge.parts import layer_images
from caloforge.parts.layer_voxels import LayerByLayer, LayerFlow
from caloforge.random import Streams
from caloforge.representation import LayerSums
from caloforge.showers import Showers
from caloforge.showers.files import create_showers
from caloforge.stage import FitStage, GradientStage, TrainingConfig
from caloforge.training import train

STREAMS = Streams(11, "test")
SMALL: dict[str, dict[str, Any]] = {
    "l2lflows": {
        "energies": {"blocks": 2, "hidden_features": 8},
        "layer": {"blocks": 2, "hidden_features": 8},
        "embedding": {"hidden_features": 8, "features": 4},
    },
    "l2lflows-conv": {"energies": {"blocks": 2, "hidden_features": 8}, "steps": 2, "hidden_channels": 3, "levels": 1},
}
KINDS = sorted(SMALL)


def small(kind: str, detector: str = "calogan", **changes: Any) -> LayerByLayer:
    torch.manual_seed(2)
    model = build_model(kind, SMALL[kind] | changes, load_detector(detector))
    assert isinstance(model, LayerByLayer)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_one_independent_stage_for_every_layer(kind: str) -> None:
    model = small(kind, "ild-ecal/10x10")
    stages = model.training_stages(TrainingConfig())
    assert [stage.name for stage in stages] == ["scale", "energies", *(f"layer_{k:02d}" for k in range(30))]
    assert all(stage.needs == () for stage in stages[2:])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_layer_depends_on_up_to_five_layers_before_it_and_on_nothing_behind(kind: str) -> None:
    detector = toy_detector(*[(2, 2)] * 8)
    torch.manual_seed(1)
    model = build_model(kind, SMALL[kind], detector)
    assert isinstance(model, LayerByLayer)
    showers = sparse_showers(detector, 30)
    fit(model, showers)
    model.eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    stages = {stage.name: stage for stage in model.training_stages(TrainingConfig())}

    def loss(number: int, changed: int) -> float:
        deposits = showers.deposits.copy()
        deposits[:, changed * 4 : changed * 4 + 4] += 5.0
        stage = stages[f"layer_{number:02d}"]
        assert isinstance(stage, GradientStage)
        other = Showers(deposits, showers.incident_energy, 22, showers.readout)
        return float(stage.validate(training_batch(other), STREAMS)["loss"])

    for number in (0, 3, 7):
        plain = [loss(number, k) for k in range(8)]
        reference = float(stages[f"layer_{number:02d}"].validate(training_batch(showers), STREAMS)["loss"])  # type: ignore[attr-defined]
        seen = {k for k in range(8) if plain[k] != reference}
        assert seen == set(range(max(0, number - 5), number + 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("particle", [22, -11, 211])
def test_real_showers_come_back_from_noise(kind: str, particle: int) -> None:
    """What each layer's flow learns, sent straight to the post-processing, gives the showers back."""
    showers = geant4_showers(particle)
    model = small(kind, extra_energy=200.0)
    wanted = showers.above(0.010)
    clean = torch.from_numpy(wanted.deposits).double()
    generator = torch.Generator().manual_seed(0)
    noisy = clean + 1e-3 * torch.rand(clean.shape, generator=generator, dtype=torch.float64)
    energies = LayerSums(showers.readout.layer_sizes)(clean) + 1e-3 * torch.rand(
        len(showers), 3, generator=generator, dtype=torch.float64
    )
    made = []
    for number, flow in enumerate(model.layers.values()):
        assert isinstance(flow, LayerFlow)
        y, _, inside = flow.encode(noisy[:, showers.readout.layer_slices[number]])
        assert bool(inside.all())
        made.append(flow.decode(y, energies[:, number : number + 1]))
    found = torch.cat(made, dim=1).numpy()
    # A layer of a few deposits just above the threshold can lose one if the noise on its energy goes the other way.
    assert ((found > 0) != (wanted.deposits > 0)).mean() < 1e-4
    assert np.abs(found - wanted.deposits)[found > 0].mean() < 1e-3
    for number, where in enumerate(showers.readout.layer_slices):
        given = np.maximum(energies[:, number].numpy() - 0.5e-3, 0)
        np.testing.assert_allclose(found[:, where].sum(axis=1), given, rtol=1e-6, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_losses_add_up_to_the_negative_log_density_without_the_jacobians(kind: str) -> None:
    model = small(kind, noise=0.0, energy_noise=0.0).double()
    showers = geant4_showers(22)[:6]
    fit(model, showers)
    batch = training_batch(showers)
    stages = [stage for stage in model.training_stages(TrainingConfig()) if isinstance(stage, GradientStage)]
    total = sum(float(stage.loss("main", batch, STREAMS)["loss"]) for stage in stages)
    deposits = torch.from_numpy(showers.above(0.010).deposits).double()
    assert model.energies is not None
    sums = LayerSums(showers.readout.layer_sizes)(deposits)
    logdet = model.energies.representation.encode(sums, batch.incident_energy).logdet
    for number, flow in enumerate(model.layers.values()):
        assert isinstance(flow, LayerFlow)
        logdet = logdet + flow.encode(deposits[:, showers.readout.layer_slices[number]]).logdet
    assert total == pytest.approx(float((logdet - model.log_prob(showers, STREAMS)).mean()), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_layer_energies_are_those_of_the_energy_flow(kind: str) -> None:
    model = small(kind)
    fit(model, geant4_showers(22))
    conditions = Conditions.first(np.geomspace(1e3, 1e5, 40), 22)
    latents = model.latents(conditions, STREAMS)
    made, valid = model.decode(conditions, latents)
    assert isinstance(made, Showers)
    assert valid.all()
    assert model.energies is not None
    with torch.no_grad():
        wanted = model.energies.sample(latents["energies"], torch.from_numpy(conditions.incident_energy)).numpy()
    np.testing.assert_allclose(made.layer_energies(), np.maximum(wanted - 0.5e-3, 0), rtol=1e-6, atol=0.011)
    made.check_values()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e2, 1e5, float("inf"), float("nan")])
def test_extreme_latents_give_finite_showers_or_invalid_ones(kind: str, size: float) -> None:
    model = small(kind)
    fit(model, geant4_showers(22))
    conditions = Conditions.first(np.full(4, 5e4), 22)
    latents = model.latents(conditions, STREAMS)
    latents["energies"][0, 1] = size
    latents["layer_01"][1, 100] = size
    latents["layer_02"][2, :] = -size
    made, valid = model.decode(conditions, latents)
    made.check_values()
    assert valid[3]
    if np.isnan(size):  # what is no number must not pass for an empty layer
        assert not valid[:3].any()
    assert (made.total_energy()[~valid] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_lower_the_losses_from_where_the_data_start_them(kind: str) -> None:
    detector = toy_detector((4, 4), (4, 4))
    torch.manual_seed(0)
    model = build_model(kind, SMALL[kind], detector, aids=[{"kind": "marginal-start"}])
    showers = sparse_showers(detector, 300)
    fit(model, showers)

    @torch.no_grad()
    def loss(stage: GradientStage) -> float:
        return float(stage.validate(training_batch(showers), STREAMS)["loss"])

    for stage in model.training_stages(TrainingConfig()):
        if not isinstance(stage, GradientStage):
            continue
        random = loss(stage)
        with torch.no_grad():
            stage.begin(Rows(showers), STREAMS)
        started = loss(stage)
        assert started < random
        optimiser = torch.optim.Adam(stage.players[0].parameters, 2e-3)
        for epoch in range(1, 16):
            optimiser.zero_grad()
            stage.loss("main", training_batch(showers, epoch), STREAMS)["loss"].backward()
            optimiser.step()
        assert loss(stage) < started


def test_a_model_without_energy_flow_still_makes_showers() -> None:
    model = small("l2lflows-conv", energy_flow=False)
    assert [stage.name for stage in model.training_stages(TrainingConfig())] == ["layer_00", "layer_01", "layer_02"]
    conditions = Conditions.first(np.full(5, 5e4), 22)
    made, valid = model.decode(conditions, model.latents(conditions, STREAMS))
    assert isinstance(made, Showers)
    assert valid.all()
    assert made.deposits[made.deposits > 0].min() >= np.float32(0.010)


def test_a_layer_with_a_single_voxel_is_not_learnt_but_filled() -> None:
    detector = toy_detector((2, 2), (1, 1), (3, 1))
    for kind in KINDS:
        model = build_model(kind, SMALL[kind], detector)
        fit(model, sparse_showers(detector, 30))
        assert [s.name for s in model.training_stages(TrainingConfig())] == [
            "scale",
            "energies",
            "layer_00",
            "layer_02",
        ]
        conditions = Conditions.first(np.full(20, 5e4), 22)
        made, _ = model.decode(conditions, model.latents(conditions, STREAMS))
        assert isinstance(made, Showers)
        assert (made.deposits[:, 4] > 0).any()
    with pytest.raises(ConfigError, match="has one voxel"):
        build_model("l2lflows-conv", SMALL["l2lflows-conv"] | {"energy_flow": False}, detector)


@pytest.mark.parametrize(
    ("preset", "parameters"), [("l2lflows-conv-ild", 163_403_252), ("l2lflows-conv-par04-ds3", 194_964_482)]
)
def test_published_sizes_of_the_convolutional_flow(
    preset: str, parameters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the authors' program has them, counted by hand; the submission for data set 3 says 195.0 million."""

    def without_memory(*args: Any, **settings: Any) -> ConvolutionalFlow:
        with torch.device("meta"):
            return ConvolutionalFlow(*args, **settings)

    monkeypatch.setattr(layer_images, "ConvolutionalFlow", without_memory)
    chosen = load_preset(preset)
    model = chosen.build(load_detector(chosen.detector or ""))
    assert model.described_profile() == "published"
    assert model.parameter_count() == parameters


@torch.no_grad()
def test_published_conditions_and_variables_of_the_convolutional_flow() -> None:
    """Constants typed from the authors' program; E and E_k in GeV there. Mutation: any of them."""
    model = small_published()
    showers = geant4_showers(22)[:20]
    fit(model, showers)
    incident, layers = torch.tensor([1e3, 1e5]), torch.tensor([[0.0, 100.0, 5e3]] * 2)
    context = model.energy_conditions(incident, layers)
    assert context[:, 0].tolist() == pytest.approx([2 * np.log10(1) - 3, 2 * np.log10(100) - 3])
    assert context[0, 1:].tolist() == pytest.approx([np.log10(e + 1e-6) + 1 for e in (0.0, 0.1, 5.0)])
    assert model.energies is not None
    assert model.energies.context(incident.double()).flatten().tolist() == pytest.approx([-3.0, 1.0])
    # Cells, and what the layer behind sees of them.
    visible = showers.above(0.010).deposits[:, :288].astype(np.float64)
    largest = visible.max()
    assert float(model.state_dict()["scale.largest"][0]) == pytest.approx(largest)
    noisy = visible + 1e-3 * STREAMS.child("voxels").uniform(np.arange(20), 504, counters=0)[:, :288]
    scaled = np.log10(np.clip(noisy / (largest + 1e-3), 0, 1) + 1e-7) / 7 + 1
    blended = 0.01 + 0.98 * scaled
    expected = np.log(blended / (1 - blended))
    batch = training_batch(showers)
    seen = model._before(1, model.noisy(batch, STREAMS))
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    stages = {stage.name: stage for stage in model.training_stages(TrainingConfig())}
    assert stages["layer_00"].needs == stages["layer_02"].needs == ("cells",)
    y, _ = stages["layer_00"].variables(batch, STREAMS)  # type: ignore[attr-defined]
    np.testing.assert_allclose(y, expected, atol=1e-5)


@torch.no_grad()
def test_a_layer_sees_what_the_flow_made_of_those_before_it() -> None:
    """Mutation: show it the logits of the deposits that came out of them."""
    model = small_published()
    fit(model, geant4_showers(22)[:20])
    conditions = Conditions.first(np.full(3, 5e4), 22)
    latents = model.latents(conditions, STREAMS)
    second, made = [flow for flow in model.layers.values() if isinstance(flow, LayerFlow)][1], []
    original = second.sample

    def spy(z: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        made.append(context)
        return original(z, context)

    second.sample = spy  # type: ignore[method-assign]
    model.decode(conditions, latents)
    first = next(iter(model.layers.values()))
    incident = torch.from_numpy(conditions.incident_energy)
    assert model.energies is not None
    energies = model.energies.sample(latents["energies"], incident)
    y = first.sample(latents["layer_00"], model.energy_conditions(incident, energies[:, :1]).float())  # type: ignore[operator]
    torch.testing.assert_close(made[0][:, 2:], y)


def small_published() -> LayerByLayer:
    torch.manual_seed(2)
    model = build_model("l2lflows-conv", SMALL["l2lflows-conv"], load_detector("calogan"), profile="published")
    assert isinstance(model, LayerByLayer)
    return model.eval()


def test_the_clip_of_the_published_programs_is_not_on_the_energies() -> None:
    for preset, clip in (("ild", 800.0), ("par04-ds3", 100.0)):
        training = load_preset(f"l2lflows-conv-{preset}").training
        assert training.for_stage("layer_03").gradient_clip == clip
        assert training.for_stage("energies").gradient_clip is None


def test_published_settings_of_the_convolutional_flow() -> None:
    ild = load_preset("l2lflows-conv-ild", ["model.steps=1"]).build(load_detector("ild-ecal"))
    flow = next(iter(ild.layers.values())).flow  # type: ignore[operator, union-attr]
    unet = flow.couplings[0].network
    assert flow.squeeze.factors == (2, 2)
    assert [layer.kernel_size for layer in unet.down] == [(3, 3), (5, 5)]
    assert unet.first[0].out_channels == 32
    polar = load_preset("l2lflows-conv-par04-ds3", ["model.steps=1", "model.hidden_channels=2"])
    flow = next(iter(polar.build(load_detector("par04-ds3")).layers.values())).flow  # type: ignore[attr-defined]
    assert flow.squeeze.factors == (2, 2)
    assert [layer.kernel_size for layer in flow.couplings[0].network.down] == [(5, 3), (5, 3)]
    assert flow.couplings[0].network.first[0].periodic


@pytest.mark.parametrize("kind", KINDS)
def test_detectors_and_settings_that_do_not_suit_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="read out as points"):
        build_model(kind, SMALL[kind], load_detector("ild-ecal/points"))
    with pytest.raises(ConfigError, match="needs a layer with several voxels, 'toy' has none"):
        build_model(kind, SMALL[kind], toy_detector((1, 1), (1, 1)))
    model = small(kind)
    with pytest.raises(UsageError, match="readout"):
        model.log_prob(sparse_showers(toy_detector(), 2), STREAMS)
    with pytest.raises(UsageError, match="at least one draw"):
        model.log_prob(geant4_showers(22)[:2], STREAMS, draws=0)


def test_impossible_settings_of_the_autoregressive_kind() -> None:
    with pytest.raises(ConfigError, match="sums of the noisy voxels"):
        build_model("l2lflows", SMALL["l2lflows"] | {"drop_voxel": True}, toy_detector())


TINY = [
    "training.epochs=2",
    "model.layer.hidden_features=6",
    "model.layer.blocks=2",
    "model.energies.hidden_features=6",
]


def _train(data: Path, out: Path, stages: list[str]) -> None:
    train("l2lflows-tiny", data, out, overrides=TINY, stages=stages, show=False, threads=1)


def test_layers_train_in_parallel_processes_to_the_same_model(tmp_path: Path) -> None:
    detector = toy_detector()
    showers = sparse_showers(detector, 120)
    data = tmp_path / "g.h5"
    with create_showers(data, detector=detector, particle=showers.particle) as writer:
        writer.write(showers)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    _train(data, alone, [])
    context = multiprocessing.get_context("spawn")
    jobs = [
        context.Process(target=_train, args=(data, shared, names)) for names in (["layer_00", "layer_01"], ["layer_02"])
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    with pytest.raises(ModelFileError, match="'scale', 'energies'"):
        load_model(shared)
    _train(data, shared, ["scale", "energies"])
    one, other = load_model(alone).state_dict(), load_model(shared).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(
        isinstance(stage, FitStage | GradientStage) for stage in load_model(shared).training_stages(TrainingConfig())
    )
