"""Showers from several Geant4 processes, as an iterator of finished blocks."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from contextlib import closing
from types import TracebackType
from typing import Any, Self

from caloforge.detectors import Detector, Directions, EnergySpectrum, particle_id
from caloforge.errors import UsageError
from caloforge.executor import Executor, LocalProcesses
from caloforge.simulation.agreement import AgreedWork
from caloforge.simulation.packages import need_engine
from caloforge.simulation.plan import Block, SimulationPlan
from caloforge.simulation.tables import TableSource
from caloforge.simulation.worker import ENVIRONMENT, prepare

__all__ = ["Production", "simulate"]


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
    executor: Executor | None = None,
) -> Production:
    """Describe a production of Geant4 showers, which starts with the first block that is asked for.

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
        executor: who makes the blocks, instead of ``jobs`` processes of this machine.

    Raises:
        UsageError: if the request makes no sense.
        MissingDependencyError: if the engine is not installed.
        SimulationError: if the detector has no stack; if Geant4 cannot be started or fails, with the next block.
    """
    if isinstance(spectrum, str):
        spectrum = EnergySpectrum.parse(spectrum)
    plan = SimulationPlan(detector, particle_id(particle), spectrum, events, seed, directions, points, tables, engine)
    return Production(plan, jobs=jobs, skip=skip, executor=executor)


class Production:
    """Blocks of a plan as they are finished; see ``simulate``.

    Args:
        plan: what to simulate.
        jobs: worker processes.
        skip: numbers of blocks that are there already.
        executor: who makes the blocks, instead of ``jobs`` processes of this machine.
    """

    def __init__(
        self, plan: SimulationPlan, *, jobs: int = 1, skip: Collection[int] = (), executor: Executor | None = None
    ) -> None:
        if jobs < 1:
            raise UsageError(f"the number of jobs is {jobs}, expected 1 or more")
        need_engine(plan.engine_name)
        self.plan = plan
        self._work = AgreedWork(LocalProcesses(jobs, ENVIRONMENT) if executor is None else executor, prepare, plan)
        self._todo = list(plan.blocks(set(skip)))
        self._running: Generator[Block] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def skip(self, blocks: Collection[int]) -> None:
        """Leave out blocks that are there already; to be said before the first block is taken."""
        self._todo = [number for number in self._todo if number not in set(blocks)]

    def __iter__(self) -> Iterator[Block]:
        if self._running is None:
            self._running = self._run()
        return self._running

    def _run(self) -> Generator[Block]:
        with closing(self._work.run(self._todo)) as answers:
            for _, made in answers:
                assert made.block is not None  # its number was given
                yield made.block

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Geant4 and of the package that brings it; known for nothing once there is a block."""
        return self._work.facts().versions

    @property
    def tables(self) -> TableSource:
        """The tables in use, likewise."""
        return self._work.facts().tables

    def provenance(self, command: str | None = None) -> dict[str, Any]:
        """Where the showers come from, as JSON can hold it."""
        return self.plan.provenance(self.versions, self.tables, command)

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        if self._running is not None:
            self._running.close()
