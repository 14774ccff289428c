"""iCaloFlow: published sizes, induction from layer to layer, round trip, likelihood."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, sparse_showers, toy_detector, training_batch
from torch import Tensor

from caloforge.detectors import Detector, detector_from_toml, load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.models import Conditions, ShowerModel, build_model, load_preset
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.parts.distillation import DistillationStage
from caloforge.parts.flows import FlowStage
from caloforge.random import Streams
from caloforge.representation import Logit, NoisyShowers
from caloforge.showers import Showers
from caloforge.stage import GradientStage, OneCycleSchedule, TrainingConfig
from caloforge.zoo.icaloflow import ICaloFlow
from caloforge.zoo.icaloflow_student import ICaloFlowStudent

STREAMS = Streams(9, "inductive")
SMALL: dict[str, Any] = {
    name: {"blocks": 2, "hidden_features": 12, "hidden_layers": 1} for name in ("energies", "first", "following")
}


def detector(threshold: float = 0.010) -> Detector:
    return toy_detector((2, 3), (3, 2), (1, 6), threshold=threshold)


def small(threshold: float = 0.010, **changes: Any) -> ICaloFlow:
    torch.manual_seed(3)
    model = build_model("icaloflow", SMALL | changes, detector(threshold))
    assert isinstance(model, ICaloFlow)
    return model.eval()


def full_showers(rows: int) -> Showers:
    """Showers without empty voxels."""
    generator = np.random.default_rng(4)
    deposits = generator.exponential(30.0, (rows, 18)) + 1
    return Showers(deposits.astype(np.float32), deposits.sum(axis=1) * 2, 22, detector().readout)


def parameters(features: int, context: int, size: dict[str, int]) -> int:
    """Parameters of a flow with 8 bins by the closed formula for a MADE."""
    hidden, outputs = size["hidden_features"], 23 * features
    one = features * hidden + hidden + context * hidden + hidden
    one += size["hidden_layers"] * (hidden * hidden + hidden) + hidden * outputs + outputs
    return size["blocks"] * one


@pytest.mark.parametrize(
    ("preset", "voxels", "flows", "total"),
    [
        ("icaloflow-par04-ds2", 144, [2_752_600, 8_165_248, 8_552_320], 19_470_168),
        ("icaloflow-par04-ds3", 900, [2_752_600, 45_463_264, 46_872_288], 95_088_152),
    ],
)
def test_published_sizes(preset: str, voxels: int, flows: list[int], total: int) -> None:
    chosen = load_preset(preset)
    assert chosen.detector is not None
    assert load_detector(chosen.detector).readout.layer_sizes == (voxels,) * 45
    shapes = {"energies": (45, 1), "first": (voxels, 2), "following": (voxels, 3 + voxels + 44)}
    assert [parameters(*shape, chosen.model[name]) for name, shape in shapes.items()] == flows
    assert sum(flows) == total


def test_the_smaller_published_model_has_the_parameters_of_the_formula() -> None:
    model = load_preset("icaloflow-par04-ds2").build(load_detector("par04-ds2"))
    assert model.parameter_count() == 19_470_168


def test_published_training() -> None:
    training = load_preset("icaloflow-par04-ds2").training
    epochs = {name: training.for_stage(name).epochs for name in ("energies", "first", "following")}
    assert epochs == {"energies": 500, "first": 200, "following": 60}
    following = training.for_stage("following")
    assert following.schedule == OneCycleSchedule(
        rise_fraction=0.4, initial_division=50, final_division=10, three_phases=True
    )
    assert 44 * following.batch_size == pytest.approx(1000, rel=0.02)


def test_detectors_and_settings_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs layers of equally many voxels, which 'toy' has not"):
        build_model("icaloflow", SMALL, toy_detector())
    head, _, readout = detector().to_toml().partition("[gun]")
    gunless = detector_from_toml(head + readout[readout.index("[[readout") :], where="toy")
    with pytest.raises(ConfigError, match="has no gun, so the model needs 'energy_reference'"):
        build_model("icaloflow", SMALL | {"incident_reference": 1e4}, gunless)
    build_model("icaloflow", SMALL | {"incident_reference": 1e4, "energy_reference": 6.5e4}, gunless)


def test_published_variables_are_those_of_the_publication() -> None:
    """Incident energy log10(E/MeV) - 4.5; layers logit(E / 65 GeV), divided by 4 for the first layer."""
    changes = {"conditions": "logits", "energies_relative_to": "fixed"}
    model = small(**changes, energy_reference=6.5e4, incident_reference=10**4.5)
    incident = torch.tensor([1e4], dtype=torch.float64)
    energies = torch.tensor([[650.0, 6500.0, 3.0]], dtype=torch.float64)
    logits = [math.log(p / (1 - p)) for p in (1e-6 + (1 - 2e-6) * energy / 6.5e4 for energy in (650.0, 6500.0, 3.0))]
    assert model.conditions.first(incident, energies)[0].tolist() == pytest.approx([-0.5, logits[0] / 4])
    before = torch.arange(12, dtype=torch.float64).view(1, 2, 6)
    context = model.conditions.following(incident, energies, before)
    assert context[0, 0].tolist() == pytest.approx([-0.5, logits[1], logits[0], *range(6), 1, 0])
    assert context[0, 1].tolist() == pytest.approx([-0.5, logits[2], logits[1], *range(6, 12), 0, 1])
    assert [stage.name for stage in model.training_stages(TrainingConfig())] == ["energies", "first", "following"]
    learnt = model.energies.representation.transform(energies, incident)
    assert torch.allclose(learnt, torch.tensor([logits]).double())


# ---- generating


def made(model: ICaloFlow, rows: int = 200) -> tuple[Showers, Tensor]:
    conditions = Conditions.first(np.geomspace(1e3, 9e4, rows), 22)
    latents = model.latents(conditions, STREAMS)
    showers, valid = model.decode(conditions, latents)
    assert valid.all()
    assert isinstance(showers, Showers)
    energies = model.energies.sample(latents["energies"], torch.from_numpy(conditions.incident_energy))
    return showers, energies.detach()


def test_every_layer_holds_the_energy_that_the_first_flow_gave_it() -> None:
    model = small()
    fit(model, sparse_showers(detector(), 50))
    showers, energies = made(model)
    clean = (energies - 2.5e-3).numpy()
    found = showers.layer_energies()
    bright = clean > 0.02
    np.testing.assert_allclose(found[bright], clean[bright], rtol=1e-5)
    lit = showers.deposits[showers.deposits > 0]
    assert lit.min() >= np.float32(0.010)
    published = small(postprocessing="multiply")
    fit(published, sparse_showers(detector(), 50))
    other, energies = made(published)
    assert np.abs(other.layer_energies() / energies.numpy() - 1)[energies.numpy() > 1].mean() > 0.02


def test_a_layer_depends_on_those_before_it_only() -> None:
    model = small()
    fit(model, sparse_showers(detector(), 50))
    conditions = Conditions.first(np.full(20, 5e4), 22)
    latents = model.latents(conditions, STREAMS)
    base, _ = model.decode(conditions, latents)
    changed = {"following": {**latents, "following": latents["following"].clone()}}
    changed["following"]["following"][:, 0] += 0.7
    changed["first"] = {**latents, "first": latents["first"] + 0.7}
    for name, first in (("first", 0), ("following", 1)):
        other, _ = model.decode(conditions, changed[name])
        for layer, where in enumerate(detector().readout.layer_slices):
            same = np.array_equal(base.deposits[:, where], other.deposits[:, where])  # type: ignore[union-attr]
            assert same == (layer < first)


def test_generation_undoes_what_training_sees() -> None:
    """Without noise and threshold, showers sent through all three flows come back: conditions agree both ways."""
    model = small(0.0, noise=0.0, energy_noise=0.0, cut_first=False).double()
    showers = full_showers(30)
    fit(model, showers)
    batch = training_batch(showers)
    with torch.no_grad():
        latents = {}
        for stage in model.training_stages(TrainingConfig()):
            if isinstance(stage, FlowStage):
                assert isinstance(stage.flow, MaskedAutoregressiveFlow)
                latents[stage.name], _ = stage.flow(*stage.variables(batch, STREAMS))
        latents["following"] = latents["following"].view(30, 2, 6)
        latents["noise"] = torch.zeros(30, 2, 6)
        back, valid = model.decode_tensors({"incident_energy": batch.incident_energy}, latents)
    assert bool(valid.all())
    np.testing.assert_allclose(back["deposits"].numpy(), showers.deposits, rtol=1e-4)


def test_sampling_is_that_of_full_passes() -> None:
    """The fast inverse inside the induction against D passes through every block."""
    model = small().double()
    fit(model, sparse_showers(detector(), 50))
    fast, _ = made(model, 20)
    for flow in (model.energies.flow, model.first, model.following):
        flow.inverse = flow.inverse_reference  # type: ignore[union-attr, method-assign, assignment]
    slow, _ = made(model, 20)
    np.testing.assert_allclose(fast.deposits, slow.deposits, rtol=1e-5, atol=1e-6)


# ---- training and likelihood


def test_training_makes_showers_more_likely() -> None:
    model = small()
    showers = sparse_showers(detector(), 200)
    fit(model, showers)
    before = model.log_prob(showers, STREAMS)
    for stage in model.training_stages(TrainingConfig()):
        if isinstance(stage, GradientStage):
            with torch.no_grad():
                stage.prepare(Rows(showers), STREAMS)
            optimiser = torch.optim.Adam(stage.players[0].parameters, lr=3e-3)
            for epoch in range(15):
                optimiser.zero_grad()
                stage.loss("main", training_batch(showers, epoch), STREAMS)["loss"].backward()
                optimiser.step()
    after = model.log_prob(showers, STREAMS)
    assert float((after - before).mean()) > 20


def latents_of(model: ICaloFlow, deposits: Tensor, incident: Tensor) -> Tensor:
    """The chain from deposits (V,) to standard normal numbers, layer by layer."""
    layers = deposits.view(1, model.layers, model.voxels)
    energies = layers.sum(dim=2)
    logit = Logit(1e-6)
    logits = logit.transform(layers / energies[..., None])
    assert model.shares.dropped is not None
    learnt = logits[..., model.shares.dropped.kept]
    context = model.conditions.following(incident, energies, logits[:, :-1])
    u = energies / (0.9 * incident[:, None])
    parts = [model.energies.flow(logit.transform(u), model.energy_conditions.incident(incident))[0]]
    parts += [model.first(learnt[:, 0], model.conditions.first(incident, energies))[0]]
    assert model.following is not None
    parts += [model.following(learnt[:, k + 1], context[:, k])[0] for k in range(model.layers - 1)]
    return torch.cat(parts, dim=1)[0]


def test_density_of_the_deposits_has_the_jacobian_that_autograd_finds() -> None:
    model = small(
        0.0, drop_voxel=True, energy_noise_per="voxel", noise=0.0, energy_noise=0.0, cut_first=False, energy_scale=0.9
    ).double()
    generator = torch.Generator().manual_seed(0)
    deposits = torch.rand(4, 18, generator=generator, dtype=torch.float64) * 10 + 0.1
    incident = deposits.sum(dim=1) * 1.5
    noisy = NoisyShowers(deposits, deposits.view(4, 3, 6).sum(dim=2), deposits)
    found = model.log_density(noisy, incident).detach()
    for k in range(4):
        one = incident[k : k + 1]
        matrix = torch.autograd.functional.jacobian(lambda d, e=one: latents_of(model, d, e), deposits[k])
        z = latents_of(model, deposits[k], one).detach()
        expected = -0.5 * z.square().sum() - 9 * math.log(2 * math.pi) + torch.linalg.slogdet(matrix).logabsdet
        assert float(found[k]) == pytest.approx(float(expected), abs=1e-7)


def test_a_shower_of_more_than_the_largest_energy_has_density_zero() -> None:
    model = small(0.0, energy_scale=0.9)
    showers = full_showers(3)
    assert bool(torch.isfinite(model.log_prob(showers, STREAMS)).all())
    bright = Showers(showers.deposits * np.float32(10), showers.incident_energy, 22, showers.readout)
    assert torch.equal(model.log_prob(bright, STREAMS), torch.full((3,), -math.inf, dtype=torch.float64))


# ---- the student


@pytest.mark.parametrize(
    ("preset", "voxels", "total"),
    [("icaloflow-student-par04-ds2", 144, 24_519_512), ("icaloflow-student-par04-ds3", 900, 95_088_152)],
)
def test_published_sizes_of_students(preset: str, voxels: int, total: int) -> None:
    model = load_preset(preset).model
    own = parameters(voxels, 2, model["first"]) + parameters(voxels, 3 + voxels + 44, model["following"])
    assert own + parameters(45, 1, load_preset("icaloflow-par04-ds2").model["energies"]) == total


def student(master: ShowerModel, aids: tuple[dict[str, Any], ...] = (), **changes: Any) -> ICaloFlowStudent:
    torch.manual_seed(5)
    own = {name: SMALL[name] for name in ("first", "following")}
    model = build_model("icaloflow-student", own | changes, detector(), aids=aids, inputs={"teacher": master})
    assert isinstance(model, ICaloFlowStudent)
    return model.eval()


def test_a_student_takes_over_settings_and_layer_energies() -> None:
    master = small(noise=2e-3, alpha=1e-5)
    fit(master, sparse_showers(detector(), 50))
    pupil = student(master)
    fit(pupil, sparse_showers(detector(), 10))
    assert pupil.describe_representation() == master.describe_representation()
    ours, theirs = (made(model)[1] for model in (pupil.model, master))
    assert torch.equal(ours, theirs)
    with pytest.raises(ConfigError, match=r"student's 'teacher.noise' is 0.005, its teacher's 0.002"):
        student(master, teacher={"noise": 5e-3})
    with pytest.raises(ConfigError, match="as many blocks as its teacher, 2, not 3"):
        student(master, following={"blocks": 3, "hidden_features": 8})
    with pytest.raises(UsageError, match="must be a 'icaloflow', not a 'icaloflow-student'"):
        student(pupil)


def test_every_layer_of_a_shower_has_latent_numbers_of_its_own_in_distillation() -> None:
    master = small()
    fit(master, sparse_showers(detector(), 50))
    pupil = student(master)
    (stage,) = (s for s in pupil.training_stages(TrainingConfig()) if s.name == "following")
    assert isinstance(stage, DistillationStage)
    batch = training_batch(sparse_showers(detector(), 20), first_row=30)
    context, address = stage.conditions(batch, STREAMS)
    assert context.shape == (40, 3 + 6 + 2)
    assert address.tolist() == list(range(60, 100))


def test_distillation_brings_the_student_closer() -> None:
    master = small()
    showers = sparse_showers(detector(), 60)
    fit(master, showers)
    pupil = student(master)
    fit(pupil, showers)
    for stage in pupil.training_stages(TrainingConfig()):
        if not isinstance(stage, GradientStage):
            continue
        with torch.no_grad():
            stage.prepare(Rows(showers), STREAMS)
            before = float(stage.validate(training_batch(showers), STREAMS)["kl"])
        optimiser = torch.optim.Adam(stage.players[0].parameters, lr=5e-3)
        for epoch in range(15):
            optimiser.zero_grad()
            stage.loss("main", training_batch(showers, epoch), STREAMS)["loss"].backward()
            optimiser.step()
        with torch.no_grad():
            assert float(stage.validate(training_batch(showers), STREAMS)["kl"]) < 0.7 * before


@torch.no_grad()
def test_published_layers_below_the_threshold_are_empty_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """E_i below 15 keV is 0 in what the flows of the voxels are told. Mutation: tell them the energies as they come."""
    torch.manual_seed(3)
    settings = SMALL | {"cut": 0.015, "energy_reference": 6.5e4}
    model = build_model("icaloflow", settings, detector(), profile="published")
    assert isinstance(model, ICaloFlow)
    fit(model.eval(), sparse_showers(model.detector, 30))
    told: list[Tensor] = []
    drawn = torch.tensor([[0.014, 0.016, 5.0], [0.0, 0.0149, 0.015]], dtype=torch.float64)
    monkeypatch.setattr(model.energies, "sample", lambda z, incident: drawn)
    for name in ("first", "following"):
        original = getattr(model.conditions, name)

        def spy(incident: Tensor, energies: Tensor, *rest: Any, original: Any = original) -> Tensor:
            told.append(energies)
            return original(incident, energies, *rest)  # type: ignore[no-any-return]

        monkeypatch.setattr(model.conditions, name, spy)
    conditions = Conditions.first(np.full(2, 5e4), 22)
    made, _ = model.decode(conditions, model.latents(conditions, STREAMS))
    assert isinstance(made, Showers)
    assert len(told) == 3
    for energies in told:
        assert energies.tolist() == [[0.0, 0.016, 5.0], [0.0, 0.0, 0.015]]
    assert made.layer_energies()[0, 0] == 0


def test_published_presets_have_the_published_threshold() -> None:
    for name in ("icaloflow-par04-ds2", "icaloflow-par04-ds3"):
        assert (load_preset(name).model["cut"], load_preset(name).model["energy_reference"]) == (0.015, 6.5e4)
