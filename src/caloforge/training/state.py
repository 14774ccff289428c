"""Where a stage stands: counters, optimisers, averages, best weights so far; written to and read from its folder.

``last/state.safetensors`` holds all that is needed to go on; ``best/state.safetensors`` is the stage's result. The
best weights are written before the last ones: whatever moment a kill chooses, the result on the disk is at least as
new as the state from which training goes on, and will be found again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caloforge.atomic import make_folder
from caloforge.errors import ModelFileError, OutputError, TrainingError
from caloforge.models import stage_directory, write_stage
from caloforge.stage import GradientStage, Player, Stage
from caloforge.training.checkpoints import flat_optimiser, read_checkpoint, restore_optimiser, write_checkpoint
from caloforge.training.ema import MovingAverage

__all__ = [
    "Counters",
    "StageState",
    "finish_fit",
    "last_state_file",
    "read_counters",
    "reopen",
    "result_file",
    "stage_finished",
]


@dataclass
class Counters:
    """What a stage has done so far.

    Attributes:
        epoch: finished epochs.
        batch: finished batches of the present epoch.
        steps: optimiser steps of each player.
        best: lowest (or highest) selection metric so far; None before the first.
        best_epoch: when it was found, counting finished epochs.
        seconds: time spent, over all resumptions.
        finished: whether the stage is done.
    """

    epoch: int = 0
    batch: int = 0
    steps: dict[str, int] = field(default_factory=dict)
    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    finished: bool = False


def last_state_file(directory: Path, stage: str) -> Path:
    """Where a stage keeps what is needed to go on."""
    return stage_directory(directory, stage, "last") / "state.safetensors"


def result_file(directory: Path, stage: str) -> Path:
    """Where a stage keeps its result."""
    return stage_directory(directory, stage, "best") / "state.safetensors"


def stage_finished(directory: Path, stage: str) -> bool:
    """Whether a stage has been trained to its end.

    Raises:
        ModelFileError: if its state is damaged.
    """
    if not last_state_file(directory, stage).is_file():
        return False
    return read_counters(directory, stage).finished and result_file(directory, stage).is_file()


def read_counters(directory: Path, stage: str) -> Counters:
    """What a stage had done when it was saved last.

    Raises:
        ModelFileError: if its state is missing or damaged.
    """
    path = last_state_file(directory, stage)
    try:
        return Counters(**read_checkpoint(path, tensors=False).state["counters"])
    except (KeyError, TypeError) as error:
        raise ModelFileError(f"the checkpoint '{path}' does not fit the stage '{stage}' ({error})") from None


def reopen(directory: Path, stage: str) -> None:
    """Let a finished stage go on; nothing happens to one that is not finished.

    Raises:
        ModelFileError: if its state is damaged.
        OutputError: if an older version of the program did not keep what is needed, or it cannot be written.
    """
    path = last_state_file(directory, stage)
    if not read_counters(directory, stage).finished:
        return
    saved = read_checkpoint(path)
    if "optimisers" not in saved.state:
        raise OutputError(
            f"'{directory}': the stage '{stage}' cannot go on, since the state of its optimiser was not kept when it was finished"
        )
    saved.state["counters"]["finished"] = False
    write_checkpoint(path, saved.tensors, saved.state)


class StageState:
    """Counters, optimisers and best weights of a stage, and how they are saved.

    Args:
        directory: the run.
        stage: the stage, on its device.
        players: its players.
        optimisers: one for each player.
        average: moving average of the weights, if there is one.
        writes: whether this process writes files.
    """

    def __init__(
        self,
        directory: Path,
        stage: GradientStage,
        players: Sequence[Player],
        optimisers: Mapping[str, torch.optim.Optimizer],
        average: MovingAverage | None,
        *,
        writes: bool,
    ) -> None:
        self.counters = Counters(steps={player.name: 0 for player in players})
        #: Sums of everything logged over the batches of the present epoch.
        self.sums: dict[str, Tensor] = {}
        self.average = average
        self._directory, self._stage, self._optimisers, self._writes = directory, stage, optimisers, writes
        self._best: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._began = time.monotonic()
        self._saved, self._cost = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Time spent on the stage, over all resumptions."""
        return self.counters.seconds + time.monotonic() - self._began

    def keep_best(self, metrics: Mapping[str, Any]) -> None:
        """Take the present weights for the result; they reach the disk with the next ``save``."""
        if self._writes:
            self._best = ({name: value.detach().clone() for name, value in self._stage.state().items()}, dict(metrics))

    def load(self) -> bool:
        """Go on where the saved state is; False if there is none.

        Raises:
            ModelFileError: if it is damaged or does not fit the stage.
        """
        path = last_state_file(self._directory, self._stage.name)
        if not path.is_file():
            return False
        saved = read_checkpoint(path)
        try:
            self.counters = Counters(**saved.state["counters"])
            if self.counters.finished:
                return True
            self._stage.load_state(saved.part("weights"))
            for name, optimiser in self._optimisers.items():
                restore_optimiser(optimiser, saved.part(f"optimiser.{name}"), saved.state["optimisers"][name])
            if self.average is not None:
                self.average.load_state(saved.part("average"))
            self.sums = {name: value.to(self._device) for name, value in saved.part("sums").items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"the checkpoint '{path}' does not fit the stage '{self._stage.name}' ({error})"
            ) from None
        return True

    @property
    def _device(self) -> torch.device:
        return next(iter(self._stage.state().values())).device

    def save_if_due(self, interval: float, *, epoch_ends: bool = False) -> None:
        """Save if the last time is ``interval`` seconds ago, or an epoch ends and saving costs less than 5 % of the time.

        Raises:
            OutputError: if it cannot be written; what was there before is kept.
            TrainingError: if the weights are no longer numbers.
        """
        passed = time.monotonic() - self._saved
        if passed >= interval or (epoch_ends and passed >= 20 * self._cost):
            self.save()

    def save(self, *, finished: bool = False, whole: bool = True) -> None:
        """Write the best weights and then the state.

        Args:
            finished: whether the stage is done.
            whole: keep what is needed to go on all the same, with more epochs.

        Raises:
            OutputError: if it cannot be written; what was there before is kept.
            TrainingError: if the weights are no longer numbers.
        """
        if not self._writes:
            return
        began = time.monotonic()
        self._write_best()
        self._check_weights()
        self.counters.finished = finished
        tensors = {f"weights.{name}": value for name, value in self._stage.state().items()}
        plain: dict[str, Any] = {"counters": vars(self.counters) | {"seconds": self.seconds}}
        if whole or not finished:
            plain["optimisers"] = {}
            for name, optimiser in self._optimisers.items():
                moments, plain["optimisers"][name] = flat_optimiser(optimiser, f"optimiser.{name}")
                tensors |= moments
            if self.average is not None:
                tensors |= {f"average.{name}": value for name, value in self.average.state().items()}
            tensors |= {f"sums.{name}": value for name, value in self.sums.items()}
        path = last_state_file(self._directory, self._stage.name)
        make_folder(path.parent)
        write_checkpoint(path, tensors, plain)
        self._saved = time.monotonic()
        self._cost = self._saved - began

    def keep_good(self, *, whole: bool) -> None:
        """Keep what is worth keeping when training cannot go on.

        Args:
            whole: whether the state is one that training could go on from; else only the best weights are written.

        Raises:
            OutputError: if it cannot be written.
        """
        if whole:
            self.save()
        elif self._writes:
            self._write_best()

    def _check_weights(self) -> None:
        finite = [value.isfinite().all() for value in self._stage.state().values() if value.is_floating_point()]
        if finite and not bool(torch.stack(finite).all()):
            raise TrainingError(f"some weights of stage '{self._stage.name}' are no longer finite numbers")

    def _write_best(self) -> None:
        if self._best is None:
            return
        tensors, metrics = self._best
        now = {name: value.detach().clone() for name, value in self._stage.state().items()}
        self._stage.load_state(tensors)
        try:
            write_stage(self._directory, self._stage, metrics)
        finally:
            self._stage.load_state(now)
        self._best = None


def finish_fit(directory: Path, stage: Stage, seconds: float) -> None:
    """Write the result of a fit stage, whose state is in the model.

    Args:
        directory: the run.
        stage: the stage.
        seconds: time spent on it.

    Raises:
        OutputError: if it cannot be written.
    """
    write_stage(directory, stage, {})
    path = last_state_file(directory, stage.name)
    make_folder(path.parent)
    write_checkpoint(path, {}, {"counters": vars(Counters(seconds=seconds, finished=True))})
