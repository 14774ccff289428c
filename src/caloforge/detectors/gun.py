"""The particle gun: what comes in, where, and from which direction."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from caloforge.detectors.description import Description
from caloforge.detectors.energies import EnergySpectrum
from caloforge.detectors.particles import particle_id
from caloforge.errors import CaloForgeError, UsageError
from caloforge.random import Streams
from caloforge.units import deg

__all__ = ["AngularRange", "Gun"]

Vector = tuple[float, float, float]


class AngularRange(Description):
    """Directions from the origin of a collider detector into one barrel segment.

    The polar angle theta is counted from the beam, the azimuth phi around it; the segment's normal points to
    theta = phi = 90 degrees. In the local frame the beam is x, the normal is z (into the calorimeter), and y
    completes them: ``(x, y, z) = (cos theta, sin theta cos phi, sin theta sin phi)``.

    Attributes:
        theta: lowest and highest polar angle, degrees; drawn uniformly.
        phi: lowest and highest azimuth, degrees; drawn uniformly.
    """

    theta: tuple[float, float]
    phi: tuple[float, float]

    @field_validator("theta", "phi")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] < 180:
            raise ValueError("expected two angles in degrees, 0 < lower <= upper < 180")
        return value


class Gun(Description):
    """Where particles start, and which ones they may be.

    Attributes:
        particles: names of the particles that the detector is meant for.
        energy: the usual spectrum, as on the command line (GeV).
        position: start in the local frame, mm.
        direction: flight direction in the local frame, normalised when read.
        directions: the range of random directions, if the gun allows them.
    """

    particles: Annotated[tuple[str, ...], Field(min_length=1)]
    energy: str
    position: Vector = (0.0, 0.0, 0.0)
    direction: Vector = (0.0, 0.0, 1.0)
    directions: AngularRange | None = None

    @field_validator("particles")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            _as_value_error(lambda name=name: particle_id(name))
        return value

    @field_validator("energy")
    @classmethod
    def _spectrum(cls, value: str) -> str:
        _as_value_error(lambda: EnergySpectrum.parse(value))
        return value

    @field_validator("direction")
    @classmethod
    def _normalised(cls, value: Vector) -> Vector:
        norm = math.hypot(*value)
        if norm == 0 or value[2] <= 0:
            raise ValueError("expected a direction into the calorimeter (third component above 0)")
        return (value[0] / norm, value[1] / norm, value[2] / norm)

    @property
    def spectrum(self) -> EnergySpectrum:
        """The usual energy spectrum."""
        return EnergySpectrum.parse(self.energy)

    def sample_directions(
        self, mode: Literal["fixed", "random"], streams: Streams, indices: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Draw the directions of the showers with the given numbers.

        Returns:
            Unit vectors in the local frame, shape (N, 3).

        Raises:
            UsageError: if random directions are asked for and the gun has no range for them.
        """
        if mode == "fixed":
            return np.tile(np.asarray(self.direction), (len(indices), 1))
        if self.directions is None:
            raise UsageError("this detector's gun has a fixed direction; random directions need 'gun.directions'")
        u = streams.uniform(indices, 2)
        low, high = np.transpose([self.directions.theta, self.directions.phi]) * deg
        theta, phi = (low + u * (high - low)).T
        return np.stack([np.cos(theta), np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi)], axis=1)


def _as_value_error(check: object) -> None:
    try:
        check()  # type: ignore[operator]
    except CaloForgeError as error:
        raise ValueError(str(error)) from None
