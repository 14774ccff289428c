"""``train --stage-jobs``: stages that need nothing of each other at the same time, to the same weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_training import packaged_photons

from caloforge.cli.main import main
from caloforge.errors import TrainingError, UsageError
from caloforge.executor import InThisProcess
from caloforge.models import read_record
from caloforge.showers import open_showers
from caloforge.training import train
from caloforge.training.metrics import read_metrics
from caloforge.training.side_by_side import in_order_of_need
from caloforge.workers import WorkerDiedError

SMALL = ["training.epochs=1", "training.batch_size=100", "training.stages.energies.epochs=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packaged_photons(tmp_path_factory.mktemp("data"), 400)


def same(one: Path, two: Path) -> None:
    first, second = (load_file(path / "model.safetensors") for path in (one, two))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    losses = [[row["training"] for row in read_metrics(path / "metrics.jsonl")] for path in (one, two)]
    assert losses[0] == losses[1]
    assert losses[0]


def test_the_same_weights_as_one_after_another(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: let a worker go on with the model of its last stage, or forget the stages that a stage needs."""
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "l2lflows-tiny", "--data", str(data), "--threads", "1", *(f"--set={text}" for text in SMALL)]
    assert main([*arguments, "--out", "one"]) == 0
    assert main([*arguments, "--out", "two", "--stage-jobs", "2"]) == 0
    same(tmp_path / "one", tmp_path / "two")
    record = read_record(tmp_path / "two")
    assert record.training["seconds"].keys() == read_record(tmp_path / "one").training["seconds"].keys()
    assert main([*arguments, "--out", "two", "--stage-jobs", "2", "--resume"]) == 0  # nothing is left to do


class Falls(InThisProcess):
    """An executor whose worker dies behind the second stage."""

    def run(self, prepare, settings, tasks):  # type: ignore[no-untyped-def]
        for number, answer in enumerate(super().run(prepare, settings, tasks)):
            if number == 2:
                raise WorkerDiedError("a worker process died (killed by hand)")
            yield answer


def test_what_was_finished_is_kept_and_gone_on_with(data: Path, tmp_path: Path) -> None:
    train("l2lflows-tiny", data, tmp_path / "one", overrides=SMALL, threads=1, show=False)
    with pytest.raises(TrainingError, match="finished stages and the last checkpoints are kept"):
        train("l2lflows-tiny", data, tmp_path / "two", overrides=SMALL, threads=1, show=False, executor=Falls())
    assert not (tmp_path / "two" / "model.json").exists()
    finished = {path.parent.name for path in (tmp_path / "two" / "stages").glob("*/best")}
    assert finished
    result = train(
        "l2lflows-tiny",
        data,
        tmp_path / "two",
        overrides=SMALL,
        threads=1,
        show=False,
        executor=InThisProcess(),
        resume=True,
    )
    assert not finished & {stage.stage for stage in result.stages}
    same(tmp_path / "one", tmp_path / "two")


def test_what_makes_no_sense_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"jobs \(or torchrun\) shares every batch .* neither stage_jobs nor cluster"):
        train("l2lflows-tiny", data, tmp_path / "m", jobs=2, stage_jobs=2)
    with open_showers(data) as reader, pytest.raises(UsageError, match="so data must be files"):
        train("l2lflows-tiny", reader, tmp_path / "m", stage_jobs=2)
    assert not (tmp_path / "m").exists()
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun"):
        train("l2lflows-tiny", data, tmp_path / "m", stage_jobs=2)


class Noted(InThisProcess):
    """Remembers what was handed out together."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "turns", [])

    def run(self, prepare, settings, tasks):  # type: ignore[no-untyped-def]
        self.turns.append(list(tasks))  # type: ignore[attr-defined]
        yield from super().run(prepare, settings, tasks)


def test_what_is_needed_comes_first() -> None:
    noted = Noted()
    needs = {"c": ["b"], "a": [], "b": ["a", "there already"], "d": []}
    found = in_order_of_need(needs, noted, lambda word: lambda name: f"{word} {name}", "did")
    assert noted.turns == [["a", "d"], ["b"], ["c"]]  # type: ignore[attr-defined]
    assert found == {name: f"did {name}" for name in needs}
    with pytest.raises(ValueError, match="in a circle: a, b"):
        in_order_of_need({"a": ["b"], "b": ["a"]}, noted, lambda word: lambda name: name, None)
