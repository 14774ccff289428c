"""What every engine does: simulate showers of one kind of particle in one detector, in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, Stack
from caloforge.errors import SimulationError, UsageError
from caloforge.simulation.geometry import Frame
from caloforge.simulation.physics import check_energies, check_particle
from caloforge.simulation.removal import RemovalPlane, Removed
from caloforge.simulation.tables import TableSource
from caloforge.units import GeV

__all__ = ["GROUP_ENERGY", "Deposits", "Engine", "Group", "Track", "consecutive", "one_sentence"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

#: Showers are handed to Geant4 one after the other until they add up to this energy. Larger groups cost memory
#: (120 bytes per deposit), smaller ones cost calls.
GROUP_ENERGY = 20.0 * GeV


@dataclass(frozen=True)
class Deposits:
    """Energy deposits of some showers, in the local frame.

    A charged particle deposits along its step: the deposit is booked at the start or in the middle of it, as the stack
    says. A neutral one deposits at the end of its step.

    Attributes:
        shower: number of the shower that each belongs to, int64 (M,).
        plate: number of the plate, int64 (M,).
        x: mm, (M,).
        y: mm, (M,).
        z: depth, mm, (M,); empty where the layer follows from the plate.
        energy: MeV, (M,).
    """

    shower: Index
    plate: Index
    x: Floats
    y: Floats
    z: Floats
    energy: Floats

    @classmethod
    def none(cls) -> Deposits:
        """No deposits."""
        number, value = np.zeros(0, np.int64), np.zeros(0)
        return cls(number, number, value, value, value, value)

    @classmethod
    def concatenate(cls, parts: Sequence[Deposits]) -> Deposits:
        """All deposits of some parts, one part after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def of(self, first: int, count: int) -> Deposits:
        """Those of some consecutive showers, counted from the first of them."""
        chosen = (self.shower >= first) & (self.shower < first + count)
        names = [name for name in type(self).__dataclass_fields__ if len(getattr(self, name))]
        return replace(self, **{name: getattr(self, name)[chosen] - first * (name == "shower") for name in names})


@dataclass(frozen=True)
class Track:
    """The way of a particle, in the local frame.

    Attributes:
        particle: PDG id.
        energy: kinetic energy at its start, MeV.
        points: ends of its steps, mm, (K, 3).
        behind: whether it began at or behind a removal plane.
    """

    particle: int
    energy: float
    points: Floats
    behind: bool


@dataclass(frozen=True)
class Group:
    """Some showers that were simulated together.

    Attributes:
        first: number of the first one among those asked for.
        count: how many they are.
        deposits: their deposits; showers are counted from the first of the group.
        removed: what a removal plane has stopped, counted likewise; None without one.
    """

    first: int
    count: int
    deposits: Deposits
    removed: Removed | None = None


class Engine(ABC):
    """A ready Geant4 for one detector and one kind of particle, in this process.

    Geant4 lives in the process from then on: it may write to the terminal, keeps global state, and a table that it
    misses aborts the process. ``produce.simulate`` puts engines into processes of their own.

    Args:
        detector: with a stack.
        particle: PDG id.
        tables: ``auto``, ``builtin``, ``official`` or a directory.
        removal: stops and records particles that cross a plane.

    Attributes:
        tables: the tables in use.
        given_up: kinetic energy (MeV) of every particle so far that was given up because it would circle in vacuum for ever.

    Raises:
        MissingDependencyError: if the engine is not installed.
        SimulationError: if there is no stack, a material is not known, or the tables are not complete.
        UsageError: if the particle cannot be simulated, or the removal plane does not suit the detector.
    """

    name: ClassVar[str]
    tables: TableSource

    def __init__(
        self, detector: Detector, particle: int, tables: str | Path = "auto", removal: RemovalPlane | None = None
    ) -> None:
        check_particle(particle)
        if detector.stack is None:
            raise SimulationError(f"the detector '{detector.name}' is readout-only: it has no stack to simulate")
        assert detector.gun is not None  # a stack comes with a gun
        self._particle = particle
        self._stack: Stack = detector.stack
        self._frame = Frame.of(detector.stack)
        self._origin = np.asarray([detector.gun.position], dtype=np.float64)
        self._removal = removal
        self._sheet = None if removal is None else removal.place(detector)
        self.given_up: list[float] = []
        self._prepare(detector, tables)

    @abstractmethod
    def _prepare(self, detector: Detector, tables: str | Path) -> None:
        """Make Geant4 ready; sets ``tables``."""

    @abstractmethod
    def _simulate(self, energies: Floats, directions: Floats, depth: bool) -> tuple[Deposits, Removed | None]:
        """Simulate one group of showers: deposits, and what the removal plane stopped if there is one."""

    @abstractmethod
    def run_bare(self, energies: Floats, directions: Floats) -> None:
        """Simulate showers with the least recording that the engine can do: the yardstick of scoring.

        Args:
            energies: kinetic, MeV, shape (N,).
            directions: unit vectors in the local frame, shape (N, 3).
        """

    def trace(self, energies: Floats, directions: Floats, shower: int, least: float) -> tuple[list[Track], Removed]:
        """Simulate showers, as ``run`` does, and tell the ways of the particles of one of them.

        Args:
            energies: kinetic, MeV, shape (N,).
            directions: unit vectors in the local frame, shape (N, 3).
            shower: number of the one.
            least: energy from which particles are told, MeV.

        Returns:
            The tracks, and what the removal plane stopped or saw of that shower.

        Raises:
            UsageError: if the engine does not know tracks, or there is no plane.
        """
        raise UsageError(f"the engine {self.name} does not tell the tracks of particles; calzone does, without a field")

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Start Geant4's random stream anew from a 128-bit seed."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of Geant4 and of the package that brings it."""

    def run(self, energies: Floats, directions: Floats, *, depth: bool = True) -> Iterator[Group]:
        """Simulate showers one after the other, in groups of a bounded energy.

        Args:
            energies: kinetic, MeV, shape (N,).
            directions: unit vectors in the local frame, shape (N, 3).
            depth: whether the depth of the deposits is needed.

        Raises:
            UsageError: if an energy is out of range.
            SimulationError: if Geant4 reports an error.
        """
        check_energies(energies)
        for first, count in consecutive(energies, GROUP_ENERGY):
            rows = slice(first, first + count)
            yield Group(first, count, *self._simulate(energies[rows], directions[rows], depth))


def consecutive(energies: Floats, limit: float) -> Iterator[tuple[int, int]]:
    """First and number of consecutive showers that add up to an energy, or of one that has more by itself.

    Args:
        energies: of the showers, (N,).
        limit: in the same unit.
    """
    first = 0
    while first < len(energies):
        count = max(1, int(np.searchsorted(np.cumsum(energies[first:]), limit, side="right")))
        yield first, count
        first += count


def one_sentence(error: Exception) -> str:
    """The text of an error on one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".")
