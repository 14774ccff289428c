"""The finished parts of a file that is still being written, and how they are put together.

A part is an ordinary HDF5 file with the rows of some blocks, ordered by the blocks' positions. The master file shows
all parts as one through HDF5 virtual datasets; ``merge_parts`` turns them into one ordinary file.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from caloforge.showers.hdf5 import Array, Check, ChunkedDataset, Chunking, Column

__all__ = [
    "Part",
    "Run",
    "counters_of",
    "fill_block",
    "fill_master",
    "fill_merged",
    "joined_runs",
    "lengths_of",
    "set_attributes",
]


@dataclass(frozen=True)
class Run:
    """Blocks that follow each other and are equally long.

    Attributes:
        position: position of the first block.
        blocks: how many.
        rows: showers in each of them.
        points: rows of ragged columns in all of them together, one number for each column that counts rows, by its path.
    """

    position: int
    blocks: int
    rows: int
    points: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Position behind the last block."""
        return self.position + self.blocks

    @property
    def showers(self) -> int:
        """Showers in all blocks."""
        return self.blocks * self.rows

    def to_list(self) -> list[int]:
        """As written into the file."""
        return [self.position, self.blocks, self.rows, *(self.points or (0,))]

    @classmethod
    def from_list(cls, numbers: Sequence[int], counters: int | None = None) -> Run:
        """As read from a file with so many counting columns; ValueError if it is nothing that a writer can have put there."""
        position, blocks, rows, *points = numbers
        if counters is not None and len(points) != max(counters, 1):
            raise ValueError(numbers)
        return cls(position, blocks, rows, tuple(points[:counters]))


@dataclass(frozen=True)
class Part:
    """One finished part file.

    Attributes:
        file: its name in the directory of the parts.
        level: how many times its blocks have been merged.
        size: bytes of data, uncompressed.
        runs: its blocks, by position; the order of its rows.
    """

    file: str
    level: int
    size: int
    runs: tuple[Run, ...]

    @staticmethod
    def name_of(number: int) -> str:
        """File name of the part with this number."""
        return f"p{number:08d}.h5"

    @staticmethod
    def is_name(text: str) -> bool:
        """Whether a part may have this file name."""
        return re.fullmatch(r"p\d{8,12}\.h5", text) is not None

    @property
    def number(self) -> int:
        """The number in the file name."""
        return int(self.file[1:-3])

    def to_dict(self) -> dict[str, Any]:
        """As written into the master file."""
        return {
            "file": self.file, "level": self.level, "size": self.size, "runs": [run.to_list() for run in self.runs]
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], counters: int | None = None) -> Part:
        """As read from a master file with so many counting columns; ValueError if no writer can have put it there."""
        if not cls.is_name(data["file"]):
            raise ValueError(data["file"])
        return cls(
            data["file"], data["level"], data["size"], tuple(Run.from_list(run, counters) for run in data["runs"])
        )


def joined_runs(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Runs in the order of their positions, neighbours of equal length joined."""
    joined: list[Run] = []
    for run in sorted(runs, key=lambda r: r.position):
        if joined and joined[-1].end == run.position and joined[-1].rows == run.rows:
            last = joined.pop()
            points = tuple(a + b for a, b in zip(last.points, run.points, strict=True))
            joined.append(Run(last.position, last.blocks + run.blocks, run.rows, points))
        else:
            joined.append(run)
    return tuple(joined)


def lengths_of(block: Mapping[Column, Array]) -> tuple[int, tuple[int, ...]]:
    """Showers in a block, and points by what counts them; arrays that do not fit their columns are the program's own fault."""
    counters = counters_of(block)
    lengths: dict[str | None, int] = {}
    for column, array in block.items():
        length = lengths.setdefault(column.counted_by, len(array))
        if array.shape != (length, *column.shape):
            raise ValueError(f"'{column.path}' has shape {array.shape}, expected {(length, *column.shape)}")
        if column.path in counters and array.sum() != lengths.setdefault(column.path, int(array.sum())):
            raise ValueError(f"'{column.path}' adds up to {array.sum()}, but there are {lengths[column.path]} points")
    return lengths[None], tuple(lengths[counter] for counter in counters)


@dataclass(frozen=True)
class _Piece:
    """Where one run lies in its part: first row of the showers, first rows of the points by what counts them."""

    part: Part
    run: Run
    row: int
    points: tuple[int, ...]
    counters: tuple[str, ...]

    def extent(self, column: Column) -> tuple[int, int]:
        """First row and number of rows in one of the part's datasets."""
        if column.counted_by is None:
            return self.row, self.run.showers
        number = self.counters.index(column.counted_by)
        return self.points[number], self.run.points[number]


def counters_of(columns: Iterable[Column]) -> tuple[str, ...]:
    """Paths of the columns that count the rows of others, in the order in which a run has its numbers."""
    return tuple(sorted({column.counted_by for column in columns if column.counted_by is not None}))


def _pieces(parts: Sequence[Part], columns: Iterable[Column]) -> list[_Piece]:
    """The runs of all parts in the order of their positions."""
    pieces, counters = [], counters_of(columns)
    for part in parts:
        row, points = 0, (0,) * len(part.runs[0].points)
        for run in part.runs:
            pieces.append(_Piece(part, run, row, points, counters))
            row += run.showers
            points = tuple(a + b for a, b in zip(points, run.points, strict=True))
    return sorted(pieces, key=lambda piece: piece.run.position)


def set_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Write attributes of the root group, text as UTF-8 of fixed length."""
    for name, value in attributes.items():
        if isinstance(value, str):
            # Text of variable length would lie in the global heap, the only place in the file without a checksum.
            text = value.encode() or b"\0"
            file.attrs.create(name, text, dtype=h5py.string_dtype("utf-8", len(text)))
        else:
            file.attrs[name] = value


def fill_master(
    file: h5py.File, columns: Iterable[Column], parts: Sequence[Part], folder: str, attributes: Mapping[str, Any]
) -> None:
    """Show the rows of all parts as the datasets of one file.

    Args:
        file: the open master file.
        columns: its datasets.
        parts: the finished parts.
        folder: directory of the parts, relative to that of the master.
        attributes: attributes of the root group.
    """
    columns = list(columns)
    pieces = _pieces(parts, columns)
    where = os.fsencode(f"{folder}/").replace(b"%", b"%%")  # HDF5 takes these names for formats of printf
    for column in columns:
        rows = sum(piece.extent(column)[1] for piece in pieces)
        if rows == 0:
            file.create_dataset(column.path, shape=(0, *column.shape), dtype=column.dtype)
            continue
        # h5py's VirtualLayout does the same at seven times the cost, and this runs after every block.
        totals: dict[str, int] = {}
        for piece in pieces:
            totals[piece.part.file] = totals.get(piece.part.file, 0) + piece.extent(column)[1]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_fill_value(column.fill)
        space = h5py.h5s.create_simple((rows, *column.shape))
        origin = (0,) * len(column.shape)
        done = 0
        for piece in pieces:
            first, length = piece.extent(column)
            if length == 0:
                continue
            space.select_hyperslab((done, *origin), (length, *column.shape))
            total = totals[piece.part.file]
            source = h5py.h5s.create_simple((total, *column.shape))
            source.select_hyperslab((first, *origin), (length, *column.shape))
            properties.set_virtual(space, where + piece.part.file.encode(), f"/{column.path}".encode(), source)
            done += length
        space.select_all()
        group, _, name = column.path.rpartition("/")
        parent = file.require_group(group) if group else file
        h5py.h5d.create(parent.id, name.encode(), h5py.h5t.py_create(column.dtype, logical=True), space, properties)
    set_attributes(file, attributes)


def fill_merged(
    file: h5py.File,
    columns: Mapping[Column, Chunking],
    parts: Sequence[Part],
    folder: Path,
    attributes: Mapping[str, Any],
    *,
    is_part: bool,
    check: Check,
) -> None:
    """Copy the rows of parts into one ordinary file, a few chunks at a time.

    Args:
        file: the open target.
        columns: its datasets, and how they are cut.
        parts: what to copy.
        folder: directory of the parts.
        attributes: attributes of the root group.
        is_part: whether the target is itself a part, in which only chunks that can later be moved are compressed.
        check: called between chunks; raises if going on makes no sense.
    """
    pieces = _pieces(parts, columns)
    with _Sources(folder) as sources:
        for column, plan in columns.items():
            rows = sum(piece.extent(column)[1] for piece in pieces)
            target = ChunkedDataset(file, column, rows, plan.rows, compressed=plan.movable or not is_part, check=check)
            for piece in pieces:
                first, length = piece.extent(column)
                target.copy(sources.open(piece.part)[column.path], first, first + length)
    set_attributes(file, attributes)


class _Sources(contextlib.ExitStack):
    """The parts that are being copied, so many of them open as the limit of open files allows with ease."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._files: dict[str, h5py.File] = {}

    def open(self, part: Part) -> h5py.File:
        if part.file not in self._files:
            if len(self._files) >= 64:
                self.close()
                self._files.clear()
            self._files[part.file] = self.enter_context(h5py.File(self._folder / part.file, "r", locking=False))
        return self._files[part.file]


def fill_block(
    file: h5py.File, block: Mapping[Column, Array], columns: Mapping[Column, Chunking], check: Check
) -> None:
    """Write the rows of one block as a part."""
    for column, array in block.items():
        plan = columns[column]
        ChunkedDataset(file, column, len(array), plan.rows, compressed=plan.movable, check=check).append(array)
