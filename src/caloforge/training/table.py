"""Rows of a shower file as tensors, from which batches are taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import TrainingBatch

__all__ = ["Table", "joined"]

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Some rows of a shower file.

    Attributes:
        rows: their numbers in the file, ascending, int64 (N,).
        data: all columns but the row numbers (``row`` is empty); on any device.
        starts: where the points of each shower start, int64 (N + 1,), in CPU memory; None for voxels.
    """

    rows: Rows
    data: TrainingBatch
    starts: NDArray[np.int64] | None

    @classmethod
    def of(cls, rows: Rows, showers: Showers | ShowerPoints) -> Table:
        """Showers as tensors.

        Args:
            rows: their numbers in the file, ascending.
            showers: the showers.
        """
        points = showers if isinstance(showers, ShowerPoints) else None
        voxels = showers if isinstance(showers, Showers) else None
        data = TrainingBatch(
            deposits=torch.empty((len(rows), 0)) if voxels is None else _tensor(voxels.deposits),
            incident_energy=_tensor(showers.incident_energy),
            row=torch.empty(0, dtype=torch.int64),
            direction=None if showers.direction is None else _tensor(showers.direction),
            overflow=None if voxels is None or voxels.overflow is None else _tensor(voxels.overflow),
            offsets=None if points is None else _tensor(points.offsets),
            points=None if points is None else _tensor(points.points),
        )
        return cls(rows, data, None if points is None else points.offsets)

    @classmethod
    def joined(cls, batches: Sequence[TrainingBatch]) -> Table:
        """Batches in CPU memory as a table; their rows ascend from one to the next."""
        data = joined(batches)
        return cls(data.row.numpy(), data, None if data.offsets is None else data.offsets.numpy())

    def to(self, device: torch.device) -> Table:
        """The same rows on another device."""
        return Table(self.rows, self.data.to(device), self.starts)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Memory of the columns, bytes."""
        data = self.data
        columns = (data.deposits, data.incident_energy, data.direction, data.overflow, data.offsets, data.points)
        return sum(column.nbytes for column in columns if column is not None)

    def take(self, rows: Rows, epoch: int) -> TrainingBatch:
        """A batch of rows in the order given.

        Args:
            rows: numbers in the file; all of them are in the table.
            epoch: number of the epoch.
        """
        places = rows if self._is_whole_file else np.searchsorted(self.rows, rows)
        device = self.data.deposits.device
        index = torch.from_numpy(places).to(device, non_blocking=True)

        def chosen(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.index_select(0, index)

        offsets, points = self._points(places)
        return TrainingBatch(
            deposits=self.data.deposits.index_select(0, index),
            incident_energy=self.data.incident_energy.index_select(0, index),
            row=torch.from_numpy(np.ascontiguousarray(rows)),
            epoch=epoch,
            direction=chosen(self.data.direction),
            overflow=chosen(self.data.overflow),
            offsets=offsets,
            points=points,
        )

    @property
    def _is_whole_file(self) -> bool:
        return len(self.rows) > 0 and self.rows[0] == 0 and self.rows[-1] == len(self.rows) - 1

    def _points(self, places: Rows) -> tuple[Tensor | None, Tensor | None]:
        if self.starts is None or self.data.points is None:
            return None, None
        counts = self.starts[places + 1] - self.starts[places]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        index = np.repeat(self.starts[places] - offsets[:-1], counts) + np.arange(offsets[-1])
        device = self.data.points.device
        points = self.data.points.index_select(0, torch.from_numpy(index).to(device, non_blocking=True))
        return torch.from_numpy(offsets).to(device, non_blocking=True), points


def joined(batches: Sequence[TrainingBatch]) -> TrainingBatch:
    """The rows of several batches of the same epoch as one."""
    first = batches[0]
    if len(batches) == 1:
        return first

    def column(values: Iterable[Tensor | None]) -> Tensor | None:
        given = [value for value in values if value is not None]
        return torch.cat(given) if given else None

    offsets = None
    if first.offsets is not None:
        counts = column(None if b.offsets is None else b.offsets.diff() for b in batches)
        assert counts is not None
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return TrainingBatch(
        deposits=torch.cat([b.deposits for b in batches]),
        incident_energy=torch.cat([b.incident_energy for b in batches]),
        row=torch.cat([b.row for b in batches]),
        epoch=first.epoch,
        direction=column(b.direction for b in batches),
        overflow=column(b.overflow for b in batches),
        offsets=offsets,
        points=column(b.points for b in batches),
    )


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
