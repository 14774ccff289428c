"""Processes that generate: each loads the model once, takes numbers of showers and gives back arrays.

They are started afresh (spawn), since a process that has used torch's threads or a GPU cannot be forked. They die with
their parent: when it closes its end of the pipe, whatever the reason, they end.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from caloforge.detectors import Readout
from caloforge.errors import CaloForgeError, GenerationError
from caloforge.generation.conditions import ConditionSource
from caloforge.generation.sampling import Sample, Timing, sample_showers
from caloforge.kernels.ops.registry import Choice, use_choice
from caloforge.models import Conditions, ShowerModel, load_model
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers

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


def _serve(connection: Connection, settings: WorkerSettings) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to deal with
    torch.set_num_threads(settings.threads)
    try:
        use_choice(settings.kernels)
        model = settings.model
        if not isinstance(model, ShowerModel):
            model = load_model(model, options=settings.options)
        model = model.to(settings.device).eval()
        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
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
            connection.send(_Answer(bulk, offsets, conditions, sample.redrawn, sample.timing))
    except CaloForgeError as error:
        connection.send(error)
    except BrokenPipeError:
        return


@dataclass
class _Worker:
    process: Any
    connection: Connection
    in_hand: deque[Task]


class Workers:
    """A context manager around running workers.

    Args:
        count: how many.
        settings: what they need to know.
        readout: of the showers they make.
    """

    def __init__(self, count: int, settings: WorkerSettings, readout: Readout) -> None:
        self._count, self._settings, self._readout = count, settings, readout
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        settings = replace(self._settings, kernels=use_choice())  # built before the workers start, not by each of them
        try:
            for _ in range(self._count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, settings), daemon=True)
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, ours, deque()))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
        self._workers = []

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Sample]]:
        """Do all tasks; results come in the order in which they are finished.

        Raises:
            GenerationError: if a worker dies.
            CaloForgeError: whatever a worker has to say.
        """
        todo = iter(tasks)
        for worker in self._workers * _IN_HAND:
            self._give(worker, todo)
        while busy := {id(worker.connection): worker for worker in self._workers if worker.in_hand}:
            for connection in wait([worker.connection for worker in busy.values()]):
                worker = busy[id(connection)]
                try:
                    answer = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    raise self._died(worker) from None
                if isinstance(answer, CaloForgeError):
                    raise answer
                task = worker.in_hand.popleft()
                self._give(worker, todo)
                yield task, self._sample(answer)

    def _give(self, worker: _Worker, todo: Iterator[Task]) -> None:
        # A task is a few bytes, so sending it never waits for a worker that waits for us to read its answer.
        task = next(todo, None)
        if task is not None:
            worker.in_hand.append(task)
            try:
                worker.connection.send(task)
            except BrokenPipeError:
                raise self._died(worker) from None

    def _died(self, worker: _Worker) -> GenerationError:
        worker.process.join()
        return GenerationError(
            f"a worker process died (exit code {worker.process.exitcode}), perhaps for want of memory"
        )

    def _sample(self, answer: _Answer) -> Sample:
        asked = answer.conditions
        energy, particle, direction = asked.incident_energy, asked.particle, asked.direction
        made: Showers | ShowerPoints
        if answer.offsets is None:
            made = Showers(answer.bulk, energy, particle, self._readout, direction)
        else:
            made = ShowerPoints(answer.offsets, answer.bulk, energy, particle, self._readout, direction)
        return Sample(made, answer.redrawn, answer.timing)
