"""The bench of training steps of any model: what it counts, and that it takes turns. Nothing here depends on speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caloforge.bench.stages import KINDS, bench_stages, made_up_showers, with_teacher
from caloforge.cli.main import main
from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.kernels.ops.registry import kernel_library
from caloforge.models import load_preset, model_class, model_kinds

SMALL = ("model.flow.blocks=1", "model.flow.hidden_features=8", "training.batch_size=16")


def test_every_kind_has_its_preset() -> None:
    """Fails if a kind of model is added without a row of the bench."""
    assert set(KINDS) == {kind for kind in model_kinds() if model_class(kind).__module__.startswith("caloforge.")}
    assert all(load_preset(preset).kind == kind for kind, preset in KINDS.items())


def test_steps_with_and_without_kernels_take_turns() -> None:
    """Two rounds of three steps, of which the first of each has no beginning."""
    found = bench_stages("caloinn-calogan", overrides=SMALL, threads=1, rounds=2, steps=3, say=lambda _: None)
    assert [(t.stage, t.kernels) for t in found] == [("flow", True), ("flow", False)]
    for t in found:
        assert (t.batch_size, t.steps) == (16, 4)
        assert t.showers_per_second == pytest.approx(16_000 / t.step)
        assert min(t.forward, t.backward, t.optimiser) > 0
        assert t.step == pytest.approx(t.forward + t.backward + t.optimiser + t.rest)
    assert kernel_library() is not None  # they are back


def test_all_stages_of_a_cloud_model_and_its_json(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    command = ["bench", "training", "--kind", "caloclouds3", "--preset", "caloclouds3-tiny", "--rounds", "1"]
    command += ["--steps", "1", "--threads", "1"]
    small = ["--set", "training.batch_size=4", "--set", "training.stages.flow.batch_size=4"]
    assert main([*command, *small, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(r["stage"], r["kernels"]) for r in rows] == [
        (stage, kernels) for stage in ("flow", "diffusion", "distillation") for kernels in (True, False)
    ]


@pytest.mark.parametrize(
    ("name", "detector"), [("caloflow-student-calogan", "calogan"), ("caloflow-student-tiny", "ds1-photons")]
)
def test_a_student_gets_a_teacher_that_it_can_follow(name: str, detector: str) -> None:
    preset = load_preset(name, ["model.shapes.hidden_features=8"])
    student, teacher = with_teacher(preset, load_detector(detector))
    assert (student.kind, teacher.kind) == ("caloflow-student", "caloflow")


def test_made_up_showers_and_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    showers = made_up_showers(load_detector("par04-ds2"), 5)
    showers.check_values()
    assert len(showers) == 5
    assert len(made_up_showers(load_detector("calogan"), 12_345)) == 12_345
    with pytest.raises(UsageError, match="no gradient stage 'shape', its stages are: energies, shapes"):
        bench_stages("caloflow-calogan-gamma", stages=["shape"], overrides=("model.shapes.hidden_features=9",))
    for wrong, said in (
        (["--kind", "gan"], "the kind 'gan' is not known"),
        (["--stage", "flow"], "--stage needs --kind"),
        (["--kind", "caloinn", "--against", "nflows"], "without --kind"),
        (["--kind", "all", "--preset", "caloinn-tiny"], "need a single kind"),
    ):
        assert main(["bench", "training", *wrong]) == 2
        assert said in capsys.readouterr().err
