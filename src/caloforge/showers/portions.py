"""Parts of a file that are made elsewhere: a worker checks and compresses its showers, the writer only takes them in.

One core compresses about 50 MB/s, so a single writer would be what many workers wait for. A part is the same file that the
writer itself would make of the same blocks, see ``caloforge.showers.parts``. It travels as bytes, or, where workers and writer
see the same disk, lies in the folder of the parts under a name of its own, which the writer replaces by that of the part.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from caloforge.atomic import move_into_place, reason
from caloforge.detectors import Detector
from caloforge.errors import OutputError
from caloforge.executor import UnsuitedWorkerError
from caloforge.showers.formats.base import Block, Kind
from caloforge.showers.formats.registry import find_format
from caloforge.showers.hdf5 import FORMAT, Array, Chunking, Column, in_one_thread
from caloforge.showers.parts import Run, counters_of, fill_block, lengths_of
from caloforge.showers.showers import Showers

__all__ = ["Portion", "PortionMaker", "check_block"]

#: What a disk that is full or broken says; then it is the disk that must be left alone, not the work.
_OF_THE_DISK = ("no space left", "quota", "read-only", "input/output")


@dataclass(frozen=True)
class Portion:
    """Some blocks of a file, finished.

    Attributes:
        columns: of the file, and how they are cut.
        runs: the blocks.
        size: bytes of data, uncompressed.
        stored: bytes of the part.
        content: the part itself; None if it is on the disk.
        file: its name in the folder of the parts; empty if it travels.
    """

    columns: Mapping[Column, Chunking]
    runs: tuple[Run, ...]
    size: int
    stored: int
    content: bytes | None
    file: str = ""

    @property
    def showers(self) -> int:
        """Number of showers."""
        return sum(run.showers for run in self.runs)


@dataclass(frozen=True)
class PortionMaker:
    """Makes parts of one file, wherever it is sent; made by ``Writer.portions``.

    Attributes:
        path: the file, for messages.
        format: its format.
        detector: that the showers belong to, if any.
        particle: PDG id.
        kind: voxels or points.
        rows: showers of a block, but for the last one.
        folder: of the parts, absolute, if they are to be written there.
        mark: a file in it, by which a worker knows that it sees the same folder.
    """

    path: str
    format: str
    detector: Detector | None
    particle: int
    kind: Kind
    rows: int
    folder: str = ""
    mark: str = ""

    def look(self) -> None:
        """See whether parts can be written from here.

        Raises:
            UnsuitedWorkerError: if the folder is not to be seen from this machine.
        """
        if self.folder and not (Path(self.folder) / self.mark).is_file():
            raise UnsuitedWorkerError(f"it does not see '{self.folder}', which parts are to be written into")

    def make(self, showers: Block, position: int, beside: Mapping[Column, NDArray[Any]] | None = None) -> Portion:
        """Make a part of showers.

        Args:
            showers: whole blocks that follow each other; the last one may be shorter.
            position: of the first block.
            beside: columns that the format does not know.

        Raises:
            ShowerFileError: if they hold impossible values.
            OutputError: if they do not belong into the file.
            UnsuitedWorkerError: if this machine may not write into the folder.
            OSError: if its disk is full or broken.
        """
        check_block(self.path, self.kind, self.particle, self.detector, showers)
        encoder = find_format(self.format, writing=True).encoder
        assert encoder is not None  # asked for by ``writing``
        encode = encoder(None if self.detector is None or self.kind == "points" else self.detector.readout)
        block = encode(showers) | dict(beside or {})
        runs = self._runs(block, position)
        columns = {column: Chunking.plan(column, min(self.rows, len(showers))) for column in block}
        memory = io.BytesIO()
        with in_one_thread(), h5py.File(memory, "w", libver=FORMAT) as file:
            fill_block(file, block, columns, lambda: None)
        content = memory.getvalue()
        size = sum(len(array) * column.row_bytes for column, array in block.items())
        if not self.folder:
            return Portion(columns, runs, size, len(content), content)
        return Portion(columns, runs, size, len(content), None, self._write(content))

    def _runs(self, block: Mapping[Column, Array], position: int) -> tuple[Run, ...]:
        """Blocks of full length, then what is left."""
        showers, points = lengths_of(block)
        full = showers // self.rows
        counts = {column.path: array for column, array in block.items()}
        inside = tuple(int(counts[counter][: full * self.rows].sum()) for counter in counters_of(block))
        runs = [Run(position, full, self.rows, inside)] if full else []
        if rest := showers - full * self.rows:
            left = tuple(a - b for a, b in zip(points, inside, strict=True))
            runs.append(Run(position + full, 1, rest, left))
        return tuple(runs)

    def _write(self, content: bytes) -> str:
        # A name that a writer takes for something unfinished: what nobody takes in is cleared away with it.
        name = f"{uuid.uuid4().hex}.tmp"
        place = Path(self.folder) / name
        growing = place.with_name(f"{name}.tmp")
        try:
            growing.write_bytes(content)
            move_into_place(growing, place)
        except OSError as error:
            growing.unlink(missing_ok=True)
            if any(words in reason(error) for words in _OF_THE_DISK):
                raise
            raise UnsuitedWorkerError(f"it cannot write into '{self.folder}' ({reason(error)})") from None
        return name


def check_block(path: object, kind: Kind, particle: int, detector: Detector | None, block: Block) -> None:
    """Look whether showers belong into a file.

    Args:
        path: the file, for messages.
        kind: what it holds.
        particle: PDG id.
        detector: that it was begun for.
        block: the showers.

    Raises:
        OutputError: if they do not.
        ShowerFileError: if they hold impossible values.
    """
    if isinstance(block, Showers) != (kind == "voxels"):
        raise OutputError(f"{path}: was begun for {kind}, so it cannot take the other kind")
    if block.particle != particle:
        raise OutputError(f"{path}: was begun for the particle {particle}, now it is {block.particle}")
    readout = None if detector is None else detector.readout
    if isinstance(block, Showers) and block.readout is not readout and block.readout != readout:
        raise OutputError(f"{path}: was begun for another readout than that of the showers")
    block.check_values()


def adopt(portion: Portion, folder: Path, name: str) -> None:
    """Put a part into the folder under the name that the writer gives it.

    Raises:
        OSError: if it cannot be written, or is not there.
    """
    if portion.content is not None:
        growing = folder / f"{name}.tmp"
        try:
            growing.write_bytes(portion.content)
            move_into_place(growing, folder / name)
        finally:
            growing.unlink(missing_ok=True)
        return
    place = folder / portion.file
    if os.path.getsize(place) != portion.stored:
        raise OSError(5, "Input/output error: a part is not as long as its worker made it")
    move_into_place(place, folder / name)
