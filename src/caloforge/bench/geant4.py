"""Showers from Geant4 with the CPU time of each, in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caloforge.bench.machine import in_process
from caloforge.detectors import Detector, EnergySpectrum
from caloforge.showers import ShowerPoints

__all__ = ["Geant4Showers", "geant4_showers"]


@dataclass(frozen=True)
class Geant4Showers:
    """Showers of one spectrum.

    Attributes:
        milliseconds: CPU time that Geant4 itself takes for each, start-up and scoring apart, ms.
        points: the showers, if points were asked for.
    """

    milliseconds: list[float]
    points: ShowerPoints | None


def geant4_showers(
    detector: Detector, particle: int, spectra: Sequence[str], showers: int, *, points: bool
) -> list[Geant4Showers]:
    """Simulate showers one by one along the gun's direction.

    Args:
        detector: with a stack.
        particle: PDG id.
        spectra: kinetic energies, GeV, as on the command line.
        showers: how many of each spectrum.
        points: score points instead of voxels, and return them.

    Returns:
        What was made of each spectrum.

    Raises:
        SimulationError: if Geant4 cannot simulate the detector.
    """
    made: list[Geant4Showers] = in_process(_simulate, detector, particle, list(spectra), showers, points)
    return made


def _simulate(detector: Detector, particle: int, spectra: list[str], showers: int, points: bool) -> list[Geant4Showers]:
    from caloforge.simulation.plan import SimulationPlan
    from caloforge.simulation.runner import BlockRunner
    from caloforge.simulation.scoring import Scorer

    # Geant4 writes to the terminal; nothing else of this process is to be seen there.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    scorer, found = Scorer(detector), []
    geant4 = None
    for number, text in enumerate(spectra):
        plan = SimulationPlan(detector, particle, EnergySpectrum.parse(text), showers, number, points=points)
        if geant4 is None:
            geant4 = BlockRunner(plan).geant4
            geant4.run_bare(np.array([1000.0]), np.array([[0.0, 0.0, 1.0]]))  # builds the tables
        times, parts, energies = [], [], []
        for block in plan.blocks():
            for row, energy, direction in zip(plan.rows(block), *plan.conditions(block), strict=True):
                geant4.seed(plan.geant4_seed(row))
                before = time.process_time()
                geant4.run_bare(energy[None], direction[None])
                times.append(1000 * (time.process_time() - before))
                energies.append(energy)
                if not points:
                    continue
                geant4.seed(plan.geant4_seed(row))
                (group,) = geant4.run(energy[None], direction[None], depth=scorer.needs_depth)
                parts.append(scorer.points(group.deposits, group.count)[0])
        joined = None
        if points:
            offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
            joined = ShowerPoints(offsets, np.concatenate(parts), np.array(energies), particle, detector.readout)
        found.append(Geant4Showers(times, joined))
    return found
