"""Symmetries of detector and gun as free training data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caloforge.errors import ConfigError, UsageError
from caloforge.random import Streams
from caloforge.stage import TrainingBatch

__all__ = ["SymmetryAugmentation"]


class SymmetryAugmentation:
    """Applies to every row, in every epoch, one random element of a group of voxel permutations.

    Which element a row gets depends on the seed, the row and the epoch only. Energies of layers do not change.

    Args:
        group: voxel permutations, int64 (G, V), as ``Detector.symmetry_group`` gives them.

    Raises:
        ConfigError: if the group is no two-dimensional array of permutations.
    """

    def __init__(self, group: NDArray[np.int64]) -> None:
        group = np.asarray(group)
        if group.ndim != 2 or not (np.sort(group, axis=1) == np.arange(group.shape[1])).all():
            raise ConfigError("a symmetry group must be an array of voxel permutations, shape (G, V)")
        self._group = torch.from_numpy(group.astype(np.int64))

    @property
    def order(self) -> int:
        """Number of elements of the group; 1 if there is nothing to do."""
        return self._group.shape[0]

    def elements(self, rows: Tensor, epoch: int, streams: Streams) -> Tensor:
        """Which element each row gets, int64 (N,), in CPU memory."""
        uniform = streams.uniform(np.asarray(rows), 1, attempts=epoch)[:, 0]
        return torch.from_numpy((uniform * self.order).astype(np.int64))

    def __call__(self, batch: TrainingBatch, streams: Streams) -> TrainingBatch:
        """The batch with its rows mirrored or rotated.

        Args:
            batch: rows of voxels, on any device.
            streams: random streams for this purpose.

        Raises:
            UsageError: if the batch has directions, which a permutation of voxels alone would leave behind, or points.
        """
        if self.order == 1:
            return batch
        if batch.direction is not None or batch.points is not None:
            raise UsageError("symmetries of voxels cannot be applied to showers with directions or points")
        if batch.deposits.shape[1] != self._group.shape[1]:
            raise UsageError(
                f"the symmetries are those of {self._group.shape[1]} voxels, the batch has {batch.deposits.shape[1]}"
            )
        if self._group.device != batch.deposits.device:
            self._group = self._group.to(batch.deposits.device)
        chosen = self.elements(batch.row, batch.epoch, streams).to(batch.deposits.device, non_blocking=True)
        return replace(batch, deposits=batch.deposits.gather(1, self._group.index_select(0, chosen)))
