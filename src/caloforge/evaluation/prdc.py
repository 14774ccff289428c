"""Precision, recall, density and coverage of generated showers (arXiv:2002.09797), in blocks of bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from caloforge.errors import UsageError
from caloforge.evaluation.results import PrdcResult
from caloforge.showers import Showers
from caloforge.showers.scratch import blocks_of, let_go

__all__ = ["prdc", "prdc_features", "prdc_of_showers"]

Float32 = NDArray[np.float32]

#: Elements of a block of distances, 64 MiB; and points whose lengths are found at a time.
_BLOCK, _SIDE = 1 << 24, 4096
#: CaloChallenge puts empty voxels at this energy, MeV.
_EMPTY = 0.1


def prdc_features(showers: Showers) -> Float32:
    """CaloChallenge's features for these measures: log10 of all voxels in MeV, zeros replaced by 0.1 MeV.

    Returns:
        Shape (N, V).
    """
    return np.log10(np.where(showers.deposits > 0, showers.deposits, np.float32(_EMPTY)))


class _Points:
    """Points around a common origin, with their squared lengths, for distances by matrix products.

    Args:
        rows: gives the points of a slice, float32 (n, F).
        count: how many there are.
        origin: to count from, (F,).
    """

    def __init__(self, rows: Callable[[slice], Float32], count: int, origin: NDArray[np.floating]) -> None:
        self._rows, self._count, self._origin = rows, count, origin
        self._squares = np.concatenate(
            [np.einsum("ij,ij->i", block, block) for block in (self.rows(where) for where in self.slices(_SIDE))]
        )

    def __len__(self) -> int:
        return self._count

    def rows(self, where: slice) -> Float32:
        """Points as seen from the origin."""
        return np.asarray(self._rows(where) - self._origin, dtype=np.float32)

    def squares(self, where: slice) -> Float32:
        """Their squared lengths."""
        found: Float32 = self._squares[where]
        return found

    def slices(self, size: int) -> Iterator[slice]:
        """All points, so many at a time."""
        return (slice(start, min(start + size, self._count)) for start in range(0, self._count, size))


def _blocks(one: _Points, two: _Points, block: int) -> Iterator[tuple[slice, slice, Float32]]:
    """Squared distances from some rows of ``one`` to some of ``two`` at a time, to all of these before the next of those."""
    across = min(len(two), max(1, math.isqrt(block)))
    for mine in one.slices(max(1, block // across)):
        rows, squares = one.rows(mine), one.squares(mine)[:, None]
        for theirs in two.slices(across):
            squared = rows @ two.rows(theirs).T
            squared *= -2
            squared += squares
            squared += two.squares(theirs)[None, :]
            yield mine, theirs, np.maximum(squared, 0, out=squared)


def _radii(points: _Points, k: int, block: int) -> Float32:
    """Squared distance from each point to its k-th nearest other one."""
    radii = np.empty(len(points), dtype=np.float32)
    nearest: Float32 | None = None
    for mine, theirs, squared in _blocks(points, points, block):
        own = np.arange(max(mine.start, theirs.start), min(mine.stop, theirs.stop))
        squared[own - mine.start, own - theirs.start] = np.inf
        seen = squared if nearest is None else np.concatenate([nearest, squared], axis=1)
        nearest = np.partition(seen, k - 1, axis=1)[:, :k] if seen.shape[1] > k else seen
        if theirs.stop == len(points):
            radii[mine] = nearest.max(axis=1)
            nearest = None
    return radii


def prdc(
    reference: NDArray[np.floating], generated: NDArray[np.floating], *, k: int = 5, block: int = _BLOCK
) -> PrdcResult:
    """Precision, recall, density and coverage from k nearest neighbours in Euclidean distance.

    With balls around each point up to its k-th nearest neighbour of its own sample: precision is the share of generated
    points in any ball of the reference, recall the share of reference points in any generated ball, density the mean
    number of reference balls around a generated point over k, coverage the share of reference balls that hold a
    generated point. Density is no score to rank by: a collapsed generator that sits in the densest place has the
    largest one.

    Args:
        reference: points, shape (N, F).
        generated: points, shape (M, F).
        k: number of neighbours, 5 in CaloChallenge.
        block: distances held in memory at a time.

    Raises:
        UsageError: if a sample has no k neighbours.
    """
    _enough(len(reference), len(generated), k)
    origin: NDArray[np.float64] = np.asarray(reference.mean(axis=0, dtype=np.float64))
    real = _Points(lambda where: reference[where], len(reference), origin)
    return _counted(real, _Points(lambda where: generated[where], len(generated), origin), k, block)


def prdc_of_showers(reference: Showers, generated: Showers, *, k: int = 5, block: int = _BLOCK) -> PrdcResult:
    """The same of CaloChallenge's features of showers, which are made again whenever they are needed.

    Args:
        reference: N showers.
        generated: M showers.
        k: as for :func:`prdc`, as is ``block``.
        block: distances held in memory at a time.

    Raises:
        UsageError: likewise.
    """
    _enough(len(reference), len(generated), k)
    total = sum(prdc_features(some).sum(axis=0, dtype=np.float64) for some in blocks_of(reference))
    real, fake = (
        _Points(partial(_features, showers), len(showers), total / np.float64(len(reference)))
        for showers in (reference, generated)
    )
    return _counted(real, fake, k, block)


def _features(showers: Showers, where: slice) -> Float32:
    features = prdc_features(showers[where])
    let_go(showers.deposits)
    return features


def _enough(reference: int, generated: int, k: int) -> None:
    if min(reference, generated) <= k:
        raise UsageError(f"precision and recall with {k} neighbours need more than {k} showers in each sample")


def _counted(real: _Points, fake: _Points, k: int, block: int) -> PrdcResult:
    real_radii, fake_radii = _radii(real, k, block), _radii(fake, k, block)
    recalled = np.zeros(len(real), dtype=bool)
    covered = np.zeros(len(real), dtype=bool)
    around = np.zeros(len(fake), dtype=np.int64)
    for mine, theirs, squared in _blocks(real, fake, block):
        recalled[mine] |= (squared < fake_radii[None, theirs]).any(axis=1)
        inside = squared < real_radii[mine, None]
        covered[mine] |= inside.any(axis=1)
        around[theirs] += inside.sum(axis=0)
    return PrdcResult(
        k=k,
        showers=(len(fake), len(real)),
        precision=float((around > 0).mean()),
        recall=float(recalled.mean()),
        density=float(around.mean() / k),
        coverage=float(covered.mean()),
    )
