"""ShowerData point clouds, the format of AllShowers, PointCountFM and CaloHadronic, through the library ``showerdata``.

The library's files hold x, y (mm), layer and energy (GeV, float32), optionally a fifth column with the time, and
float32 incident energies in GeV. CaloForge adds a group ``caloforge`` that makes reading its own files exact:
``energy_steps`` (M,), the float32 steps that ``1000 * energy`` lacks, and ``incident_energies`` (N, 1), MeV.

The library needs to know all showers before it can create a file. While blocks are coming, the file is one in
the native layout, with all that this promises; it becomes a ShowerData file when the last block is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Readout
from caloforge.errors import MissingDependencyError, OutputError
from caloforge.showers.formats.base import (
    Block,
    Encoder,
    Format,
    Reader,
    attribute,
    per_shower,
    refuse_missing_filter,
)
from caloforge.showers.formats.gev import SMALLEST, points_from_gev, points_to_gev
from caloforge.showers.formats.native import NATIVE, PointOffsets, native_encoder
from caloforge.showers.hdf5 import Array, Column, closed_quietly, guarded, open_hdf5
from caloforge.showers.showers import ShowerPoints
from caloforge.units import GeV

ENTRIES = ("showerdata",)

__all__ = ["SHOWERDATA"]

_STEPS = "caloforge/energy_steps"
_ENERGIES = "caloforge/incident_energies"
#: Bytes of the padded array that the library makes of a batch.
_BATCH = 32 * 2**20


def _library() -> Any:
    try:
        import showerdata
    except ImportError:
        raise MissingDependencyError(
            "ShowerData files need the library showerdata: pip install 'caloforge[showerdata]'"
        ) from None
    return showerdata


class ShowerDataReader(Reader):
    """Reads ShowerData files."""

    format = "showerdata"
    kind = "points"

    def _setup(self) -> None:
        self._n = per_shower(self, "energies")
        for name, shape in (
            ("directions", (self._n, 3)),
            ("pdg", (self._n,)),
            ("num_points", (self._n,)),
            ("shape", (3,)),
        ):
            self.expect(name, shape)
        with guarded(self.path):
            item = self.file.get("showers")
            kind = h5py.check_vlen_dtype(item.dtype) if isinstance(item, h5py.Dataset) else None
            if kind is None or item.shape != (self._n,):
                raise self.error(f"'showers' is not a list of {self._n} point clouds")
            refuse_missing_filter(self, "showers", item)
            self._shape = tuple(int(n) for n in self.rows("shape", 0, 3))
        if self._shape[0] != self._n or self._shape[1] < 0 or self._shape[2] not in (4, 5):
            raise self.error(f"'shape' says {self._shape}, expected {self._n} showers with 4 or 5 columns")
        self._particle_of_all()
        self._offsets: PointOffsets | None = None
        if self.has(_STEPS):
            self._offsets = PointOffsets(self, "num_points", self.expect(_STEPS, (None,)).shape[0])
        if self.has(_ENERGIES):
            self.expect(_ENERGIES, (self._n, 1))
        with guarded(self.path):
            self._library_file = _library().ShowerDataFile(self.path)

    def _particle_of_all(self) -> None:
        found: set[int] = set()
        for start in range(0, self._n, 2**20):
            found |= set(np.unique(self.rows("pdg", start, start + 2**20)).tolist())
        if len(found) > 1:
            raise self.error(f"holds different particles ({', '.join(map(str, sorted(found)[:5]))}), expected one")
        self._stated = found.pop() if found else 0
        self.particle = self.particle or self._stated

    def stated_particle(self) -> int:
        """See ``Reader``."""
        return self._stated

    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """See ``Reader``."""
        in_gev = self.rows("energies", start, stop).reshape(-1).astype(np.float64)
        if not self.has(_ENERGIES):
            return in_gev * GeV
        exact: NDArray[np.float64] = self.rows(_ENERGIES, start, stop).reshape(-1).astype(np.float64)
        bad = np.flatnonzero(exact.astype(np.float32) != (in_gev * GeV).astype(np.float32))
        if len(bad) and not np.allclose(exact, in_gev * GeV, rtol=1e-6, atol=0, equal_nan=True):
            raise self.error(f"'energies' and '{_ENERGIES}' contradict each other near shower {start + bad[0]}")
        return exact

    def directions_of(self, start: int, stop: int) -> NDArray[np.float32] | None:
        """See ``Reader``."""
        return self.directions("directions", start, stop) if attribute(self, "directions_known", True) else None

    def _read(self, start: int, stop: int) -> Block:
        batch = max(1, _BATCH // (4 * max(1, self._shape[1]) * self._shape[2]))
        clouds = [np.empty((0, self._shape[2]), dtype=np.float32)]
        counts: list[NDArray[np.int64]] = []
        for first in range(start, stop, batch):
            counts.append(self._counts(first, min(first + batch, stop)))
            with guarded(self.path):
                showers = self._library_file[first : first + len(counts[-1])]
            used = np.arange(self._shape[1]) < counts[-1][:, None]
            clouds.append(showers.points[used])
        points = np.concatenate(clouds)
        offsets = np.concatenate([[0], *counts]).astype(np.int64).cumsum()
        points[:, 3] = points_from_gev(np.ascontiguousarray(points[:, 3]), self._steps(start, stop))
        return ShowerPoints(
            offsets,
            points,
            self.incident_energies(start, stop),
            self.particle,
            None if self.detector is None else self.readout,
            self.directions_of(start, stop),
        )

    def _counts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Numbers of points, int64 (stop - start,), compared with the lengths of the clouds where these can be seen."""
        counts = self.rows("num_points", start, stop).astype(np.int64)
        bad = (counts < 0) | (counts > self._shape[1])
        with guarded(self.path):
            offset = self.file["showers"].id.get_offset()
        if offset is not None:
            # HDF5 trusts a damaged length and may spend minutes on gigabytes, so the lengths are looked at first:
            # variable-length data are stored as length, address and index of each cloud.
            entry = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
            with self.path.open("rb") as raw:
                raw.seek(offset + start * entry.itemsize)
                entries = np.frombuffer(raw.read((stop - start) * entry.itemsize), dtype=entry)
                if len(entries) != len(counts) or not all(
                    _sound_heap(raw, int(address)) for address in np.unique(entries["address"][counts > 0])
                ):
                    raise self.error(f"is damaged between the showers {start} and {stop}, their points cannot be found")
            bad |= entries["length"] != counts * self._shape[2]
        if bad.any():
            shower = int(np.flatnonzero(bad)[0])
            raise self.error(
                f"shower {start + shower} has {counts[shower]} points according to 'num_points', which cannot be right"
            )
        return counts

    def _steps(self, start: int, stop: int) -> NDArray[np.int8] | None:
        if self._offsets is None:
            return None
        where = self._offsets.offsets(start, stop)
        return self.rows(_STEPS, int(where[0]), int(where[-1])).astype(np.int8)

    def close(self) -> None:
        """See ``Reader``."""
        closed_quietly(self._library_file)
        super().close()

    def content(self) -> dict[str, Any]:
        """See ``Reader``."""
        extras = ["directions"] if attribute(self, "directions_known", True) else []
        return {"extras": extras + ["time"] * (self._shape[2] == 5)}


def _sound_heap(raw: BinaryIO, address: int) -> bool:
    """Whether the objects of a global heap collection follow each other to its end; HDF5 walks them for ever otherwise.

    A collection is "GCOL", a version, three reserved bytes and its size; each object has an index, a count of references, four
    reserved bytes and a size, and is padded to eight bytes. Index 0 is free space, whose size counts its own head.
    """
    raw.seek(0, os.SEEK_END)
    if not 0 < address <= raw.tell() - 16:
        return False
    raw.seek(address)
    signature, size = struct.unpack("<4s4xQ", raw.read(16))
    place = 16
    if signature != b"GCOL" or address + size > raw.seek(0, os.SEEK_END):
        return False
    while place + 16 <= size:
        raw.seek(address + place)
        index, length = struct.unpack("<H6xQ", raw.read(16))
        step = length if index == 0 else 16 + (length + 7) // 8 * 8
        if step < 16 or place + step > size:
            return False
        place += step
    return True


def _encoder(readout: Readout | None) -> Encoder:
    _library()
    encode_native = native_encoder(readout)

    def encode(block: Block) -> dict[Column, Array]:
        assert isinstance(block, ShowerPoints)
        low = np.flatnonzero(block.points[:, 3] < SMALLEST)
        if len(low):
            energy = block.points[low[0], 3]
            raise OutputError(
                f"ShowerData takes points without energy for padding, but point {low[0]} of this block has {energy:g} MeV"
            )
        return encode_native(block)

    return encode


def _finish(whole: Path, target: Path) -> None:
    """Turn a native file of points into a ShowerData file."""
    library = _library()
    with contextlib.closing(open_hdf5(whole)) as native:
        counts = native["num_points"][:]
        n, most, (total, width) = len(counts), int(counts.max()), native["points"].shape
        # The library writes through HDF5's own driver, which a full disk can take down with the process.
        needed, free = total * (4 * width + 1) + 128 * n + 2**20, shutil.disk_usage(target.parent).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"no space left: ShowerData needs {needed} bytes, {free} are free")
        with library.ShowerDataFile(target, "w", shape=(n, most, width)) as file:
            steps = file.file.create_dataset(_STEPS, shape=(total,), dtype=np.int8)
            file.file.create_dataset(_ENERGIES, data=native["incident_energies"][:])
            for name, value in native.attrs.items():
                if name not in (NATIVE.attributes or {}):
                    file.attrs[name] = value
            file.attrs["directions_known"] = "directions" in native
            done, batch = 0, max(1, _BATCH // (4 * max(1, most) * width))
            for start in range(0, n, batch):
                here = counts[start : start + batch]
                stop, end = start + len(here), done + int(here.sum())
                points = native["points"][done:end]
                points[:, 3], steps[done:end] = points_to_gev(np.ascontiguousarray(points[:, 3]))
                padded = np.zeros((len(here), most, width), dtype=np.float32)
                padded[np.arange(most) < here[:, None]] = points
                file[start:stop] = library.Showers(
                    points=padded,
                    energies=native["incident_energies"][start:stop] / GeV,
                    pdg=np.full(len(here), native.attrs["particle"], dtype=np.int32),
                    directions=native["directions"][start:stop] if "directions" in native else None,
                    shower_ids=np.arange(start, stop, dtype=np.int32),
                    num_points=here,
                )
                done = end


SHOWERDATA = Format(
    "showerdata",
    "ShowerData point clouds, through the library showerdata",
    lambda file: "showers" in file and "energies" in file and "num_points" in file,
    ShowerDataReader,
    ("points",),
    _encoder,
    NATIVE.attributes,
    _finish,
)
