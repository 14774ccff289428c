"""One block of showers: the part of the work that a process does without asking anyone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caloforge.showers import ShowerPoints, Showers
from caloforge.simulation.engines import make_engine
from caloforge.simulation.plan import Block, SimulationPlan
from caloforge.simulation.removal import Removed
from caloforge.simulation.scoring import Scorer, check_energy_balance

__all__ = ["BlockRunner"]


class BlockRunner:
    """Makes the blocks of a plan, one after the other, in this process.

    Args:
        plan: what to simulate.
        between: called between groups of showers; may raise to stop.

    Raises:
        MissingDependencyError: if the engine is not installed.
        SimulationError: if Geant4 does not accept the detector, or tables are missing.
    """

    def __init__(self, plan: SimulationPlan, between: Callable[[], None] | None = None) -> None:
        self.plan = plan
        self.geant4 = make_engine(plan.engine_name, plan.detector, plan.particle, plan.tables, plan.removal)
        self._scorer = Scorer(plan.detector)
        self._between = between

    def run(self, number: int) -> Block:
        """Simulate one block.

        Raises:
            SimulationError: if Geant4 reports an error, or a shower deposits more energy than there is.
        """
        plan, scorer = self.plan, self._scorer
        energies, directions = plan.conditions(number)
        n = len(energies)
        raw = np.zeros(n)
        voxels = np.zeros((n, plan.detector.readout.n_voxels))
        overflow = np.zeros((n, plan.detector.readout.n_layers))
        points, counts = [], np.zeros(n, dtype=np.int64)
        stopped = []
        given_up_before = len(self.geant4.given_up)
        self.geant4.seed(plan.geant4_seed(number))
        for group in self.geant4.run(energies, directions, depth=scorer.needs_depth):
            count, deposits = group.count, group.deposits
            rows = slice(group.first, group.first + count)
            raw[rows] = np.bincount(deposits.shower, weights=deposits.energy, minlength=count)
            if plan.points:
                some, counts[rows] = scorer.points(deposits, count)
                points.append(some)
            else:
                voxels[rows], overflow[rows] = scorer.voxels(deposits, count)
            if group.removed is not None:
                stopped.append(group.removed.shifted(group.first))
            if self._between is not None:
                self._between()
        removed = None if plan.removal is None else Removed.concatenate(stopped)
        check_energy_balance(raw, energies, plan.particle, first=plan.rows(number).start)
        direction = directions.astype(np.float32) if plan.directions != "fixed" else None
        readout = plan.detector.readout
        given_up = tuple(self.geant4.given_up[given_up_before:])
        if plan.points:
            offsets = np.concatenate([[0], np.cumsum(counts)])
            showers = ShowerPoints(offsets, np.concatenate(points), energies, plan.particle, readout, direction)
            return Block(number, showers, removed, given_up)
        deposits32, overflow32 = scorer.finish_voxels(voxels, overflow)
        in_voxels = Showers(deposits32, energies, plan.particle, readout, direction, overflow32)
        return Block(number, in_voxels, removed, given_up)
