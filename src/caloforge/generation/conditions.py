"""What is asked for: energies from a spectrum, a list, or the showers of another file."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from caloforge import datasets
from caloforge.arguments import given
from caloforge.detectors import EnergySpectrum, Gun, particle_id, particle_name
from caloforge.errors import UsageError
from caloforge.models import ConditionRange, Conditions
from caloforge.random import Streams
from caloforge.showers import open_showers

__all__ = ["ConditionSource", "ListedConditions", "SpectrumConditions", "conditions_of_file", "refuse_other_particle"]


class ConditionSource(ABC):
    """Conditions of any number of showers, a block of which can be had at any time.

    Attributes:
        particle: PDG id.
    """

    particle: int

    @abstractmethod
    def __len__(self) -> int:
        """Number of showers."""

    @abstractmethod
    def block(self, start: int, stop: int) -> Conditions:
        """Conditions of consecutive showers, first attempt."""

    @abstractmethod
    def check(self, valid: ConditionRange) -> None:
        """Refuse conditions outside a range.

        Raises:
            UsageError: saying what is outside.
        """

    @abstractmethod
    def request(self) -> dict[str, Any]:
        """What was asked for, as JSON can hold it."""


@dataclass(frozen=True)
class SpectrumConditions(ConditionSource):
    """Energies from a spectrum.

    Attributes:
        spectrum: incident kinetic energies.
        showers: how many.
        seed: of the generation; the energy of a shower depends on it and the shower's number.
        particle: PDG id.
        gun: where random directions come from.
        directions: ``straight`` along the detector's axis, or ``random`` within the gun's range.

    Raises:
        UsageError: if no showers are asked for, or random directions of a gun that has none.
    """

    spectrum: EnergySpectrum
    showers: int
    seed: int
    particle: int
    gun: Gun | None = None
    directions: Literal["straight", "random"] = "straight"

    def __post_init__(self) -> None:
        if self.showers < 1:
            raise UsageError(f"{self.showers} showers were asked for, expected 1 or more")
        if self.directions == "random" and (self.gun is None or self.gun.directions is None):
            raise UsageError("random directions were asked for, but the detector's gun has no range of directions")

    def __len__(self) -> int:
        return self.showers

    def block(self, start: int, stop: int) -> Conditions:
        """Conditions of consecutive showers, first attempt."""
        streams = Streams(self.seed, "conditions")
        index = np.arange(start, min(stop, self.showers), dtype=np.int64)
        direction: NDArray[np.float32] | None = None
        if self.directions == "random" and self.gun is not None:
            direction = self.gun.sample_directions("random", streams.child("direction"), index).astype(np.float32)
        energy = self.spectrum.sample(streams.child("energy"), index)
        return Conditions.first(energy, self.particle, direction=direction, start=start)

    def check(self, valid: ConditionRange) -> None:
        """Refuse a spectrum that reaches outside a range, and directions among the first showers that do."""
        ends = np.asarray([self.spectrum.minimum, self.spectrum.maximum])
        valid.check(Conditions.first(ends, self.particle))
        valid.check(self.block(0, 1000))

    def request(self) -> dict[str, Any]:
        """What was asked for, as JSON can hold it."""
        return {
            "energy": self.spectrum.text(),
            "showers": self.showers,
            "conditions_seed": self.seed,
            "directions": self.directions,
        }


@dataclass(frozen=True)
class ListedConditions(ConditionSource):
    """Energies, and possibly directions, one by one.

    Attributes:
        energies: kinetic energies, float64 (N,), MeV.
        particle: PDG id.
        direction: unit vectors in the local frame, float32 (N, 3), or None (along +z).

    Raises:
        UsageError: if there are none, or an energy is not positive and finite.
    """

    energies: NDArray[np.float64]
    particle: int
    direction: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not len(self.energies):
            raise UsageError("the list of energies is empty")
        bad = np.flatnonzero(~(np.isfinite(self.energies) & (self.energies > 0)))
        if len(bad):
            raise UsageError(
                f"energy {bad[0]} of the list is {self.energies[bad[0]]:g} MeV, expected a positive number"
            )

    def __len__(self) -> int:
        return len(self.energies)

    def block(self, start: int, stop: int) -> Conditions:
        """Conditions of consecutive showers, first attempt."""
        direction = None if self.direction is None else self.direction[start:stop]
        return Conditions.first(self.energies[start:stop], self.particle, direction=direction, start=start)

    def check(self, valid: ConditionRange) -> None:
        """Refuse conditions outside a range."""
        valid.check(self.block(0, len(self)))

    def request(self) -> dict[str, Any]:
        """What was asked for, as JSON can hold it."""
        digest = hashlib.blake2b(self.energies.astype("<f8").tobytes(), digest_size=16)
        if self.direction is not None:
            digest.update(self.direction.astype("<f4").tobytes())
        return {"conditions": digest.hexdigest(), "showers": len(self)}


def refuse_other_particle(where: str, particle: int, named: int | None) -> None:
    """Refuse showers that are to be asked for again as another particle than they are of.

    Args:
        where: what they are, with a verb.
        particle: theirs, PDG id; 0 if it is not known.
        named: that of the request; None for theirs.

    Raises:
        UsageError: naming both.
    """
    if named is not None and particle not in (0, named):
        raise UsageError(
            f"{where} showers of {particle_name(particle)}, and {given('particle', particle_name(named))} asks for others"
        )


def conditions_of_file(
    path: str | Path,
    *,
    particle: int | str | None = None,
    named: int | None = None,
    showers: int | None = None,
) -> ListedConditions:
    """The conditions under which the showers of a file were made: energies, directions and particle.

    Deposits are not looked at, so the file may be of any detector.

    Args:
        path: shower file of any format.
        particle: incident particle of files that do not say theirs: the model's own, for instance.
        named: the one that was asked for; a file of another one is refused. None for that of the file.
        showers: only the first so many; None takes all.

    Raises:
        ShowerFileError: if the file is damaged or foreign.
        UsageError: if its particle is not known or another one, or it has fewer showers.
    """
    with open_showers(datasets.file_of(path)) as reader:
        refuse_other_particle(f"{path}: holds", reader.particle, named)
        pdg = reader.particle or named or (0 if particle is None else particle_id(particle))
        if pdg == 0:
            raise UsageError(f"{path}: does not say which particle made its showers, so one must be named")
        if showers is not None and showers > len(reader):
            raise UsageError(f"{path}: has {len(reader)} showers, {showers} were asked for")
        wanted = len(reader) if showers is None else showers
        return ListedConditions(reader.incident_energies(0, wanted), pdg, reader.directions_of(0, wanted))
