"""The transverse segmentation of one layer: Cartesian or polar cells.

Cells are half-open, ``[low, high)``, in every coordinate. Cartesian cells are flattened with x outer and y inner;
polar ones with alpha outer and r inner, alpha counted from -pi, as CaloChallenge does (arXiv:2410.21611).
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, field_validator

from caloforge.detectors.description import Description

__all__ = ["CartesianGrid", "Grid", "PolarGrid"]

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


def _increasing(edges: tuple[float, ...]) -> tuple[float, ...]:
    if any(not b > a for a, b in itertools.pairwise(edges)):
        raise ValueError("expected bin edges in increasing order")
    return edges


def _bin(edges: tuple[float, ...], values: ArrayLike) -> Index:
    """Bin number of each value, -1 outside; bins are half-open."""
    number = np.searchsorted(np.asarray(edges), values, side="right") - 1
    return np.where(number < len(edges) - 1, number, -1)


class CartesianGrid(Description):
    """Rectangular cells between edges in x and y (mm)."""

    x_edges: Annotated[tuple[float, ...], Field(min_length=2)]
    y_edges: Annotated[tuple[float, ...], Field(min_length=2)]

    _check = field_validator("x_edges", "y_edges")(_increasing)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells in (x, y)."""
        return len(self.x_edges) - 1, len(self.y_edges) - 1

    @property
    def edges(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Edges of the outer and of the inner coordinate."""
        return self.x_edges, self.y_edges

    def cell(self, x: ArrayLike, y: ArrayLike) -> Index:
        """Flat cell number of each point, shape (M,); -1 outside the grid."""
        i, j = _bin(self.x_edges, x), _bin(self.y_edges, y)
        return np.where((i < 0) | (j < 0), -1, i * self.shape[1] + j)

    @cached_property
    def centres(self) -> Floats:
        """Cell centres (x, y) in mm, shape (cells, 2)."""
        x, y = (np.convolve(edges, [0.5, 0.5], "valid") for edges in self.edges)
        return np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)

    @cached_property
    def areas(self) -> Floats:
        """Cell areas in mm2, shape (cells,)."""
        return np.outer(np.diff(self.x_edges), np.diff(self.y_edges)).ravel()

    @property
    def radius(self) -> float:
        """Distance of the farthest corner from the axis, mm."""
        return math.hypot(max(map(abs, self.x_edges)), max(map(abs, self.y_edges)))


class PolarGrid(Description):
    """Cells between radii r (mm) in ``n_alpha`` equal sectors of the azimuth alpha, starting at -pi."""

    r_edges: Annotated[tuple[float, ...], Field(min_length=2)]
    n_alpha: Annotated[int, Field(ge=1)] = 1

    _check = field_validator("r_edges")(_increasing)

    @field_validator("r_edges")
    @classmethod
    def _not_negative(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if edges[0] < 0:
            raise ValueError("expected radii of 0 or more")
        return edges

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells in (alpha, r)."""
        return self.n_alpha, len(self.r_edges) - 1

    @property
    def edges(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Edges of the outer (alpha, radians) and of the inner coordinate (r, mm)."""
        return tuple(np.linspace(-np.pi, np.pi, self.n_alpha + 1).tolist()), self.r_edges

    def cell(self, x: ArrayLike, y: ArrayLike) -> Index:
        """Flat cell number of each point, shape (M,); -1 outside the grid."""
        r = _bin(self.r_edges, np.hypot(x, y))
        alpha: Any = (np.arctan2(y, x) + np.pi) * (self.n_alpha / (2 * np.pi))
        # alpha = +pi and alpha = -pi are the same direction, hence the remainder.
        sector = alpha.astype(np.int64) % self.n_alpha
        return np.where(r < 0, -1, sector * self.shape[1] + r)

    @cached_property
    def centres(self) -> Floats:
        """Cell centres (x, y) in mm, shape (cells, 2), at the arithmetic mean radius as in CaloChallenge."""
        alpha, r = (np.convolve(edges, [0.5, 0.5], "valid") for edges in self.edges)
        return np.stack([np.outer(np.cos(alpha), r), np.outer(np.sin(alpha), r)], axis=-1).reshape(-1, 2)

    @cached_property
    def areas(self) -> Floats:
        """Cell areas in mm2, shape (cells,)."""
        ring = np.pi / self.n_alpha * np.diff(np.square(self.r_edges))
        return np.tile(ring, self.n_alpha)

    @property
    def radius(self) -> float:
        """Distance of the farthest point from the axis, mm."""
        return self.r_edges[-1]


Grid = CartesianGrid | PolarGrid
