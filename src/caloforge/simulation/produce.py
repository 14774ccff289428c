"""Showers from several Geant4 processes, as an iterator of finished blocks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Collection, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from caloforge.detectors import Detector, Directions, EnergySpectrum, particle_id
from caloforge.errors import SimulationError, UsageError
from caloforge.simulation.packages import need_engine
from caloforge.simulation.plan import Block, SimulationPlan
from caloforge.simulation.tables import TableSource
from caloforge.stopping import held_back

__all__ = ["Production", "simulate"]

#: Blocks that a worker has in hand: the one it makes and the next, so that it never waits for us.
_IN_HAND = 2


def simulate(
    detector: Detector,
    particle: str | int,
    spectrum: EnergySpectrum | str,
    events: int,
    seed: int,
    *,
    jobs: int = 1,
    directions: Directions = "fixed",
    points: bool = False,
    tables: str = "auto",
    engine: str | None = None,
    skip: Collection[int] = (),
) -> Production:
    """Start a production of Geant4 showers.

    The result is an iterator of blocks, in the order in which they are finished (``Block.start`` says where a block
    belongs), and a context manager that ends the worker processes:

        with simulate(detector, "gamma", "1:100", events=1000, seed=1, jobs=2) as production:
            for block in production:
                writer.write(block.showers, position=block.start)

    Args:
        detector: with a stack.
        particle: name or PDG id.
        spectrum: incident energies; text as on the command line (GeV).
        events: number of showers.
        seed: same seed, same showers, whatever ``jobs`` is.
        jobs: worker processes.
        directions: ``fixed``, or random within the range that the detector's gun gives: ``random`` (with the gun's
            density), ``angles`` or ``barrel``.
        points: raw deposits (``ShowerPoints``) instead of voxels.
        tables: ``auto``, ``builtin``, ``official`` or a directory with Geant4's data.
        engine: ``calzone`` or ``geant4-pybind``; by default the one that suits the detector.
        skip: numbers of blocks that are there already.

    Raises:
        UsageError: if the request makes no sense.
        MissingDependencyError: if the engine is not installed.
        SimulationError: if Geant4 cannot be started for it.
    """
    if isinstance(spectrum, str):
        spectrum = EnergySpectrum.parse(spectrum)
    plan = SimulationPlan(detector, particle_id(particle), spectrum, events, seed, directions, points, tables, engine)
    return Production(plan, jobs=jobs, skip=skip)


class Production:
    """Running workers and the blocks that they finish; see ``simulate``.

    Args:
        plan: what to simulate.
        jobs: worker processes.
        skip: numbers of blocks that are there already.
    """

    def __init__(self, plan: SimulationPlan, *, jobs: int = 1, skip: Collection[int] = ()) -> None:
        if jobs < 1:
            raise UsageError(f"the number of jobs is {jobs}, expected 1 or more")
        need_engine(plan.engine_name)
        self.plan = plan
        self._todo = deque(plan.blocks(set(skip)))
        self._facts: tuple[dict[str, str], TableSource] | None = None
        self._finished: deque[Block] = deque()
        self._handing_out = False
        # A worker at least, even with nothing left to do: provenance comes from it.
        self._workers: list[_Worker] = []
        try:
            for _ in range(max(1, min(jobs, len(self._todo)))):
                self._workers.append(_Worker(plan))
            # Blocks are handed out from the first iteration on; until then some can still be skipped.
            while self._facts is None:
                self._hear()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def skip(self, blocks: Collection[int]) -> None:
        """Leave out blocks that are there already; to be said before the first block is taken."""
        self._todo = deque(number for number in self._todo if number not in set(blocks))

    def __iter__(self) -> Iterator[Block]:
        self._handing_out = True
        try:
            self._hand_out()
            while self._finished or self._todo or any(worker.in_hand for worker in self._workers):
                if self._finished:
                    yield self._finished.popleft()
                else:
                    self._hear()
        finally:
            self.close()

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Geant4 and of the package that brings it."""
        assert self._facts is not None  # known since the first worker was ready
        return self._facts[0]

    @property
    def tables(self) -> TableSource:
        """The tables in use."""
        assert self._facts is not None  # known since the first worker was ready
        return self._facts[1]

    def provenance(self, command: str | None = None) -> dict[str, Any]:
        """Where the showers come from, as JSON can hold it."""
        return self.plan.provenance(self.versions, self.tables, command)

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def _hear(self) -> None:
        """Wait for the workers and take in what they have to say."""
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                message = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                raise SimulationError(f"{worker.obituary()}; finished blocks are kept and can be resumed") from None
            match message:
                case ("ready", versions, tables):
                    self._facts = (versions, tables)
                case ("block", block):
                    self._finished.append(block)
                    worker.in_hand -= 1
                case ("failed", error):
                    raise error
                case ("crashed", trace):
                    raise RuntimeError(f"a simulation worker failed:\n{trace}")
        self._hand_out()

    def _hand_out(self) -> None:
        """Give every worker a block, and a second one as long as there are enough for all."""
        if not self._handing_out:
            return
        for share in range(1, _IN_HAND + 1):
            for worker in self._workers:
                if len(self._todo) > (len(self._workers) if share > 1 else 0) and worker.in_hand < share:
                    worker.give(self._todo.popleft())


class _Worker:
    """A worker process, our end of its socket, and what it printed."""

    def __init__(self, plan: SimulationPlan) -> None:
        self.in_hand = 0
        ours, theirs = Pipe()
        self.connection: Connection[Any, Any] = ours
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
        # One thread each: the jobs are the parallelism. A session of its own keeps the terminal's Ctrl-C away.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs, held_back():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "caloforge.simulation.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,
            )
        self.give(plan, counts=False)

    def give(self, what: Any, *, counts: bool = True) -> None:
        """Send a plan or the number of a block."""
        try:
            self.connection.send(what)
        except (BrokenPipeError, ConnectionResetError):
            raise SimulationError(f"{self.obituary()}; finished blocks are kept and can be resumed") from None
        self.in_hand += counts

    def obituary(self) -> str:
        """How the process ended, with the last thing that it printed."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "a Geant4 worker process stopped answering"
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += " (by hand, or by the system for lack of memory)"
        else:
            how = f"ended with exit code {code}"
        self._output.seek(0)
        lines = [line.strip() for line in self._output.read().decode(errors="replace").splitlines() if line.strip()]
        said = _last_words(lines)
        return f"a Geant4 worker process {how}" + (f": {said.rstrip('.')}" if said else "")

    def stop(self) -> None:
        """End the process. It owns no files, so nothing is lost by doing it at once."""
        self.connection.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._output.close()


def _last_words(lines: list[str]) -> str:
    """The cause of death in what a process printed: what the last error report of Geant4 says, else the last line.

    A report stands between two lines of dashes, with its code, its issuer and its farewell between asterisks.
    """
    start = max((k for k, line in enumerate(lines) if "G4Exception-START" in line), default=None)
    if start is not None:
        lines = [line for line in lines[start:] if not line.startswith(("--------", "issued by"))]
        return " ".join(line for line in lines if "***" not in line)
    return next((line for line in reversed(lines) if "***" not in line), "")
