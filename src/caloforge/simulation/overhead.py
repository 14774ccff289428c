"""What scoring and handing over add to Geant4's own time."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, EnergySpectrum, particle_id
from caloforge.simulation.plan import Block, SimulationPlan
from caloforge.simulation.runner import BlockRunner

__all__ = ["Overhead", "measure_overhead"]


@dataclass(frozen=True)
class Overhead:
    """CPU times of the same showers, made with and without scoring in one process.

    Attributes:
        showers: number of showers.
        incident_energy: their sum, MeV.
        bare: user CPU time of Geant4 with the least recording that the engine can do, s.
        full: user CPU time with every deposit recorded, scored and put into showers, s.
        bare_system: system CPU time of the bare run, s.
        full_system: system CPU time of the full run, s.
        blocks: the showers of the full run.
    """

    showers: int
    incident_energy: float
    bare: float
    full: float
    bare_system: float
    full_system: float
    blocks: tuple[Block, ...] = ()

    @property
    def fraction(self) -> float:
        """User CPU time added, as a fraction of the bare run's."""
        return self.full / self.bare - 1.0


def measure_overhead(
    detector: Detector,
    particle: str | int,
    spectrum: EnergySpectrum | str,
    events: int,
    *,
    seed: int = 1,
    points: bool = False,
    tables: str = "auto",
    engine: str | None = None,
) -> Overhead:
    """Make the same showers bare and in full, block by block in turn, and compare the CPU times.

    Runs Geant4 in this process. Both runs start from the same seeds and therefore take the same steps.

    Args:
        detector: with a stack.
        particle: name or PDG id.
        spectrum: incident energies.
        events: showers to measure with.
        seed: of the showers; a block of ten is the unit that is repeated.
        points: raw deposits instead of voxels.
        tables: see ``simulate``.
        engine: see ``simulate``.
    """
    if isinstance(spectrum, str):
        spectrum = EnergySpectrum.parse(spectrum)
    plan = SimulationPlan(
        detector, particle_id(particle), spectrum, events, seed, points=points, tables=tables, engine=engine
    )
    runner = BlockRunner(plan)
    # Geant4 builds its tables in the first run.
    runner.geant4.run_bare(np.array([1000.0]), np.array([[0.0, 0.0, 1.0]]))

    def bare(number: int) -> None:
        runner.geant4.seed(plan.geant4_seed(number))
        runner.geant4.run_bare(*plan.conditions(number))

    blocks = []

    def full(number: int) -> None:
        blocks.append(runner.run(number))

    times = np.zeros((2, 2))
    energy = 0.0
    for number in plan.blocks():
        energy += float(plan.conditions(number)[0].sum())
        # Taking turns in who goes first keeps warm caches and a drifting clock from favouring one of them.
        runs = [(0, bare), (1, full)]
        for which, work in runs if number % 2 else reversed(runs):
            times[which] += _cpu(partial(work, number))
    (bare_user, bare_system), (full_user, full_system) = times.tolist()
    return Overhead(plan.events, energy, bare_user, full_user, bare_system, full_system, tuple(blocks))


def _cpu(work: Callable[[], object]) -> NDArray[np.float64]:
    """User and system CPU time of some work, s."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime])
