"""Processes that generate: each loads the model once, takes numbers of showers and gives back arrays.

They are started afresh, since a process that has used torch's threads or a GPU cannot be forked.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caloforge.detectors import Readout
from caloforge.errors import GenerationError
from caloforge.executor import Executor, on_this_machine
from caloforge.generation.conditions import ConditionSource
from caloforge.generation.sampling import Sample, Timing, sample_showers
from caloforge.kernels.ops.registry import Choice, use_choice
from caloforge.models import Conditions, ShowerModel, load_model
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.workers import WorkerDiedError

__all__ = ["Answer", "Task", "WorkerSettings", "prepare", "run_tasks"]

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
class Answer:
    """A sample without the objects around its arrays."""

    bulk: NDArray[np.float32]
    offsets: NDArray[np.int64] | None
    conditions: Conditions
    redrawn: int
    timing: Timing


def prepare(settings: WorkerSettings) -> Callable[[Task], Answer]:
    """What a worker does before its first task, and for each; see ``caloforge.executor``."""
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
        made = sample.showers
        bulk, offsets = (made.deposits, None) if isinstance(made, Showers) else (made.points, made.offsets)
        return Answer(bulk, offsets, conditions, sample.redrawn, sample.timing)

    return work


def run_tasks(
    executor: Executor, settings: WorkerSettings, readout: Readout, tasks: Sequence[Task]
) -> Generator[tuple[Task, Sample], None, None]:
    """Do all tasks; results come in the order in which they are finished.

    Args:
        executor: who does them.
        settings: what the workers need to know.
        readout: of the showers they make.
        tasks: the tasks.

    Raises:
        GenerationError: if a worker dies.
        CaloForgeError: whatever a worker has to say.
    """
    if on_this_machine(executor):
        settings = replace(settings, kernels=use_choice())  # built before the workers start, not by each of them
    try:
        with closing(executor.run(prepare, settings, tasks)) as answers:
            for task, answer in answers:
                yield task, _sample(answer, readout)
    except WorkerDiedError as error:
        raise GenerationError(f"{error}; finished showers are kept") from None


def _sample(answer: Answer, readout: Readout) -> Sample:
    asked = answer.conditions
    energy, particle, direction = asked.incident_energy, asked.particle, asked.direction
    made: Showers | ShowerPoints
    if answer.offsets is None:
        made = Showers(answer.bulk, energy, particle, readout, direction)
    else:
        made = ShowerPoints(answer.offsets, answer.bulk, energy, particle, readout, direction)
    return Sample(made, answer.redrawn, answer.timing)
