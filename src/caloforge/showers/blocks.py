"""A file that is written block by block and can be read at any moment, even after its writer was killed.

Under the promised name there is always a file that opens in plain h5py and holds every finished block. While blocks
are still missing it is a small master file of virtual datasets over finished parts, which lie in a directory of the
same name with ``.parts`` behind; it is replaced in one step after every block. When the last block is there, the parts
become one ordinary file and the directory goes away. Blocks may come in any order; rows are in the order of the
blocks' positions.

Every byte is compressed once, and blocks are merged in tiers, so that 10,000 small blocks cost no more than a few copies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from caloforge.atomic import link_target, move_into_place, output_error, special_kind
from caloforge.errors import CaloForgeWarning, OutputError
from caloforge.showers.hdf5 import Array, Chunking, Column, Fill, open_hdf5, write_atomically
from caloforge.showers.parts import (
    Part,
    Run,
    counters_of,
    fill_block,
    fill_master,
    fill_merged,
    joined_runs,
    lengths_of,
)
from caloforge.showers.portions import Portion, adopt
from caloforge.validation import first_difference

__all__ = ["BlockWriter", "parts_directory", "refuse_taken"]

#: Parts of one level that are merged into one of the next; and the size from which merging no longer pays.
_MERGE = 16
_LARGEST = 2**30
_LOCK = "lock"

#: Descriptors of the locks that this process holds. A child made by fork shares them, and would keep the file locked
#: after its parent was killed, so it lets go of them at once.
_HELD: set[int] = set()


def _let_go() -> None:
    while _HELD:
        os.close(_HELD.pop())


os.register_at_fork(after_in_child=_let_go)

Finish = Callable[[Path, Path], None]


def parts_directory(path: Path) -> Path:
    """Where the finished parts of an incomplete file lie."""
    return path.with_name(path.name + ".parts")


def refuse_taken(path: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Look whether a file may be begun, before hours of work go into it; nothing is changed.

    Args:
        path: the promised name.
        resume: as for :class:`BlockWriter`, as is ``overwrite``.
        overwrite: replace an existing file.

    Returns:
        The file itself, where the name is a link; the link is to stay one.

    Raises:
        OutputError: if it may not.
    """
    try:
        kind = special_kind(path)
        if kind:
            raise OutputError(f"{path}: is a {kind}, expected a file, since showers are written in any order")
        path = link_target(path)
        folder, exists = parts_directory(path), path.exists()
        if path.is_dir():
            raise OutputError(f"{path}: is a directory, expected a file name")
        if exists and not (resume or overwrite):
            raise OutputError(f"{path}: exists already; overwrite it, resume it, or choose another name")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no directory '{path.parent}'")
        # A writer that was killed before there was the file at all has left at most the beginning of it.
        if not (exists or overwrite) and folder.exists() and any(Part.is_name(e.name) for e in folder.iterdir()):
            raise OutputError(f"{folder}: is left from a file that is gone; remove it, or overwrite")
    except OSError as error:
        raise output_error(path, error) from None
    return path


class BlockWriter:
    """Writes a file block by block; see the module for what is promised.

    Use it as a context manager: leaving it normally closes the file, leaving it by an exception keeps what is finished,
    ready to be resumed. Only one process can write a file.

    Args:
        path: the promised name.
        attributes: attributes of the root group.
        request: what was asked for (seed, detector, spectrum ...), as JSON can hold it; resuming needs the same.
        expected: showers asked for; None if that is open.
        resume: go on with an incomplete file; start anew if there is none.
        overwrite: replace an existing file.
        finish: turns the ordinary file (first path) into one of another kind (second path) at the end.

    Raises:
        OutputError: if the file exists, is being written by another process, was made for another request, or cannot
            be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        attributes: Mapping[str, Any],
        request: Mapping[str, Any],
        expected: int | None = None,
        resume: bool = False,
        overwrite: bool = False,
        finish: Finish | None = None,
    ) -> None:
        self.path = path
        self.expected = expected
        self._columns: dict[Column, Chunking] = {}
        self._attributes = dict(attributes)
        self._request: dict[str, Any] = json.loads(json.dumps(dict(request)))
        self._finish = finish
        self._parts: list[Part] = []
        self._runs: tuple[Run, ...] = ()
        self._superseded: list[str] = []
        self._next = 0
        self._closed = False
        self._fresh = True
        self._lock: int | None = None
        self.path = refuse_taken(path, resume=resume, overwrite=overwrite)
        with self._reporting():
            self._folder = parts_directory(self.path)
            self._open(resume=resume)

    # ---- opening

    def _open(self, *, resume: bool) -> None:
        self._acquire()
        try:
            self._fresh = not (resume and self.path.exists())
            if self._fresh:
                self._write_master()
            else:
                self._load()
            self._clean()
        except BaseException:
            self._release()
            raise
        if self._closed:
            self._remove_folder()

    def _load(self) -> None:
        """Take over the state of the existing file."""
        with contextlib.closing(open_hdf5(self.path)) as file:
            try:
                attributes = dict(file.attrs)
                request = json.loads(attributes["request"])
                self._closed = bool(attributes["complete"])
                runs = json.loads(attributes["blocks"])
                state = {"parts": [], "columns": []} if self._closed else json.loads(attributes["parts"])
                self._columns = {
                    Column.from_dict(entry): Chunking(entry["chunk_rows"], entry["movable"])
                    for entry in state["columns"]
                }
                # A closed file takes no more blocks, so its points need not be known.
                counters = None if self._closed else len(counters_of(self._columns))
                self._runs = joined_runs(Run.from_list(run, counters) for run in runs)
                self._parts = [Part.from_dict(part, counters) for part in state["parts"]]
            except (OSError, KeyError, ValueError, TypeError, RecursionError):
                raise OutputError(f"{self.path}: is not a file that can be resumed") from None
        difference = first_difference(request, self._request)
        if difference:
            raise OutputError(f"{self.path}: cannot be resumed, it was begun with {difference}")
        if self.expected is not None and (self.rows > self.expected or (self._closed and self.rows < self.expected)):
            raise OutputError(
                f"{self.path}: holds {self.rows} showers already, so it cannot become one of {self.expected}"
            )
        for part in self._parts:
            if not (self._folder / part.file).is_file():
                raise OutputError(f"{self.path}: cannot be resumed, its part '{self._folder.name}/{part.file}' is lost")
        self._next = 1 + max((part.number for part in self._parts), default=-1)

    def _acquire(self) -> None:
        while True:
            self._folder.mkdir(exist_ok=True)
            try:
                lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                continue  # another writer has just finished and removed the directory
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise OutputError(f"{self.path}: is being written by another process") from None
            except OSError as error:
                warnings.warn(
                    f"{self.path}: its file system cannot lock files ({error.strerror}); "
                    "make sure that no other process writes it",
                    CaloForgeWarning,
                    stacklevel=4,
                )
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), os.stat(self._folder / _LOCK)):
                    self._lock = lock
                    _HELD.add(lock)
                    return
            os.close(lock)

    def _release(self) -> None:
        if self._lock in _HELD:  # not so in a child
            _HELD.remove(self._lock)
            os.close(self._lock)
        self._lock = None

    def _clean(self) -> None:
        """Remove what a killed writer left that is not part of the file."""
        known = {part.file for part in self._parts}
        for entry in self._folder.iterdir():
            if _is_ours(entry) and entry.name not in known:
                entry.unlink()

    def _remove_folder(self) -> None:
        for entry in self._folder.iterdir():
            if _is_ours(entry):
                entry.unlink()
        (self._folder / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the user has put something of their own into it
            self._folder.rmdir()
        self._release()

    # ---- writing

    @property
    def rows(self) -> int:
        """Showers in the finished blocks."""
        return sum(run.showers for run in self._runs)

    @property
    def complete(self) -> bool:
        """Whether all showers asked for are there; without a number asked for, whether no position is left out."""
        if not self._runs or (self.expected is not None and self.rows != self.expected):
            return False
        return self._runs[0].position == 0 and all(a.end == b.position for a, b in pairwise(self._runs))

    def has(self, position: int) -> bool:
        """Whether the block at this position is finished."""
        return any(run.position <= position < run.end for run in self._runs)

    def missing(self, blocks: int) -> list[int]:
        """Positions below ``blocks`` that are still to be written, in order."""
        gaps: list[int] = []
        start = 0
        for run in self._runs:
            gaps.extend(range(start, min(run.position, blocks)))
            start = run.end
        gaps.extend(range(start, blocks))
        return gaps

    def write(self, block: Mapping[Column, Array], position: int | None = None) -> None:
        """Write one block; when this returns, the block is in the file, whatever happens next.

        Args:
            block: the rows of each column; all blocks have the same columns.
            position: place of the block among all blocks; None for the place behind the last one.

        Raises:
            OutputError: if the block cannot be written; everything before it is kept.
        """
        if position is None:
            position = self._runs[-1].end if self._runs else 0
        rows, points = lengths_of(block)
        run = Run(position, 1, rows, points)
        self._admit((run,), {column: Chunking.plan(column, max(1, rows)) for column in block})
        size = sum(len(array) * column.row_bytes for column, array in block.items())
        with self._reporting():
            part = Part(self._new_name(), 0, size, (run,))
            self._save_part(part, lambda file, check: fill_block(file, block, self._columns, check))
            self._switch([*self._parts, part])
        self._tidy()

    def take(self, portion: Portion) -> None:
        """Take in blocks that were made elsewhere; when this returns, they are in the file, whatever happens next.

        Raises:
            OutputError: as from :meth:`write`.
        """
        self._admit(portion.runs, portion.columns)
        with self._reporting():
            part = Part(self._new_name(), 0, portion.size, portion.runs)
            adopt(portion, self._folder, part.file)
            self._switch([*self._parts, part])
        self._tidy()

    def shared_folder(self) -> tuple[str, str]:
        """The folder of the parts, and the name of a file in it that nobody else has, by which workers recognise it."""
        mark = f"{uuid.uuid4().hex}.tmp"
        with self._reporting():
            (self._folder / mark).touch()
            return str(self._folder.resolve()), mark

    def _admit(self, runs: Sequence[Run], columns: Mapping[Column, Chunking]) -> None:
        """Look whether blocks may join the file; the first ones say what its columns are."""
        if self._closed:
            raise OutputError(f"{self.path}: is closed, no more showers can be written into it")
        for run in runs:
            taken = [position for position in range(run.position, run.end) if position < 0 or self.has(position)]
            if taken:
                raise OutputError(f"{self.path}: block {taken[0]} is written already, or its number is negative")
            if not run.rows:
                raise OutputError(f"{self.path}: block {run.position} holds no showers")
        first, rows = runs[0].position, sum(run.showers for run in runs)
        if self.expected is not None and self.rows + rows > self.expected:
            raise OutputError(
                f"{self.path}: block {first} brings {self.rows + rows} showers, but only {self.expected} were asked for"
            )
        if not self._columns:
            self._columns = dict(columns)
        elif set(columns) != set(self._columns):
            odd = sorted({column.path for column in set(columns) ^ set(self._columns)})
            raise OutputError(f"{self.path}: block {first} differs from the others in what it holds: {', '.join(odd)}")

    def _tidy(self) -> None:
        # The blocks are safe. If there is no space to tidy up, the next ones will say so.
        with contextlib.suppress(OSError):
            self._merge()

    def set_attribute(self, name: str, value: Any) -> None:
        """Change an attribute of the root group; it reaches the file with the next block, or when the file is closed."""
        self._attributes[name] = value

    def _new_name(self) -> str:
        name = Part.name_of(self._next)
        self._next += 1
        return name

    def _save_part(self, part: Part, fill: Fill) -> None:
        write_atomically(self._folder / part.file, self._folder / f"{part.file}.tmp", fill)

    def _switch(self, parts: list[Part]) -> None:
        """Make these the parts of the file."""
        before = self._parts, self._runs
        self._parts = parts
        self._runs = joined_runs(run for part in parts for run in part.runs)
        try:
            self._write_master()
        except OSError:
            self._parts, self._runs = before
            raise

    def _merge(self) -> None:
        """Merge the parts of a level that has become full."""
        small = [part for part in self._parts if part.size < _LARGEST]
        for level in sorted({part.level for part in small}):
            members = [part for part in small if part.level == level]
            if len(members) < _MERGE:
                continue
            merged = Part(
                self._new_name(),
                level + 1,
                sum(part.size for part in members),
                joined_runs(run for part in members for run in part.runs),
            )
            self._save_part(merged, self._merging(members, {}, is_part=True))
            self._switch([merged, *(part for part in self._parts if part not in members)])
            # A reader may just have opened the former master, so its parts stay until the next merge.
            for name in self._superseded:
                (self._folder / name).unlink(missing_ok=True)
            self._superseded = [part.file for part in members]
            self._merge()
            return

    def _merging(self, parts: Sequence[Part], attributes: Mapping[str, Any], *, is_part: bool) -> Fill:
        return lambda file, check: fill_merged(
            file, self._columns, parts, self._folder, attributes, is_part=is_part, check=check
        )

    def _write_master(self) -> None:
        attributes = self._state() | {
            "parts": json.dumps(
                {
                    "folder": self._folder.name,
                    "parts": [part.to_dict() for part in self._parts],
                    "columns": [
                        column.to_dict() | {"chunk_rows": plan.rows, "movable": plan.movable}
                        for column, plan in self._columns.items()
                    ],
                }
            )
        }
        write_atomically(
            self.path,
            self._folder / "master.tmp",
            lambda file, _: fill_master(file, self._columns, self._parts, self._folder.name, attributes),
        )

    def _state(self, *, complete: bool = False) -> dict[str, Any]:
        state = self._attributes | {
            "complete": complete,
            "showers_present": self.rows,
            "request": json.dumps(self._request, sort_keys=True),
            "blocks": json.dumps([run.to_list() for run in self._runs]),
        }
        return state if self.expected is None else state | {"showers_expected": self.expected}

    # ---- closing

    def close(self) -> None:
        """Make one ordinary file of all parts, if everything asked for is there; else keep them, ready to be resumed.

        Raises:
            OutputError: if it cannot be written; all showers are then still kept in the parts.
        """
        if self._closed:
            return
        self._closed = True
        if not self.complete:
            self._release()
            return
        try:
            with self._reporting():
                for name in self._superseded:
                    (self._folder / name).unlink(missing_ok=True)
                self._superseded = []
                self._finish_file()
                self._remove_folder()
        finally:
            self._release()

    def _finish_file(self) -> None:
        fill = self._merging(self._parts, self._state(complete=True), is_part=False)
        if self._finish is None:
            write_atomically(self.path, self._folder / "whole.tmp", fill)
            return
        whole, other = self._folder / "whole.h5.tmp", self._folder / "other.h5.tmp"
        write_atomically(whole, self._folder / "whole.tmp", fill)
        self._finish(whole, other)
        move_into_place(other, self.path)

    def abort(self) -> None:
        """Stop without closing: what is finished is kept; a new file without a single block is removed."""
        if self._closed:
            return
        self._closed = True
        if self._fresh and not self._runs:
            self.path.unlink(missing_ok=True)
            self._remove_folder()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = f"; the {self.rows} finished showers are kept in it, and it can be resumed" if self._runs else ""
            raise output_error(self.path, error, kept) from None


def _is_ours(entry: Path) -> bool:
    return entry.suffix == ".tmp" or Part.is_name(entry.name)
