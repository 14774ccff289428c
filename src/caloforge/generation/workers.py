"""Processes that generate: each loads the model once, takes numbers of showers and gives back finished parts of the file.

They are started afresh, since a process that has used torch's threads or a GPU cannot be forked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from caloforge.errors import GenerationError
from caloforge.executor import Executor, on_this_machine
from caloforge.generation.conditions import ConditionSource
from caloforge.generation.sampling import Timing, sample_showers
from caloforge.kernels.ops.registry import Choice, use_choice
from caloforge.models import ShowerModel, load_model
from caloforge.random import Streams
from caloforge.showers.portions import Portion, PortionMaker
from caloforge.workers import WorkerDiedError

__all__ = ["Answer", "Task", "WorkerSettings", "prepare", "run_tasks"]


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
        portions: makes parts of the file; needed by :func:`prepare`.
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
    portions: PortionMaker | None = None


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
class Answer:
    """What came of a task.

    Attributes:
        portion: its showers, as a part of the file.
        redrawn: how many showers were rejected and drawn again, counting every attempt.
        timing: where the time went.
    """

    portion: Portion
    redrawn: int
    timing: Timing


def prepare(settings: WorkerSettings) -> Callable[[Task], Answer]:
    """What a worker does before its first task, and for each; see ``caloforge.executor``."""
    portions = settings.portions
    assert portions is not None  # see WorkerSettings
    portions.look()
    torch.set_num_threads(settings.threads)
    use_choice(settings.kernels)
    model = settings.model
    if not isinstance(model, ShowerModel):
        model = load_model(model, options=settings.options)
    ready = model.to(settings.device).eval()

    def work(task: Task) -> Answer:
        conditions = settings.conditions.block(task.start, task.stop)
        sample = sample_showers(
            ready,
            conditions,
            settings.streams,
            batch_size=settings.batch_size,
            max_attempts=settings.max_attempts,
            extrapolate=True,  # looked at before the workers were called
        )
        began = time.perf_counter()
        portion = portions.make(sample.showers, task.start // portions.rows)
        return Answer(portion, sample.redrawn, replace(sample.timing, packing=time.perf_counter() - began))

    return work


def run_tasks(
    executor: Executor, settings: WorkerSettings, tasks: Sequence[Task]
) -> Generator[tuple[Task, Answer], None, None]:
    """Do all tasks; results come in the order in which they are finished.

    Args:
        executor: who does them.
        settings: what the workers need to know.
        tasks: the tasks.

    Raises:
        GenerationError: if a worker dies.
        CaloForgeError: whatever a worker has to say.
    """
    if on_this_machine(executor):
        settings = replace(settings, kernels=use_choice())  # built before the workers start, not by each of them
    try:
        with closing(executor.run(prepare, settings, tasks)) as answers:
            yield from answers
    except WorkerDiedError as error:
        raise GenerationError(f"{error}; finished showers are kept") from None
