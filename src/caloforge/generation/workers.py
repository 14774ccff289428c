"""Processes that generate: each loads the model once, takes numbers of showers and gives back arrays.

They are started afresh, since a process that has used torch's threads or a GPU cannot be forked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from caloforge.detectors import Readout
from caloforge.errors import GenerationError
from caloforge.generation.conditions import ConditionSource
from caloforge.generation.sampling import Sample, Timing, sample_showers
from caloforge.kernels.ops.registry import Choice, use_choice
from caloforge.models import Conditions, ShowerModel, load_model
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.workers import Line, Worker, WorkerDiedError

__all__ = ["Task", "WorkerSettings", "Workers"]

#: Tasks that a worker has in hand: the one it works on and the next.
_IN_HAND = 2


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker needs to know.

    Attributes:
        model: model directory, or the model itself.
        conditions: of all showers.
        streams: random streams of the generation.
        batch_size: showers in a batch.
        max_attempts: how often a shower may be drawn.
        device: where to run.
        threads: CPU threads of each worker.
        options: changes of how a model that is loaded samples.
        kernels: what the parent has settled, built and warned about; None lets each worker do so.
    """

    model: str | Path | ShowerModel
    conditions: ConditionSource
    streams: Streams
    batch_size: int
    max_attempts: int
    device: str
    threads: int
    options: Mapping[str, Any] = field(default_factory=dict)
    kernels: Choice | None = None


@dataclass(frozen=True)
class Task:
    """Some consecutive showers.

    Attributes:
        start: number of the first one.
        stop: number behind the last one.
    """

    start: int
    stop: int


@dataclass(frozen=True)
class _Answer:
    """A sample without the objects around its arrays."""

    bulk: NDArray[np.float32]
    offsets: NDArray[np.int64] | None
    conditions: Conditions
    redrawn: int
    timing: Timing


def _serve(line: Line) -> None:
    """A worker's life."""
    settings: WorkerSettings = line.receive()
    torch.set_num_threads(settings.threads)
    use_choice(settings.kernels)
    model = settings.model
    if not isinstance(model, ShowerModel):
        model = load_model(model, options=settings.options)
    model = model.to(settings.device).eval()
    while True:
        task: Task = line.receive()
        conditions = settings.conditions.block(task.start, task.stop)
        sample = sample_showers(
            model,
            conditions,
            settings.streams,
            batch_size=settings.batch_size,
            max_attempts=settings.max_attempts,
            extrapolate=True,  # looked at before the workers were called
        )
        made = sample.showers
        bulk, offsets = (made.deposits, None) if isinstance(made, Showers) else (made.points, made.offsets)
        line.send(_Answer(bulk, offsets, conditions, sample.redrawn, sample.timing))


@dataclass
class _Hand:
    """A worker and the tasks that it has in hand."""

    worker: Worker
    tasks: deque[Task]


class Workers:
    """A context manager around running workers.

    Args:
        count: how many.
        settings: what they need to know.
        readout: of the showers they make.
    """

    def __init__(self, count: int, settings: WorkerSettings, readout: Readout) -> None:
        self._count, self._settings, self._readout = count, settings, readout
        self._hands: list[_Hand] = []

    def __enter__(self) -> Self:
        settings = replace(self._settings, kernels=use_choice())  # built before the workers start, not by each of them
        try:
            for _ in range(self._count):
                self._hands.append(_Hand(Worker(_serve), deque()))
            for hand in self._hands:
                hand.worker.send(settings)
        except WorkerDiedError as error:
            self._stop()
            raise GenerationError(str(error)) from None
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        for hand in self._hands:
            hand.worker.stop()
        self._hands = []

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Sample]]:
        """Do all tasks; results come in the order in which they are finished.

        Raises:
            GenerationError: if a worker dies.
            CaloForgeError: whatever a worker has to say.
        """
        todo = iter(tasks)
        try:
            for hand in self._hands * _IN_HAND:
                self._give(hand, todo)
            while busy := {id(hand.worker.line.connection): hand for hand in self._hands if hand.tasks}:
                for connection in wait([hand.worker.line.connection for hand in busy.values()]):
                    hand = busy[id(connection)]
                    answer = hand.worker.receive()
                    task = hand.tasks.popleft()
                    self._give(hand, todo)
                    yield task, self._sample(answer)
        except WorkerDiedError as error:
            raise GenerationError(f"{error}; finished showers are kept") from None

    def _give(self, hand: _Hand, todo: Iterator[Task]) -> None:
        # A task is a few bytes, so sending it never waits for a worker that waits for us to read its answer.
        task = next(todo, None)
        if task is not None:
            hand.tasks.append(task)
            hand.worker.send(task)

    def _sample(self, answer: _Answer) -> Sample:
        asked = answer.conditions
        energy, particle, direction = asked.incident_energy, asked.particle, asked.direction
        made: Showers | ShowerPoints
        if answer.offsets is None:
            made = Showers(answer.bulk, energy, particle, self._readout, direction)
        else:
            made = ShowerPoints(answer.offsets, answer.bulk, energy, particle, self._readout, direction)
        return Sample(made, answer.redrawn, answer.timing)
