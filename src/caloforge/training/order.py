"""Which rows are trained on, and in which order: a pure function of the seed and the epoch.

So a run can be resumed in the middle of an epoch, and several processes agree on every batch, without any state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from caloforge.errors import UsageError
from caloforge.random import Streams

__all__ = ["DataOrder", "split_rows"]

Rows = NDArray[np.int64]


def split_rows(n: int, val_fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Split rows into training and validation rows at random.

    Args:
        n: number of rows.
        val_fraction: share of validation rows, 0 <= val_fraction < 1; at least one row unless it is 0.
        seed: of the run.

    Returns:
        Training rows and validation rows, both ascending.

    Raises:
        UsageError: if the fraction is outside its range or leaves no row to train on.
    """
    if not 0 <= val_fraction < 1:
        raise UsageError(f"the validation fraction is {val_fraction:g}, expected 0 <= fraction < 1")
    n_val = max(1, round(n * val_fraction)) if val_fraction else 0
    if n - n_val < 1:
        raise UsageError(f"{n} showers with a validation fraction of {val_fraction:g} leave none to train on")
    shuffled = Streams(seed, "training/split").generator(0).permutation(n)
    return np.sort(shuffled[n_val:]), np.sort(shuffled[:n_val])


@dataclass(frozen=True)
class DataOrder:
    """The order of the training rows in each epoch.

    Data in memory are shuffled as a whole. Data that stay in their file are shuffled in two steps, since reading
    single rows from a disk is slow: blocks of consecutive rows are shuffled, a pool of them is read, and the rows of
    the pool are shuffled.

    Attributes:
        rows: training rows, ascending.
        seed: of the run.
        block: rows in a block of the file; None to shuffle as a whole.
        pool: blocks that are held in memory together.
    """

    rows: Rows
    seed: int
    block: int | None = None
    pool: int = 16

    def pools(self, epoch: int) -> Iterator[Rows]:
        """The rows of an epoch in their order, one array for each pool; a single one without blocks."""
        streams = Streams(self.seed, "training/order")
        generator = streams.generator(epoch)
        if self.block is None:
            yield generator.permutation(self.rows)
            return
        edges = np.flatnonzero(np.diff(self.rows // self.block)) + 1
        blocks = list(pairwise([0, *edges.tolist(), len(self.rows)]))
        turn = generator.permutation(len(blocks))
        for start in range(0, len(blocks), self.pool):
            chosen = [self.rows[slice(*blocks[k])] for k in turn[start : start + self.pool]]
            yield generator.permutation(np.concatenate(chosen))

    def epoch(self, epoch: int) -> Rows:
        """All rows of an epoch in their order."""
        return np.concatenate(list(self.pools(epoch)))
