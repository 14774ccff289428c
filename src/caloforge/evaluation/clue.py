"""CLUE, the density-based clustering of high-granularity calorimeters (M. Rovere et al., arXiv:2001.09761).

An implementation for many events at once. It gives the same clusters as the authors' CLUEstering 1.4.0, point by point (a
test compares it with recorded results). That package is no dependency: it has no wheels on the package index, its newer
sources fetch a library from elsewhere while they are built, and the older ones are under the GPL.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from caloforge.errors import UsageError

__all__ = ["ClueSettings", "clue"]

Float64 = NDArray[np.float64]
Index = NDArray[np.int64]

#: Points that are put into one search tree.
_BLOCK = 200_000


@dataclass(frozen=True)
class ClueSettings:
    """The three parameters of CLUE.

    Attributes:
        distance: d_c, in the unit of the places: neighbours within it make up the density, and seeds are farther than it
            from any denser point.
        density: rho_c: a seed has at least this density (MeV); scalar or one number for each event, shape (events,).
        reach: d_m: a point follows the nearest denser point within this distance; one that has none is a seed or an
            outlier.
    """

    distance: float
    density: float | Float64
    reach: float

    def __post_init__(self) -> None:
        if not 0 < self.distance <= self.reach:
            raise UsageError(
                f"CLUE has the distance {self.distance:g} and the reach {self.reach:g}, expected 0 < distance <= reach"
            )


def clue(places: Float64, energy: Float64, event: Index, settings: ClueSettings) -> Index:
    """Cluster points, each event for itself.

    The density of point i is ``E_i + 1/2 sum_j E_j`` over its neighbours within d_c. Each point looks for the nearest
    denser one (of equal densities the later counts as denser; of equally near ones the densest is taken). Seeds are
    farther than d_c from it and have at least rho_c; points below rho_c without a denser one within d_m are outliers; all
    others follow (section 2 of the publication).

    Args:
        places: coordinates in any unit of length, shape (M, D).
        energy: MeV, shape (M,).
        event: number of the event of each point, rising, shape (M,).
        settings: the parameters.

    Returns:
        Cluster of each point, int64 (M,): from 0 in order of the seeds, counted through all events; -1 for outliers and
        what follows them.
    """
    labels = np.full(len(event), -1, dtype=np.int64)
    if not len(event):
        return labels
    limits = np.broadcast_to(np.asarray(settings.density, dtype=np.float64), (int(event[-1]) + 1,))
    starts = np.flatnonzero(np.diff(event, prepend=-1))
    blocks = np.append(starts[np.flatnonzero(np.diff(starts // _BLOCK, prepend=-1))], len(event))
    clusters = 0
    for low, high in itertools.pairwise(blocks):
        part = slice(int(low), int(high))
        found = _clusters(places[part], energy[part], event[part], settings, limits[event[part]])
        labels[part] = np.where(found >= 0, found + clusters, -1)
        clusters += int(found.max(initial=-1)) + 1
    return labels


def _clusters(places: Float64, energy: Float64, event: Index, settings: ClueSettings, limit: Float64) -> Index:
    n = len(event)
    # Events lie far apart in one more coordinate, so that one tree serves them all.
    apart = (event - event[0])[:, None] * (2.0 * settings.reach)
    pairs = cKDTree(np.hstack([places, apart])).query_pairs(settings.reach, output_type="ndarray").astype(np.int64)
    distance = np.sqrt(np.square(places[pairs[:, 0]] - places[pairs[:, 1]]).sum(axis=1))
    near = pairs[distance <= settings.distance]
    density = energy.astype(np.float64)
    for one, two in ((0, 1), (1, 0)):
        density = density + 0.5 * np.bincount(near[:, one], weights=energy[near[:, two]], minlength=n)
    # Each pair once, from its sparser to its denser point; the later of two equals is the denser.
    swap = density[pairs[:, 0]] > density[pairs[:, 1]]
    sparse, dense = np.where(swap, pairs[:, 1], pairs[:, 0]), np.where(swap, pairs[:, 0], pairs[:, 1])
    gap = np.full(n, np.inf)
    np.minimum.at(gap, sparse, distance)
    # Equally near ones are common on a grid of cells, but few in all.
    nearest = np.flatnonzero(distance == gap[sparse])
    order = nearest[np.lexsort((-dense[nearest], -density[dense[nearest]], sparse[nearest]))]
    first = order[np.flatnonzero(np.diff(sparse[order], prepend=-1))]
    parent = np.arange(n)
    parent[sparse[first]] = dense[first]
    seeds = (gap > settings.distance) & (density >= limit)
    parent[seeds] = np.flatnonzero(seeds)
    # Everybody asks whom his leader follows until all know their seed (or outlier).
    while True:
        leader = parent[parent]
        if (leader == parent).all():
            break
        parent = leader
    number = np.where(seeds, np.cumsum(seeds) - 1, -1)
    labels: Index = number[parent]
    return labels
