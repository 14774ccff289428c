"""What is to be simulated, and how it falls into blocks that do not depend on who runs them.

Showers are made in blocks of ten. Energies and directions are drawn per shower from ``(seed, shower)``, Geant4 is
seeded per block from ``(seed, block)``: any number of jobs, any order and any resumption give the same showers, bit by
bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.arguments import switch
from caloforge.detectors import Detector, Directions, EnergySpectrum, particle_name
from caloforge.errors import SimulationError, UsageError
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.simulation.packages import choose_engine
from caloforge.simulation.physics import ENERGY_RANGE, check_particle, hadronic_physics
from caloforge.simulation.removal import RemovalPlane, Removed
from caloforge.simulation.tables import TableSource
from caloforge.units import format_energy

__all__ = ["BLOCK_SIZE", "Block", "SimulationPlan"]

#: Showers in a block; part of what a seed means, so it never changes.
BLOCK_SIZE = 10


@dataclass(frozen=True)
class Block:
    """A finished block.

    Attributes:
        number: of the block, from 0.
        showers: its showers, in order.
        removed: what a removal plane has stopped, showers counted from the first of the block; None without one.
        given_up: kinetic energies (MeV) of the particles that were given up, see ``Engine``.
    """

    number: int
    showers: Showers | ShowerPoints
    removed: Removed | None = None
    given_up: tuple[float, ...] = ()

    @property
    def start(self) -> int:
        """Number of its first shower in the whole production."""
        return self.number * BLOCK_SIZE


@dataclass(frozen=True)
class SimulationPlan:
    """Everything that decides which showers are made.

    Attributes:
        detector: with a stack.
        particle: PDG id.
        spectrum: kinetic energies.
        events: number of showers.
        seed: 0 <= seed < 2**63.
        directions: ``fixed`` (the gun's), or random within the gun's range (``random``, ``angles``, ``barrel``; see ``Gun``).
        points: raw deposits as points instead of voxels.
        tables: ``auto``, ``builtin``, ``official`` or a directory.
        engine: ``calzone`` or ``geant4-pybind``; None for the one that suits the detector (``engine_name``).
        removal: stops and records particles that cross a plane.

    Raises:
        UsageError: if something is asked for that the detector or Geant4 cannot do.
        SimulationError: if the detector has no stack.
    """

    detector: Detector
    particle: int
    spectrum: EnergySpectrum
    events: int
    seed: int
    directions: Directions = "fixed"
    points: bool = False
    tables: str = "auto"
    engine: str | None = None
    removal: RemovalPlane | None = None

    def __post_init__(self) -> None:
        check_particle(self.particle)
        if self.detector.stack is None:
            raise SimulationError(
                f"the detector '{self.detector.name}' is readout-only: it has no stack for Geant4 to simulate"
            )
        if self.events < 1:
            raise UsageError(f"the number of events is {self.events}, expected 1 or more")
        low, high = ENERGY_RANGE
        if self.spectrum.minimum < low or self.spectrum.maximum > high:
            raise UsageError(
                f"the energies {self.spectrum.text()} GeV leave the range of the simulation, "
                f"{format_energy(low)} to {format_energy(high)}"
            )
        if not self.points and not self.detector.readout.has_voxels:
            raise UsageError(
                f"the readout of '{self.detector.name}' has no voxels; ask for points ({switch('points')})"
            )
        Streams(self.seed, "simulation")  # checks the seed
        self.conditions(0)  # checks the directions
        choose_engine(self.detector, self.engine)  # checks the engine
        if self.removal is not None:
            self.removal.place(self.detector)

    @property
    def engine_name(self) -> str:
        """The engine that simulates it."""
        return choose_engine(self.detector, self.engine)

    @property
    def density(self) -> str:
        """How directions are drawn: ``fixed``, ``angles`` or ``barrel``."""
        assert self.detector.gun is not None  # a stack comes with a gun
        return self.detector.gun.density_of(self.directions) or "fixed"

    @property
    def n_blocks(self) -> int:
        """Number of blocks; the last one may be short."""
        return -(-self.events // BLOCK_SIZE)

    def rows(self, number: int) -> range:
        """Numbers of the showers in a block."""
        return range(number * BLOCK_SIZE, min((number + 1) * BLOCK_SIZE, self.events))

    def blocks(self, skip: frozenset[int] | set[int] = frozenset()) -> Iterator[int]:
        """Numbers of the blocks that are not skipped."""
        return (number for number in range(self.n_blocks) if number not in skip)

    @cached_property
    def _streams(self) -> Streams:
        return Streams(self.seed, "simulation")

    def conditions(self, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Incident energies (MeV, shape (n,)) and directions (local unit vectors, shape (n, 3)) of a block."""
        rows = np.asarray(self.rows(number), dtype=np.int64)
        energies = self.spectrum.sample(self._streams.child("energy"), rows)
        assert self.detector.gun is not None  # a stack comes with a gun
        directions = self.detector.gun.sample_directions(self.directions, self._streams.child("direction"), rows)
        return energies, directions

    def geant4_seed(self, number: int) -> int:
        """128-bit seed of Geant4's generator for a block: both halves random, as a multiplicative generator needs."""
        streams = self._streams.child("geant4")
        return streams.integer(number, 0) << 64 | streams.integer(number, 1)

    def request(self) -> dict[str, Any]:
        """What has to be the same for a production to be resumed."""
        return {
            "detector": self.detector.hash,
            "particle": self.particle,
            "energy": self.spectrum.text(),
            "events": self.events,
            "seed": self.seed,
            "directions": self.density,
            "points": self.points,
            "engine": self.engine_name,
            "removal": None if self.removal is None else self.removal.text(),
            "block_size": BLOCK_SIZE,
        }

    def provenance(self, versions: dict[str, str], tables: TableSource, command: str | None = None) -> dict[str, Any]:
        """Where the showers come from, as JSON can hold it.

        Args:
            versions: of Geant4 and the package that brings it, as a worker states them.
            tables: the tables that were used.
            command: the command line, if there was one.
        """
        stack = self.detector.stack
        assert stack is not None  # checked when the plan was made
        hadronic = hadronic_physics(self.particle)
        facts: dict[str, Any] = {
            "program": "caloforge simulate",
            "caloforge": version("caloforge"),
            "engine": self.engine_name,
            **versions,
            "tables": tables.provenance(),
            "physics": "G4EmStandardPhysics, G4EmExtraPhysics" + (f", {hadronic}" if hadronic else ""),
            "production_cut_mm": stack.cut,
            "field": _field_text(self.detector),
            "detector": self.detector.name,
            "detector_hash": self.detector.hash,
            "particle": particle_name(self.particle),
            "energy_GeV": self.spectrum.text(),
            "directions": self.density,
            "events": self.events,
            "seed": self.seed,
            "block_size": BLOCK_SIZE,
            "deposits": f"{stack.deposits}, booked at the {stack.deposit_point} of each step",
            "readout_threshold_MeV": 0.0 if self.points else self.detector.readout_threshold,
            "sampling_fraction": self.detector.sampling_fraction,
        }
        if hadronic and tables.approximate_nucleons:
            facts["nucleon_cross_sections"] = "approximate (parametrised; see tables)"
        if self.removal is not None:
            facts["removal_plane"] = self.removal.text()
        if command is not None:
            facts["command"] = command
        return facts


def _field_text(detector: Detector) -> str:
    if detector.field is None:
        return "none"
    return f"uniform, ({', '.join(f'{b:g}' for b in detector.field)}) T in the local frame"
