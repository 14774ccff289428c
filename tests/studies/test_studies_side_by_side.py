"""Studies by several processes: the same numbers as by one, and what is finished is kept."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caloforge import datasets
from caloforge.cli.main import main
from caloforge.conditions import ConditionRange
from caloforge.detectors import load_detector
from caloforge.errors import TrainingError, UsageError
from caloforge.executor import InThisProcess, LocalProcesses
from caloforge.models import build_model, save_model
from caloforge.options import StudyParticlesOptions
from caloforge.showers import create_showers, open_showers
from caloforge.studies import STUDIES, run_study, study_learning, study_models, study_particles
from caloforge.studies.together import Say, worked

SMALL = (
    "training.stages.energies.epochs=1", "training.stages.shapes.epochs=1", "model.shapes.blocks=1",
    "model.shapes.hidden_features=8", "model.energy_scale=1.0",
)  # fmt: skip


def sample(split: str, path: Path, count: int, particle: int = 22) -> Path:
    with open_showers(datasets.path("calogan-gamma-sample", split=split)) as source:
        few, detector = source.read(0, count), source.detector
    assert detector is not None
    with create_showers(path, detector=detector, particle=particle) as writer:
        writer.write(replace(few, particle=particle))
    return path


def without_seconds(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: without_seconds(value) for key, value in found.items() if "seconds" not in key}
    return [without_seconds(value) for value in found] if isinstance(found, list) else found


def test_variants_are_the_same_by_one_process_and_by_two(tmp_path: Path) -> None:
    """Mutations: the share of the cores as threads; results in the order in which they come."""
    data, test = sample("train", tmp_path / "data.h5", 200), sample("test", tmp_path / "test.h5", 100)
    said: list[str] = []
    for jobs in (1, 2):
        run_study(
            STUDIES["noise"], data, test, tmp_path / f"{jobs}", preset="caloflow-tiny", overrides=SMALL, showers=100,
            jobs=jobs, say=said.append,
        )  # fmt: skip
    one, two = (json.loads((tmp_path / jobs / "result.json").read_text()) for jobs in ("1", "2"))
    assert without_seconds(one) == without_seconds(two)
    for name in ("with-noise-0", "without-noise-0"):
        weights = [(tmp_path / jobs / name / "model" / "model.safetensors").read_bytes() for jobs in ("1", "2")]
        assert weights[0] == weights[1]
    assert "2 tasks, 2 at a time" in said
    assert {text for text in said if "finished" in text} == {
        "with noise, seed 0: finished", "without noise, seed 0: finished",
    }  # fmt: skip


def test_learning_curves_are_the_same_by_one_process_and_by_two(tmp_path: Path) -> None:
    data, test = sample("train", tmp_path / "data.h5", 200), sample("test", tmp_path / "test.h5", 200)
    curves = []
    for jobs in (1, 2):
        found = study_learning(
            ["shower-library"], data, test, tmp_path / f"{jobs}", training=(100, 200), classifier=(100,),
            only=("boosted",), jobs=jobs, say=lambda text: None,
        )  # fmt: skip
        assert len(found.curves[0].training) == 2
        curves.append(json.loads(found.files[0].read_text())["curves"])
    assert without_seconds(curves[0]) == without_seconds(curves[1])


@pytest.fixture(scope="module")
def two_flows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("flows")
    sizes = {"blocks": 1, "hidden_features": 8, "hidden_layers": 1}
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        model = build_model(
            "caloflow", {"energy_scale": 1.0, "energies": sizes, "shapes": sizes}, load_detector("calogan")
        )
        save_model(folder / name, model, ConditionRange.of(22, [1e3, 1e5]))
    return folder / "a", folder / "b"


def test_ratios_are_the_same_by_one_process_and_by_two_and_finished_blocks_are_kept(
    two_flows: tuple[Path, Path], tmp_path: Path
) -> None:
    """Mutations: count the noise from each block's own beginning; forget a setting in what kept blocks are known by."""
    data = sample("test", tmp_path / "g.h5", 50), sample("test", tmp_path / "e.h5", 50, -11)
    asked = StudyParticlesOptions(batch_size=20)
    one = study_particles(two_flows, data, tmp_path / "1", options=asked)
    command = ["study", "particles", "--batch-size", "20", "--jobs", "2", "--out", str(tmp_path / "2")]
    for word, names in (("--model", two_flows), ("--data", data)):
        command += [part for name in names for part in (word, str(name))]
    assert main(command) == 0
    assert json.loads((tmp_path / "2" / "result.json").read_text())["auc"] == one.auc
    blocks = sorted(path.name for path in (tmp_path / "2" / "ratios").iterdir())
    assert blocks == [f"{particle}-{k:02d}.json" for particle in (-11, 22) for k in range(3)]
    for name in blocks:
        assert (tmp_path / "1" / "ratios" / name).read_text() == (tmp_path / "2" / "ratios" / name).read_text()
    (tmp_path / "1" / "ratios" / "22-01.json").unlink()
    seen: list[Any] = []

    class Counting(InThisProcess):
        def run(self, prepare: Any, settings: Any, tasks: Any) -> Any:
            seen.extend(tasks)
            yield from super().run(prepare, settings, tasks)

    again = study_particles(two_flows, data, tmp_path / "1", options=asked, executor=Counting())
    assert seen == [(1, 20, 40)]
    assert again.auc == one.auc
    seen.clear()
    study_particles(two_flows, data, tmp_path / "1", options=asked, seed=1, executor=Counting())
    assert len(seen) == 6


def square_or_die(number: int, say: Say) -> int:
    say(f"{number}")
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def test_results_keep_the_order_of_the_tasks_and_a_dead_process_is_named() -> None:
    asked: dict[str, Any] = {"name": str, "say": lambda text: None}
    tasks = list(np.arange(5).tolist())
    assert worked(square_or_die, tasks, jobs=1, **asked) == [0, 1, 4, 9, 16]
    assert worked(square_or_die, tasks, jobs=2, **asked) == [0, 1, 4, 9, 16]
    with pytest.raises(TrainingError, match=r"a worker process died \(killed by hand.*what is finished is kept"):
        worked(square_or_die, [1, -1], jobs=1, executor=LocalProcesses(1), **asked)


def test_samples_of_the_package_go_by_their_names(tmp_path: Path) -> None:
    """Mutation: take every name for that of a file."""
    with pytest.raises(
        UsageError, match="'calogan-gamma-sample:test' is a reference of evaluations and never trained on"
    ):
        run_study(STUDIES["noise"], "calogan-gamma-sample:test", "calogan-gamma-sample:floor", tmp_path / "out")
    sample = "calogan-gamma-sample"
    with pytest.raises(UsageError, match="all its variants have the same preprocessing"):  # so the files were opened
        run_study(
            STUDIES["noise"], f"{sample}:train", f"{sample}:test", tmp_path / "out", floor=f"{sample}:floor",
            preset="caloinn-tiny",
            overrides=["model.variables=logarithms", "model.drop_voxel=false", "model.energy_noise_per=layer"],
        )  # fmt: skip
    with pytest.raises(UsageError, match="never trained on"):
        study_models(["caloflow-tiny"], f"{sample}:test", f"{sample}:floor", tmp_path / "out")
    with pytest.raises(UsageError, match="has no split 'tests'"):
        study_learning(["caloflow-tiny"], f"{sample}:train", f"{sample}:tests", tmp_path / "out")
    assert not (tmp_path / "out").exists()
