"""Points into the cells of a calorimeter: an idealised grid without gaps, or a map of cells with gaps and staggering.

Point clouds know no cells, so the same showers serve any segmentation: they are placed afterwards (arXiv:2511.01460,
section 3.3). What falls between cells is lost, as it is in the real detector, and is reported.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from caloforge.detectors import CartesianGrid, Readout
from caloforge.detectors.description import Description, build
from caloforge.errors import DetectorError, UsageError
from caloforge.random import Streams
from caloforge.showers.showers import ShowerPoints
from caloforge.textfiles import read_text

__all__ = [
    "CellMap",
    "Cells",
    "IdealGrid",
    "Projection",
    "cell_order",
    "cell_order_reference",
    "cell_pitch",
    "load_cell_map",
    "project",
    "random_entry",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

Pair = tuple[float, float]


class Cells(Protocol):
    """Where the cells of a calorimeter are."""

    def locate(self, x: Floats, y: Floats, layer: Index) -> tuple[Index, Index, NDArray[np.bool_]]:
        """Cell numbers along x and y, int64 (M,), of points (mm), and whether there is a cell, bool (M,)."""
        ...

    def centres(self, i: Index, j: Index, layer: Index) -> tuple[Floats, Floats]:
        """Centres (mm) of the cells with the given numbers, (M,) each."""
        ...


@dataclass(frozen=True)
class IdealGrid:
    """The same cells in every layer, without gaps and without end.

    Attributes:
        pitch: size of a cell in x and y, mm.
        origin: a corner of a cell, mm.
    """

    pitch: Pair
    origin: Pair = (0.0, 0.0)

    def locate(self, x: Floats, y: Floats, layer: Index) -> tuple[Index, Index, NDArray[np.bool_]]:
        """See ``Cells``."""
        i = np.floor((x - self.origin[0]) / self.pitch[0]).astype(np.int64)
        j = np.floor((y - self.origin[1]) / self.pitch[1]).astype(np.int64)
        return i, j, np.ones(len(i), dtype=np.bool_)

    def centres(self, i: Index, j: Index, layer: Index) -> tuple[Floats, Floats]:
        """See ``Cells``."""
        x = self.origin[0] + (i.astype(np.float64) + 0.5) * self.pitch[0]
        y = self.origin[1] + (j.astype(np.float64) + 0.5) * self.pitch[1]
        return x, y


class Strips(Description):
    """Cells along one coordinate: equal ones with a gap behind every group of them.

    Attributes:
        cells: how many.
        pitch: size of a cell, mm.
        start: lower edge of the first one, mm.
        group: cells between two gaps (a wafer); None for no gaps.
        gap: width of a gap, mm.
    """

    cells: Annotated[int, Field(ge=1)]
    pitch: Annotated[float, Field(gt=0)]
    start: float
    group: Annotated[int, Field(ge=1)] | None = None
    gap: Annotated[float, Field(ge=0)] = 0.0

    @cached_property
    def edges(self) -> tuple[Floats, Floats]:
        """Lower and upper edges of the cells, mm, (cells,) each."""
        number = np.arange(self.cells)
        gaps = number // self.group if self.group else np.zeros(self.cells, dtype=np.int64)
        low = self.start + number * self.pitch + gaps * self.gap
        return low, low + self.pitch

    def locate(self, values: Floats) -> Index:
        """Number of the cell that holds each value (mm), -1 in gaps and outside."""
        low, high = self.edges
        number = np.searchsorted(low, values, side="right") - 1
        return np.where((number >= 0) & (values < high[number]), number, -1)

    def centres(self, number: Index) -> Floats:
        """Centres of the cells with these numbers, mm."""
        low, high = self.edges
        centres: Floats = (low[number] + high[number]) / 2
        return centres


class MapLayers(Description):
    """Layers with the same cells, up to a shift.

    Attributes:
        repeat: how many layers.
        x: cells along x.
        y: cells along y.
        shifts: displacement of the cells in x and y, mm, of the first, second, ... layer, then again from the first one:
            staggering.
    """

    repeat: Annotated[int, Field(ge=1)] = 1
    x: Strips
    y: Strips
    shifts: Annotated[tuple[Pair, ...], Field(min_length=1)] = ((0.0, 0.0),)


class CellMap(Description):
    """The cells of all layers, with gaps and staggering; written as TOML, see docs/models/caloclouds.md."""

    layers: Annotated[tuple[MapLayers, ...], Field(min_length=1)]

    @cached_property
    def _of_layer(self) -> list[tuple[MapLayers, Pair]]:
        return [(group, group.shifts[k % len(group.shifts)]) for group in self.layers for k in range(group.repeat)]

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self._of_layer)

    def locate(self, x: Floats, y: Floats, layer: Index) -> tuple[Index, Index, NDArray[np.bool_]]:
        """See ``Cells``; points in layers that the map does not have lie in no cell."""
        i, j = np.full(len(x), -1, dtype=np.int64), np.full(len(x), -1, dtype=np.int64)
        for number, (cells, shift) in enumerate(self._of_layer):
            here = layer == number
            i[here] = cells.x.locate(x[here] - shift[0])
            j[here] = cells.y.locate(y[here] - shift[1])
        return i, j, (i >= 0) & (j >= 0)

    def centres(self, i: Index, j: Index, layer: Index) -> tuple[Floats, Floats]:
        """See ``Cells``."""
        x, y = np.empty(len(i)), np.empty(len(j))
        for number, (cells, shift) in enumerate(self._of_layer):
            here = layer == number
            x[here] = cells.x.centres(i[here]) + shift[0]
            y[here] = cells.y.centres(j[here]) + shift[1]
        return x, y


def load_cell_map(path: str | Path) -> CellMap:
    """Read a map of cells from a TOML file.

    Raises:
        DetectorError: if there is no such file, or its content is wrong, naming the key.
    """
    path = Path(path)
    text = read_text(path, DetectorError)
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DetectorError(f"{path}: is not TOML ({error})") from None
    return build(CellMap, data, where=str(path))


def cell_pitch(readout: Readout) -> Pair:
    """Size of the cells in x and y, mm, of a readout with equal Cartesian cells in all layers.

    Raises:
        UsageError: if the readout has other cells, or none.
    """
    found: set[Pair] = set()
    for layer in readout.layers:
        if not isinstance(layer.grid, CartesianGrid):
            raise UsageError("the readout has no Cartesian cells, so the size of a cell must be given")
        widths = [np.diff(edges) for edges in layer.grid.edges]
        if any(np.ptp(w) > 1e-6 * w.mean() for w in widths):
            raise UsageError("the cells of the readout differ in size, so the size of a cell must be given")
        found.add((round(float(widths[0].mean()), 9), round(float(widths[1].mean()), 9)))
    if len(found) > 1:
        raise UsageError("the cells of the readout differ between layers, so the size of a cell must be given")
    return found.pop()


def random_entry(pitch: Pair, showers: Index, streams: Streams) -> Floats:
    """Where showers enter a grid of equal cells: anywhere in a cell with equal probability, (N, 2), mm.

    Real photons know nothing of cells either. With all axes at one place, the corner of four cells say, lit cells depend on
    how exactly a shower keeps to its axis.

    Args:
        pitch: size of a cell in x and y, mm.
        showers: number of each shower, which alone decides about its place, int64 (N,).
        streams: random numbers.
    """
    return streams.uniform(showers, 2) * pitch


@dataclass(frozen=True)
class Projection:
    """Showers in cells.

    Attributes:
        cells: one point at the centre of every lit cell, relative to the shower's entry point as before.
        in_gaps: energy that fell between the cells, float64 (N,), MeV.
        below_cut: energy in cells below the cut, float64 (N,), MeV.
    """

    cells: ShowerPoints
    in_gaps: Floats
    below_cut: Floats


def cell_order(shower: Index, layer: Index, i: Index, j: Index) -> tuple[Index, Index]:
    """Order of points by shower, layer and cell, points of a cell in their own order, and where the cells start in it."""
    if not len(shower):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    # All four and the point's number as one number: sorting those is many times as fast as sorting four.
    bits = len(shower).bit_length()
    size, keys = 1 << bits, np.zeros(len(shower), dtype=np.int64)
    for numbers in (shower, layer, i, j):
        low, high = int(numbers.min()), int(numbers.max())
        if low == high:
            continue
        size *= high - low + 1
        if size >= 2**63:
            return cell_order_reference(shower, layer, i, j)
        keys *= high - low + 1
        keys += numbers
        keys -= low
    keys <<= bits
    keys |= np.arange(len(keys))
    keys.sort()
    order = keys & ((1 << bits) - 1)
    keys >>= bits
    return order, np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))


def cell_order_reference(shower: Index, layer: Index, i: Index, j: Index) -> tuple[Index, Index]:
    """As :func:`cell_order`, for numbers of any size."""
    order = np.lexsort((j, i, layer, shower))
    keys = np.stack([shower, layer, i, j], axis=1)[order]
    changes = (keys[1:] != keys[:-1]).any(axis=1)
    return order, np.flatnonzero(np.concatenate([[True], changes])[: len(keys)])


def project(
    points: ShowerPoints, cells: Cells, *, cut: float = 0.0, entry: NDArray[np.floating] | None = None
) -> Projection:
    """Add up points in cells.

    Args:
        points: the showers; a time is left out.
        cells: where the cells are.
        cut: MeV; a cell with less is dark. CaloClouds takes half a minimum-ionising particle.
        entry: where each shower enters in the coordinates of the cells, (N, 2), mm; None for the origin.

    Returns:
        Cells ordered by layer and place, and what was lost.

    Raises:
        UsageError: if the entry points do not fit the showers.
    """
    n = len(points)
    if entry is not None and entry.shape != (n, 2):
        raise UsageError(f"the entry points have shape {entry.shape}, expected ({n}, 2)")
    shower = points.shower_index
    x, y, depth, energy = points.points[:, :4].T.astype(np.float64, order="C")
    if entry is not None:
        x += np.asarray(entry, dtype=np.float64)[shower, 0]
        y += np.asarray(entry, dtype=np.float64)[shower, 1]
    layer = depth.astype(np.int64)
    i, j, found = cells.locate(x, y, layer)
    in_gaps: Floats = np.zeros(n)
    if not found.all():
        in_gaps = np.bincount(shower[~found], weights=energy[~found], minlength=n).astype(np.float64, copy=False)
        shower, layer, i, j = (numbers[found] for numbers in (shower, layer, i, j))
        energy = energy[found]
    order, starts = cell_order(shower, layer, i, j)
    first = order[starts]
    sums = np.add.reduceat(energy[order], starts) if len(starts) else energy
    lit = (sums > 0) & (sums >= cut)
    below = np.bincount(shower[first[~lit]], weights=sums[~lit], minlength=n)
    first = first[lit]
    shower, layer = shower[first], layer[first]
    rows = np.empty((len(first), 4), dtype=np.float32)
    centres = cells.centres(i[first], j[first], layer)
    for axis in (0, 1):
        rows[:, axis] = centres[axis] if entry is None else centres[axis] - np.asarray(entry, np.float64)[shower, axis]
    rows[:, 2] = layer
    rows[:, 3] = sums[lit]
    counts = np.bincount(shower, minlength=n)
    return Projection(
        ShowerPoints(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            rows,
            points.incident_energy,
            points.particle,
            points.readout,
            points.direction,
            points.provenance,
        ),
        in_gaps,
        below.astype(np.float64, copy=False),
    )
