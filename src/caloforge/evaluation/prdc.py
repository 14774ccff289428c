"""Precision, recall, density and coverage of generated showers (arXiv:2002.09797), in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from caloforge.errors import UsageError
from caloforge.evaluation.results import PrdcResult
from caloforge.showers import Showers

__all__ = ["prdc", "prdc_features"]

Float32 = NDArray[np.float32]

#: Elements of a block of distances: 256 MiB.
_BLOCK = 1 << 26
#: CaloChallenge puts empty voxels at this energy, MeV.
_EMPTY = 0.1


def prdc_features(showers: Showers) -> Float32:
    """CaloChallenge's features for these measures: log10 of all voxels in MeV, zeros replaced by 0.1 MeV.

    Returns:
        Shape (N, V).
    """
    return np.log10(np.where(showers.deposits > 0, showers.deposits, np.float32(_EMPTY)))


class _Points:
    """Points around a common origin, with their squared lengths, for distances by matrix products."""

    def __init__(self, points: NDArray[np.floating], origin: NDArray[np.floating]) -> None:
        self.rows = np.asarray(points - origin, dtype=np.float32)
        self.squares = np.einsum("ij,ij->i", self.rows, self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def _blocks(one: _Points, two: _Points, block: int) -> Iterator[tuple[slice, Float32]]:
    """Squared distances from a few rows of ``one`` to all of ``two`` at a time."""
    rows = max(1, block // len(two))
    for start in range(0, len(one), rows):
        where = slice(start, min(start + rows, len(one)))
        squared = one.rows[where] @ two.rows.T
        squared *= -2
        squared += one.squares[where, None]
        squared += two.squares[None, :]
        yield where, np.maximum(squared, 0, out=squared)


def _radii(points: _Points, k: int, block: int) -> Float32:
    """Squared distance from each point to its k-th nearest other one."""
    radii = np.empty(len(points), dtype=np.float32)
    for where, squared in _blocks(points, points, block):
        squared[np.arange(where.stop - where.start), np.arange(where.start, where.stop)] = np.inf
        radii[where] = np.partition(squared, k - 1, axis=1)[:, k - 1]
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
    if min(len(reference), len(generated)) <= k:
        raise UsageError(f"precision and recall with {k} neighbours need more than {k} showers in each sample")
    origin: NDArray[np.float64] = np.asarray(reference.mean(axis=0, dtype=np.float64))
    real, fake = _Points(reference, origin), _Points(generated, origin)
    real_radii, fake_radii = _radii(real, k, block), _radii(fake, k, block)
    recalled = np.zeros(len(real), dtype=bool)
    covered = np.zeros(len(real), dtype=bool)
    around = np.zeros(len(fake), dtype=np.int64)
    for where, squared in _blocks(real, fake, block):
        recalled[where] = (squared < fake_radii[None, :]).any(axis=1)
        inside = squared < real_radii[where, None]
        covered[where] = inside.any(axis=1)
        around += inside.sum(axis=0)
    return PrdcResult(
        k=k,
        showers=(len(fake), len(real)),
        precision=float((around > 0).mean()),
        recall=float(recalled.mean()),
        density=float(around.mean() / k),
        coverage=float(covered.mean()),
    )
