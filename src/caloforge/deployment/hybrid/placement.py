"""Voxel showers moved to where their particle came in, without lighting more voxels.

A model of normal incidence makes showers about the axis. A particle that enters beside it needs them moved, mostly by parts of a
voxel. Sharing every voxel's energy between the old and the new place in proportion to the overlap would take energy to be spread
evenly within a voxel, which a shower's core is not, and would light voxels that no shower lights. So two images are made:

1. In one, energy is shared as the lateral profile of the model's own showers says: in every layer, the sum of two functions
   2 r R^2 / (r^2 + R^2)^2 (core and tail; Grindhammer and Peters, hep-ex/0001020, section 3.2), fitted to the mean energies of
   the layer's rows and columns. Along one axis its integral is (1 + x / sqrt(x^2 + R^2)) / 2.
2. In the other, the image moves as it is by a whole number of voxels, up or down at random so that its mean place is right.

The second says which voxels are lit, and what the dim ones hold; the bright ones, which together have 95 % of a layer's energy,
hold what the first says, times the factor that keeps the layer's energy. So a layer's centre of gravity follows the particle, and
number and spectrum of its dim voxels stay. Axes are done one after the other; what leaves the cells becomes overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from caloforge.detectors import CartesianGrid, Readout
from caloforge.errors import UsageError
from caloforge.random import Streams
from caloforge.showers import Showers

__all__ = ["LateralProfile", "Placement", "mean_shower", "moved_along"]

Floats = NDArray[np.float64]

#: Part of a layer's energy that its bright voxels hold, and that those of its core do.
_BRIGHT, _CORE = 0.95, 0.5
#: Least radius of a core in units of the width of a cell.
_NARROWEST = 0.1
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
    rest = shift - steps * width
    crossing = profile.integral(edges[1:]) - profile.integral(edges[1:] - rest[:, None])
    share = np.clip(crossing / np.diff(profile.integral(edges)), 0.0, 1.0)[:, :, None]
    shared = _stepped(energy * (1 - share), steps) + _stepped(energy * share, steps + 1)
    whole = energy.sum(axis=(1, 2))
    # Of wide cells hardly anything crosses, wherever the shower's core stands in them.
    mean_share = (energy * share).sum(axis=(1, 2)) / np.where(whole > 0, whole, 1.0)
    taken = steps + (uniform < mean_share)
    moved = _stepped(energy, taken)
    target = np.arange(n) + taken[:, None]
    lost = (energy * ((target < 0) | (target >= n))[:, :, None]).sum(axis=(1, 2))
    least, core = (_least_of_brightest(shared, part)[:, None, None] for part in (_BRIGHT, _CORE))
    # Only the core, which may stand in few cells, lights cells besides those of the moved image.
    bright = np.where((shared >= core) | ((shared >= least) & (moved > 0)), shared, 0.0)
    dim = np.where(bright > 0, 0.0, np.minimum(moved, least))
    wanted, there = moved.sum(axis=(1, 2)) - dim.sum(axis=(1, 2)), bright.sum(axis=(1, 2))
    factor = wanted / np.where(there > 0, there, 1.0)
    return dim + bright * factor[:, None, None], lost


def _stepped(energy: Floats, steps: NDArray[np.int64]) -> Floats:
    """Cells (N, n, m) moved along n by whole steps of each shower (N,); what leaves them is gone."""
    n = energy.shape[1]
    source = np.arange(n) - steps[:, None]
    inside = (source >= 0) & (source < n)
    taken = np.take_along_axis(energy, np.clip(source, 0, n - 1)[:, :, None], axis=1)
    return np.where(inside[:, :, None], taken, 0.0)


def _least_of_brightest(energy: Floats, part: float) -> Floats:
    """Energy of the dimmest of those brightest cells that hold a part of a shower's energy, above 0, (N,)."""
    ordered = np.sort(energy.reshape(len(energy), -1), axis=1)[:, ::-1]
    sums = np.cumsum(ordered, axis=1)
    last = np.argmax(sums >= part * sums[:, -1:], axis=1)
    return np.maximum(np.take_along_axis(ordered, last[:, None], axis=1)[:, 0], np.finfo(np.float64).tiny)


class Placement:
    """Moves the voxel showers of one model.

    Args:
        readout: of the showers; its cells are Cartesian and evenly spaced.
        mean: mean energy of the voxels of the model's showers about the axis, (V,).
        slopes: whether showers of inclined particles are to be inclined too; not so for a model that knows directions.

    Raises:
        UsageError: if the readout has other cells.
    """

    def __init__(self, readout: Readout, mean: Floats, *, slopes: bool) -> None:
        self._readout, self._slopes = readout, slopes
        self._layers: list[tuple[slice, CartesianGrid, LateralProfile]] = []
        first = 0
        for number, layer in enumerate(readout.layers):
            grid = layer.grid
            if not isinstance(grid, CartesianGrid):
                raise UsageError(
                    f"layer {number} has no Cartesian cells, and voxel showers can be moved in such cells only; "
                    "a model that makes points needs none"
                )
            for edges in grid.edges:
                if np.ptp(np.diff(edges)) > _EVEN * float(np.diff(edges).max()):
                    raise UsageError(
                        f"layer {number} has cells of several widths, and showers can be moved in equal ones only"
                    )
            cells = slice(first, first + len(grid.centres))
            self._layers.append((cells, grid, LateralProfile.fitted(grid, mean[cells])))
            first = cells.stop

    @property
    def profiles(self) -> list[LateralProfile]:
        """The lateral profile of every layer."""
        return [profile for _, _, profile in self._layers]

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
        up = streams.uniform(index, 2)
        slope = direction[:, :2] / direction[:, 2:] if self._slopes else np.zeros((len(deposits), 2))
        depths = self._readout.depths
        for number, (cells, grid, profile) in enumerate(self._layers):
            # The middle of the layer stands for its depth; within the acceptance, a shower's own depth changes little.
            depth = float(depths[number].mean()) if len(depths) else 0.0
            shift = position + slope * depth
            e = deposits[:, cells].reshape(-1, *grid.shape)
            x_edges, y_edges = (np.asarray(edges) for edges in grid.edges)
            e, lost = moved_along(e, shift[:, 0], x_edges, profile, up[:, 0])
            turned, more = moved_along(e.transpose(0, 2, 1), shift[:, 1], y_edges, profile, up[:, 1])
            placed[:, cells] = turned.transpose(0, 2, 1).reshape(len(deposits), -1)
            beside[:, number] = lost + more
        return placed, beside


def mean_shower(showers: Showers) -> Floats:
    """Mean energy of the voxels, each shower with the same weight, (V,)."""
    total = showers.deposits.sum(axis=1, dtype=np.float64, keepdims=True)
    mean: Floats = (showers.deposits / np.where(total > 0, total, 1.0)).mean(axis=0)
    return mean
