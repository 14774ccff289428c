"""The training data: read once, then kept in memory or read again from the file in every epoch.

Which rows form a batch does not depend on where the data are, so both give the same training, bit for bit.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caloforge.detectors import Detector
from caloforge.errors import ShowerFileError, UsageError
from caloforge.progress import Progress
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers, row_hashes
from caloforge.stage import StageTraining, TrainingBatch, VoxelBatch
from caloforge.training.order import DataOrder, split_rows
from caloforge.training.table import Table, joined

__all__ = ["FirstShowers", "MixedSource", "RowOrder", "ShowerSource", "TrainingSet", "available_memory"]

Rows = NDArray[np.int64]

#: Rows read from the file at once.
_CHUNK = 4096
_BLOCK = 1024


class ShowerSource(Protocol):
    """What training needs of an open shower file."""

    @property
    def detector(self) -> Detector | None:
        """The detector of the showers, if it is known."""
        ...

    @property
    def particle(self) -> int:
        """PDG id of the incident particle."""
        ...

    def __len__(self) -> int:
        """Number of showers."""
        ...

    def read(self, start: int, stop: int) -> Showers | ShowerPoints:
        """Consecutive showers."""
        ...


@runtime_checkable
class MixedSource(Protocol):
    """What a source has besides whose showers may be of several particles."""

    @property
    def particles(self) -> tuple[int, ...]:
        """PDG ids of the particles, in the order in which they first come."""
        ...

    def particles_of(self, start: int, stop: int) -> NDArray[np.int64]:
        """PDG ids of consecutive showers, int64 (stop - start,)."""
        ...


@dataclass(frozen=True)
class FirstShowers:
    """The first showers of a source, as a source of their own.

    Attributes:
        source: where they come from.
        most: how many there are at the most; None for all of the source.
    """

    source: ShowerSource
    most: int | None

    @property
    def detector(self) -> Detector | None:
        """See :class:`ShowerSource`."""
        return self.source.detector

    @property
    def particle(self) -> int:
        """See :class:`ShowerSource`."""
        return self.source.particle

    def __len__(self) -> int:
        return len(self.source) if self.most is None else min(self.most, len(self.source))

    def read(self, start: int, stop: int) -> Showers | ShowerPoints:
        """See :class:`ShowerSource`."""
        return self.source.read(start, min(stop, len(self)))


@dataclass(frozen=True)
class RowOrder:
    """How rows are shuffled; chosen when a run begins and kept when it is resumed, since it decides about every batch.

    Attributes:
        block: rows of a block; None to shuffle all rows at once, which needs all of them in memory.
        pool: blocks in memory together.
    """

    block: int | None
    pool: int = 16

    @classmethod
    def for_source(cls, source: ShowerSource, memory: int | None = None) -> RowOrder:
        """Shuffle all rows at once if they fit into memory, else pools of blocks that do.

        Args:
            source: the open file.
            memory: budget for the data, bytes; None is 40 % of what is available.
        """
        sample = Table.of(np.arange(min(len(source), 64)), source.read(0, min(len(source), 64)))
        budget = 0.4 * available_memory() if memory is None else float(memory)
        rows, row_bytes = len(source), sample.nbytes / max(len(sample), 1)
        if rows * row_bytes <= budget:
            return cls(None)
        block = max(1, min(_BLOCK, int(budget / (8 * row_bytes))))
        # A pool is in use, the next one is being read, and a batch may still hold on to the one before.
        return cls(block, max(1, int(budget / (3 * row_bytes * block))))


def available_memory() -> int:
    """Memory that could be used without swapping, bytes."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


class TrainingSet:
    """The rows of a shower file, split into training and validation rows.

    Making one reads the whole file once: values are checked, rows are hashed, and what fits is kept (the validation
    rows in any case).

    Args:
        source: the open file.
        seed: of the run; with it the split and the order of every epoch are fixed.
        val_fraction: share of the rows for validation.
        order: how to shuffle.
        device: where batches are wanted.
        progress: told about every row read.

    Attributes:
        detector: of the showers.
        particle: PDG id of the incident particle; of the first row, if there are several particles.
        particles: PDG id of each row, int64 (N,), if there are several; else None.
        hashes: one for each row of the file, uint64 (N,).
        incident_energy: of all rows, float64 (N,), MeV.
        direction: of all rows, float32 (N, 3), or None.
        training_rows: row numbers, ascending.
        validation_rows: row numbers, ascending.
        order: how rows are shuffled.
        in_memory: whether the rows are kept in memory.

    Raises:
        ShowerFileError: if the file is damaged or holds impossible values.
        UsageError: if it has too few showers.
    """

    def __init__(
        self,
        source: ShowerSource,
        *,
        seed: int,
        val_fraction: float,
        order: RowOrder,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        n = len(source)
        if n < 2:
            raise UsageError(f"the data hold {n} showers, expected at least 2 to train on")
        if source.detector is None:
            raise UsageError("the data do not say which detector they belong to, so one must be named")
        self._source = source
        self._device = torch.device(device)
        self.detector: Detector = source.detector
        self.particle = source.particle
        several = isinstance(source, MixedSource) and len(source.particles) > 1
        self.particles = source.particles_of(0, n) if several else None  # type: ignore[attr-defined] # looked at
        self.seed, self.val_fraction = seed, val_fraction
        self.training_rows, self.validation_rows = split_rows(n, val_fraction, seed)
        self.order = order
        self._order = DataOrder(self.training_rows, seed, order.block, order.pool)
        self._table: Table | None = None
        self._validation: Table | None = None
        self._voxels = True
        self._read_all(progress)

    def _read_all(self, progress: Progress | None) -> None:
        kept: list[Showers | ShowerPoints] = []
        validation: list[TrainingBatch] = []
        hashes, energies, directions = [], [], []
        for start in range(0, len(self._source), _CHUNK):
            part = self._source.read(start, min(start + _CHUNK, len(self._source)))
            part.check_values(first_row=start)
            hashes.append(row_hashes(part))
            energies.append(part.incident_energy)
            directions.append(part.direction)
            self._voxels &= isinstance(part, Showers)
            if self.order.block is None:
                kept.append(part)
            else:
                low, high = np.searchsorted(self.validation_rows, [start, start + len(part)])
                if high > low:
                    table = self._made_table(np.arange(start, start + len(part)), part)
                    validation.append(table.take(self.validation_rows[low:high], 0))
            if progress is not None:
                progress.advance(len(part))
        self.hashes: NDArray[np.uint64] = np.concatenate(hashes)
        self.incident_energy: NDArray[np.float64] = np.concatenate(energies)
        given = [d for d in directions if d is not None]
        self.direction: NDArray[np.float32] | None = np.concatenate(given) if given else None
        if validation:
            self._validation = Table.joined(validation)
        if kept:
            self._table = self._placed(self._made_table(np.arange(len(self._source)), _concatenated(kept)))

    def _made_table(self, rows: Rows, showers: Showers | ShowerPoints) -> Table:
        return Table.of(rows, showers, None if self.particles is None else self.particles[rows])

    def _placed(self, table: Table) -> Table:
        # On a GPU every batch is then a gather in its own memory; larger data travel batch by batch.
        if self._device.type == "cuda" and table.nbytes < torch.cuda.mem_get_info(self._device)[0] / 4:
            return table.to(self._device)
        return table

    def __len__(self) -> int:
        return len(self._source)

    @property
    def in_memory(self) -> bool:
        """Whether the rows are kept in memory."""
        return self._table is not None

    @property
    def fingerprint(self) -> str:
        """Hash of all rows in their order; two files with the same showers have the same one."""
        return hashlib.blake2b(self.hashes.astype("<u8").tobytes(), digest_size=16).hexdigest()

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of batches of an epoch; rows that fill no batch wait for the next shuffling."""
        return max(1, len(self.training_rows) // batch_size)

    def batches(
        self,
        training: StageTraining,
        epoch: int,
        *,
        first: int = 0,
        rank: int = 0,
        size: int = 1,
    ) -> Iterator[TrainingBatch]:
        """The batches of an epoch on the device.

        Args:
            training: batch size, precision and augmentation.
            epoch: number of the epoch.
            first: number of the first batch that is wanted.
            rank: number of this process; each gets its own contiguous share of every batch.
            size: number of processes.
        """
        batch_size = min(training.batch_size, len(self.training_rows))
        turns = self._turns(training.augmentation, epoch)
        wanted = []
        for step in range(first, self.steps_per_epoch(batch_size)):
            start = step * batch_size
            wanted.append((start + rank * batch_size // size, start + (rank + 1) * batch_size // size))
        for batch in self._ordered(epoch, wanted):
            moved = _cast(batch.to(self._device), training.precision)
            yield moved if turns is None else turns(moved)

    def validation(self, training: StageTraining, *, rank: int = 0, size: int = 1) -> Iterator[TrainingBatch]:
        """The validation rows in the order of the file, epoch 0; each process gets its share of them."""
        rows = self.validation_rows
        share = rows[rank * len(rows) // size : (rank + 1) * len(rows) // size]
        yield from self._in_file_order(share, training.batch_size, training.precision, self._validation)

    def for_fit(self, rows: Literal["training", "validation"] = "training") -> FitData:
        """The rows for a fit stage; without validation rows, the training rows are taken for both."""
        if rows == "validation" and len(self.validation_rows):
            return FitData(self, self.validation_rows, self._validation)
        return FitData(self, self.training_rows)

    def _in_file_order(
        self, rows: Rows, batch_size: int, precision: str, kept: Table | None = None
    ) -> Iterator[TrainingBatch]:
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            table = kept or self._table
            if table is None:
                first, last = int(chosen[0]), int(chosen[-1]) + 1
                table = self._made_table(np.arange(first, last), self._source.read(first, last))
            yield _cast(table.take(chosen, 0).to(self._device), precision)

    def _ordered(self, epoch: int, wanted: Sequence[tuple[int, int]]) -> Iterator[TrainingBatch]:
        """Batches at the given places of the epoch's order."""
        if self._table is not None:
            order = self._order.epoch(epoch)
            for start, stop in wanted:
                yield self._table.take(order[start:stop], epoch)
            return
        pools = list(self._order.pools(epoch))
        begins = [0, *accumulate(len(pool) for pool in pools)]
        with _Pools(self._read_pool, pools) as tables:
            for start, stop in wanted:
                pieces = []
                place = bisect_right(begins, start) - 1
                while start < stop:
                    rows = pools[place][start - begins[place] : stop - begins[place]]
                    pieces.append(tables[place].take(rows, epoch))
                    start += len(rows)
                    place += 1
                yield joined(pieces)

    def _read_pool(self, rows: Rows) -> Table:
        assert self.order.block is not None
        numbers: list[Rows] = []
        parts: list[Showers | ShowerPoints] = []
        for block in np.unique(rows // self.order.block):
            start = int(block) * self.order.block
            stop = min(start + self.order.block, len(self._source))
            numbers.append(np.arange(start, stop))
            parts.append(self._source.read(start, stop))
        return self._made_table(np.concatenate(numbers), _concatenated(parts))

    def _turns(self, augmentation: str, epoch: int) -> _Turns | None:
        """The symmetry operation of every row in this epoch; None if there is nothing to do."""
        if augmentation == "none" or not self._voxels or self._oblique:
            return None
        turning = augmentation == "rotations"
        group = (
            self.detector.rotations()
            if turning
            else self.detector.symmetry_group(approximate=augmentation == "approximate")
        )
        if turning and len(group) == 1:
            raise UsageError(
                f"training.augmentation: rotations need the symmetry 'rotate-alpha', which '{self.detector.name}' has not"
            )
        if len(group) == 1:
            return None
        choice = Streams(self.seed, "training/symmetries").generator(epoch).integers(0, len(group), len(self))
        return _Turns(torch.from_numpy(group).to(self._device), torch.from_numpy(choice))

    @property
    def _oblique(self) -> bool:
        # A permutation of voxels moves no direction, so it is a symmetry of straight showers only.
        return self.direction is not None and bool((self.direction[:, 2] < 1 - 1e-6).any())


@dataclass(frozen=True)
class FitData:
    """Training or validation rows in the order of the file, as a fit stage sees them."""

    data: TrainingSet
    rows: Rows
    kept: Table | None = None
    batch_size: int = 1024

    @property
    def particle(self) -> int:
        """PDG id of the incident particle; of the first row, if there are several particles."""
        return self.data.particle

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[TrainingBatch]:
        return self.data._in_file_order(self.rows, self.batch_size, "float32", self.kept)


@dataclass(frozen=True)
class _Turns:
    group: Tensor
    choice: Tensor

    def __call__(self, batch: TrainingBatch) -> TrainingBatch:
        chosen = self.choice[batch.row].to(self.group.device, non_blocking=True)
        assert isinstance(batch, VoxelBatch)  # symmetries are permutations of voxels
        return replace(batch, deposits=batch.deposits.gather(1, self.group[chosen]))


class _Pools:
    """Tables of the pools in turn; the next one is read while this one is used."""

    def __init__(self, read: Any, pools: Sequence[Rows]) -> None:
        self._read, self._pools = read, pools
        self._tables: dict[int, Future[Table]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="shower-reader")

    def __getitem__(self, place: int) -> Table:
        for done in [known for known in self._tables if known < place]:
            del self._tables[done]
        for number in (place, place + 1):
            if number < len(self._pools) and number not in self._tables:
                self._tables[number] = self._reader.submit(self._read, self._pools[number])
        return self._tables[place].result()

    def __enter__(self) -> _Pools:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)


def _cast(batch: TrainingBatch, precision: str) -> TrainingBatch:
    return batch.double() if precision == "float64" else batch


def _concatenated(parts: Sequence[Showers | ShowerPoints]) -> Showers | ShowerPoints:
    voxels = [part for part in parts if isinstance(part, Showers)]
    points = [part for part in parts if isinstance(part, ShowerPoints)]
    if voxels and points:
        raise ShowerFileError("the file holds voxels and points at once")
    return Showers.concatenate(voxels) if voxels else ShowerPoints.concatenate(points)
