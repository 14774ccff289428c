"""Trainings and evaluations of a study, by this process or side by side by several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from caloforge import datasets
from caloforge.errors import TrainingError
from caloforge.executor import Executor, LocalProcesses
from caloforge.workers import WorkerDiedError

__all__ = ["Say", "files_of_study", "silent", "worked"]

T = TypeVar("T")
R = TypeVar("R")

Say = Callable[[str], None]


def silent(text: str) -> None:
    """Where nobody reads."""


def files_of_study(
    data: str | Path, reference: str | Path, floor: str | Path | None
) -> tuple[str | Path, str | Path, str | Path | None]:
    """The files behind names of samples of the package (``NAME:SPLIT``); names of files stay what they are.

    Args:
        data: what is trained on.
        reference: what is not.
        floor: a second reference, or None.

    Raises:
        UsageError: if there is no such split, or ``data`` is a split that evaluations judge by.
    """
    datasets.refuse_references([data])
    return _file(data), _file(reference), None if floor is None else _file(floor)


def _file(name: str | Path) -> str | Path:
    return datasets.file_of(name) if isinstance(name, str) else name


def worked(
    work: Callable[[T, Say], R],
    tasks: Sequence[T],
    *,
    jobs: int,
    name: Callable[[T], str],
    say: Say,
    executor: Executor | None = None,
) -> list[R]:
    """The results of tasks that know nothing of each other, in their order.

    What a task does may depend on nothing but the task, its number of threads above all; then results are the same whoever
    does it. Finished tasks leave files behind which the next call finds.

    Args:
        work: does one task, telling how it goes; a function of a module.
        tasks: anything that can be pickled.
        jobs: processes of this machine; 1 is this process.
        name: what a task is called when it is finished elsewhere.
        say: where progress goes.
        executor: who works, instead of ``jobs`` processes; it sees the same files under the same names.

    Raises:
        TrainingError: if a process dies; what is finished is kept.
        CaloForgeError: whatever a task fails with.
    """
    who = executor or (LocalProcesses(jobs) if jobs > 1 and len(tasks) > 1 else None)
    if who is None:
        return [work(task, say) for task in tasks]
    if tasks:
        say(f"{len(tasks)} tasks, {min(who.jobs, len(tasks))} at a time")
    found: dict[int, R] = {}
    try:
        with closing(who.run(_prepare, work, list(enumerate(tasks)))) as answers:
            for (number, task), result in answers:
                found[number] = result
                say(f"{name(task)}: finished")
    except WorkerDiedError as error:
        raise TrainingError(f"{error}; what is finished is kept") from None
    return [found[number] for number in range(len(tasks))]


def _prepare(work: Callable[[T, Say], R]) -> Callable[[tuple[int, T]], R]:
    """See ``caloforge.executor``."""
    return lambda numbered: work(numbered[1], silent)
