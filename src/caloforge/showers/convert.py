"""From one shower file to another: other formats, other readouts, and what a file holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from caloforge.detectors import Detector, load_detector, particle_name
from caloforge.errors import Interrupted, UsageError
from caloforge.executor import Executor, InThisProcess, LocalProcesses
from caloforge.names import printable
from caloforge.random import Streams
from caloforge.showers.clusters import Position, merge_in_subcells
from caloforge.showers.files import Writer, check_energies, create_showers, open_any, open_showers
from caloforge.showers.formats.base import Block, Kind, Reader
from caloforge.showers.formats.hits import HitsReader
from caloforge.showers.formats.registry import find_format
from caloforge.showers.interruption import interrupted
from caloforge.showers.projection import Cells, Pair, project
from caloforge.showers.showers import ShowerPoints, Showers
from caloforge.showers.voxelise import to_points, voxelise
from caloforge.version import __version__

__all__ = [
    "Conversion",
    "MergePoints",
    "MovePoints",
    "PlacePoints",
    "PointChange",
    "SeveralChanges",
    "convert",
    "describe",
]

Progress = Callable[[int, int], None]

#: Memory that a block of showers may take.
_BLOCK_BYTES = 32 * 2**20


class PointChange(Protocol):
    """What is done to the points on their way into the target."""

    def apply(self, points: ShowerPoints, first_row: int) -> tuple[ShowerPoints, float]:
        """Changed points, and the energy that got lost, MeV; ``first_row`` is the number of the first shower."""
        ...

    def describe(self) -> dict[str, Any]:
        """For the provenance of the target, JSON values."""
        ...


@dataclass(frozen=True)
class MergePoints:
    """One point for all deposits in a sub-cell; see ``merge_in_subcells``.

    Attributes:
        pitch: size of a cell, mm.
        divisions: sub-cells along each side of a cell.
        position: where the point is put.
        seed: of the random shifts of the grid.
    """

    pitch: Pair
    divisions: int
    position: Position = "highest"
    seed: int = 0

    def apply(self, points: ShowerPoints, first_row: int) -> tuple[ShowerPoints, float]:
        """See ``PointChange``."""
        streams = Streams(self.seed, "sub-cells")
        merged = merge_in_subcells(
            points, self.pitch, self.divisions, streams, position=self.position, first_row=first_row
        )
        return merged, 0.0

    def describe(self) -> dict[str, Any]:
        """See ``PointChange``."""
        return {
            "sub_cells_per_cell": self.divisions**2,
            "cell_mm": list(self.pitch),
            "position": self.position,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class PlacePoints:
    """Points into cells; see ``project``.

    Attributes:
        cells: where the cells are.
        name: what to call them in the provenance.
        cut: MeV.
    """

    cells: Cells
    name: str
    cut: float = 0.0

    def apply(self, points: ShowerPoints, first_row: int) -> tuple[ShowerPoints, float]:
        """See ``PointChange``."""
        placed = project(points, self.cells, cut=self.cut)
        return placed.cells, float(placed.in_gaps.sum() + placed.below_cut.sum())

    def describe(self) -> dict[str, Any]:
        """See ``PointChange``."""
        return {"cells": self.name, "cut_MeV": self.cut}


@dataclass(frozen=True)
class MovePoints:
    """Points relative to the place where the particle entered, for files that hold them in other coordinates.

    Attributes:
        entry: where that is in the file's coordinates, x and y, mm.
    """

    entry: Pair

    def apply(self, points: ShowerPoints, first_row: int) -> tuple[ShowerPoints, float]:
        """See ``PointChange``."""
        moved = points.points.copy()
        moved[:, :2] -= np.asarray(self.entry, dtype=np.float32)
        return replace(points, points=moved), 0.0

    def describe(self) -> dict[str, Any]:
        """See ``PointChange``."""
        return {"entry_mm": list(self.entry)}


@dataclass(frozen=True)
class SeveralChanges:
    """One change after the other.

    Attributes:
        changes: in their order.
    """

    changes: tuple[PointChange, ...]

    def apply(self, points: ShowerPoints, first_row: int) -> tuple[ShowerPoints, float]:
        """See ``PointChange``."""
        lost = 0.0
        for change in self.changes:
            points, more = change.apply(points, first_row)
            lost += more
        return points, lost

    def describe(self) -> dict[str, Any]:
        """See ``PointChange``."""
        return {key: value for change in self.changes for key, value in change.describe().items()}


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        showers: how many were converted.
        source: format that was read.
        target: format that was written.
        kind: voxels or points.
        source_complete: false if the source's writer was interrupted.
        energy: energy in the voxels or points written now, MeV.
        overflow: energy beside the voxels of its layer, MeV, which the target holds as such.
        left_out: energy that found no place in the target, MeV: hits in no layer, the overflow when voxels become points, or
            what fell between cells or below a cut.
    """

    showers: int
    source: str
    target: str
    kind: Kind
    source_complete: bool
    energy: float
    overflow: float
    left_out: float


def convert(
    source: str | Path,
    target: str | Path,
    to: str = "native",
    *,
    detector: Detector | str | Path | None = None,
    particle: int | str | None = None,
    kind: Kind | None = None,
    change: PointChange | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    jobs: int = 1,
    executor: Executor | None = None,
) -> Conversion:
    """Write the showers of one file into another, block by block.

    Points go into the voxels of the detector where the target holds voxels; voxels become points at their centres
    where it holds points. Energies are taken as they are: neither thresholds nor a sampling fraction are applied.

    Args:
        source: a shower file of any known format.
        target: the file to write.
        to: its format.
        detector: what the source belongs to; for points also the readout to put them into.
        particle: the incident particle, if the source does not say; one that it does say cannot be changed.
        kind: voxels or points, where the format leaves a choice; by default points become voxels if a detector with voxels
            is named, and everything else stays what it is.
        change: what to do to points, which then stay points (:class:`MovePoints`,
            :class:`MergePoints`, :class:`PlacePoints`).
        resume: go on with an interrupted conversion.
        overwrite: replace an existing file.
        progress: called after every block with the number of showers done and of all.
        jobs: number of processes; the file is the same for any.
        executor: who changes the blocks, instead of ``jobs`` processes of this machine; it sees the same files.

    Raises:
        WorkerDiedError: if one of several processes dies; finished blocks are kept.
        UsageError: if source and target are the same file, the source says that it holds another particle, the target
            needs a detector with voxels, or voxels are to be changed as points.
        ShowerFileError: if the source is damaged.
        OutputError: if the target cannot be written.
    """
    source, target = Path(source), Path(target)
    if source.exists() and target.exists() and source.samefile(target):
        raise UsageError(f"{source}: cannot be converted into itself, choose another name")
    form = find_format(to, writing=True)
    named = detector if detector is None or isinstance(detector, Detector) else load_detector(detector)
    with open_showers(source, named, particle=particle) as reader:
        stated = reader.stated_particle()
        if stated not in (0, reader.particle):
            raise UsageError(
                f"{source}: says that its particle is {particle_name(stated)}, so its showers cannot become those of "
                f"{particle_name(reader.particle)}"
            )
        wanted = kind or ("points" if change is not None else _default_kind(reader, form.kinds, named))
        if change is not None and (reader.kind, wanted) != ("points", "points"):
            raise UsageError(f"{source}: only points can be merged or placed into cells, and they stay points")
        known = reader.detector is not None and reader.detector.readout.has_voxels
        if wanted == "voxels" and reader.kind == "points" and not known:
            raise UsageError(f"{source}: holds points, so a detector with voxels must be named to convert it into {to}")
        size, n = _block_size(reader), len(reader)
        changed = {} if change is None else change.describe()
        writer = create_showers(
            target,
            to,
            detector=reader.detector,
            particle=reader.particle,
            kind=wanted,
            provenance=reader.provenance
            | {
                "converted": {
                    "program": f"caloforge {__version__}",
                    "file": printable(source.name),
                    "format": reader.format,
                }
                | changed
            },
            request={"source": printable(source.name), "showers": n, "block": size} | changed,
            expected=n,
            resume=resume,
            overwrite=overwrite,
        )
        asked = _Asked(source, named, particle, wanted, change, size)
        positions = list(writer.missing(-(-n // size)))
        who = executor or (LocalProcesses(jobs) if jobs > 1 and len(positions) > 1 else None)
        if who is None:
            made = InThisProcess().run(lambda _: asked.changed(reader), None, positions)
        else:
            made = who.run(_prepare, asked, positions)
        sums: dict[int, _Energies] = {}
        with _interruption_told(writer, n), writer, closing(made) as blocks:
            for position, (block, energies) in blocks:
                writer.write(block, position)
                sums[position] = energies
                if progress is not None:
                    progress(len(writer), n)
        # In the order of the file, whoever came first.
        energy, overflow, left_out = (float(sum(sums[k][word] for k in sorted(sums))) for word in range(3))
        return Conversion(n, reader.format, to, wanted, reader.complete, energy, overflow, left_out)


class _Energies(NamedTuple):
    """Of a block, MeV; see :class:`Conversion`."""

    energy: float
    overflow: float
    left_out: float


@dataclass(frozen=True)
class _Asked:
    """What becomes of a block; arguments as for :func:`convert`."""

    source: Path
    detector: Detector | None
    particle: int | str | None
    kind: Kind
    change: PointChange | None
    size: int

    def changed(self, reader: Reader) -> Callable[[int], tuple[Block, _Energies]]:
        """What turns a position into the block of the target."""

        def block_at(position: int) -> tuple[Block, _Energies]:
            before = _outside(reader)  # opening the file has read some showers already
            block = reader.read(position * self.size, (position + 1) * self.size)
            left_out = _outside(reader) - before
            if self.kind == "points":
                left_out += _overflow(block)
            block = _as_kind(block, self.kind)
            if self.change is not None and isinstance(block, ShowerPoints):
                block, lost = self.change.apply(block, position * self.size)
                left_out += lost
            return block, _Energies(float(block.total_energy().sum()), _overflow(block), left_out)

        return block_at


def _prepare(asked: _Asked) -> Callable[[int], tuple[Block, _Energies]]:
    """See ``caloforge.executor``; the file stays open as long as the worker lives."""
    return asked.changed(open_showers(asked.source, asked.detector, particle=asked.particle))


@contextmanager
def _interruption_told(writer: Writer, showers: int) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        told = interrupted(writer, showers) if len(writer) else Interrupted("interrupted; no block was finished")
        raise told from None


def _outside(reader: Reader) -> float:
    """Energy of the hits read so far that lie in no layer, MeV."""
    return reader.outside if isinstance(reader, HitsReader) else 0.0


def _default_kind(reader: Reader, kinds: tuple[Kind, ...], named: Detector | None) -> Kind:
    if len(kinds) == 1:
        return kinds[0]
    return "voxels" if named is not None and named.readout.has_voxels else reader.kind


def _block_size(reader: Reader) -> int:
    if reader.kind == "points":
        points = reader.content().get("points", 0) / max(1, len(reader))
        return int(np.clip(_BLOCK_BYTES / (100 * max(points, 100)), 1, 1000))
    return int(np.clip(_BLOCK_BYTES // (4 * reader.readout.n_voxels), 1, 1000))


def _as_kind(block: Block, kind: Kind) -> Block:
    if isinstance(block, Showers):
        return block if kind == "voxels" else to_points(block)
    if kind == "points":
        return block
    assert block.readout is not None  # checked before the first block
    return voxelise(block, block.readout)


def _overflow(block: Block) -> float:
    return (
        0.0
        if isinstance(block, ShowerPoints) or block.overflow is None
        else float(block.overflow.sum(dtype=np.float64))
    )


def describe(path: str | Path, detector: Detector | str | Path | None = None) -> dict[str, Any]:
    """What a shower file holds, for people and programs; also of one that is not finished.

    Returns:
        ``path``, ``format``, ``kind``, ``showers``, ``expected`` (None if not known), ``complete``, ``detector`` (its name
        or None), ``detector_hash``, ``layers``, ``voxels``, ``particle`` (PDG id, 0 if not known), ``energy_range`` (lowest and
        highest incident energy, MeV, or None), ``extras`` (what else showers have), ``points`` (for points, if the format counts
        them), ``provenance``, ``bytes``.

    Raises:
        ShowerFileError: if the file is damaged or of no known format.
    """
    path = Path(path)
    with open_any(path, detector, None) as reader:
        n = len(reader)
        check_energies(reader)
        lowest, highest = np.inf, -np.inf
        for start in range(0, n, 2**18):
            energies = reader.incident_energies(start, min(start + 2**18, n))
            lowest, highest = min(lowest, float(energies.min())), max(highest, float(energies.max()))
        readout = None if reader.detector is None else reader.detector.readout
        return {
            "path": str(path),
            "format": reader.format,
            "kind": reader.kind,
            "showers": n,
            "expected": reader.expected,
            "complete": reader.complete,
            "detector": None if reader.detector is None else reader.detector.name,
            "detector_hash": None if reader.detector is None else reader.detector.hash,
            "layers": None if readout is None else readout.n_layers,
            "voxels": None if readout is None else readout.n_voxels,
            "particle": reader.particle,
            "energy_range": (lowest, highest) if n else None,
            "extras": [],
            "provenance": reader.provenance,
            "bytes": path.stat().st_size,
        } | reader.content()
