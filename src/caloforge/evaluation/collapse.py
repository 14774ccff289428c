"""Signs of mode collapse: average images, nearest neighbours, voxels lit never or too often."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from caloforge.evaluation.results import Images, Neighbour, NeighbourGroup, VoxelResult
from caloforge.random import Streams
from caloforge.showers import Showers
from caloforge.showers.scratch import blocks_of
from caloforge.units import GeV

__all__ = [
    "CALOFLOW_ENERGIES",
    "Sampler",
    "average_images",
    "lit_voxels",
    "nearest_neighbours",
    "neighbour_groups",
]

Float64 = NDArray[np.float64]

#: Draws this many showers at one incident energy (MeV): ``sampler(energy, count)``.
Sampler = Callable[[float, int], Showers]

#: Incident energies of CaloFlow's neighbour figures, MeV.
CALOFLOW_ENERGIES = (5 * GeV, 10 * GeV, 20 * GeV, 50 * GeV, 95 * GeV)

_WINDOW = 0.02
_SAMPLED = 2000
_BLOCK = 1 << 24
#: Probability that equal samples show any voxel at all as lit too rarely or too often.
_FALSE_ALARM = 0.01
#: Targets at one energy; more would not change a median.
_MOST_TARGETS = 500


def average_images(generated: Showers, reference: Showers) -> Images:
    """Mean energy in every voxel of both samples (arXiv:2106.05285, figures 5 to 7), MeV."""
    one, two = (
        sum(block.deposits.sum(axis=0, dtype=np.float64) for block in blocks_of(s)) / np.float64(len(s))
        for s in (generated, reference)
    )
    return Images(generated=tuple(one.tolist()), reference=tuple(two.tolist()))


def lit_voxels(generated: Showers, reference: Showers) -> VoxelResult:
    """Voxels lit significantly more rarely or more often than in the reference.

    A voxel's numbers of lit showers are compared by z = (p - q) / sqrt(m (1 - m) (1/N + 1/M)) with the common share m;
    the limit on |z| is that at which equal samples show no voxel at all with 99 % probability. A voxel that a generator
    never lights is the plainest sign of collapse (section 5.1 of arXiv:2106.05285 found some in CaloGAN).
    """
    n, m = len(generated), len(reference)
    one, two = (
        np.sum([np.count_nonzero(block.deposits, axis=0) for block in blocks_of(s)], axis=0)
        for s in (generated, reference)
    )
    common = (one + two) / (n + m)
    spread = np.sqrt(common * (1 - common) * (1 / n + 1 / m))
    z = (one / n - two / m) / np.where(spread > 0, spread, 1)
    limit = float(norm.isf(_FALSE_ALARM / (2 * len(z))))
    never = (one == 0) & (z < -limit)
    return VoxelResult(
        never_lit=tuple(np.flatnonzero(never).tolist()),
        under_lit=tuple(np.flatnonzero((z < -limit) & ~never).tolist()),
        over_lit=tuple(np.flatnonzero(z > limit).tolist()),
        significance=limit,
    )


def nearest_neighbours(
    targets: NDArray[np.floating], candidates: NDArray[np.floating], *, exclude_same_row: bool = False
) -> tuple[NDArray[np.int64], Float64]:
    """Nearest candidate of each target in Euclidean distance over all voxels at once.

    Args:
        targets: deposits, shape (N, V), MeV.
        candidates: deposits, shape (M, V), MeV.
        exclude_same_row: candidate k is not a neighbour of target k (for neighbours within one sample).

    Returns:
        Row numbers (N,) and distances (N,), MeV.
    """
    points, others = targets.astype(np.float64), candidates.astype(np.float64)
    squares = np.einsum("ij,ij->i", others, others)
    index = np.empty(len(points), dtype=np.int64)
    rows = max(1, _BLOCK // max(len(others), 1))
    for start in range(0, len(points), rows):
        block = points[start : start + rows]
        # Squared distances but for the target's own length, which does not change the order.
        squared = squares[None, :] - 2 * block @ others.T
        if exclude_same_row:
            own = np.arange(start, min(start + rows, len(points)))
            own = own[own < len(others)]
            squared[own - start, own] = np.inf
        index[start : start + rows] = squared.argmin(axis=1)
    return index, np.linalg.norm(points - others[index], axis=1)


def _usable_energies(energies: Sequence[float], reference: Float64) -> list[float]:
    inside = [e for e in energies if reference.min() * (1 - _WINDOW) <= e <= reference.max() * (1 + _WINDOW)]
    if inside:
        return inside
    distinct = np.unique(reference)
    # Another spectrum than CaloFlow's: energies spread over the showers there are.
    return np.quantile(distinct, np.linspace(0.05, 0.95, 5), method="nearest").tolist()  # type: ignore[no-any-return]


def neighbour_groups(
    generated: Showers,
    reference: Showers,
    *,
    energies: Sequence[float] = CALOFLOW_ENERGIES,
    sampler: Sampler | None = None,
    streams: Streams,
) -> tuple[NeighbourGroup, ...]:
    """Nearest generated neighbours of reference showers at given incident energies.

    arXiv:2106.05285, section 5.1, figures 8 to 10, neighbours in full voxel space. With a collapsed generator some
    reference showers have far neighbours only, and many share the same one. Distances are given in units of the
    target's deposited energy, beside those within the reference.

    Args:
        generated: thresholded; its showers within 2 % of the energy are the candidates if there is no sampler.
        reference: thresholded; its showers within 2 % of the energy are the targets.
        energies: MeV; those outside the reference's spectrum are left out, and if all are, five others are taken.
        sampler: draws 2,000 candidates at each energy instead, as in the paper.
        streams: chooses the example and thins out where there are many.
    """
    groups = []
    for energy in _usable_energies(energies, reference.incident_energy):
        generator = streams.child(f"neighbours/{energy:g}").generator(0)
        near = np.flatnonzero(np.abs(reference.incident_energy - energy) <= _WINDOW * energy)
        near = np.sort(generator.permutation(near)[:_MOST_TARGETS])
        lit = near[reference.deposits[near].sum(axis=1) > 0]
        if sampler is None:
            candidates = generated[np.abs(generated.incident_energy - energy) <= _WINDOW * energy]
        else:
            candidates = sampler(energy, _SAMPLED)
        if not len(lit) or not len(candidates):
            continue
        groups.append(_group(energy, reference[lit], candidates, sampler is not None, generator))
    return tuple(groups)


def _group(
    energy: float, targets: Showers, candidates: Showers, sampled: bool, generator: np.random.Generator
) -> NeighbourGroup:
    total = targets.total_energy()
    index, distance = nearest_neighbours(targets.deposits, candidates.deposits)
    same = min(len(candidates), len(targets) - 1)
    matched = within = None
    if same >= 5:
        # The same number of candidates on both sides: a nearest neighbour among more is nearer.
        few = generator.permutation(len(candidates))[:same]
        matched = float(np.median(nearest_neighbours(targets.deposits, candidates.deposits[few])[1] / total))
        others = np.argsort(generator.random((len(targets), len(targets) - 1)), axis=1)[:, :same]
        others += others >= np.arange(len(targets))[:, None]
        distances = [
            np.linalg.norm(targets.deposits[rows].astype(np.float64) - targets.deposits[k], axis=1).min()
            for k, rows in enumerate(others)
        ]
        within = float(np.median(np.asarray(distances) / total))
    chosen = int(generator.integers(len(targets)))
    neighbour = int(index[chosen])
    return NeighbourGroup(
        energy=energy,
        how="sampled" if sampled else "window",
        targets=len(targets),
        candidates=len(candidates),
        median_distance=float(np.median(distance / total)),
        matched_distance=matched,
        reference_distance=within,
        repeated=int(np.bincount(index).max()),
        example=Neighbour(
            energy=float(targets.incident_energy[chosen]),
            neighbour_energy=float(candidates.incident_energy[neighbour]),
            distance=float(distance[chosen] / total[chosen]),
            deposits=tuple(targets.deposits[chosen].tolist()),
            neighbour_deposits=tuple(candidates.deposits[neighbour].tolist()),
        ),
    )
