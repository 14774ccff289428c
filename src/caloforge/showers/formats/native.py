"""CaloForge's own files: the CaloChallenge layout with everything else that a shower has.

Voxels: ``showers`` (N, V) float32 and ``incident_energies`` (N, 1) float64, both MeV, and where they exist
``directions`` (N, 3) and ``overflow`` (N, layers). Points: ``points`` (M, 4 or 5) and ``num_points`` (N,) instead of
``showers``. The root attribute ``caloforge`` is the version of the layout.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Readout
from caloforge.errors import OutputError
from caloforge.showers.formats.base import (
    Block,
    Encoder,
    Format,
    Reader,
    attribute,
    dimensions_of,
    from_catalogue,
    per_shower,
)
from caloforge.showers.hdf5 import Array, Column
from caloforge.showers.showers import ShowerPoints, Showers

ENTRIES = ("native", "calochallenge")

__all__ = [
    "CALOCHALLENGE",
    "NATIVE",
    "PointOffsets",
    "energies_column",
    "native_encoder",
    "optional_columns",
    "point_columns",
]

VERSION = 1

_COUNTS = Column("num_points", (), np.dtype(np.int64))


class PointOffsets:
    """Where the points of each shower start, found from the numbers of points without holding them all.

    Args:
        reader: the file.
        name: dataset of the numbers of points, (N,).
        points: total number of points, which the numbers must add up to.
    """

    _STEP = 8192

    def __init__(self, reader: Reader, name: str, points: int) -> None:
        self._reader = reader
        self._name = name
        self._points = points

    @cached_property
    def _coarse(self) -> NDArray[np.int64]:
        sums = [0]
        for start in range(0, len(self._reader), self._STEP):
            counts = self._counts(start, min(start + self._STEP, len(self._reader)))
            sums.append(sums[-1] + int(counts.sum()))
        if sums[-1] != self._points:
            raise self._reader.error(f"'{self._name}' adds up to {sums[-1]}, but there are {self._points} points")
        return np.asarray(sums, dtype=np.int64)

    def _counts(self, start: int, stop: int) -> NDArray[np.int64]:
        counts = self._reader.rows(self._name, start, stop).astype(np.int64)
        bad = np.flatnonzero((counts < 0) | (counts > self._points))
        if len(bad):
            raise self._reader.error(f"shower {start + bad[0]} has {counts[bad[0]]} points according to '{self._name}'")
        return counts

    def offsets(self, start: int, stop: int) -> NDArray[np.int64]:
        """First point of each shower from ``start`` to ``stop`` and the end of the last one, int64 (stop - start + 1,)."""
        before = start // self._STEP
        offsets = np.zeros(stop - start + 1, dtype=np.int64)
        np.cumsum(self._counts(start, stop), out=offsets[1:])
        return np.asarray(offsets + self._coarse[before] + self._counts(before * self._STEP, start).sum())


def energies_column(name: str) -> Column:
    """Incident energies, (N, 1) float64."""
    return Column(name, (1,), np.dtype(np.float64))


def optional_columns(block: Block, prefix: str = "") -> dict[Column, Array]:
    """Directions and overflow, if the showers have them."""
    columns: dict[Column, Array] = {}
    if block.direction is not None:
        columns[Column(f"{prefix}directions", (3,), np.dtype(np.float32))] = block.direction
    if isinstance(block, Showers) and block.overflow is not None:
        columns[Column(f"{prefix}overflow", block.overflow.shape[1:], np.dtype(np.float32))] = block.overflow
    return columns


def point_columns(block: ShowerPoints) -> dict[Column, Array]:
    """Points and their numbers."""
    width = block.points.shape[1]
    return {
        _COUNTS: np.diff(block.offsets),
        Column("points", (width,), np.dtype(np.float32), counted_by=_COUNTS.path, split=True): block.points,
    }


def native_encoder(readout: Readout | None) -> Encoder:
    """The columns of the native layout."""

    def encode(block: Block) -> dict[Column, Array]:
        columns: dict[Column, Array] = {energies_column("incident_energies"): block.incident_energy[:, None]}
        if isinstance(block, ShowerPoints):
            columns |= point_columns(block)
        else:
            columns[Column("showers", block.deposits.shape[1:], np.dtype(np.float32))] = block.deposits
        return columns | optional_columns(block)

    return encode


class NativeReader(Reader):
    """Reads the native layout and plain CaloChallenge files."""

    format = "native"

    def _setup(self) -> None:
        version = attribute(self, "caloforge", VERSION)
        if version != VERSION:
            raise self.error(f"has version {version} of the native layout, this program reads version {VERSION}")
        self._n = per_shower(self, "incident_energies")
        self.kind = "points" if self.has("num_points") and not self.has("showers") else "voxels"
        if self.kind == "points":
            self.expect("num_points", (self._n,))
            points = self.expect("points", (None, None))
            if points.shape[1] not in (4, 5):
                raise self.error(f"'points' has {points.shape[1]} columns, expected 4 or 5")
            self._offsets = PointOffsets(self, "num_points", points.shape[0])
        else:
            self._find_detector()
            if self.has("overflow"):
                layers = None if self.detector is None else self.readout.n_layers
                self.expect("overflow", (self._n, layers))
        if self.has("directions"):
            self.expect("directions", (self._n, 3))

    def _find_detector(self) -> None:
        """The voxels of a shower in one row, or as (layers, a, b), perhaps with axes of length 1 between them."""
        dimensions = dimensions_of(self, "showers")
        shape = self.expect("showers", (self._n, *[None] * max(1, dimensions - 1))).shape[1:]
        voxels, axes = math.prod(shape), [n for n in shape if n != 1]
        grid = ((axes[1], axes[2]),) * axes[0] if len(axes) == 3 else None
        if len(axes) > 1 and grid is None:
            raise self.error(f"'showers' has shape {(self._n, *shape)}, expected (N, voxels) or (N, layers, a, b)")

        def fits(readout: Readout) -> bool:
            return bool(readout.n_voxels == voxels if grid is None else readout.layer_shapes == grid)

        if self.detector is None:
            self.detector = from_catalogue(fits)
        if self.detector is not None and not fits(self.readout):
            shown = f"{voxels} voxels" if grid is None else f"{axes[0]} layers of {axes[1]} x {axes[2]} cells"
            raise self.error(f"has {shown}, but the detector '{self.detector.name}' has {self._shape_of_detector()}")

    def _shape_of_detector(self) -> str:
        shapes = set(self.readout.layer_shapes)
        if len(shapes) > 1 or not self.readout.has_voxels:
            return f"{self.readout.n_voxels}"
        ((a, b),) = shapes
        return f"{self.readout.n_voxels} ({self.readout.n_layers} layers of {a} x {b})"

    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """See ``Reader``."""
        return self.rows("incident_energies", start, stop).reshape(-1).astype(np.float64, copy=False)

    def _read(self, start: int, stop: int) -> Block:
        energies = self.incident_energies(start, stop)
        directions = self.directions_of(start, stop)
        if self.kind == "points":
            offsets = self._offsets.offsets(start, stop)
            points = self.float32("points", int(offsets[0]), int(offsets[-1]))
            readout = None if self.detector is None else self.readout
            return ShowerPoints(offsets - offsets[0], points, energies, self.particle, readout, directions)
        rows = self.float32("showers", start, stop)
        deposits = rows.reshape(stop - start, int(np.prod(rows.shape[1:])))  # which -1 cannot tell if there are no rows
        overflow = self.overflow("overflow", start, stop) if self.has("overflow") else None
        return Showers(deposits, energies, self.particle, self.readout, directions, overflow)

    def content(self) -> dict[str, Any]:
        """See ``Reader``."""
        extras = [name for name in ("directions", "overflow") if self.has(name)]
        if self.kind == "voxels":
            return {"extras": extras}
        total, width = self.expect("points", (None, None)).shape
        return {"extras": extras + ["time"] * (width == 5), "points": int(total)}


class CaloChallengeReader(NativeReader):
    """Reads files in the layout of CaloChallenge, from whomever they come."""

    format = "calochallenge"


def _voxels_only(readout: Readout | None) -> Encoder:
    if readout is None or not readout.has_voxels:
        raise OutputError("the CaloChallenge layout holds voxels, so it needs a detector with voxels")
    return native_encoder(readout)


def _has_layout(file: h5py.File) -> bool:
    return "incident_energies" in file and ("showers" in file or "num_points" in file)


NATIVE = Format(
    "native",
    "CaloForge's own: the CaloChallenge layout with detector, provenance, directions, overflow, and points",
    lambda file: "caloforge" in file.attrs,
    NativeReader,
    ("voxels", "points"),
    native_encoder,
    {"caloforge": VERSION},
    rank=0,  # CaloChallenge's layout is its own, too
)

CALOCHALLENGE = Format(
    "calochallenge",
    "CaloChallenge: showers and incident_energies in MeV (arXiv:2410.21611)",
    _has_layout,
    CaloChallengeReader,
    ("voxels",),
    _voxels_only,
)
