"""Rows of a shower file as tensors, from which batches are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import PointBatch, TrainingBatch, VoxelBatch

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
    def of(cls, rows: Rows, showers: Showers | ShowerPoints, particles: NDArray[np.int64] | None = None) -> Table:
        """Showers as tensors.

        Args:
            rows: their numbers in the file, ascending.
            showers: the showers.
            particles: PDG id of each, where they are of several particles.
        """
        common: dict[str, Any] = {
            "incident_energy": _tensor(showers.incident_energy),
            "row": torch.empty(0, dtype=torch.int64),
            "direction": None if showers.direction is None else _tensor(showers.direction),
            "particle": None if particles is None else _tensor(particles),
        }
        if isinstance(showers, ShowerPoints):
            points = PointBatch(offsets=_tensor(showers.offsets), points=_tensor(showers.points), **common)
            return cls(rows, points, showers.offsets)
        overflow = None if showers.overflow is None else _tensor(showers.overflow)
        return cls(rows, VoxelBatch(deposits=_tensor(showers.deposits), overflow=overflow, **common), None)

    @classmethod
    def joined(cls, batches: Sequence[TrainingBatch]) -> Table:
        """Batches in CPU memory as a table; their rows ascend from one to the next."""
        data = joined(batches)
        return cls(data.row.numpy(), data, data.offsets.numpy() if isinstance(data, PointBatch) else None)

    def to(self, device: torch.device) -> Table:
        """The same rows on another device."""
        return Table(self.rows, self.data.to(device), self.starts)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Memory of the columns, bytes."""
        return sum(column.nbytes for column in self.data.columns().values())

    def take(self, rows: Rows, epoch: int) -> TrainingBatch:
        """A batch of rows in the order given.

        Args:
            rows: numbers in the file; all of them are in the table.
            epoch: number of the epoch.
        """
        places = rows if self._is_whole_file else np.searchsorted(self.rows, rows)
        index = torch.from_numpy(places).to(self.data.incident_energy.device, non_blocking=True)
        # Points are as many as they are; every other column has a row for each shower.
        columns = {name: column for name, column in self.data.columns().items() if name not in ("offsets", "points")}
        chosen: dict[str, Any] = {name: column.index_select(0, index) for name, column in columns.items()}
        chosen |= {"row": torch.from_numpy(np.ascontiguousarray(rows)), "epoch": epoch}
        if isinstance(self.data, PointBatch):
            offsets, points = self._points(self.data, places)
            return PointBatch(offsets=offsets, points=points, **chosen)
        return VoxelBatch(**chosen)

    @property
    def _is_whole_file(self) -> bool:
        return len(self.rows) > 0 and self.rows[0] == 0 and self.rows[-1] == len(self.rows) - 1

    def _points(self, data: PointBatch, places: Rows) -> tuple[Tensor, Tensor]:
        assert self.starts is not None  # there are points
        counts = self.starts[places + 1] - self.starts[places]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        index = np.repeat(self.starts[places] - offsets[:-1], counts) + np.arange(offsets[-1])
        device = data.points.device
        points = data.points.index_select(0, torch.from_numpy(index).to(device, non_blocking=True))
        return torch.from_numpy(offsets).to(device, non_blocking=True), points


def joined(batches: Sequence[TrainingBatch]) -> TrainingBatch:
    """The rows of several batches of the same epoch as one."""
    first = batches[0]
    if len(batches) == 1:
        return first
    columns: dict[str, Any] = {
        name: torch.cat([batch.columns()[name] for batch in batches]) for name in first.columns() if name != "offsets"
    }
    columns |= {"row": torch.cat([batch.row for batch in batches]), "epoch": first.epoch}
    if isinstance(first, PointBatch):
        counts = torch.cat([batch.offsets.diff() for batch in batches if isinstance(batch, PointBatch)])
        columns["offsets"] = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return type(first)(**columns)


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
