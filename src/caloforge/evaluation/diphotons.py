"""Di-photon separation: from which distance on are two photons found as two (arXiv:2511.01460, section 5)?

Two photons are made by laying two single-photon showers of (nearly) equal energy over each other, the second one moved to
a random place at the wanted distance; cells add up before the cut, as in one event. Showers are followed along their axes by
whole cells in each layer, so inclined ones are compared as if their photons flew in parallel.

The reconstruction adds up the layers along the axis, so that photons become peaks of a transverse image, and clusters that
image with CLUE. The publication ran Pandora on a detector with magnetic field, gaps and noise; its curves are those of
another reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector
from caloforge.errors import UsageError
from caloforge.evaluation.cells import cell_grid, placed, square_cells
from caloforge.evaluation.clouds import EnergyWindow, energy_windows
from caloforge.evaluation.clue import ClueSettings, clue
from caloforge.evaluation.observables import cells_as_points
from caloforge.evaluation.results import DiphotonResult, SeparationCurve, Value
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.projection import random_entry

__all__ = ["CellRows", "PhotonFinder", "compare_diphotons", "count_photons", "numbered_cells", "overlay"]

Float64 = NDArray[np.float64]
Index = NDArray[np.int64]

#: Bins of the distance, mm: the published range, finer where the second photon appears.
_EDGES = np.concatenate([np.arange(0, 30, 2.5), np.arange(30, 91, 10.0)])
#: Energies (windows) that are looked at: the lowest, the middle, and the highest.
_WINDOWS = 3
_MOST_PAIRS = 200
_DRAWS = 200


@dataclass(frozen=True)
class PhotonFinder:
    """How photons are found.

    Attributes:
        distance: CLUE's d_c in cells.
        reach: CLUE's d_m in cells.
        density: CLUE's rho_c as a share of the event's visible energy.
        share: a cluster with less than this share of the event's visible energy is no photon.
    """

    distance: float = 1.5
    reach: float = 3.0
    density: float = 0.08
    share: float = 0.1

    def describe(self) -> dict[str, float]:
        """The settings by name."""
        return {
            "CLUE distance [cells]": self.distance,
            "CLUE reach [cells]": self.reach,
            "CLUE density [share of the visible energy]": self.density,
            "least energy of a photon [share of the visible energy]": self.share,
        }


@dataclass(frozen=True)
class CellRows:
    """Lit cells by number, ordered by event.

    Attributes:
        event: int64 (M,).
        place: cell number along x and along y, and layer, int64 (M, 3).
        energy: MeV, (M,).
    """

    event: Index
    place: Index
    energy: Float64

    def of(self, events: Index) -> CellRows:
        """The rows of some events, which are counted anew from 0."""
        starts = np.searchsorted(self.event, events)
        counts = np.searchsorted(self.event, events, side="right") - starts
        ends = np.concatenate([[0], np.cumsum(counts)])
        where = np.repeat(starts - ends[:-1], counts) + np.arange(ends[-1])
        return CellRows(np.repeat(np.arange(len(events)), counts), self.place[where], self.energy[where])


def _summed(event: Index, place: Index, energy: Float64) -> CellRows:
    """Energies in the same place of the same event added up."""
    if not len(event):
        return CellRows(event, place, energy)
    low = place.min(axis=0)
    sizes = place.max(axis=0) - low + 1
    # One number per place: a single sort instead of one for each coordinate.
    key = event
    for k, size in enumerate(sizes.tolist()):
        key = key * size + (place[:, k] - low[k])
    order = np.argsort(key)
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    first = order[starts]
    return CellRows(event[first], place[first], np.add.reduceat(energy[order], starts))


def numbered_cells(showers: Showers | ShowerPoints, detector: Detector, streams: Streams) -> tuple[CellRows, Float64]:
    """Cells without a cut by number, each layer moved by as many whole cells as the axis has gone sideways.

    Points enter at a random place within a cell, voxels where they entered.

    Args:
        showers: single photons.
        detector: with equal Cartesian cells.
        streams: random places of entry, by the number of the shower.

    Returns:
        The cells, and where in units of cells each shower entered, (N, 2).

    Raises:
        UsageError: if the detector has other cells.
    """
    pitch = square_cells(detector.readout)
    if pitch is None:
        raise UsageError("the di-photon separation needs equal Cartesian cells in all layers")
    grid = cell_grid(detector, pitch)
    entry = np.zeros((len(showers), 2))
    if isinstance(showers, ShowerPoints):
        entry = random_entry(pitch, np.arange(len(showers)), streams)
        cells = placed(showers, grid, entry)
    else:
        cells = cells_as_points(showers)
    event, layer = cells.shower_index, cells.points[:, 2].astype(np.int64)
    place = cells.points[:, :3].astype(np.int64)
    place[:, 2] = layer
    for k in range(2):
        where = cells.points[:, k].astype(np.float64) + entry[event, k]
        place[:, k] = np.rint((where - grid.origin[k]) / pitch[k] - 0.5)
        if cells.direction is not None and len(detector.readout.depths):
            direction = cells.direction.astype(np.float64)
            depth = detector.readout.depths.mean(axis=1)[layer]
            aside = depth * (direction[:, k] / direction[:, 2])[event]
            place[:, k] -= np.rint(aside / pitch[k]).astype(np.int64)
    return CellRows(event, place, cells.points[:, 3].astype(np.float64)), entry / pitch


def overlay(first: CellRows, second: CellRows, shift: Index, cut: float) -> CellRows:
    """Two showers per event in the same cells.

    Args:
        first: the first showers.
        second: the second ones, with the same numbers of events.
        shift: by how many cells the second one of each event is moved along x and y, int64 (events, 2).
        cut: cells with less (MeV) are dark.
    """
    moved = second.place.copy()
    moved[:, :2] += shift[second.event]
    rows = _summed(
        np.concatenate([first.event, second.event]),
        np.concatenate([first.place, moved]),
        np.concatenate([first.energy, second.energy]),
    )
    lit = (rows.energy > 0) & (rows.energy >= cut)
    return CellRows(rows.event[lit], rows.place[lit], rows.energy[lit])


def count_photons(cells: CellRows, n: int, finder: PhotonFinder | None = None) -> Index:
    """Number of photons found in each of ``n`` events, int64 (n,).

    Args:
        cells: above the cut, relative to the axis.
        n: number of events.
        finder: the reconstruction.
    """
    finder = finder or PhotonFinder()
    flat = cells.place * np.array([1, 1, 0])
    towers = _summed(cells.event, flat, cells.energy)
    total = np.bincount(towers.event, weights=towers.energy, minlength=n).astype(np.float64, copy=False)
    settings = ClueSettings(finder.distance, finder.density * total, finder.reach)
    labels = clue(towers.place[:, :2].astype(np.float64), towers.energy, towers.event, settings)
    inside = labels >= 0
    clusters = int(labels.max(initial=-1)) + 1
    content = np.bincount(labels[inside], weights=towers.energy[inside], minlength=clusters)
    owner = np.zeros(clusters, dtype=np.int64)
    owner[labels[inside]] = towers.event[inside]
    return np.bincount(owner[content >= finder.share * total[owner]], minlength=n)


def _pairs(energy: Float64, window: EnergyWindow, most: int, generator: np.random.Generator) -> Index:
    """Pairs of neighbours in energy, each shower in one pair, (P, 2)."""
    inside = np.flatnonzero(window.holds(energy))
    inside = inside[generator.permutation(len(inside))]
    inside = inside[np.argsort(energy[inside], kind="stable")]
    pairs = inside[: len(inside) // 2 * 2].reshape(-1, 2)
    return pairs if len(pairs) <= most else pairs[np.sort(generator.choice(len(pairs), most, replace=False))]


def _counts(
    cells: CellRows, entry: Float64, pairs: Index, pitch: Float64, cut: float, finder: PhotonFinder,
    generator: np.random.Generator,
) -> tuple[Float64, Float64]:  # fmt: skip
    """Photons found, and number of tries, of each pair in each bin of the distance, both (P, bins)."""
    n, bins = len(pairs), len(_EDGES) - 1
    first, second = (cells.of(pairs[:, k]) for k in (0, 1))
    offset = entry[pairs[:, 1]] - entry[pairs[:, 0]]
    found, tried = np.zeros((n, bins)), np.zeros((n, bins))
    for k in range(bins):
        distance = generator.uniform(_EDGES[k], _EDGES[k + 1], n)
        angle = generator.uniform(0, 2 * np.pi, n)
        wanted = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        shift = np.rint(wanted / pitch - offset).astype(np.int64)
        # Whole cells can be up to half a cell off the wanted place; what counts is where the photon is now.
        true = np.linalg.norm((shift + offset) * pitch, axis=1)
        where = np.searchsorted(_EDGES, true, side="right") - 1
        inside = np.flatnonzero(where < bins)
        photons = count_photons(overlay(first, second, shift, cut), n, finder)
        found[inside, where[inside]] += photons[inside]
        tried[inside, where[inside]] += 1
    return found, tried


def _means(found: Float64, tried: Float64, generator: np.random.Generator) -> tuple[Float64, Float64]:
    """Mean number at each distance, (bins,), and bootstrap draws of it, (draws, bins): pairs are drawn again."""
    n = len(found)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=_DRAWS)
    number = tried.sum(axis=0)
    mean = found.sum(axis=0) / np.maximum(number, 1)
    drawn_number = weights @ tried
    drawn: Float64 = np.where(drawn_number > 0, weights @ found / np.maximum(drawn_number, 1), mean)
    return mean, drawn


def _values(mean: Float64, drawn: Float64) -> tuple[Value, ...]:
    errors = drawn.std(axis=0, ddof=1)
    return tuple(Value(value=float(m), error=float(e)) for m, e in zip(mean, errors, strict=True))


def _chosen_windows(windows: list[EnergyWindow]) -> list[EnergyWindow]:
    if len(windows) <= _WINDOWS:
        return windows
    return [windows[k] for k in np.linspace(0, len(windows) - 1, _WINDOWS).round().astype(int)]


def compare_diphotons(
    generated: Showers | ShowerPoints,
    reference: Showers | ShowerPoints,
    detector: Detector,
    streams: Streams,
    *,
    finder: PhotonFinder | None = None,
    most_pairs: int = _MOST_PAIRS,
) -> DiphotonResult:
    """Mean number of photons found against their distance in both samples, at up to three energies.

    Both samples get the same random distances and places of entry, so equal samples give equal curves.

    Args:
        generated: single-photon showers without a cut: deposits below it may add up to more.
        reference: likewise.
        detector: with equal Cartesian cells; its analysis threshold is applied to the overlaid cells.
        streams: random numbers: places, pairs, distances, bootstraps.
        finder: the reconstruction.
        most_pairs: at most so many pairs at each energy.

    Raises:
        UsageError: if the detector has other cells, or there are too few showers of one energy.
    """
    finder = finder or PhotonFinder()
    pitch = square_cells(detector.readout)
    if pitch is None:
        raise UsageError("the di-photon separation needs equal Cartesian cells in all layers")
    windows = _chosen_windows(energy_windows(generated.incident_energy, reference.incident_energy))
    if not windows:
        raise UsageError("the di-photon separation needs 20 showers of about one energy in each sample")
    curves = []
    for window in windows:
        means: list[Float64] = []
        draws, numbers = [], []
        for showers in (generated, reference):
            here = streams.child(f"diphotons/{window.energy:g}")
            generator = here.generator(0)
            pairs = _pairs(showers.incident_energy, window, most_pairs, generator)
            # Only the showers of these pairs, in the order of the pairs.
            cells, entry = numbered_cells(showers[pairs.ravel()], detector, here.child("entry"))
            own = np.arange(2 * len(pairs)).reshape(-1, 2)
            counts = _counts(cells, entry, own, np.asarray(pitch), detector.analysis_threshold, finder, generator)
            mean, drawn = _means(*counts, here.child("bootstrap").generator(len(means)))
            means.append(mean)
            draws.append(drawn)
            numbers.append(len(pairs))
        difference = np.abs(means[0] - means[1])
        worst = int(difference.argmax())
        apart = draws[0] - draws[1]
        curves.append(
            SeparationCurve(
                energy=window.energy,
                energy_min=window.low,
                energy_max=window.high,
                pairs=(numbers[0], numbers[1]),
                edges=tuple(_EDGES.tolist()),
                generated=_values(means[0], draws[0]),
                reference=_values(means[1], draws[1]),
                largest_difference=Value(value=float(difference[worst]), error=float(apart[:, worst].std(ddof=1))),
                mean_difference=Value(
                    value=float(difference.mean()), error=float(np.abs(apart).mean(axis=1).std(ddof=1))
                ),
            )
        )
    return DiphotonResult(
        algorithm="CLUE (arXiv:2001.09761) on the image of all layers summed along the axis",
        settings=finder.describe(),
        curves=tuple(curves),
    )
