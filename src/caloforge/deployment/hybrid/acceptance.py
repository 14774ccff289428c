"""Which particles a surrogate answers: explicit, stored with the result, and the reason for every one that it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import particle_name
from caloforge.simulation import RemovalPlane, Removed
from caloforge.units import MeV, format_energy

__all__ = ["ANSWERED", "LEAST_SEEN", "REASONS", "Acceptance"]

#: Particles that reach the face with less kinetic energy, and are not answered, are not listed.
LEAST_SEEN = 1.0 * MeV

#: Why a particle at the face was tracked by Geant4, by number; the first one means that it was not.
REASONS = ("answered", "species", "energy below the model's", "energy above the model's", "angle", "offset")
ANSWERED, SPECIES, BELOW, ABOVE, ANGLE, OFFSET = range(len(REASONS))


@dataclass(frozen=True)
class Acceptance:
    """What is answered.

    Attributes:
        energies: lowest and highest kinetic energy, MeV, by PDG id; nothing for a simulation that Geant4 does alone.
        max_angle: largest angle to the inward normal of the face, rad.
        max_offset: largest distance from the axis, mm.

    Raises:
        UsageError: if a range makes no sense.
    """

    energies: Mapping[int, tuple[float, float]]
    max_angle: float = 0.05
    max_offset: float = 20.0

    def __post_init__(self) -> None:
        self.plane(0.0)

    def plane(self, depth: float) -> RemovalPlane:
        """The plane that takes these particles out and sees all others, at a depth (mm) below the front of all material."""
        return RemovalPlane(self.energies, depth, self.max_angle, self.max_offset, seen_above=LEAST_SEEN)

    def reasons(self, seen: Removed) -> NDArray[np.int8]:
        """Why each particle at the face was answered or not, one of ``REASONS`` by number, (M,)."""
        low, high = (np.full(len(seen), edge) for edge in (math.inf, -math.inf))
        for pdg, (least, most) in self.energies.items():
            low[seen.particle == pdg], high[seen.particle == pdg] = least, most
        known = np.isin(seen.particle, list(self.energies))
        found = np.select(
            [
                seen.stopped,
                ~known,
                seen.energy < low,
                seen.energy > high,
                seen.direction[:, 2] < math.cos(self.max_angle),
            ],
            [ANSWERED, SPECIES, BELOW, ABOVE, ANGLE],
            OFFSET,
        )
        return found.astype(np.int8)

    def text(self) -> str:
        """In words, for provenance and for people."""
        if not self.energies:
            return "nothing"
        species = ", ".join(
            f"{particle_name(pdg)} of {format_energy(low)} to {format_energy(high)}"
            for pdg, (low, high) in sorted(self.energies.items())
        )
        return f"{species}; up to {1000 * self.max_angle:g} mrad and {self.max_offset:g} mm from the axis"
