"""What whoever makes showers does, see ``caloforge.executor``: Geant4 in a process of its own, one block after the other.

Geant4 keeps global state, reads environment variables, writes to the terminal and aborts the process when it misses a table. A
process that was started for a production runs it itself; any other one, the user's or a worker of a cluster, starts a child that
does, and passes on how it ended.
"""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from caloforge.errors import SimulationError
from caloforge.executor import in_own_process
from caloforge.simulation.plan import Block, SimulationPlan
from caloforge.simulation.tables import TableSource
from caloforge.workers import Line, Worker, WorkerDiedError

__all__ = ["ENVIRONMENT", "Facts", "Made", "died", "prepare"]

#: One thread for each process: they are the parallelism.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Facts:
    """With what showers are made.

    Attributes:
        versions: of Geant4 and of the package that brings it.
        tables: the tables in use.
    """

    versions: dict[str, str]
    tables: TableSource


@dataclass(frozen=True)
class Made:
    """The result of a task.

    Attributes:
        block: the showers; None if only the facts were asked for.
        facts: with what they were made.
    """

    block: Block | None
    facts: Facts


def prepare(plan: SimulationPlan) -> Callable[[int | None], Made]:
    """Start Geant4.

    Args:
        plan: what to simulate.

    Returns:
        Makes the block of a number; of None only the facts.

    Raises:
        MissingDependencyError: if the engine is not installed.
        SimulationError: if Geant4 does not accept the detector, or tables are missing.
    """
    return _here(plan) if in_own_process() else _Child(plan)


def _here(plan: SimulationPlan) -> Callable[[int | None], Made]:
    from caloforge.simulation.runner import BlockRunner

    parent = os.getppid()

    def still_wanted() -> None:
        if os.getppid() != parent:  # nobody is there to take the block
            raise EOFError

    runner = BlockRunner(plan, between=still_wanted)
    facts = Facts(runner.geant4.versions(), runner.geant4.tables)
    return lambda number: Made(None if number is None else runner.run(number), facts)


class _Child:
    """A process that runs Geant4 for this one; it ends with this object."""

    def __init__(self, plan: SimulationPlan) -> None:
        self._plan = plan
        self._started: tuple[Worker, Callable[[], object]] | None = None

    def __call__(self, number: int | None) -> Made:
        try:
            worker = self._worker()
            worker.send(number)
            made: Made = worker.receive()
        except BaseException as error:
            # Nothing is left of an answer that nobody waits for; the next block gets a process of its own.
            self._end()
            if isinstance(error, WorkerDiedError):
                raise died(error) from None
            raise
        return made

    def _worker(self) -> Worker:
        if self._started is None:
            worker = Worker(_serve, ENVIRONMENT)
            self._started = worker, weakref.finalize(self, worker.stop)
            worker.send(self._plan)
        return self._started[0]

    def _end(self) -> None:
        if self._started is not None:
            self._started[1]()
        self._started = None


def _serve(line: Line) -> None:
    """The child's life."""
    work = _here(line.receive())
    while True:
        line.send(work(line.receive()))


def died(error: WorkerDiedError) -> SimulationError:
    """How a process with Geant4 ended, in one sentence with the cause that Geant4 gave."""
    if error.code is None:
        how = "stopped answering"
    elif error.code < 0:
        how = f"was ended by {signal.Signals(-error.code).name}"
        if -error.code == signal.SIGKILL:
            how += " (by hand, or by the system for lack of memory)"
    else:
        how = f"ended with exit code {error.code}"
    said = _last_words(list(error.printed))
    cause = f": {said.rstrip('.')}" if said else ""
    return SimulationError(f"a Geant4 worker process {how}{cause}; finished blocks are kept and can be resumed")


def _last_words(lines: list[str]) -> str:
    """The cause of death in what a process printed: what the last error report of Geant4 says, else the last line.

    A report stands between two lines of dashes, with its code, its issuer and its farewell between asterisks.
    """
    start = max((k for k, line in enumerate(lines) if "G4Exception-START" in line), default=None)
    if start is not None:
        lines = [line for line in lines[start:] if not line.startswith(("--------", "issued by"))]
        return " ".join(line for line in lines if "***" not in line)
    return next((line for line in reversed(lines) if "***" not in line), "")
