"""More epochs for a training that has begun or is finished: the same as if it had been longer from the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from toy_model import toy_file, toy_preset

from caloforge.errors import Interrupted, OutputError, ShowerFileError
from caloforge.models import Preset, read_plan, read_record
from caloforge.training import loop, train
from caloforge.training.checkpoints import read_checkpoint, write_checkpoint
from caloforge.training.metrics import read_metrics
from caloforge.training.state import last_state_file, read_counters, reopen

SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"kind": "constant"},
    "milestones": {"kind": "milestones", "epochs": [2, 5]},
    "exponential": {"kind": "exponential", "factor": 0.7},
    "cyclic": {"kind": "cyclic", "minimum": 1e-4, "steps_up": 5},
    "cosine": {"kind": "cosine"},
    "one-cycle": {"kind": "one-cycle"},
}


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "draw_curves", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_file(tmp_path_factory.mktemp("data") / "g.h5", 120)


def preset(epochs: int, schedule: str = "constant", stages: Any = None, **more: Any) -> Preset:
    plain = toy_preset(epochs=epochs, ema=0.9, gradient_clip=5.0).model_dump()
    plain["training"] |= {"schedule": SCHEDULES[schedule], "stages": stages or {}} | more
    return Preset.model_validate(plain)


def run(out: Path, data: Path, chosen: Preset, **settings: Any) -> Any:
    return train(chosen, data, out, threads=1, show=False, **settings)


def same(one: Path, two: Path) -> None:
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    timed = ("seconds", "samples_per_second")
    rows = [
        [{key: value for key, value in row.items() if key not in timed} for row in read_metrics(r / "metrics.jsonl")]
        for r in (one, two)
    ]
    assert rows[0] == rows[1]
    for stage in ("gauss", "game"):
        last, other = (read_checkpoint(last_state_file(r, stage)) for r in (one, two))
        assert last.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(value, other.tensors[name]) for name, value in last.tensors.items())


@pytest.mark.parametrize("schedule", ["constant", "milestones", "exponential", "cyclic"])
@pytest.mark.parametrize("selection", ["best", "last"])
def test_a_finished_training_goes_on(tmp_path: Path, data: Path, schedule: str, selection: str) -> None:
    """Bit by bit what the longer training would have been. Fails if the optimiser is not kept when a stage is finished."""
    run(tmp_path / "long", data, preset(7, schedule, selection=selection))
    first = run(tmp_path / "run", data, preset(3, schedule, selection=selection))
    assert [stage.epochs for stage in first.stages] == [0, 3, 3]
    more = run(tmp_path / "run", data, preset(7, schedule, selection=selection), resume=True)
    assert [(stage.stage, stage.epochs) for stage in more.stages] == [("gauss", 7), ("game", 7)]
    same(tmp_path / "long", tmp_path / "run")
    assert read_plan(tmp_path / "run").training.epochs == 7
    assert "epochs: 7" in (tmp_path / "run" / "config.yaml").read_text()
    assert run(tmp_path / "run", data, preset(7, schedule, selection=selection), resume=True).stages == ()


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_a_schedule_over_all_epochs_forbids_it_by_name(tmp_path: Path, data: Path, schedule: str) -> None:
    run(tmp_path / "run", data, preset(3, schedule))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    message = rf"'gauss' was begun for 3 epochs, and its schedule '{schedule}' stretches.*stages=\['gauss'\] and overwrite=True"
    with pytest.raises(OutputError, match=message):
        run(tmp_path / "run", data, preset(7, schedule), resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_one_stage_goes_on(tmp_path: Path, data: Path) -> None:
    longer = {"game": {"epochs": 5}}
    run(tmp_path / "long", data, preset(3, stages=longer))
    run(tmp_path / "run", data, preset(3))
    more = run(tmp_path / "run", data, preset(3, stages=longer), resume=True)
    assert [(stage.stage, stage.epochs) for stage in more.stages] == [("game", 5)]
    same(tmp_path / "long", tmp_path / "run")
    assert read_record(tmp_path / "run").training["settings"]["stages"] == longer


def test_one_stage_is_trained_anew_with_other_settings(tmp_path: Path, data: Path) -> None:
    """Fails if the whole plan is compared: then only everything or nothing can be trained anew."""
    other = {"game": {"epochs": 2, "batch_size": 27, "schedule": {"kind": "cosine"}}}
    run(tmp_path / "whole", data, preset(3, stages=other))
    run(tmp_path / "run", data, preset(3))
    again = run(tmp_path / "run", data, preset(3, stages=other), stages=["game"], overwrite=True)
    assert [(stage.stage, stage.epochs) for stage in again.stages] == [("game", 2)]
    same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("changed", "settings", "message"),
    [
        (preset(2), {"resume": True}, "'gauss' has been trained for 3 epochs already, so it cannot end after 2"),
        (preset(5), {"resume": True, "stages": ["game"]}, "'gauss' was begun for 3 epochs, now it is 5, but it is not among"),
        (preset(5), {}, "its stage 'scale' has begun; resume it"),
        (preset(5, batch_size=20), {"resume": True}, r"training\.scale\.batch_size = 16, now it is 20"),
        (
            preset(3, stages={"gauss": {"batch_size": 20}}),
            {"stages": ["game"], "overwrite": True},
            r"training\.gauss\.batch_size",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(tmp_path: Path, data: Path, changed: Preset, settings: Any, message: str) -> None:
    run(tmp_path / "run", data, preset(3))
    with pytest.raises(OutputError, match=message):
        run(tmp_path / "run", data, changed, **settings)
    # Nothing has happened: not even the stage that was to be trained anew is gone.
    assert run(tmp_path / "run", data, preset(3), resume=True).stages == ()


def test_a_stage_that_others_have_learned_from(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import toy_model

    def needs_gauss(self: Any, model: Any, training: Any) -> None:
        original(self, model, training)
        self.needs = ("gauss",)

    original = toy_model._Game.__init__
    monkeypatch.setattr(toy_model._Game, "__init__", needs_gauss)
    run(tmp_path / "run", data, preset(3))
    with pytest.raises(OutputError, match="'gauss' cannot go on, since the stage 'game' has learned from its result"):
        run(tmp_path / "run", data, preset(5), resume=True)
    more = run(tmp_path / "run", data, preset(3, stages={"game": {"epochs": 5}}), resume=True)
    assert [stage.stage for stage in more.stages] == ["game"]


def test_killed_between_opening_and_the_new_plan(tmp_path: Path, data: Path) -> None:
    """The stages are opened before the plan is written: a kill in between must lose nothing, whichever way one goes on."""
    run(tmp_path / "long", data, preset(5))
    run(tmp_path / "run", data, preset(3))
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    reopen(tmp_path / "run", "gauss")
    run(tmp_path / "run", data, preset(3), resume=True)  # back to the old plan
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == model
    reopen(tmp_path / "run", "game")
    run(tmp_path / "run", data, preset(5), resume=True)
    same(tmp_path / "long", tmp_path / "run")


def test_interrupted_while_it_goes_on(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    import toy_model

    run(tmp_path / "long", data, preset(5))
    run(tmp_path / "run", data, preset(3))
    original, calls = toy_model._Gauss.loss, 0

    def interrupted(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(toy_model._Gauss, "loss", interrupted)
        with pytest.raises(Interrupted):
            run(tmp_path / "run", data, preset(5), resume=True)
    assert not read_counters(tmp_path / "run", "gauss").finished
    run(tmp_path / "run", data, preset(5), resume=True)
    same(tmp_path / "long", tmp_path / "run")


def test_a_stage_whose_optimiser_is_gone(tmp_path: Path, data: Path) -> None:
    """As an earlier version of the program left it."""
    run(tmp_path / "run", data, preset(3))
    path = last_state_file(tmp_path / "run", "game")
    saved = read_checkpoint(path)
    del saved.state["optimisers"]
    write_checkpoint(path, saved.part("weights"), saved.state)
    with pytest.raises(OutputError, match="'game' cannot go on, since the state of its optimiser was not kept"):
        run(tmp_path / "run", data, preset(5), resume=True)


def test_what_is_to_be_overwritten_stays_until_the_new_training_can_begin(tmp_path: Path, data: Path) -> None:
    """Fails if the directory is cleared before the data are read."""
    run(tmp_path / "run", data, preset(2))
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    damaged = toy_file(tmp_path / "b.h5", 300)
    with h5py.File(damaged, "r+") as file:
        file["incident_energies"][250] = float("nan")
    for settings in ({}, {"stages": ["game"]}):
        with pytest.raises(ShowerFileError):
            run(tmp_path / "run", damaged, preset(2), overwrite=True, **settings)
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == model
    other = toy_file(tmp_path / "c.h5", 119)
    with pytest.raises(OutputError, match=r"data\.showers = 120, now it is 119"):
        run(tmp_path / "run", other, preset(2), overwrite=True, stages=["game"])
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == model
    run(tmp_path / "run", data, preset(1), overwrite=True)
    assert read_counters(tmp_path / "run", "gauss").epoch == 1
