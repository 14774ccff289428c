"""What is asked of a model, and for what it was trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from caloforge.detectors import particle_id, particle_name, particle_names
from caloforge.errors import UsageError
from caloforge.showers import ShowerPoints, Showers
from caloforge.units import format_energy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["ConditionRange", "Conditions"]

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Conditions:
    """What is asked for: one row for each shower to be made.

    Attributes:
        incident_energy: kinetic energy of the incident particle, float64 (N,), MeV.
        particle: PDG id of the incident particle.
        index: number of each shower, int64 (N,); with the seed it addresses the shower's random numbers.
        attempt: how often each shower was drawn before and rejected, int64 (N,).
        direction: flight direction in the local frame, float32 unit vectors (N, 3), or None (along +z).
    """

    incident_energy: NDArray[np.float64]
    particle: int
    index: NDArray[np.int64]
    attempt: NDArray[np.int64]
    direction: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.incident_energy)
        if self.incident_energy.shape != (n,) or self.index.shape != (n,) or self.attempt.shape != (n,):
            raise UsageError(
                f"conditions need as many energies as numbers and attempts, not {self.incident_energy.shape}, "
                f"{self.index.shape} and {self.attempt.shape}"
            )
        if self.direction is not None and self.direction.shape != (n, 3):
            raise UsageError(f"the directions have shape {self.direction.shape}, expected ({n}, 3)")

    @classmethod
    def first(
        cls,
        incident_energy: NDArray[np.float64],
        particle: int,
        *,
        direction: NDArray[np.float32] | None = None,
        start: int = 0,
    ) -> Self:
        """Conditions of showers number ``start``, ``start + 1`` and so on, first attempt."""
        index = np.arange(start, start + len(incident_energy), dtype=np.int64)
        return cls(np.asarray(incident_energy, np.float64), particle, index, np.zeros_like(index), direction)

    @classmethod
    def of(cls, showers: Showers | ShowerPoints) -> Self:
        """The conditions under which these showers were made, numbered from 0."""
        return cls.first(showers.incident_energy, showers.particle, direction=showers.direction)

    def __len__(self) -> int:
        return len(self.incident_energy)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Conditions:
        """Some of the rows."""
        return Conditions(
            self.incident_energy[rows],
            self.particle,
            self.index[rows],
            self.attempt[rows],
            None if self.direction is None else self.direction[rows],
        )

    def again(self) -> Conditions:
        """The same showers, one attempt later."""
        return replace(self, attempt=self.attempt + 1)

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The conditions by name.

        Energies, ``incident_energy`` float64 (N,), MeV; directions, ``direction`` float32 (N, 3), +z if None; PDG ids,
        ``particle`` int64 (N,).
        """
        import torch  # what only lists or describes models needs none

        direction = self.direction
        if direction is None:
            direction = np.zeros((len(self), 3), dtype=np.float32)
            direction[:, 2] = 1
        return {
            "incident_energy": torch.tensor(self.incident_energy, dtype=torch.float64, device=device),
            "direction": torch.tensor(direction, dtype=torch.float32, device=device),
            "particle": torch.full((len(self),), self.particle, dtype=torch.int64, device=device),
        }


class ConditionRange(BaseModel):
    """The conditions for which a model was trained.

    Attributes:
        particle: PDG id; of a model of several particles that of the first, which is made if nobody says which.
        others: those of the others.
        incident_energy: lowest and highest kinetic energy, MeV, of all of them.
        direction: lowest and highest component of the flight direction, or None if all flew along +z.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    particle: int
    incident_energy: tuple[float, float]
    direction: tuple[Vector, Vector] | None = None
    # Not in the words for it, from which the identity of models without weights is made.
    others: tuple[int, ...] = Field(default=(), repr=False)

    @property
    def particles(self) -> tuple[int, ...]:
        """PDG ids of all particles."""
        return (self.particle, *self.others)

    @property
    def particle_names(self) -> str:
        """Their names, for people."""
        return particle_names(self.particles)

    @classmethod
    def of(
        cls,
        particle: int,
        incident_energy: ArrayLike,
        direction: ArrayLike | None = None,
        *,
        others: tuple[int, ...] = (),
    ) -> Self:
        """The range that training rows cover.

        A sample does not reach the ends of the spectrum that it was drawn from. So each end is moved outwards by the
        distance to the eleventh value from it: the true end is missed once in a thousand cases, a discrete energy
        stays where it is, and the model is nowhere asked for what it could not know.
        """
        low, high = _widened(np.asarray(incident_energy, dtype=np.float64))
        if direction is None:
            return cls(particle=particle, incident_energy=(low, high), others=others)
        ends = [_widened(component) for component in np.asarray(direction, dtype=np.float64).T]
        lows, highs = ([max(-1.0, end[0]) for end in ends], [min(1.0, end[1]) for end in ends])
        return cls(
            particle=particle,
            incident_energy=(low, high),
            direction=((lows[0], lows[1], lows[2]), (highs[0], highs[1], highs[2])),
            others=others,
        )

    def outside(self, conditions: Conditions) -> NDArray[np.bool_]:
        """Which showers are asked for under conditions that the model was not trained for, bool (N,)."""
        low, high = self.incident_energy
        energy = conditions.incident_energy
        out: NDArray[np.bool_] = (energy < low * (1 - 1e-6)) | (energy > high * (1 + 1e-6))
        if self.direction is not None and conditions.direction is not None:
            least, most = np.asarray(self.direction)
            out |= ((conditions.direction < least - 1e-6) | (conditions.direction > most + 1e-6)).any(axis=1)
        elif conditions.direction is not None:  # trained along +z only
            out |= conditions.direction[:, 2] < 1 - 1e-6
        if conditions.particle not in self.particles:
            out[:] = True
        return out

    def chosen(self, particle: str | int | None) -> int:
        """PDG id of the particle of a request.

        Args:
            particle: name or PDG id; None for the first of the model.

        Raises:
            UsageError: if there is no such particle, or the model was not trained for it.
        """
        if particle is None:
            return self.particle
        wanted = particle if isinstance(particle, int) else particle_id(particle)
        if wanted not in self.particles:
            raise UsageError(
                f"the model was trained for {self.particle_names}, showers of {particle_name(wanted)} were asked for"
            )
        return wanted

    def check(self, conditions: Conditions) -> None:
        """Refuse conditions outside the range.

        Raises:
            UsageError: saying what is outside and what the model was trained for.
        """
        self.chosen(conditions.particle)
        outside = self.outside(conditions)
        if not outside.any():
            return
        low, high = self.incident_energy
        energy = conditions.incident_energy
        wrong = (energy < low * (1 - 1e-6)) | (energy > high * (1 + 1e-6))
        if wrong.any():
            raise UsageError(
                f"the model was trained from {format_energy(low)} to {format_energy(high)}, "
                f"an energy of {format_energy(float(energy[wrong][0]))} is outside"
            )
        raise UsageError(f"{int(outside.sum())} directions are outside the range for which the model was trained")


def _widened(values: NDArray[np.float64]) -> tuple[float, float]:
    ordered = np.sort(values)
    if not len(ordered):
        raise UsageError("there are no training rows")
    k = min(10, len(ordered) - 1)
    low, high = ordered[0] - (ordered[k] - ordered[0]), ordered[-1] + (ordered[-1] - ordered[-1 - k])
    return float(max(low, ordered[0] / 2)) if ordered[0] > 0 else float(low), float(high)
