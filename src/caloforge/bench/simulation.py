"""What scoring and writing add to Geant4 itself, for each engine."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caloforge.detectors import Detector, load_detector, particle_id
from caloforge.showers.files import create_showers
from caloforge.simulation.overhead import Overhead, measure_overhead
from caloforge.simulation.plan import BLOCK_SIZE, Block
from caloforge.workers import call_elsewhere

__all__ = ["DEFAULT_CASES", "Case", "SimulationRow", "bench_simulation"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One production to measure.

    Attributes:
        detector: name of a built-in one.
        particle: name.
        energy: spectrum, GeV.
        events: showers.
        points: points instead of voxels.
        engine: what runs Geant4.
        field: whether the detector keeps its magnetic field, if it has one.
    """

    detector: str
    particle: str
    energy: str
    events: int
    points: bool = False
    engine: str = "calzone"
    field: bool = False

    def loaded(self) -> Detector:
        """The detector."""
        detector = load_detector(self.detector)
        return detector if self.field or detector.field is None else detector.with_field(0.0)


DEFAULT_CASES = (
    Case("calogan", "gamma", "1:100", 20),
    Case("calogan", "pi+", "1:100", 20),
    Case("par04-ds2", "e-", "1:100:log", 20),
    Case("par04-ds3", "e-", "1:100:log", 20),
    Case("ild-ecal", "gamma", "10:127", 20),
    Case("ild-ecal", "gamma", "10:127", 20, points=True),
    Case("calogan", "gamma", "1:100", 20, engine="geant4-pybind"),
    Case("par04-ds2", "e-", "1:100:log", 20, engine="geant4-pybind"),
    Case("ild-ecal", "gamma", "10:127", 20, points=True, engine="geant4-pybind"),
    Case("ild-ecal", "gamma", "10:127", 20, points=True, engine="geant4-pybind", field=True),
)


@dataclass(frozen=True)
class SimulationRow:
    """CPU time (user and system) of the same showers in one process.

    Attributes:
        case: what was simulated.
        bare_ms: Geant4 with the least recording that the engine can do, per shower.
        scored_ms: with every deposit recorded, scored and handed over as showers, per shower.
        written_ms: writing them block by block into a kill-safe file, per shower.
        overhead: (scored + written) / bare - 1.
    """

    case: Case
    bare_ms: float
    scored_ms: float
    written_ms: float

    @property
    def overhead(self) -> float:
        """What scoring and writing add, as a fraction of the bare run."""
        return (self.scored_ms + self.written_ms) / self.bare_ms - 1


def bench_simulation(
    cases: Sequence[Case] = DEFAULT_CASES, *, tables: str = "auto", say: Say = print
) -> list[SimulationRow]:
    """Measure productions, each in a process of its own.

    Args:
        cases: what to simulate.
        tables: Geant4's tables.
        say: where progress goes.
    """
    rows = []
    for case in cases:
        kind = (", points" if case.points else "") + (", with field" if case.field else "")
        say(f"{case.engine}: {case.detector}, {case.events} {case.particle} of {case.energy} GeV{kind}")
        overhead, writing = call_elsewhere(_measure, case, tables)
        n = case.events
        rows.append(
            SimulationRow(
                case,
                1000 * (overhead.bare + overhead.bare_system) / n,
                1000 * (overhead.full + overhead.full_system) / n,
                1000 * writing / n,
            )
        )
    return rows


def _measure(case: Case, tables: str) -> tuple[Overhead, float]:
    # Geant4 writes to the terminal; nothing else of this process is to be seen there.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    detector = case.loaded()
    overhead = measure_overhead(
        detector, case.particle, case.energy, case.events, points=case.points, tables=tables, engine=case.engine
    )
    # The showers themselves stay where they are.
    return replace(overhead, blocks=()), _writing(case, detector, overhead.blocks)


def _writing(case: Case, detector: Detector, blocks: Sequence[Block]) -> float:
    """CPU seconds of writing the showers of a case, one block of ten after the other."""
    with tempfile.TemporaryDirectory() as folder:
        writer = create_showers(
            Path(folder) / "w.h5",
            detector=detector,
            particle=particle_id(case.particle),
            kind="points" if case.points else "voxels",
            expected=len(blocks) * BLOCK_SIZE,
        )
        before = time.process_time()
        with writer:
            for block in blocks:
                writer.write(block.showers, position=block.number)
        return time.process_time() - before
