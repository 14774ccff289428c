"""Many models in one table: trained once, teachers before students."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from caloforge import datasets
from caloforge.cli.main import main
from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.evaluation.results import TimingResult, TimingRow
from caloforge.models import ConditionRange, build_model, load_model, save_model
from caloforge.report import Comparison, claim_folder, load_report
from caloforge.showers import Showers, open_showers
from caloforge.stage import TrainingConfig
from caloforge.studies import models, study_models
from caloforge.studies.controls import shuffle_voxels, untrained_copy
from caloforge.studies.models import _share_floor

SIZES = {flow: {"blocks": 1, "hidden_features": 8, "hidden_layers": 1} for flow in ("energies", "shapes")}

TINY = """
kind: {kind}
title: a small one for the tests
model:
  energy_scale: 1.0
  energies: {{blocks: 1, hidden_features: 8, hidden_layers: 1}}
  shapes: {{blocks: 1, hidden_features: 8, hidden_layers: 1}}
aids: [{{kind: marginal-start}}]
training:
  batch_size: 500
  epochs: 1
"""


@pytest.mark.slow
def test_two_models_in_one_table(tmp_path: Path) -> None:
    """Two presets that differ in seed-independent size; their reports and the table are there, and are kept."""
    names = [tmp_path / "narrow.yaml", tmp_path / "wide.yaml"]
    names[0].write_text(TINY.format(kind="caloflow"))
    names[1].write_text(TINY.format(kind="caloflow").replace("hidden_features: 8", "hidden_features: 16"))
    test, floor = (str(datasets.path("calogan-gamma-sample", split=split)) for split in ("test", "floor"))
    command = ["study", "models", "--data", floor, "--reference", test, "--out", str(tmp_path / "out"), "--no-timing"]
    command += ["--only", "layers", "--only", "response", "--threads", "1", "--controls"]
    for name in names:
        command += ["--preset", str(name)]
    assert main(command) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "narrow" in table
    assert "wide" in table
    # One epoch is no training, but enough to beat both controls in the response.
    assert table.count("1 of 1 separation powers are smaller") == 4
    assert table.count("largest deviation of a layer's mean energy") == 3  # row of the table, and a verdict for each
    report = tmp_path / "out" / "wide" / "report" / "report.json"
    before = report.stat().st_mtime_ns
    assert main(command) == 0
    assert report.stat().st_mtime_ns == before
    # Two processes, one for each model, make the same models.
    study_models(
        [str(name) for name in names], floor, test, tmp_path / "two", only=("layers", "response"), timing=False, jobs=2,
        threads=1, say=lambda text: None,
    )  # fmt: skip
    for name in ("narrow", "wide"):
        ones, twos = (tmp_path / out / name for out in ("out", "two"))
        with open_showers(ones / "generated.h5") as one, open_showers(twos / "generated.h5") as two:
            assert_array_equal(one.read().deposits, two.read().deposits)
        assert load_report(ones / "report").generated == load_report(twos / "report").generated


def test_models_are_handed_out_when_those_that_they_learn_from_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutations: hand out all at once; the share of the cores as threads, of which models depend in their last digits."""
    handed: list[list[str]] = []

    class Executor:
        jobs = 2

        def run(self, prepare: Any, settings: Any, tasks: Any) -> Any:
            handed.append([f"{task.name} on {task.how.threads}" for task in tasks])
            yield from ((task, None) for task in tasks)

    monkeypatch.setattr("caloforge.studies.models.load_report", lambda folder: None)
    monkeypatch.setattr("caloforge.studies.models.compare_reports", lambda reports, names: Comparison(names, [], []))
    presets = ["caloflow-student-tiny", "caloinn-tiny"]
    with pytest.raises(UsageError, match="no preset of that kind stands before it"):
        study_models(presets, "x", "y", tmp_path, executor=Executor())
    presets.insert(0, "caloflow-tiny")
    study_models(presets, "x", "y", tmp_path, timing=False, executor=Executor(), say=lambda text: None)
    assert handed == [["caloflow-tiny on 1", "caloinn-tiny on 1"], ["caloflow-student-tiny on 1"]]


@pytest.mark.slow
def test_what_is_not_trained_has_no_untrained_copy_and_a_library_stands_beside_the_floor(tmp_path: Path) -> None:
    """Mutation: compare a library with its untrained copy, which is the library itself."""
    test, floor = (str(datasets.path("calogan-gamma-sample", split=split)) for split in ("test", "floor"))
    train = str(datasets.path("calogan-gamma-sample", split="train"))
    command = [
        "study",
        "models",
        "--data",
        train,
        "--reference",
        test,
        "--floor",
        floor,
        "--out",
        str(tmp_path / "out"),
    ]
    command += ["--only", "layers", "--only", "response", "--threads", "1", "--controls", "--no-timing"]
    for name in ("shower-library-tiny", "gflash", "pca-parametrisation-tiny"):
        command += ["--preset", name]
    assert main(command) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    columns = [cell.strip() for cell in table.splitlines()[0].strip("|").split("|")]
    assert columns[:5] == [
        "measure",
        "gflash",
        "pca-parametrisation-tiny",
        "library (training showers re-used)",
        "floor",
    ]
    assert table.count("nothing is trained by gradients, so there is no untrained copy") == 3
    assert table.count("against shuffled voxels: 1 of 1 separation powers are smaller") == 3
    assert not (tmp_path / "out" / "gflash" / "untrained").exists()


def test_speed_is_added_to_a_study_that_left_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: a report that is there is never timed, so that a study once made without speed has none for ever."""
    asked = []

    def measured(model: object, reference: object, **options: object) -> TimingResult:
        asked.append(type(model).__name__)
        rows = tuple(
            TimingRow(program="this model", device="CPU X, 1 thread", batch=n, milliseconds=n / 8, std=0.01)
            for n in (1, 10, 100)
        )
        return TimingResult(rows=rows, parameters=0, megabytes=1.5, training_seconds=1234.5)

    monkeypatch.setattr(models, "measure_timing", measured)
    test, floor = (str(datasets.path("calogan-gamma-sample", split=split)) for split in ("test", "floor"))
    command = [
        "study",
        "models",
        "--data",
        floor,
        "--reference",
        test,
        "--out",
        str(tmp_path / "out"),
        "--threads",
        "1",
    ]
    command += ["--only", "layers", "--preset", "shower-library-tiny"]
    assert main([*command, "--no-timing"]) == 0
    assert "ms per shower" not in (tmp_path / "out" / "table.md").read_text()
    for _ in range(2):
        assert main(command) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| ms per shower in batches of 1, CPU X, 1 thread | 0.125 ± 0.010 |" in table
    assert "| ms per shower in batches of 100, CPU X, 1 thread | 12.500 ± 0.010 |" in table
    assert "batches of 10," not in table
    assert "| training, seconds | 1,234 |" in table
    assert "| on disk, MB | 1.5 |" in table
    assert asked == ["ShowerLibrary"]


def test_shuffling_keeps_the_spectrum_of_every_voxel_and_nothing_else(tmp_path: Path) -> None:
    data = datasets.path("calogan-gamma-sample", split="floor")
    shuffle_voxels(data, tmp_path / "s.h5", showers=200, seed=3)
    with open_showers(data) as source, open_showers(tmp_path / "s.h5") as shuffled:
        before, after = source.read(0, 200), shuffled.read(0, len(shuffled))
    assert isinstance(before, Showers)
    assert isinstance(after, Showers)
    assert len(after) == 200
    assert_array_equal(np.sort(after.deposits, axis=0), np.sort(before.deposits, axis=0))
    assert (after.deposits != before.deposits).any(axis=1).all()
    with pytest.raises(UsageError, match="expected at least"):
        shuffle_voxels(data, tmp_path / "t.h5", showers=10_000, seed=3)


def test_an_untrained_copy_keeps_what_was_fitted(tmp_path: Path) -> None:
    detector = load_detector("calogan")
    model = build_model("caloflow", SIZES, detector)
    model.energies.representation.scale.value.fill_(1.25)
    save_model(
        tmp_path / "m",
        model,
        ConditionRange(particle=22, incident_energy=(1e3, 1e5)),
        training={"settings": TrainingConfig().model_dump(mode="json")},
    )
    untrained_copy(tmp_path / "m", tmp_path / "u", seed=1)
    copy = load_model(tmp_path / "u")
    scale, kept = (m.energies.representation.scale.value for m in (model, copy))
    assert_array_equal(kept, scale)
    before, after = dict(model.named_parameters()), dict(copy.named_parameters())
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert any(name.startswith("shapes.") for name in changed)
    assert any(name.startswith("energies.") for name in changed)


def test_the_floor_is_trained_once_for_all_models(tmp_path: Path) -> None:
    """Retrainings that one report has kept are found where the next one looks for them."""
    kept = claim_folder(tmp_path / "one") / "floor"
    kept.mkdir(parents=True)
    (kept / "high-level-00.json").write_text("{}")
    keep = claim_folder(tmp_path / "two")
    _share_floor([tmp_path / "none", tmp_path / "one"], keep)
    assert (keep / "floor" / "high-level-00.json").read_text() == "{}"


def test_a_student_without_its_teacher_and_a_preset_twice_are_refused(tmp_path: Path) -> None:
    data = datasets.path("calogan-gamma-sample", split="train")
    with pytest.raises(UsageError, match="no preset of that kind stands before it"):
        study_models(["caloflow-student-tiny"], data, data, tmp_path)
    with pytest.raises(UsageError, match="twice"):
        study_models(["caloflow-tiny", "caloflow-tiny"], data, data, tmp_path)
