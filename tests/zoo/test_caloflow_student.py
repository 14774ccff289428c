"""The student of CaloFlow: published sizes, what it takes from its teacher, distillation from the command's point of view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import fit, sparse_showers, toy_detector, training_batch

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.models import Conditions, ShowerModel, build_model, load_model, load_preset
from caloforge.random import Streams
from caloforge.showers import create_showers
from caloforge.stage import GradientStage, MilestoneSchedule, TrainingConfig
from caloforge.training import train
from caloforge.zoo.caloflow import CaloFlow
from caloforge.zoo.caloflow_student import CaloFlowStudent

STREAMS = Streams(7, "student")
TEACHER: dict[str, Any] = {
    "energies": {"blocks": 2, "hidden_features": 8},
    "shapes": {"blocks": 2, "hidden_features": 24},
    "noise": 2e-3,
}
STUDENT: dict[str, Any] = {"shapes": {"blocks": 2, "hidden_features": 24}}


def teacher(**changes: Any) -> CaloFlow:
    torch.manual_seed(1)
    detector = toy_detector()
    model = build_model("caloflow", TEACHER | changes, detector)
    fit(model, sparse_showers(detector, 40))
    assert isinstance(model, CaloFlow)
    return model.eval()


def student(
    master: ShowerModel | None = None, aids: tuple[dict[str, Any], ...] = (), **changes: Any
) -> CaloFlowStudent:
    torch.manual_seed(2)
    inputs = {} if master is None else {"teacher": master}
    model = build_model("caloflow-student", STUDENT | changes, toy_detector(), aids=aids, inputs=inputs)
    assert isinstance(model, CaloFlowStudent)
    return model.eval()


def distillation(model: CaloFlowStudent) -> GradientStage:
    (stage,) = (s for s in model.training_stages(TrainingConfig()) if isinstance(s, GradientStage))
    return stage


@pytest.mark.parametrize(
    ("preset", "shapes", "total"),
    [
        ("caloflow-student-calogan", 50_924_160, 51_003_294),
        ("caloflow-student-ds1-photons", None, 56_554_930),
        ("caloflow-student-ds1-pions", None, 53_426_622),
    ],
)
def test_published_sizes(preset: str, shapes: int | None, total: int) -> None:
    chosen = load_preset(preset)
    assert chosen.detector is not None
    model = chosen.build(load_detector(chosen.detector))
    assert isinstance(model, CaloFlowStudent)
    assert model.parameter_count() == total
    if shapes is not None:
        assert sum(p.numel() for p in model.model.shapes.parameters()) == shapes


def test_published_training() -> None:
    training = load_preset("caloflow-student-calogan").training.for_stage("shapes")
    assert (training.epochs, training.batch_size, training.optimiser.learning_rate) == (100, 175, 1e-4)
    assert training.schedule == MilestoneSchedule(epochs=(10, 40, 70), factor=0.5)
    guidance = {
        name: load_preset(f"caloflow-student-{name}").model.get("guidance") for name in ("calogan", "ds1-pions")
    }
    assert guidance == {"calogan": None, "ds1-pions": "end-points"}


# ---- what comes from the teacher


def test_the_teachers_settings_count() -> None:
    master = teacher(alpha=1e-5, permutation_seed=4, incident_reference=5e3)
    pupil = student(master)
    fit(pupil, sparse_showers(toy_detector(), 20))
    assert pupil.config.teacher["noise"] == 2e-3
    assert pupil.config.teacher["energies"] == master.config.energies.model_dump()
    assert pupil.describe_representation() == master.describe_representation()
    for ours, theirs in zip(pupil.model.shapes.permutations, master.shapes.permutations, strict=True):
        assert torch.equal(ours.index, theirs.index)  # type: ignore[arg-type]


def test_settings_that_contradict_the_teacher_are_refused_by_name() -> None:
    student(teacher(), teacher={"noise": 2e-3})  # the same is no contradiction
    with pytest.raises(ConfigError, match=r"student's 'teacher.noise' is 0.001, its teacher's 0.002"):
        student(teacher(), teacher={"noise": 1e-3})
    with pytest.raises(ConfigError, match="as many blocks as its teacher, 2, not 3"):
        student(teacher(), shapes={"blocks": 3, "hidden_features": 8})


def test_teachers_that_do_not_fit_are_refused() -> None:
    other = build_model("caloflow", TEACHER, toy_detector((2, 2)))
    with pytest.raises(UsageError, match="the teacher is for the readout of 'toy'"):
        student(other)
    with pytest.raises(
        UsageError, match="the teacher of a 'caloflow-student' must be a 'caloflow', not a 'caloflow-student'"
    ):
        student(student(teacher()))
    with pytest.raises(UsageError, match="takes no other model as 'reference'"):
        build_model("caloflow-student", STUDENT, toy_detector(), inputs={"teacher": teacher(), "reference": teacher()})
    with pytest.raises(UsageError, match="needs teacher="):
        fit(student(), sparse_showers(toy_detector(), 20))


def test_flow_1_and_the_scale_are_copied_and_the_teacher_is_left_alone() -> None:
    master = teacher()
    before = {name: value.clone() for name, value in master.state_dict().items()}
    pupil = student(master)
    fit(pupil, sparse_showers(toy_detector(), 20))
    for name, value in pupil.state_dict().items():
        if name.startswith("model.energies."):
            assert torch.equal(value, before[name.removeprefix("model.")])
    pupil.train()
    distillation(pupil).loss("main", training_batch(sparse_showers(toy_detector(), 20)), STREAMS)["loss"].backward()
    assert all(torch.equal(value, before[name]) for name, value in master.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in master.parameters())


def test_a_student_of_the_same_energies_makes_the_same_layer_energies() -> None:
    master = teacher()
    pupil = student(master)
    fit(pupil, sparse_showers(toy_detector(), 20))
    conditions = Conditions.first(np.linspace(2e3, 9e4, 30), 22)
    made = [model.decode(conditions, model.latents(conditions, STREAMS))[0] for model in (master, pupil)]
    np.testing.assert_allclose(made[0].layer_energies(), made[1].layer_energies(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_end_points_may_have_other_blocks_since_latents_are_put_in_order(blocks: int) -> None:
    master = teacher(shapes={"blocks": 4, "hidden_features": 6})
    pupil = student(master, guidance="end-points", shapes={"blocks": blocks, "hidden_features": 8})
    ends = []
    for flow in (master.shapes, pupil.model.shapes):
        values = torch.arange(flow.features)[None]
        for _, permutation in flow.chain():
            values = values if permutation is None else permutation(values)
        ends.append(values)
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[0].sort().values)


# ---- training


def test_conditions_of_the_latent_branch_are_those_of_generation() -> None:
    """Flow I in the student, conditions of the shapes in the same units: as many energies as it makes showers with."""
    master = teacher()
    pupil = student(master)
    showers = sparse_showers(toy_detector(), 300)
    fit(pupil, showers)
    batch = training_batch(showers)
    context, rows = pupil.drawn_conditions(batch, STREAMS)
    assert torch.equal(rows, batch.row)
    numbers = STREAMS.normal(batch.row.numpy(), 3)
    energies = master.energies.sample(torch.from_numpy(numbers), batch.incident_energy)
    assert torch.allclose(context, master.energy_conditions(batch.incident_energy, energies).float())
    later, _ = pupil.drawn_conditions(training_batch(showers, epoch=1), STREAMS)
    assert torch.equal(later[:, 0], context[:, 0])
    assert not torch.equal(later[:, 1:], context[:, 1:])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a teacher directory and a student directory."""
    folder = tmp_path_factory.mktemp("student")
    detector = toy_detector()
    with create_showers(folder / "data.h5", detector=detector, particle=22) as writer:
        writer.write(sparse_showers(detector, 240))
    preset = load_preset("caloflow-tiny", ["training.epochs=4"])
    small = preset.model_copy(update={"model": TEACHER})
    train(small, folder / "data.h5", folder / "teacher", threads=1, show=False)
    run(folder, folder / "student")
    return folder


def run(folder: Path, out: Path, **changes: Any) -> Any:
    overrides = ["training.epochs=6", "training.batch_size=40"]
    preset = load_preset("caloflow-student-tiny", overrides).model_copy(update={"model": STUDENT})
    inputs = {"teacher": folder / "teacher"}
    return train(preset, folder / "data.h5", out, inputs=inputs, threads=1, show=False, **changes)


def test_training_records_the_teacher_and_selects_by_divergence(trained: Path) -> None:
    record = json.loads((trained / "student" / "model.json").read_text())
    of_teacher = json.loads((trained / "teacher" / "model.json").read_text())
    assert record["inputs"] == {"teacher": of_teacher["weights_sha256"]}
    assert record["config"]["teacher"]["noise"] == 2e-3
    assert record["aids"] == [{"kind": "teacher-start"}]
    lines = (trained / "student" / "stages" / "shapes" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    divergence = [row["validation"]["kl"] for row in rows]
    assert divergence[-1] < 0.7 * divergence[0]
    assert record["training"]["stages"]["shapes"]["epoch"] == 1 + int(np.argmin(divergence))


def test_a_student_needs_its_teacher_for_training_only(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    for name in ("model.json", "model.safetensors"):
        (tmp_path / "moved" / name).write_bytes((trained / "student" / name).read_bytes())
    model = load_model(tmp_path / "moved")
    conditions = Conditions.first(np.linspace(2e3, 9e4, 20), 22)
    showers, valid = model.decode(conditions, model.latents(conditions, STREAMS))
    assert valid.all()
    assert bool(torch.isfinite(model.log_prob(showers, STREAMS)).all())  # type: ignore[arg-type]
    preset = load_preset("caloflow-student-tiny")
    with pytest.raises(UsageError, match="needs teacher=<model directory>"):
        train(preset, trained / "data.h5", tmp_path / "new", threads=1, show=False)


def test_a_resumed_distillation_ends_with_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = GradientStage.after_step

    def stop(self: GradientStage, player: str, step: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 15:
            raise KeyboardInterrupt
        original(self, player, step)

    monkeypatch.setattr(GradientStage, "after_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(trained, tmp_path / "again", checkpoint_seconds=0.0)
    run(trained, tmp_path / "again", resume=True)
    states = [load_model(folder).state_dict() for folder in (trained / "student", tmp_path / "again")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
