"""One way to run work that falls into blocks: hand blocks out, take results in any order.

What is computed never depends on who computes it, so an executor decides about time and place only. Processes of this machine are
one (:class:`LocalProcesses`), this process alone is another (:class:`InThisProcess`), a cluster may be a third: anything with a
number of ``jobs`` and a method ``run``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar, runtime_checkable

from caloforge.errors import CaloForgeError, UsageError
from caloforge.workers import Line, Worker

__all__ = [
    "Described",
    "Executor",
    "InThisProcess",
    "LocalProcesses",
    "UnsuitedWorkerError",
    "in_own_process",
    "on_this_machine",
    "origin",
    "owning",
]

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

#: Blocks that a worker has in hand: the one it works on and the next, so that it never waits for us.
_IN_HAND = 2

_own_process: ContextVar[bool] = ContextVar("own_process", default=False)


def in_own_process() -> bool:
    """Asked by a ``prepare``: whether this process was started for these tasks alone, so that it may be changed and die of them.

    Where it was not (a worker of a cluster, the process of the user), work that changes a process starts one for itself.
    """
    return _own_process.get()


@contextmanager
def owning() -> Iterator[None]:
    """Within this, a process belongs to its tasks; see :func:`in_own_process`."""
    token = _own_process.set(True)
    try:
        yield
    finally:
        _own_process.reset(token)


class UnsuitedWorkerError(CaloForgeError):
    """Raised by work that this worker cannot do, though another may: the text says what it lacks, of "it"."""


class Executor(Protocol):
    """Whoever does the work."""

    @property
    def jobs(self) -> int:
        """How many blocks are worked on at the same time."""
        ...

    def run(
        self, prepare: Callable[[S], Callable[[T], R]], settings: S, tasks: Sequence[T]
    ) -> Generator[tuple[T, R], None, None]:
        """Do all tasks.

        Args:
            prepare: a function of a module; called once in every worker, with the settings (it loads a model, say); what it
                returns is called for every task of that worker.
            settings: anything that can be pickled.
            tasks: likewise; small, since they travel often.

        Returns:
            Tasks with their results, in the order in which they are finished; closing it ends the workers.

        Raises:
            WorkerDiedError: if a worker is gone.
            CaloForgeError: whatever a worker fails with.
        """
        ...


@runtime_checkable
class Described(Protocol):
    """An executor that has something to say about who did the work, as those of other machines have."""

    def describe(self) -> dict[str, Any]:
        """Who took part so far, JSON values."""
        ...


def origin(executor: object) -> dict[str, Any]:
    """What provenance tells of who did the work: ``cluster``, if it was one."""
    return {"cluster": executor.describe()} if isinstance(executor, Described) else {}


def on_this_machine(executor: object) -> bool:
    """Whether workers find what this process finds: its files, compiled kernels, processor."""
    return bool(getattr(executor, "here", True))


@dataclass(frozen=True)
class InThisProcess:
    """One task after the other, here."""

    jobs: int = 1

    def run(
        self, prepare: Callable[[S], Callable[[T], R]], settings: S, tasks: Sequence[T]
    ) -> Generator[tuple[T, R], None, None]:
        """See :class:`Executor`."""
        work = prepare(settings)
        for task in tasks:
            yield task, work(task)


@dataclass(frozen=True)
class LocalProcesses:
    """Worker processes of this machine, started afresh and ended with the last result.

    Attributes:
        jobs: how many.
        environment: variables of their environment, beside ours.

    Raises:
        UsageError: if there are fewer than one.
    """

    jobs: int
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UsageError(f"{self.jobs} processes were asked for, expected 1 or more")

    def run(
        self, prepare: Callable[[S], Callable[[T], R]], settings: S, tasks: Sequence[T]
    ) -> Generator[tuple[T, R], None, None]:
        """See :class:`Executor`."""
        hands: list[_Hand] = []
        todo = deque(tasks)

        def hand_out() -> None:
            """Give every worker a task, and a second one as long as there are enough for all."""
            for share in range(1, _IN_HAND + 1):
                for hand in hands:
                    if len(hand.tasks) < share and len(todo) > (len(hands) if share > 1 else 0):
                        # A few bytes, so this never waits for a worker that waits for us.
                        hand.worker.send(todo[0])
                        hand.tasks.append(todo.popleft())

        try:
            for _ in range(min(self.jobs, len(todo))):
                hands.append(_Hand(Worker(_serve, self.environment), deque()))  # noqa: PERF401 - ended if a later one fails
            for hand in hands:
                hand.worker.send((prepare, settings))
            hand_out()
            while busy := {id(hand.worker.line.connection): hand for hand in hands if hand.tasks}:
                for connection in wait([hand.worker.line.connection for hand in busy.values()]):
                    hand = busy[id(connection)]
                    result = hand.worker.receive()
                    task = hand.tasks.popleft()
                    hand_out()
                    yield task, result
        finally:
            for hand in hands:
                hand.worker.stop()


@dataclass
class _Hand:
    """A worker and the tasks that it has in hand."""

    worker: Worker
    tasks: deque[Any]


def _serve(line: Line) -> None:
    """A worker's life."""
    prepare, settings = line.receive()
    with owning():
        work = prepare(settings)
    while True:
        line.send(work(line.receive()))
