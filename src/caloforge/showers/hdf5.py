"""HDF5 on disk: whole files written in one atomic step, and damaged ones reported in one sentence.

HDF5's own file driver does not survive a full disk: a failed flush leaves the library in a state from which closing
the file crashes the process. Files are therefore written through a Python file that never fails towards HDF5, but
remembers the first error; only a file that came out whole gets the promised name.

Chunks are compressed here, in threads, and handed to HDF5 ready-made: one core compresses about 50 MB/s, which would
be slower than a fast generator makes showers.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import signal
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.atomic import move_into_place, reason, special_kind
from caloforge.errors import ShowerFileError
from caloforge.showers.foreign import kind_of_content
from caloforge.stopping import wanted

__all__ = [
    "FORMAT",
    "Array",
    "Check",
    "ChunkedDataset",
    "Chunking",
    "Column",
    "Fill",
    "closed_quietly",
    "guarded",
    "in_one_thread",
    "open_hdf5",
    "read_rows",
    "write_atomically",
]

#: Every structure of this format version carries a checksum, and HDF5 has read it since 2017 (1.10).
FORMAT = ("v110", "v110")
_CHUNK_BYTES = 256 * 1024
_LEVEL = 1
_THREADS = min(8, os.cpu_count() or 1)
_in_one: ContextVar[bool] = ContextVar("in_one", default=False)

Array = NDArray[Any]
Check = Callable[[], None]
Fill = Callable[[h5py.File, Check], None]


@dataclass(frozen=True)
class Column:
    """One dataset whose first axis counts showers, or the rows of showers.

    Attributes:
        path: name inside the file, groups separated by slashes.
        shape: shape of one row.
        dtype: kind of number.
        counted_by: for ragged data, the path of the column that says how many rows each shower owns.
        split: keep each component of a row in chunks of its own, bytes grouped by significance before they are compressed;
            makes points a fifth smaller, and sparse voxels larger.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    counted_by: str | None = None
    split: bool = False

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def fill(self) -> Array:
        """What readers see where a part of the file is lost: NaN, or -1 for whole numbers."""
        return np.asarray(np.nan if self.dtype.kind == "f" else -1, dtype=self.dtype)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self) | {"dtype": self.dtype.str}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Column:
        """From what ``to_dict`` gives; other keys are ignored."""
        return cls(data["path"], tuple(data["shape"]), np.dtype(data["dtype"]), data["counted_by"], data["split"])


@dataclass(frozen=True)
class Chunking:
    """How a column is cut into chunks.

    Attributes:
        rows: length of a chunk.
        movable: whether blocks are whole numbers of chunks, so that chunks compressed once can be moved as they are.
    """

    rows: int
    movable: bool

    @classmethod
    def plan(cls, column: Column, block_rows: int) -> Chunking:
        """Chunks of about 256 kB, movable if a divisor of the block comes near that."""
        wanted = max(1, _CHUNK_BYTES // (column.dtype.itemsize if column.split else column.row_bytes))
        if column.counted_by is not None:
            return cls(wanted, False)
        fitting = [
            rows
            for rows in range(max(1, wanted // 4), min(block_rows, wanted * 4) + 1)
            if block_rows % rows == 0 and rows * column.row_bytes >= _CHUNK_BYTES // 4
        ]
        if not fitting:
            return cls(wanted, False)
        return cls(min(fitting, key=lambda rows: abs(math.log(rows / wanted))), True)


class _Unfailing(io.RawIOBase):
    """A file that takes everything HDF5 gives it and remembers the first error."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self.position = 0
        self.size = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self.descriptor, len(buffer), self.position)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += os.pwrite(self.descriptor, view[done:], self.position + done)
            except OSError as error:
                self.error = error
        self.position += len(view)
        self.size = max(self.size, self.position)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self.size = self.position if size is None else size
        if self.error is None:
            try:
                os.ftruncate(self.descriptor, self.size)
            except OSError as error:
                self.error = error
        return self.size

    def close(self) -> None:
        if not self.closed:
            os.close(self.descriptor)
        super().close()


def write_atomically(path: Path, temporary: Path, fill: Fill) -> None:
    """Write a file that appears under its name only when it is whole and on the disk.

    Args:
        path: the name that it gets.
        temporary: where it grows, on the same file system; removed again if anything goes wrong.
        fill: puts the content into the open file; it is given the file and a function to be called now and then,
            which raises as soon as the disk is full, so that no more work is lost than needed.

    Raises:
        OSError: if it cannot be written.
    """
    with _interrupts_held() as raise_pending:
        target = _Unfailing(temporary)

        def check() -> None:
            if target.error is not None:
                raise target.error
            raise_pending()

        try:
            try:
                with h5py.File(target, "w", libver=FORMAT) as file:
                    fill(file, check)
            except Exception:
                if target.error is not None:  # HDF5 misses what the full disk swallowed
                    raise target.error from None
                raise
            if target.error is not None:
                raise target.error
            move_into_place(temporary, path)
        finally:
            target.close()
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[Check]:
    """Let Ctrl-C wait until HDF5 is not at work: an exception inside it would leave the library broken.

    Yields:
        A function that lets a waiting interrupt through.
    """
    waiting: list[tuple[int, FrameType | None]] = []
    handlers = {number: signal.getsignal(number) for number in wanted()}
    held = {number: handler for number, handler in handlers.items() if callable(handler)}

    def raise_pending() -> None:
        while waiting:
            number, frame = waiting.pop(0)
            held[signal.Signals(number)](number, frame)

    for number in held:
        signal.signal(number, lambda number, frame: waiting.append((number, frame)))
    try:
        yield raise_pending
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
    raise_pending()


class ChunkedDataset:
    """A dataset that is filled from its first row to its last.

    Args:
        file: the file to create it in.
        column: name and kind.
        rows: length of the first axis.
        rows_per_chunk: length of a chunk.
        compressed: with gzip; otherwise the chunks only get a checksum.
        check: called between chunks; raises if going on makes no sense.
    """

    def __init__(
        self, file: h5py.File, column: Column, rows: int, rows_per_chunk: int, *, compressed: bool, check: Check
    ) -> None:
        self.column = column
        self.rows = rows
        self.compressed = compressed
        width = (1,) * len(column.shape) if column.split else column.shape
        self.chunk = (max(1, min(rows_per_chunk, rows)), *width)
        options: dict[str, Any] = {"chunks": self.chunk, "fletcher32": True}
        if compressed:
            options = {
                "chunks": self.chunk,
                "compression": "gzip",
                "compression_opts": _LEVEL,
                "shuffle": column.split,
            }
        self.dataset = file.create_dataset(
            column.path,
            shape=(rows, *column.shape),
            dtype=column.dtype,
            fillvalue=column.fill,
            **(options if rows else {}),  # HDF5 allows no chunks in a dataset without rows
        )
        self._check = check
        self._row = 0
        self._pending: list[Array] = []
        self._pending_rows = 0

    def copy(self, source: h5py.Dataset, start: int, stop: int) -> None:
        """Append rows of another file's dataset, moving whole chunks as they are where possible."""
        length = self.chunk[0]
        if (
            self.compressed
            and not self.column.split
            and source.chunks == self.chunk
            and source.compression == "gzip"
            and not source.shuffle
            and not self._pending_rows
            and start % length == 0
        ):
            origin = (0,) * len(self.column.shape)
            while stop - start >= length:
                mask, data = source.id.read_direct_chunk((start, *origin))
                self.dataset.id.write_direct_chunk((self._row, *origin), data, mask)
                self._row += length
                start += length
                self._check()
        step = max(1, 16 * _CHUNK_BYTES // self.column.row_bytes)
        for first in range(start, stop, step):
            self.append(source[first : min(first + step, stop)])

    def append(self, rows: Array) -> None:
        """Append rows from memory."""
        self._pending.append(np.ascontiguousarray(rows, dtype=self.column.dtype))
        self._pending_rows += len(rows)
        at_end = self._row + self._pending_rows == self.rows
        if not at_end and self._pending_rows < max(self.chunk[0], 16 * _CHUNK_BYTES // self.column.row_bytes):
            return
        pending = self._pending[0] if len(self._pending) == 1 else np.concatenate(self._pending)
        ready = len(pending) if at_end else len(pending) // self.chunk[0] * self.chunk[0]
        self._write(pending[:ready])
        self._pending = [pending[ready:]]
        self._pending_rows -= ready

    def _write(self, rows: Array) -> None:
        length = self.chunk[0]
        if not self.compressed:
            self.dataset[self._row : self._row + len(rows)] = rows
            self._row += len(rows)
            self._check()
            return
        # Where each chunk begins, in the dataset and in these rows.
        corners = [
            (first, *rest)
            for first in range(0, len(rows), length)
            for rest in np.ndindex(
                *(size // step for size, step in zip(self.column.shape, self.chunk[1:], strict=True))
            )
        ]
        chunks = [
            rows[(slice(k, k + length), *(slice(j, j + 1) for j in rest if self.column.split))] for k, *rest in corners
        ]
        for (first, *rest), data in zip(corners, _in_threads(self._compress, chunks), strict=True):
            self.dataset.id.write_direct_chunk((self._row + first, *rest), data)
            self._check()
        self._row += len(rows)

    def _compress(self, rows: Array) -> bytes:
        if len(rows) < self.chunk[0]:  # HDF5 stores the last chunk at full length
            padding = np.broadcast_to(self.column.fill, (self.chunk[0] - len(rows), *self.chunk[1:]))
            rows = np.concatenate([rows, padding])
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        if self.column.split:
            data = np.ascontiguousarray(data.reshape(-1, self.column.dtype.itemsize).T)
        return zlib.compress(data.data, _LEVEL)


@contextlib.contextmanager
def in_one_thread() -> Iterator[None]:
    """Within this, chunks are compressed one after the other, as one of many workers of a machine should."""
    token = _in_one.set(True)
    try:
        yield
    finally:
        _in_one.reset(token)


def _in_threads(work: Callable[[Array], bytes], items: Sequence[Array]) -> Iterable[bytes]:
    if len(items) == 1 or _THREADS == 1 or _in_one.get():
        yield from map(work, items)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(items), 64):  # so that only few compressed chunks wait in memory
            yield from pool.map(work, items[first : first + 64])


#: What HDF5 says when it gets no lock, and the errors of a lock that somebody else holds.
_CANNOT_LOCK, _IN_USE = "unable to lock file", (errno.EAGAIN, errno.EACCES)
#: What h5py raises on damaged files, depending on what is damaged.
_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError)


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        ShowerFileError: if it does not exist, is a directory, is not HDF5, or is truncated.
    """
    try:
        kind = special_kind(path)
        if not kind and not path.exists():
            raise ShowerFileError(f"{path}: there is no such file")
    except OSError as error:
        raise ShowerFileError(f"{path}: cannot be read ({reason(error)})") from None
    if path.is_dir():
        raise ShowerFileError(f"{path}: is a directory, expected an HDF5 file")
    if kind not in ("", "descriptor"):
        raise ShowerFileError(f"{path}: is a {kind}, expected an HDF5 file, which is read in any order")
    try:
        return h5py.File(path, "r")
    except _DAMAGE as error:
        if _CANNOT_LOCK in str(error) and getattr(error, "errno", None) not in _IN_USE:
            with contextlib.suppress(*_DAMAGE):
                return h5py.File(path, "r", locking=False)  # a file system that knows no locks
        raise ShowerFileError(f"{path}: {_why_unreadable(path, error)}") from None


def closed_quietly(file: h5py.File) -> None:
    """Close a file that was only read; a damaged one may refuse, but nothing can be lost by it."""
    with contextlib.suppress(*_DAMAGE):
        file.close()


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Around calls of h5py on a file that may be damaged.

    Raises:
        ShowerFileError: instead of what h5py raises.
    """
    try:
        yield
    except _DAMAGE as error:
        raise ShowerFileError(f"{path}: is damaged and cannot be read ({_brief(error)})") from error


def _why_unreadable(path: Path, error: Exception) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as failure:
        return f"cannot be read ({failure.strerror})"
    if size == 0:
        return "is empty, expected an HDF5 file"
    if not start.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"is {kind_of_content(start)}, expected an HDF5 file"
    if _CANNOT_LOCK in str(error):
        return "is open for writing in another program, perhaps in a notebook; close it there"
    if "already open for write" in str(error):
        return (
            "is marked as being written: if no program has it open, one crashed before it could close the file, and "
            "'h5clear -s' (of HDF5's tools) removes the mark"
        )
    if "truncated" in str(error):
        return f"is truncated: it ends after {size} bytes"
    return f"is damaged and cannot be opened ({_brief(error)})"


def _brief(error: Exception) -> str:
    """HDF5's own reason, without the preamble."""
    text = " ".join(str(error).split())
    return text[text.find("(") + 1 : -1] if "(" in text and text.endswith(")") else text


def read_rows(path: Path, file: h5py.File, name: str, start: int, stop: int) -> Array:
    """Rows of a dataset.

    Raises:
        ShowerFileError: if they cannot be read, naming file, dataset and rows.
    """
    try:
        rows: Array = file[name][start:stop]
    except _DAMAGE as error:
        raise ShowerFileError(
            f"{path}: '{name}' is damaged between rows {start} and {stop} and cannot be read ({_brief(error)})"
        ) from error
    return rows
