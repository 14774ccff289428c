"""Voxel showers moved to where their particle came in, without lighting more voxels.

A model of normal incidence makes showers about the axis. A particle that enters beside it needs them moved, mostly by parts of a
voxel. Sharing every voxel's energy between the old and the new place in proportion to the overlap would take energy to be spread
evenly within a voxel, which a shower's core is not, and would light voxels that no shower lights. So two images are made:

1. In one, energy is shared as the lateral profile of the model's own showers says: in every layer, the sum of two functions
   2 r R^2 / (r^2 + R^2)^2 (core and tail; Grindhammer and Peters, hep-ex/0001020, section 3.2), fitted to the mean energies of
   the layer's rows and columns. Along one axis its integral is (1 + x / sqrt(x^2 + R^2)) / 2. Every shower has a place of its own
   in this profile: what it has below an edge says where the edge lies in it.
2. In the other, every line of cells along the axis moves as it is by a whole number of voxels, up or down at random so that the
   mean place is right.

The second says which voxels are lit, and what the dim ones hold; the bright ones, which together have 95 % of a layer's energy,
hold what the first says, times the factor that keeps the layer's energy. So a layer's centre of gravity follows the particle, and
number and spectrum of its dim voxels stay. Axes are done one after the other; what leaves the cells becomes overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from caloforge.deployment.hybrid.placement_polar import PolarLayer, hit_energies
from caloforge.detectors import CartesianGrid, PolarGrid, Readout
from caloforge.errors import UsageError
from caloforge.random import Streams
from caloforge.showers import Showers

__all__ = ["CartesianLayer", "LateralProfile", "Placement", "mean_shower", "moved_along"]

Floats = NDArray[np.float64]

#: Part of a layer's energy that its bright voxels hold, and that those of its core do.
_BRIGHT, _CORE = 0.95, 0.5
#: From line to line: the golden ratio fills an interval most evenly.
_SPREAD = 0.6180339887498949
#: Least radius of a core in units of the width of a cell.
_NARROWEST = 0.1
#: Places at which the inverse of a profile's integral is known, for each of its components.
_PLACES = 1001
#: Relative differences between widths of cells that are rounding.
_EVEN = 1e-6


@dataclass(frozen=True)
class LateralProfile:
    """Two components of a layer's lateral profile, integrated over the other axis.

    Attributes:
        core: radius of the core, mm.
        tail: radius of the tail, mm.
        share: of the core.
    """

    core: float
    tail: float
    share: float

    def integral(self, x: Floats) -> Floats:
        """Share of the energy below x, mm."""
        core, tail = (0.5 + 0.5 * x / np.hypot(x, radius) for radius in (self.core, self.tail))
        below: Floats = self.share * core + (1 - self.share) * tail
        return below

    def shares(self, edges: Floats) -> Floats:
        """Shares of the cells between edges (n + 1,), adding up to 1, (n,)."""
        part = np.diff(self.integral(edges))
        whole: Floats = part / part.sum()
        return whole

    def quantile(self, below: Floats, edges: Floats) -> Floats:
        """Places below which there are given shares of the energy, mm; of cells between edges (n + 1,), evenly spaced."""
        integrals, known = _table(self, float(edges[0]), float(edges[-1]), len(edges))
        places: Floats = np.interp(below, integrals, known)
        return places

    @classmethod
    def fitted(cls, grid: CartesianGrid, energy: Floats) -> LateralProfile:
        """Fitted to mean energies of the cells (cells,), through the sums over rows and columns."""
        axes = [np.asarray(edges) for edges in grid.edges]
        cells = energy.reshape(grid.shape)
        total = float(cells.sum())
        width = min(float(np.diff(edges).min()) for edges in axes)
        # A core much narrower than a cell is seen by how it crosses the cell's edges only, and the axis may be such an edge.
        narrowest = _NARROWEST * width
        whole = max(float(np.ptp(edges)) for edges in axes)
        if not total > 0:
            return cls(width, whole / 4, 0.5)
        seen = [cells.sum(axis=1) / total, cells.sum(axis=0) / total]

        def of(p: Floats, digits: int = 15) -> LateralProfile:
            core, more, odds = (float(np.exp(value)) for value in p)
            return cls(
                *(
                    float(f"{value:.{digits}g}")
                    for value in (narrowest + core, narrowest + core + more, odds / (1 + odds))
                )
            )

        def misfit(p: Floats) -> Floats:
            profile = of(p)
            # Roots, so that the tail is heard beside the core.
            return np.concatenate(
                [np.sqrt(profile.shares(edges)) - np.sqrt(part) for edges, part in zip(axes, seen, strict=True)]
            )

        start = np.log([0.5 * width, 0.1 * whole]).tolist()
        found = least_squares(misfit, [*start, 1.0], bounds=([-6.0, -3.0, -6.0], [7.0, 9.0, 6.0]))
        return of(found.x, 4)  # so that rounding in the mean showers changes no shower


@lru_cache(maxsize=1024)
def _table(profile: LateralProfile, first: float, last: float, edges: int) -> tuple[Floats, Floats]:
    """Integrals of a profile, and the places where it has them: edges of cells, and even steps of the share of each component."""
    places = [np.linspace(first, last, edges)]
    for radius in (profile.core, profile.tail):
        low, high = (edge / float(np.hypot(edge, radius)) for edge in (first, last))
        sine = np.linspace(low, high, _PLACES)[1:-1]
        places.append(radius * sine / np.sqrt(1 - sine**2))
    known = np.sort(np.concatenate(places))
    return profile.integral(known), known


def moved_along(
    energy: Floats, shift: Floats, edges: Floats, profile: LateralProfile, uniform: Floats
) -> tuple[Floats, Floats]:
    """Move cells along their first axis.

    Args:
        energy: (N, n, m), MeV.
        shift: of each shower, mm, (N,).
        edges: of the cells along the first axis, evenly spaced, mm, (n + 1,).
        profile: of the showers about 0.
        uniform: a number in [0, 1) for each shower, (N,).

    Returns:
        Energies of the cells, (N, n, m), and energy that has left them, (N,).
    """
    n = energy.shape[1]
    width = float(edges[-1] - edges[0]) / n
    steps = np.floor(shift / width).astype(np.int64)
    share = crossing_shares(energy.sum(axis=2), shift - steps * width, edges, profile)[:, :, None]
    lines = np.repeat(steps[:, None], energy.shape[2], axis=1)
    shared = _stepped(energy * (1 - share), lines) + _stepped(energy * share, lines + 1)
    whole = energy.sum(axis=(1, 2))
    # Of wide cells hardly anything crosses, wherever the shower's core stands in them.
    mean_share = (energy * share).sum(axis=(1, 2)) / np.where(whole > 0, whole, 1.0)
    # Lines choose by numbers that are spread evenly, so that the image as a whole moves by its mean share in every shower.
    spread = (uniform[:, None] + np.arange(energy.shape[2]) * _SPREAD) % 1.0
    taken = steps[:, None] + (spread < mean_share[:, None])
    moved = _stepped(energy, taken)
    target = np.arange(n)[:, None] + taken[:, None, :]
    lost = (energy * ((target < 0) | (target >= n))).sum(axis=(1, 2))
    least, core = (_least_of_brightest(shared, part)[:, None, None] for part in (_BRIGHT, _CORE))
    # Only the core, which may stand in few cells, lights cells besides those of the moved image.
    bright = np.where((shared >= core) | ((shared >= least) & (moved > 0)), shared, 0.0)
    dim = np.where(bright > 0, 0.0, np.minimum(moved, least))
    wanted, there = moved.sum(axis=(1, 2)) - dim.sum(axis=(1, 2)), bright.sum(axis=(1, 2))
    factor = wanted / np.where(there > 0, there, 1.0)
    return dim + bright * factor[:, None, None], lost


def crossing_shares(rows: Floats, rest: Floats, edges: Floats, profile: LateralProfile) -> Floats:
    """Shares of the energy of cells that cross their upper edges when showers move by a part of a cell.

    What a shower has below an edge says where in the mean profile this edge lies for this shower; between edges that place is
    interpolated, and what a shower has below any place follows from it.

    Args:
        rows: energies of the cells along an axis, (N, n).
        rest: by how much each shower moves, from 0 to the width of a cell, mm, (N,).
        edges: of the cells, evenly spaced, mm, (n + 1,).
        profile: the mean profile of showers about 0.

    Returns:
        Shares from 0 to 1, (N, n); 0 for cells without energy.
    """
    whole = rows.sum(axis=1, keepdims=True)
    below = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1) / np.where(
        whole > 0, whole, 1.0
    )
    low, high = profile.integral(edges[:1]), profile.integral(edges[-1:])
    place = profile.quantile(low + np.clip(below, 0.0, 1.0) * (high - low), edges)
    part = (rest / (edges[1] - edges[0]))[:, None]
    between = place[:, 1:] + (place[:, :-1] - place[:, 1:]) * part
    ends = profile.integral(place)
    crossing, has = ends[:, 1:] - profile.integral(between), np.diff(ends, axis=1)
    return np.clip(np.where(has > 0, crossing / np.where(has > 0, has, 1.0), 0.0), 0.0, 1.0)


def _stepped(energy: Floats, steps: NDArray[np.int64]) -> Floats:
    """Cells (N, n, m) moved along n by whole steps of each line (N, m); what leaves them is gone."""
    n = energy.shape[1]
    source = np.arange(n)[:, None] - steps[:, None, :]
    inside = (source >= 0) & (source < n)
    return np.where(inside, np.take_along_axis(energy, np.clip(source, 0, n - 1), axis=1), 0.0)


def _least_of_brightest(energy: Floats, part: float) -> Floats:
    """Energy of the dimmest of those brightest cells that hold a part of a shower's energy, above 0, (N,)."""
    ordered = np.sort(energy.reshape(len(energy), -1), axis=1)[:, ::-1]
    sums = np.cumsum(ordered, axis=1)
    last = np.argmax(sums >= part * sums[:, -1:], axis=1)
    return np.maximum(np.take_along_axis(ordered, last[:, None], axis=1)[:, 0], np.finfo(np.float64).tiny)


class CartesianLayer:
    """Moves the showers of one layer.

    Args:
        grid: the cells, evenly spaced.
        mean: mean energies of the cells of showers about the axis, (cells,).

    Raises:
        UsageError: if there are cells of several widths.
    """

    def __init__(self, grid: CartesianGrid, mean: Floats) -> None:
        for edges in grid.edges:
            if np.ptp(np.diff(edges)) > _EVEN * float(np.diff(edges).max()):
                raise UsageError("a layer has cells of several widths, and showers can be moved in equal ones only")
        self._grid = grid
        self.profile = LateralProfile.fitted(grid, mean)

    def moved(self, energy: Floats, shift: Floats, uniform: Floats) -> tuple[Floats, Floats]:
        """Move showers.

        Args:
            energy: of the cells, MeV, (N, cells).
            shift: of each shower, mm, (N, 2).
            uniform: two numbers in [0, 1) for each shower, (N, 2).

        Returns:
            Energies of the cells, (N, cells), and energy that has left them, (N,); together what there was, within rounding.
        """
        e = energy.reshape(-1, *self._grid.shape)
        x_edges, y_edges = (np.asarray(edges) for edges in self._grid.edges)
        e, lost = moved_along(e, shift[:, 0], x_edges, self.profile, uniform[:, 0])
        turned, more = moved_along(e.transpose(0, 2, 1), shift[:, 1], y_edges, self.profile, uniform[:, 1])
        return turned.transpose(0, 2, 1).reshape(energy.shape), lost + more


class Placement:
    """Moves the voxel showers of one model.

    Args:
        readout: of the showers; its cells are polar, or Cartesian and evenly spaced.
        mean: mean energy of the voxels of the model's showers about the axis, (V,).
        slopes: whether showers of inclined particles are to be inclined too; not so for a model that knows directions.
        hits: energy of a spot in each layer, MeV, (layers,), for polar cells (``hit_energies``).

    Raises:
        UsageError: if the readout has other cells.
    """

    def __init__(self, readout: Readout, mean: Floats, *, slopes: bool, hits: Floats | None = None) -> None:
        self._readout, self._slopes = readout, slopes
        self._layers: list[tuple[slice, CartesianLayer | PolarLayer]] = []
        for number, (layer, cells) in enumerate(zip(readout.layers, readout.layer_slices, strict=True)):
            if isinstance(layer.grid, CartesianGrid):
                self._layers.append((cells, CartesianLayer(layer.grid, mean[cells])))
            elif isinstance(layer.grid, PolarGrid):
                hit = 1.0 if hits is None else float(hits[number])
                self._layers.append((cells, PolarLayer(layer.grid, mean[cells], hit)))
            else:
                raise UsageError(f"layer {number} has no cells, and voxel showers can be moved in cells only")

    @classmethod
    def of(cls, showers: Showers, *, slopes: bool) -> Placement:
        """One for a model that makes such showers about the axis."""
        return cls(showers.readout, mean_shower(showers), slopes=slopes, hits=hit_energies(showers))

    def place(
        self, deposits: Floats, position: Floats, direction: Floats, index: NDArray[np.int64], streams: Streams
    ) -> tuple[Floats, Floats]:
        """Move showers from the axis to where their particles came in.

        Args:
            deposits: of showers about the axis, MeV, (N, V).
            position: of the particles at the face, mm, (N, 2).
            direction: of the particles, unit vectors in the local frame, (N, 3).
            index: numbers of the showers, which address random numbers, (N,).
            streams: of the random numbers.

        Returns:
            Voxels (N, V) and energy beside the voxels of each layer (N, layers), MeV; together what there was, within rounding.
        """
        placed, beside = np.zeros(deposits.shape), np.zeros((len(deposits), len(self._layers)))
        uniform = streams.uniform(index, 2)
        slope = direction[:, :2] / direction[:, 2:] if self._slopes else np.zeros((len(deposits), 2))
        depths = self._readout.depths
        for number, (cells, layer) in enumerate(self._layers):
            # The middle of the layer stands for its depth; within the acceptance, a shower's own depth changes little.
            depth = float(depths[number].mean()) if len(depths) else 0.0
            placed[:, cells], beside[:, number] = layer.moved(deposits[:, cells], position + slope * depth, uniform)
        return placed, beside


def mean_shower(showers: Showers) -> Floats:
    """Mean energy of the voxels, each shower with the same weight, (V,)."""
    total = showers.deposits.sum(axis=1, dtype=np.float64, keepdims=True)
    mean: Floats = (showers.deposits / np.where(total > 0, total, 1.0)).mean(axis=0)
    return mean
