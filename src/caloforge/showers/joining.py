"""Several shower files as one: checked against each other, read one after the other, or written into a new one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, particle_name
from caloforge.errors import ShowerFileError, UsageError
from caloforge.names import printable
from caloforge.showers.files import create_showers, energy_balance, open_showers
from caloforge.showers.formats.base import Block, Reader
from caloforge.showers.formats.registry import find_format
from caloforge.showers.hashes import row_hashes
from caloforge.showers.showers import ShowerPoints, Showers
from caloforge.version import __version__

__all__ = ["JoinedReader", "Joining", "join_showers", "joined_reader", "open_several"]

#: Showers read at a time.
_BLOCK = 1000
#: Two files of one detector never differ so much in the share of the energy that they hold; units do.
_LARGEST_RATIO = 30.0


class JoinedReader(Reader):
    """Open files of one detector and particle, as if they were one; showers come in the order of the files.

    Args:
        readers: at least one; they are closed with it.
        mixed: whether they may be of several particles; blocks that are read then bear the name of the first all the same, and
            ``particles_of`` says of which their showers are.

    Attributes:
        readers: those files.
        particles: PDG ids of their particles, in the order in which they first come.

    Raises:
        ShowerFileError: if kind, detector, particle or unit differ, or some have directions, overflow or times and some not.
        UsageError: if a file does not say which detector or particle it is of.
    """

    format = "several"

    def __init__(self, readers: Sequence[Reader], *, mixed: bool = False) -> None:
        first = readers[0]
        self.readers = tuple(readers)
        self.path = first.path
        self.file = first.file
        self.kind = first.kind
        for reader in readers:
            if reader.detector is None or reader.particle == 0:
                lacking = "detector" if reader.detector is None else "particle"
                raise UsageError(
                    f"{reader.path}: does not say which {lacking} it is of, so one must be named to join it"
                )
            _compare(first, reader, mixed=mixed)
        self.detector, self.particle = first.detector, first.particle
        self.particles = tuple(dict.fromkeys(reader.particle for reader in readers))
        origins = [reader.provenance for reader in readers]
        same = all(origin == origins[0] for origin in origins)
        self.provenance = origins[0] if same else {"parts": [dict(origin) for origin in origins]}
        self.complete = all(reader.complete for reader in readers)
        self.expected = None
        self._parts = []
        self._ends = list(accumulate(len(reader) for reader in readers))
        self._setup()

    def _setup(self) -> None:
        self._n = self._ends[-1]

    def _pieces(self, start: int, stop: int) -> list[tuple[Reader, int, int]]:
        """Which rows of which files the rows ``start`` to ``stop`` are."""
        found = []
        for reader, end in zip(self.readers, self._ends, strict=True):
            begin = end - len(reader)
            low, high = max(start, begin), min(stop, end)
            if low < high:
                found.append((reader, low - begin, high - begin))
        return found

    def _read(self, start: int, stop: int) -> Block:
        pieces = self._pieces(start, stop) or [(self.readers[0], 0, 0)]
        blocks = [reader.read(low, high) for reader, low, high in pieces]
        if len(self.particles) > 1:
            blocks = [replace(block, particle=self.particle) for block in blocks]
        voxels = [block for block in blocks if isinstance(block, Showers)]
        points = [block for block in blocks if isinstance(block, ShowerPoints)]
        return Showers.concatenate(voxels) if voxels else ShowerPoints.concatenate(points)

    def read(self, start: int = 0, stop: int | None = None) -> Block:
        """See ``Reader``; each file checks what it reads."""
        start, stop, _ = slice(start, stop).indices(self._n)
        return self._read(start, max(start, stop))

    def particles_of(self, start: int, stop: int) -> NDArray[np.int64]:
        """PDG ids of some showers, int64 (stop - start,)."""
        pieces = self._pieces(start, stop)
        return np.repeat([reader.particle for reader, _, _ in pieces], [high - low for _, low, high in pieces])

    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """See ``Reader``."""
        parts = [reader.incident_energies(low, high) for reader, low, high in self._pieces(start, stop)]
        return np.concatenate(parts) if parts else np.empty(0)

    def content(self) -> dict[str, Any]:
        """What each file has besides."""
        contents = [reader.content() for reader in self.readers]
        found = dict(contents[0])
        if all("points" in content for content in contents):
            found["points"] = sum(content["points"] for content in contents)
        return found

    @property
    def name(self) -> str:
        """The names of all files."""
        return ", ".join(printable(reader.path.name) for reader in self.readers)

    def check_parts(self) -> None:
        """See ``Reader``."""
        for reader in self.readers:
            reader.check_parts()

    def refuse_repeated(self, advance: Callable[[int], None] = lambda rows: None) -> None:
        """Refuse showers that are in two of the files; all of them are read for that.

        Args:
            advance: told of the number of showers read.

        Raises:
            ShowerFileError: naming the files.
        """
        seen: list[tuple[Reader, NDArray[np.uint64]]] = []
        for reader in self.readers:
            hashes = []
            for block in reader.blocks(_BLOCK):
                lit = block.deposits.any(axis=1) if isinstance(block, Showers) else np.diff(block.offsets) > 0
                hashes.append(row_hashes(block)[lit])  # showers without any deposit are alike by nature
                advance(len(block))
            own = np.concatenate(hashes)
            for other, known in seen:
                count = int(np.isin(own, known).sum())
                if count:
                    raise ShowerFileError(
                        f"{count} of the {len(reader)} showers of {reader.path} are also in {other.path}, so joining them "
                        "would count them twice"
                    )
            seen.append((reader, own))

    def close(self) -> None:
        """Close all files."""
        for reader in self.readers:
            reader.close()


def _compare(first: Reader, other: Reader, *, mixed: bool) -> None:
    """Refuse a file that cannot be joined to the first one."""
    assert first.detector is not None  # looked at before
    assert other.detector is not None
    if other is first:
        return
    if other.kind != first.kind:
        raise ShowerFileError(
            f"{first.path} holds {first.kind} and {other.path} {other.kind}, so they cannot be joined"
        )
    if other.detector.hash != first.detector.hash:
        names = f"'{first.detector.name}' ({first.detector.hash}) and '{other.detector.name}' ({other.detector.hash})"
        raise ShowerFileError(f"{first.path} and {other.path} are of different detectors, {names}")
    if other.particle != first.particle and not mixed:
        names = f"{particle_name(first.particle)} and {particle_name(other.particle)}"
        raise ShowerFileError(f"{first.path} and {other.path} are of different particles, {names}")
    one, two = first.read(0, min(100, len(first))), other.read(0, min(100, len(other)))
    shares = [energy_balance(block) for block in (one, two)]
    # A muon leaves a hundredth of its energy.
    if other.particle == first.particle and min(shares) > 0 and max(shares) / min(shares) > _LARGEST_RATIO:
        raise ShowerFileError(
            f"{first.path} holds {shares[0]:.3g} of the incident energy and {other.path} {shares[1]:.3g}, so their units seem to "
            "differ"
        )
    for word, has in (
        ("directions", [block.direction is not None for block in (one, two)]),
        ("overflow", [isinstance(block, Showers) and block.overflow is not None for block in (one, two)]),
        ("times", [isinstance(block, ShowerPoints) and block.points.shape[1] == 5 for block in (one, two)]),
    ):
        if has[0] != has[1]:
            with_, without = (first.path, other.path) if has[0] else (other.path, first.path)
            raise ShowerFileError(f"{with_} has {word} and {without} has none, so they cannot be joined")


def open_several(
    paths: Sequence[str | Path],
    detector: Detector | str | Path | None = None,
    *,
    particle: int | str | None = None,
    check_rows: bool = True,
    mixed: bool = False,
) -> Reader:
    """Open one shower file, or several as one.

    Args:
        paths: the files, of any known formats.
        detector: what they belong to, if they do not say themselves.
        particle: the incident particle, likewise.
        check_rows: whether to look for showers that are in two of them, for which all are read.
        mixed: whether they may be of several particles; see :class:`JoinedReader`.

    Raises:
        UsageError: if none is named, one is named twice, or one lacks what a join needs.
        ShowerFileError: if one is damaged or foreign, or they do not belong together.
    """
    if not paths:
        raise UsageError("no shower file was named")
    resolved = [Path(path).resolve() for path in paths]
    for number, whole in enumerate(resolved):
        if whole in resolved[:number]:
            raise UsageError(f"{paths[number]}: is named twice")
    openers = [partial(open_showers, path, detector, particle=particle) for path in paths]
    return joined_reader(openers, check_rows=check_rows, mixed=mixed)


def joined_reader(openers: Sequence[Callable[[], Reader]], *, check_rows: bool = True, mixed: bool = False) -> Reader:
    """What is opened, as one; all of it is closed again if something is wrong.

    Args:
        openers: each opens a file; a single one is returned as it is.
        check_rows: whether to look for showers that are in two of them, for which all are read.
        mixed: whether they may be of several particles; see :class:`JoinedReader`.

    Raises:
        UsageError: if one lacks what a join needs.
        ShowerFileError: if they do not belong together.
    """
    readers: list[Reader] = []
    try:
        for opener in openers:
            readers.append(opener())  # noqa: PERF401 - closed if a later one fails
        if len(readers) == 1:
            return readers[0]
        joined = JoinedReader(readers, mixed=mixed)
        if check_rows:
            joined.refuse_repeated()
    except BaseException:
        for reader in readers:
            reader.close()
        raise
    return joined


@dataclass(frozen=True)
class Joining:
    """What a join did.

    Attributes:
        showers: showers in the new file.
        files: how many files they are from.
        complete: false if the writer of one of them was interrupted; its finished showers were taken.
    """

    showers: int
    files: int
    complete: bool


def join_showers(
    sources: Sequence[str | Path],
    target: str | Path,
    to: str = "native",
    *,
    detector: Detector | str | Path | None = None,
    particle: int | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Joining:
    """Write the showers of several files into a new one, block by block.

    Args:
        sources: at least two files of one detector and particle, without a shower in common.
        target: the file to write.
        to: its format.
        detector: for files that do not say which detector they are from.
        particle: for files that do not say which particle they hold.
        resume: go on with an interrupted join.
        overwrite: replace an existing file.
        advance: told after every block how many showers are written, and of how many.

    Raises:
        UsageError: if there are fewer than two files, or the target is one of them.
        ShowerFileError: if a file is damaged, or they do not belong together.
        OutputError: if the target cannot be written.
    """
    if len(sources) < 2:
        raise UsageError("one file alone cannot be joined, expected two or more")
    target = Path(target)
    for source in sources:
        if target.exists() and Path(source).exists() and Path(source).samefile(target):
            raise UsageError(f"{target}: is one of the files to be joined, choose another name")
    find_format(to, writing=True)
    with open_several(sources, detector, particle=particle) as reader:
        assert isinstance(reader, JoinedReader)  # several files
        names = [printable(Path(source).name) for source in sources]
        writer = create_showers(
            target,
            to,
            detector=reader.detector,
            particle=reader.particle,
            kind=reader.kind,
            provenance=reader.provenance | {"joined": {"program": f"caloforge {__version__}", "files": names}},
            request={"sources": names, "showers": len(reader), "block": _BLOCK},
            expected=len(reader),
            resume=resume,
            overwrite=overwrite,
        )
        with writer:
            for position in writer.missing(-(-len(reader) // _BLOCK)):
                writer.write(reader.read(position * _BLOCK, (position + 1) * _BLOCK), position)
                advance(len(writer), len(reader))
        return Joining(len(reader), len(sources), reader.complete)
