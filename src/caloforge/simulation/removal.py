"""A plane at which particles are taken out of the simulation: where a surrogate will answer for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, particle_name
from caloforge.errors import UsageError
from caloforge.units import mm, um

__all__ = ["SHEET", "RemovalPlane", "Removed"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

#: Thickness of the vacuum that stands for the plane: too thin to matter, and nothing can happen in it.
SHEET = 1.0 * um


@dataclass(frozen=True)
class RemovalPlane:
    """Stops and records the particles that cross a plane into the calorimeter and are within given ranges.

    Geant4 tracks everything else on. Where the plane lies within a plate, a micrometre of the plate is replaced by vacuum. Among
    cylinders it is one, too; ranges are those of the local frame, whose axis is the normal at the entry point.

    Attributes:
        particles: lowest and highest kinetic energy, MeV, of those that are stopped, by PDG id.
        depth: of the plane below the front face of the stack, mm; below 0 in front of it.
        max_angle: largest angle between the flight direction and the inward normal, rad.
        max_offset: largest distance from the axis of the local frame, mm.
        seen_above: particles that cross inwards and are not stopped are recorded from this kinetic energy on, MeV; by default
            none is.

    Raises:
        UsageError: if a range is empty or makes no sense.
    """

    particles: Mapping[int, tuple[float, float]]
    depth: float = 0.0
    max_angle: float = math.pi / 2
    max_offset: float = math.inf
    seen_above: float = math.inf

    def __post_init__(self) -> None:
        if not self.particles and self.seen_above == math.inf:
            raise UsageError(
                "a removal plane needs at least one particle that it stops, or an energy from which it sees them"
            )
        for pdg, (low, high) in self.particles.items():
            if not 0 <= low <= high:
                raise UsageError(f"the removal plane stops particle {pdg} from {low:g} to {high:g} MeV: no such range")
        if not 0 < self.max_angle <= math.pi / 2:
            raise UsageError(f"the largest angle at the removal plane is {self.max_angle:g} rad, expected 0 to pi/2")
        if not self.max_offset > 0:
            raise UsageError(f"the largest offset at the removal plane is {self.max_offset:g} mm, expected above 0")

    def text(self) -> str:
        """The plane in words, for provenance."""
        what = ", ".join(
            f"{particle_name(pdg)} {low:g}-{high:g} MeV" for pdg, (low, high) in sorted(self.particles.items())
        )
        if not what:
            return f"at {self.depth:g} mm: nothing, only seen from {self.seen_above:g} MeV on"
        return f"at {self.depth:g} mm: {what}, up to {self.max_angle:g} rad and {self.max_offset:g} mm from the axis"

    def takes(self, pdg: int, energy: float, position: Sequence[float], direction: Sequence[float]) -> bool:
        """Whether a particle that crosses the plane is stopped; position and direction in the local frame."""
        if (known := self.particles.get(pdg)) is None or not known[0] <= energy <= known[1]:
            return False
        if direction[2] <= 0 or direction[2] < math.cos(self.max_angle):
            return False
        return math.hypot(position[0], position[1]) <= self.max_offset

    def sees(self, energy: float, direction: Sequence[float]) -> bool:
        """Whether a particle that crosses the plane and is not stopped is recorded; direction in the local frame."""
        return direction[2] > 0 and energy >= self.seen_above

    def place(self, detector: Detector) -> tuple[int | None, float]:
        """Where the sheet of vacuum goes that stands for the plane.

        Returns:
            Number of the plate that it lies in (None: in front of the stack), and the depth of its middle, mm.

        Raises:
            UsageError: if the plane is not in the stack, or particles do not start in front of it.
        """
        stack, gun = detector.stack, detector.gun
        assert stack is not None
        assert gun is not None
        low = self.depth - SHEET
        if not gun.position[2] < low:
            raise UsageError(
                f"the removal plane at {self.depth:g} mm is not behind the place where particles start ({gun.position[2]:g} mm)"
            )
        if self.depth <= 0:
            if stack.world is not None:
                front = (stack.thickness - stack.world[2]) / 2
            else:
                assert stack.inner_radius is not None  # of cylinders
                front = -stack.inner_radius
            if low < front:
                raise UsageError(f"the removal plane at {self.depth:g} mm is outside the world of '{detector.name}'")
            return None, self.depth - SHEET / 2
        for plate in stack.plates:
            if plate.start < self.depth <= plate.end + 1e-9 * mm:
                middle = max(plate.start, min(low, plate.end - SHEET)) + SHEET / 2
                if plate.thickness < 2 * SHEET:
                    raise UsageError(f"the plate at {plate.start:g} mm is too thin for a removal plane")
                return plate.index, middle
        raise UsageError(f"the removal plane at {self.depth:g} mm is behind the stack of '{detector.name}'")


@dataclass(frozen=True)
class Removed:
    """Particles that a removal plane has stopped or seen, in the local frame.

    Attributes:
        shower: number of the shower that each belongs to, int64 (M,).
        particle: PDG id, int64 (M,).
        energy: kinetic, MeV, (M,).
        position: mm, (M, 3).
        direction: unit vectors, (M, 3).
        time: since the shower's start, ns, (M,); NaN where the engine does not know (calzone).
        track: Geant4's number of the track in its event, int64 (M,).
        stopped: whether the plane stopped it, bool (M,); the others were tracked on (``seen_above``).
    """

    shower: Index = field(default_factory=lambda: np.zeros(0, np.int64))
    particle: Index = field(default_factory=lambda: np.zeros(0, np.int64))
    energy: Floats = field(default_factory=lambda: np.zeros(0))
    position: Floats = field(default_factory=lambda: np.zeros((0, 3)))
    direction: Floats = field(default_factory=lambda: np.zeros((0, 3)))
    time: Floats = field(default_factory=lambda: np.zeros(0))
    track: Index = field(default_factory=lambda: np.zeros(0, np.int64))
    stopped: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return len(self.shower)

    def shifted(self, first: int) -> Removed:
        """The same with showers counted from another one."""
        return replace(self, shower=self.shower + first)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Removed:
        """Some of the particles."""
        return Removed(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @classmethod
    def concatenate(cls, parts: Sequence[Removed]) -> Removed:
        """All particles of some parts, one part after the other."""
        if not parts:
            return cls()
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))
