"""Turns of players: random numbers and batches of their own, and layers that several processes may share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_model
from safetensors.torch import load_file
from toy_model import toy_file, toy_preset

from caloforge.errors import Interrupted, UsageError
from caloforge.nn.batch_layers import BatchNorm2d, Dropout
from caloforge.random import Streams
from caloforge.stage import FitStage, GradientStage, StageTraining, TrainingBatch
from caloforge.training import loop, train
from caloforge.training.processes import Processes
from caloforge.training.setting_up import check_layers
from caloforge.training.state import read_counters


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_file(tmp_path_factory.mktemp("data") / "g.h5", 120)  # 108 rows to train on, six batches of 16


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "draw_curves", lambda *_, **__: None)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int, tuple[int, ...], float]]]:
    """Player, epoch, rows and first random number of every turn."""
    seen: list[tuple[str, int, tuple[int, ...], float]] = []
    original = toy_model._Game.loss

    def spying(self: Any, player: str, batch: TrainingBatch, streams: Streams) -> Any:
        if self.model.maker.training:
            drawn = float(toy_model._normal(batch, streams, 2)[0, 0])
            seen.append((player, batch.epoch, tuple(batch.row.tolist()), drawn))
        return original(self, player, batch, streams)

    monkeypatch.setattr(toy_model._Game, "loss", spying)
    return seen  # type: ignore[return-value]


def run(data: Path, out: Path, **settings: Any) -> None:
    train(toy_preset(epochs=2, **settings), data, out, threads=1, show=False, resume=True)


def test_every_turn_has_random_numbers_of_its_own(data: Path, tmp_path: Path, turns: list[Any]) -> None:
    """Fails if all turns get the streams of the stage: the critic then sees the same fakes twice."""
    run(data, tmp_path / "run")
    assert [player for player, *_ in turns[:3]] == ["critic", "critic", "maker"]
    assert len({rows for *_, rows, _ in turns[:3]}) == 1
    assert len({drawn for *_, drawn in turns}) == len(turns) == 36


def test_turns_may_ask_for_fresh_batches(
    data: Path, tmp_path: Path, turns: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_model._Game, "fresh_batches", True)
    run(data, tmp_path / "run")
    assert len(turns) == 2 * 6  # two rounds of three batches in each of two epochs
    for epoch in range(2):
        rows = [row for _, when, chosen, _ in turns if when == epoch for row in chosen]
        assert len(set(rows)) == len(rows) == 6 * 16
    assert read_counters(tmp_path / "run", "game").steps == {"critic": 8, "maker": 4}


def test_fresh_batches_survive_an_interruption(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the batches of a resumed epoch are counted in rounds."""
    monkeypatch.setattr(toy_model._Game, "fresh_batches", True)
    run(data, tmp_path / "whole")
    original = toy_model._Game.after_step

    def stop(self: Any, player: str, step: int) -> None:
        original(self, player, step)
        if player == "maker" and step == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(toy_model._Game, "after_step", stop)
    with pytest.raises(Interrupted):
        run(data, tmp_path / "parts")
    monkeypatch.undo()
    monkeypatch.setattr(toy_model._Game, "fresh_batches", True)
    monkeypatch.setattr(loop, "draw_curves", lambda *_, **__: None)
    run(data, tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_too_few_batches_for_a_turn_each_are_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_model._Game, "fresh_batches", True)
    with pytest.raises(UsageError, match=r"2 batches of 40 showers.*need 3"):
        run(data, tmp_path / "run", batch_size=40)


class _Stage(GradientStage):
    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, torch.Tensor]:
        raise NotImplementedError


class _Fit(FitStage):
    def fit(self, data: Any, streams: Streams) -> dict[str, torch.Tensor]:
        raise NotImplementedError


@pytest.mark.parametrize("layer", [torch.nn.BatchNorm1d(3), torch.nn.Dropout2d(0.5)])
def test_torchs_layers_are_refused_with_several_processes(layer: torch.nn.Module) -> None:
    part = torch.nn.Sequential(torch.nn.Linear(3, 3), layer)
    stage = _Stage("net", {"net": part}, StageTraining())
    with pytest.raises(UsageError, match=rf"'net' has a layer torch.nn.{type(layer).__name__}, .*batch_layers"):
        check_layers([stage], Processes(0, 2))
    check_layers([stage], Processes())
    check_layers([_Fit("fit", {"net": part})], Processes(0, 2))
    ours = torch.nn.Sequential(BatchNorm2d(3), Dropout(0.5))
    check_layers([_Stage("net", {"net": ours}, StageTraining())], Processes(0, 2))


def _anew(self: Any, epoch: int) -> tuple[str, ...]:
    for module in self.model.critic.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return ("critic",)


def test_a_player_may_begin_anew_in_every_epoch(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights follow from the seed and the epoch, and its optimiser forgets; mutation: leave the state of the optimiser."""
    seen: list[tuple[int, int, float]] = []

    def noting(self: Any, epoch: int) -> tuple[str, ...]:
        names = _anew(self, epoch)
        weights = torch.cat([parameter.detach().flatten() for parameter in self.model.critic.parameters()])
        seen.append((epoch, len(seen), float(weights.double().sum())))
        return names

    cleared: list[int] = []
    original = toy_model._Game.after_step

    def looking(self: Any, player: str, step: int) -> None:
        original(self, player, step)
        if player == "critic" and step in (1, 13):  # the first of each epoch
            weight = next(self.model.critic.parameters())
            cleared.extend(int(o.state[weight]["step"]) for o in optimisers if weight in o.state)

    optimisers: list[torch.optim.Optimizer] = []
    make = loop.make_optimiser

    def kept(*args: Any) -> torch.optim.Optimizer:
        optimisers.append(make(*args))
        return optimisers[-1]

    monkeypatch.setattr(toy_model._Game, "start_epoch", noting)
    monkeypatch.setattr(toy_model._Game, "after_step", looking)
    monkeypatch.setattr(loop, "make_optimiser", kept)
    run(data, tmp_path / "one")
    first = [value for *_, value in seen]
    assert [epoch for epoch, *_ in seen] == [0, 1]
    assert first[0] != first[1]
    assert cleared[-2:] == [1, 1]
    seen.clear()
    optimisers.clear()
    run(data, tmp_path / "again")
    assert [value for *_, value in seen] == first


def test_beginning_anew_survives_an_interruption(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: begin anew whenever a training goes on."""
    monkeypatch.setattr(toy_model._Game, "start_epoch", _anew)
    run(data, tmp_path / "whole")
    original = toy_model._Game.after_step

    def stop(self: Any, player: str, step: int) -> None:
        original(self, player, step)
        if player == "maker" and step == 9:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as within:
        within.setattr(toy_model._Game, "after_step", stop)
        with pytest.raises(Interrupted):
            run(data, tmp_path / "parts")
    run(data, tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
