"""Where cells come from: voxels have them, points are placed in them, unless they are cells already."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, Readout
from caloforge.errors import UsageError
from caloforge.evaluation.observables import cells_as_points
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers, row_hashes, voxelise
from caloforge.showers.projection import IdealGrid, Pair, cell_pitch, project, random_entry

__all__ = ["cell_grid", "cells_of", "in_cells", "placed", "square_cells"]

Float64 = NDArray[np.float64]

#: Points that are placed in cells at a time.
_BLOCK = 100_000
#: Places of cells are rounded in files; what lies nearer than this share of a cell to a centre lies there.
_ROUNDED = 0.01
#: Columns of cells that differ are at least so many cells apart; sub-cells and loose points are closer.
_APART = 0.9
#: Fewer steps between columns or rows than this could be so by chance.
_FEWEST_STEPS = 20


def square_cells(readout: Readout) -> Pair | None:
    """Size of a readout's cells in x and y, mm, or None if its cells are not all equal and Cartesian."""
    try:
        return cell_pitch(readout)
    except UsageError:
        return None


def cells_of(showers: Showers | ShowerPoints, detector: Detector, streams: Streams) -> ShowerPoints:
    """Every lit cell of every shower as a point at its centre, relative to where the shower enters, without a threshold.

    Voxels are cells. Points are added up in the cells of the readout, which go on beyond its edges where they are equal
    Cartesian ones; each shower enters at a random place of a cell, as in the calibration of the models. That place depends
    on the seed and on the shower itself, so it is the same in every file and among any others. In readouts with other
    cells showers enter at the origin, and what lies outside is left out. Points of a readout without cells are taken for
    cells, and so are those that are in cells already, be it those of the detector or of a map with gaps and staggering (see
    :func:`in_cells`); they stay where they are.

    Args:
        showers: on voxels or points.
        detector: whose cells are meant.
        streams: random numbers of the places.
    """
    if isinstance(showers, Showers):
        return cells_as_points(showers)
    showers = replace(showers, readout=detector.readout)
    if not detector.readout.has_voxels:
        return showers
    pitch = square_cells(detector.readout)
    if pitch is None:
        return cells_as_points(voxelise(showers, detector.readout))
    there = in_cells(showers, detector)
    if there == "grid":
        return placed(showers, cell_grid(detector, pitch))
    if there == "map":
        return showers
    # The lowest bit makes room for the sign.
    numbers = (row_hashes(showers) >> np.uint64(1)).astype(np.int64)
    return placed(showers, cell_grid(detector, pitch), random_entry(pitch, numbers, streams))


def in_cells(showers: ShowerPoints, detector: Detector) -> Literal["grid", "map"] | None:
    """Whether all points are cells already.

    Args:
        showers: points.
        detector: whose cells are meant, equal Cartesian ones.

    Returns:
        ``grid`` if they lie at centres of the detector's cells, as ``convert --cells ideal`` puts them; ``map`` if they are in
        other cells, because their file says so (``convert --cells map.toml``) or because any two columns and any two rows of
        cells of one shower in one layer coincide or are at least nine tenths of a cell apart, which loose points never are;
        None if they are loose points, or too few to tell.
    """
    pitch = square_cells(detector.readout)
    if pitch is None or not len(showers.points):
        return None
    grid = cell_grid(detector, pitch)
    number = (showers.points[:, :2].astype(np.float64) - grid.origin) / pitch
    if (np.abs(number - np.floor(number) - 0.5) < _ROUNDED).all():
        return "grid"
    converted = showers.provenance.get("converted")
    if isinstance(converted, Mapping) and converted.get("cells"):
        return "map"
    return "map" if _spaced(showers, pitch) else None


def _spaced(showers: ShowerPoints, pitch: Pair) -> bool:
    """Whether the points of a layer stand in columns and rows that are nowhere closer than cells can be."""
    place = showers.shower_index * (int(showers.points[:, 2].max()) + 1) + showers.points[:, 2].astype(np.int64)
    steps = 0
    for axis in (0, 1):
        position = showers.points[:, axis].astype(np.float64) / pitch[axis]
        order = np.lexsort((position, place))
        apart = np.diff(position[order])[np.diff(place[order]) == 0]
        apart = apart[apart > _ROUNDED]
        if (apart < _APART).any():
            return False
        steps += len(apart)
    return steps >= _FEWEST_STEPS


def cell_grid(detector: Detector, pitch: Pair) -> IdealGrid:
    """A detector's equal Cartesian cells, continued beyond their edges."""
    grid = detector.readout.layers[0].grid
    assert grid is not None
    return IdealGrid(pitch, (float(grid.edges[0][0]), float(grid.edges[1][0])))


def placed(points: ShowerPoints, grid: IdealGrid, entry: Float64 | None = None) -> ShowerPoints:
    """Points added up in cells, some showers at a time; arguments as for ``showers.projection.project``."""
    # Blocks that a cache holds are sorted several times faster.
    ends = np.searchsorted(points.offsets, np.arange(_BLOCK, len(points.points) + _BLOCK, _BLOCK))
    bounds = np.unique(np.concatenate([[0], ends.clip(max=len(points)), [len(points)]]))
    parts = [
        project(points[low:high], grid, entry=None if entry is None else entry[low:high]).cells
        for low, high in itertools.pairwise(bounds.tolist())
    ]
    return ShowerPoints.concatenate(parts) if parts else points
