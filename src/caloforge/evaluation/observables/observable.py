"""One number of every shower, with the names that people need to read it, and the moments behind many of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from caloforge.errors import UsageError
from caloforge.showers import Showers

__all__ = ["TINY", "Coordinate", "Observable", "layer_moments", "lit_layers", "voxel_coordinate"]

Float64 = NDArray[np.float64]

Coordinate = Literal["x", "y", "r"]

#: Added to a denominator that an empty layer makes zero, as CaloFlow and CaloChallenge both do: the ratio is then 0.
TINY = 1e-16


@dataclass(frozen=True)
class Observable:
    """One number of every shower.

    Attributes:
        key: unique name within its set, ``family/layer`` or ``family``.
        family: what kind of quantity it is; histograms are binned by family.
        layer: layer number, or None for the shower as a whole.
        label: axis label in matplotlib's mathtext.
        unit: unit of the values, empty if they have none.
        values: float64 (N,).
        empty: in how many showers the quantity is not defined (empty layer) and has the value of the convention.
    """

    key: str
    family: str
    layer: int | None
    label: str
    unit: str
    values: Float64
    empty: int = 0


def voxel_coordinate(showers: Showers, coordinate: Coordinate) -> Float64:
    """One transverse coordinate of every voxel centre, mm, shape (V,)."""
    centre = showers.readout.centres()
    if coordinate in ("x", "y"):
        position: Float64 = centre[:, 0 if coordinate == "x" else 1]
        return position
    if coordinate == "r":
        radius: Float64 = np.hypot(centre[:, 0], centre[:, 1])
        return radius
    raise UsageError(f"the coordinate '{coordinate}' is not known, expected x, y or r")


def layer_moments(showers: Showers, coordinate: Coordinate) -> tuple[Float64, Float64]:
    """Energy-weighted mean and standard deviation of a coordinate in each layer.

    With voxel energies E_i and positions q_i of one layer: ``m = sum(q E) / (sum(E) + 1e-16)`` and
    ``w = sqrt(max(0, sum(q^2 E) / (sum(E) + 1e-16) - m^2))`` (arXiv:2106.05285, eqs. 5.2 and 5.3; CaloChallenge,
    arXiv:2410.21611). An empty layer has mean and width 0.

    Returns:
        Means and widths, mm, both (N, layers).
    """
    position = voxel_coordinate(showers, coordinate)
    means, widths = [], []
    for where in showers.readout.layer_slices:
        q = position[where]
        # One layer at a time in double precision: the difference of two squares would lose single precision's digits.
        sums = showers.deposits[:, where].astype(np.float64) @ np.stack([np.ones_like(q), q, q * q], axis=1)
        mean = sums[:, 1] / (sums[:, 0] + TINY)
        means.append(mean)
        widths.append(np.sqrt(np.maximum(sums[:, 2] / (sums[:, 0] + TINY) - mean * mean, 0)))
    return np.stack(means, axis=1), np.stack(widths, axis=1)


def lit_layers(showers: Showers) -> NDArray[np.bool_]:
    """Which layers hold any energy, shape (N, layers)."""
    return showers.layer_energies() > 0
