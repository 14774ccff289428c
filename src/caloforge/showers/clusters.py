"""Energy deposits merged in the sub-cells of a calorimeter: the point clouds that generative models learn.

Geant4 takes several steps where a sensor sees one signal, so its deposits are summed in squares much smaller than a cell,
36 of them per cell in CaloClouds2 (arXiv:2309.05704, section 2) and 25 in CaloClouds3 (arXiv:2511.01460, section 2.2). The
grid of the squares is shifted at random for every shower, so that what is learnt knows nothing of any cell's position.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from caloforge.errors import UsageError
from caloforge.random import Streams
from caloforge.showers.showers import ShowerPoints

__all__ = ["Position", "merge_in_subcells"]

Position = Literal["highest", "centre"]


def merge_in_subcells(
    points: ShowerPoints,
    pitch: tuple[float, float],
    divisions: int,
    streams: Streams,
    *,
    position: Position = "highest",
    first_row: int = 0,
) -> ShowerPoints:
    """One point for all deposits in the same sub-cell of the same layer.

    Args:
        points: the deposits.
        pitch: size of a cell in x and y, mm.
        divisions: sub-cells along each side of a cell; 6 gives 36 per cell, 5 gives 25.
        streams: random streams; each shower's number addresses the shift of its grid.
        position: where the point is put: at the ``highest`` deposit in the sub-cell, or at its ``centre``.
        first_row: number of the first shower, for files read in blocks.

    Returns:
        The same showers, points ordered by layer and place; energies are conserved, and sub-cells without energy have no
        point. A time is that of the highest deposit.

    Raises:
        UsageError: if pitch or divisions are not positive.
    """
    if divisions < 1 or min(pitch) <= 0:
        raise UsageError(f"sub-cells need a positive pitch and at least one division, not {pitch} mm and {divisions}")
    n = len(points)
    width = np.asarray(pitch, dtype=np.float64) / divisions
    shift = streams.uniform(np.arange(first_row, first_row + n), 2) * width
    shower = points.shower_index
    table = points.points
    bins = np.floor((table[:, :2].astype(np.float64) - shift[shower]) / width).astype(np.int64)
    energy = table[:, 3].astype(np.float64)
    low = bins.min(axis=0, initial=0)
    spans = (bins.max(axis=0, initial=0) - low + 1).tolist()
    layer = table[:, 2].astype(np.int64)
    key = (
        ((shower * (layer.max(initial=0) + 1) + layer) * spans[0] + bins[:, 0] - low[0]) * spans[1]
        + bins[:, 1]
        - low[1]
    )
    order = np.lexsort((-energy, key))  # by sub-cell, the highest deposit in front
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    merged = table[order][starts]
    sums = np.add.reduceat(energy[order], starts) if len(starts) else energy
    merged[:, 3] = sums
    if position == "centre":
        merged[:, :2] = (bins[order][starts] + 0.5) * width + shift[shower[order][starts]]
    lit = sums > 0
    counts = np.bincount(shower[order][starts][lit], minlength=n)
    return ShowerPoints(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        merged[lit],
        points.incident_energy,
        points.particle,
        points.readout,
        points.direction,
        points.provenance,
    )
