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

__all__ = ["AngularRange", "Directions", "Gun"]

Vector = tuple[float, float, float]
Density = Literal["angles", "barrel"]
#: How directions are drawn: the gun's own, random as the gun says, or random with one of the two densities.
Directions = Literal["fixed", "random", "angles", "barrel"]


class AngularRange(Description):
    """Directions from the origin of a collider detector into one barrel segment.

    The polar angle theta is counted from the beam, the azimuth phi around it; the segment's normal points to
    theta = phi = 90 degrees. In the local frame the beam is x, the normal is z (into the calorimeter), and y
    completes them: ``(x, y, z) = (cos theta, sin theta cos phi, sin theta sin phi)``.

    Attributes:
        theta: lowest and highest polar angle, degrees.
        phi: lowest and highest azimuth, degrees.
        density: of random directions: even in theta and phi (``angles``), or even over the face of the segment
            (``barrel``), as in arXiv:2511.01460.
    """

    theta: tuple[float, float]
    phi: tuple[float, float]
    density: Density = "angles"

    @field_validator("theta", "phi")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] < 180:
            raise ValueError("expected two angles in degrees, 0 < lower <= upper < 180")
        return value

    def sample(self, u: NDArray[np.float64], density: Density) -> NDArray[np.float64]:
        """Directions with an even density in the angles, or over the face of the segment.

        The face is a plane at some distance d from the origin of the detector, hit at x = d cot(theta) / sin(phi) and
        y = d cot(phi). So an even density over it is even in cot(theta), and in cot(phi) it rises as 1 / sin(phi).

        Args:
            u: uniform random numbers, shape (N, 2).
            density: which of the two.

        Returns:
            Unit vectors in the local frame, shape (N, 3).
        """
        ends = np.array([self.theta, self.phi]).T * deg
        if density == "angles":
            theta, phi = (ends[0] + u * (ends[1] - ends[0])).T
        else:
            low, high = 1.0 / np.tan(ends)
            theta = np.arctan2(1.0, low[0] + u[:, 0] * (high[0] - low[0]))
            area_low, area_high = _area(low[1]), _area(high[1])
            phi = np.arctan2(1.0, _inverse_area(area_low + u[:, 1] * (area_high - area_low)))
        return np.stack([np.cos(theta), np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi)], axis=1)


def _area(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of sqrt(1 + t^2) from 0 to t."""
    area: NDArray[np.float64] = (t * np.hypot(1.0, t) + np.arcsinh(t)) / 2
    return area


def _inverse_area(area: NDArray[np.float64]) -> NDArray[np.float64]:
    """The t to an area, by Newton's method."""
    t = area / np.sqrt(1.0 + np.abs(area) / 2)  # right for small ones, and within a few steps for large ones
    for _ in range(12):
        t = t - (_area(t) - area) / np.hypot(1.0, t)
    return t


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

    def sample_directions(self, mode: Directions, streams: Streams, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Draw the directions of the showers with the given numbers.

        Args:
            mode: ``fixed`` for the gun's own direction, else random within its range: with the density that it gives
                (``random``), or with that in the name.
            streams: random streams; a direction depends only on them and on the shower's number.
            indices: shower numbers, shape (N,).

        Returns:
            Unit vectors in the local frame, shape (N, 3).

        Raises:
            UsageError: if random directions are asked for and the gun has no range for them.
        """
        density = self.density_of(mode)
        if density is None:
            return np.tile(np.asarray(self.direction), (len(indices), 1))
        assert self.directions is not None  # density_of has looked
        return self.directions.sample(streams.uniform(indices, 2), density)

    def density_of(self, mode: Directions) -> Density | None:
        """The density that a mode of ``sample_directions`` stands for; None for the gun's own direction.

        Raises:
            UsageError: if random directions are asked for and the gun has no range for them.
        """
        if mode == "fixed":
            return None
        if self.directions is None:
            raise UsageError("this detector's gun has a fixed direction; random directions need 'gun.directions'")
        return self.directions.density if mode == "random" else mode


def _as_value_error(check: object) -> None:
    try:
        check()  # type: ignore[operator]
    except CaloForgeError as error:
        raise ValueError(str(error)) from None
