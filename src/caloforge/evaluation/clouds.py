"""The ten observables of CaloClouds as histograms: energy, occupancy, their profiles, and the centre of gravity.

Everything is about cells. Showers on voxels have them; points are added up in the cells of the detector's grid, continued
beyond its edges, and then cut at the analysis threshold (half a minimum-ionising particle in ILD), as in arXiv:2511.01460,
section 3.3. Radii and centres of gravity are relative to the shower axis: each layer is moved by where the axis meets it.

The measures are the Jensen-Shannon divergence (table 2 of that publication) and its square root, the distance (figure 9
and table 3), in bits. Profiles are compared as shapes, so their sums are in ``total-energy`` and ``occupancy`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from caloforge.detectors import Detector
from caloforge.evaluation.cells import square_cells
from caloforge.evaluation.distances import js_distance, js_divergence
from caloforge.evaluation.histograms import Binning, adapted_binning, bin_numbers, published_or_adapted, radial_edges
from caloforge.evaluation.observables import cells_as_points
from caloforge.evaluation.observables.caloclouds import centre_of_gravity, hit_count, visible_energy
from caloforge.evaluation.results import CloudObservable, CloudSlice, JensenShannon, Value
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.units import GeV, format_energy

__all__ = [
    "EnergyWindow",
    "cloud_features",
    "compare_clouds",
    "energy_windows",
    "relative_to_axis",
]

Float64 = NDArray[np.float64]
Index = NDArray[np.int64]

_SOURCE = "arXiv:2511.01460"
#: Bootstrap and shuffling draws.
_DRAWS = 100
#: Fewer showers than this say nothing about a window of energies.
_FEWEST = 20
#: Energies of the publication, GeV; the last ones are for samples that go on to 127 GeV.
_ENERGIES = range(10, 131, 10)
#: The rings of the radial profile hold this share of the reference's cells.
_REACH = 0.999
#: Published bins are used if the reference's bulk covers more than this number of them.
_FEWEST_BINS = 10
#: Edges of the layer groups (of 30 layers) and of the rings (mm) of arXiv:2309.05704, section 4.
_GROUPS = (0, 8, 11, 13, 15, 16, 18, 19, 21, 24, 30)
_RINGS = (0, 6.558, 9.849, 12.96, 17.028, 23.434, 33.609, 40.119, 48.491, 68.808, 300)


def relative_to_axis(points: ShowerPoints) -> ShowerPoints:
    """The same points with x and y counted from where the shower axis meets their layer (arXiv:2511.01460, section 2.2).

    With the depth d of a layer's centre that is ``d * (p_x, p_y) / p_z``. Nothing changes without directions (showers along
    +z) or if the readout does not know the depth of its layers.
    """
    if points.direction is None or points.readout is None or not len(points.readout.depths):
        return points
    direction = points.direction.astype(np.float64)
    slope = (direction[:, :2] / direction[:, 2:])[points.shower_index]
    depth = points.readout.depths.mean(axis=1)[points.points[:, 2].astype(np.int64)]
    moved = points.points.copy()
    moved[:, :2] = points.points[:, :2] - depth[:, None] * slope
    return ShowerPoints(
        points.offsets, moved, points.incident_energy, points.particle, points.readout, points.direction
    )


@dataclass(frozen=True)
class EnergyWindow:
    """A part of the energy range.

    Attributes:
        energy: what it stands for, MeV.
        low: lowest energy, MeV.
        high: highest energy, MeV; belongs to the window if it is the only energy.
    """

    energy: float
    low: float
    high: float

    def holds(self, energy: Float64) -> NDArray[np.bool_]:
        """Which energies lie in the window, bool (N,)."""
        if self.low == self.high:
            return np.isclose(energy, self.energy, rtol=1e-6, atol=0)
        return (energy >= self.low) & (energy < self.high)

    @property
    def label(self) -> str:
        """For people."""
        if self.low == self.high:
            return format_energy(self.energy)
        return f"{format_energy(self.low)} to {format_energy(self.high)}"


def energy_windows(generated: Float64, reference: Float64) -> list[EnergyWindow]:
    """The incident energies at which scores are given.

    Each of at most 20 discrete energies, else windows of 5 GeV on either side of 10, 20, 30, ... GeV; those with fewer than
    20 showers in either sample are left out.

    Args:
        generated: incident energies, MeV, shape (N,).
        reference: likewise, shape (M,).
    """
    distinct = np.unique(reference)
    if len(distinct) <= 20:
        windows = [EnergyWindow(e, e, e) for e in map(float, distinct)]
    else:
        low, high = float(distinct[0]), float(np.nextafter(distinct[-1], np.inf))
        windows = [EnergyWindow(e * GeV, max((e - 5) * GeV, low), min((e + 5) * GeV, high)) for e in _ENERGIES]
    return [w for w in windows if min(w.holds(generated).sum(), w.holds(reference).sum()) >= _FEWEST]


@dataclass(frozen=True)
class _Entries:
    """What is filled into a histogram: values, the shower of each, and their weights."""

    values: Float64
    shower: Index
    weights: Float64
    n: int

    def rows(self, binning: Binning) -> Any:
        """One histogram for each shower, under- and overflow included, sparse (N, bins + 2)."""
        where = bin_numbers(binning, self.values)
        return csr_array((self.weights, (self.shower, where)), shape=(self.n, binning.bins + 2))

    def of(self, chosen: NDArray[np.bool_]) -> _Entries:
        """The entries of some of the showers."""
        kept = chosen[self.shower]
        number = np.cumsum(chosen) - 1
        return _Entries(self.values[kept], number[self.shower[kept]], self.weights[kept], int(chosen.sum()))


@dataclass(frozen=True)
class _Sample:
    """Cells of a sample, in their detector and relative to the axis, with the sums that observables are made of."""

    cells: ShowerPoints
    axial: ShowerPoints

    @property
    def radius(self) -> Float64:
        place = self.axial.points[:, :2].astype(np.float64)
        return np.hypot(place[:, 0], place[:, 1])

    def per_shower(self, values: NDArray[Any]) -> _Entries:
        n = len(self.cells)
        return _Entries(values.astype(np.float64), np.arange(n), np.ones(n), n)

    def per_cell(self, values: NDArray[Any], *, energy: bool) -> _Entries:
        weights = self.cells.points[:, 3].astype(np.float64) if energy else np.ones(len(values))
        return _Entries(values.astype(np.float64), self.cells.shower_index, weights, len(self.cells))

    def gravity(self, k: int) -> Float64:
        """Centre of gravity relative to the axis: x or y in mm, or the layer number."""
        plain = ShowerPoints(
            self.axial.offsets, self.axial.points, self.axial.incident_energy, self.axial.particle, None
        )
        return centre_of_gravity(plain)[:, k]


@dataclass(frozen=True)
class _Definition:
    """One of the ten observables.

    Attributes:
        key: unique name.
        label: axis label.
        unit: of the axis.
        content: what the bins hold, and of how much, for people.
        entries: what is filled.
        edges: published bins, or None for those of the readout (layers, rings).
        log: whether the published bins are equal in the logarithm.
        single: whether there is one entry per shower; its bins are then adapted to each window of energies.
    """

    key: str
    label: str
    unit: str
    content: str
    entries: Callable[[_Sample], _Entries]
    edges: Float64 | None = None
    log: bool = False
    single: bool = False


def _definitions(n_layers: int, rings: Float64) -> Iterator[_Definition]:
    def layers(energy: bool) -> Callable[[_Sample], _Entries]:
        return lambda s: s.per_cell(s.cells.points[:, 2], energy=energy)

    def radii(energy: bool) -> Callable[[_Sample], _Entries]:
        return lambda s: s.per_cell(s.radius, energy=energy)

    layer_edges = np.arange(n_layers + 1, dtype=np.float64)
    yield _Definition(
        "total-energy", r"$E_\mathrm{vis}$", "MeV", "showers", lambda s: s.per_shower(visible_energy(s.cells)),
        np.linspace(0, 4000, 51), single=True,
    )  # fmt: skip
    yield _Definition(
        "cell-energy", "cell energy", "MeV", "cells per shower",
        lambda s: s.per_cell(s.cells.points[:, 3], energy=False), np.geomspace(0.01, 1100, 101), log=True,
    )  # fmt: skip
    yield _Definition("layer-energy", "layer", "", "energy per shower [MeV]", layers(True), layer_edges)
    yield _Definition("ring-energy", "radius", "mm", "energy per shower [MeV]", radii(True), rings)
    yield _Definition(
        "occupancy", "cells above the cut", "", "showers", lambda s: s.per_shower(hit_count(s.cells)),
        np.linspace(0, 3000, 51), single=True,
    )  # fmt: skip
    yield _Definition("layer-occupancy", "layer", "", "cells per shower", layers(False), layer_edges)
    yield _Definition("ring-occupancy", "radius", "mm", "cells per shower", radii(False), rings)
    for k, (axis, unit, edges) in enumerate(
        (
            ("x", "mm", np.linspace(-250, 250, 2001)),
            ("y", "mm", np.linspace(-250, 250, 2001)),
            ("z", "layer", np.linspace(0, n_layers, 61)),
        )
    ):
        yield _Definition(
            f"gravity-{axis}", f"centre of gravity ${axis}$", unit, "showers",
            lambda s, k=k: s.per_shower(s.gravity(k)), edges, single=True,  # type: ignore[misc]
        )  # fmt: skip


def compare_clouds(
    generated: ShowerPoints, reference: ShowerPoints, detector: Detector, streams: Streams
) -> tuple[CloudObservable, ...]:
    """The ten observables of arXiv:2511.01460 (figures 4 to 6), all energies together and in windows of energy.

    Errors are bootstrap standard deviations, whole showers being drawn again. ``expected`` is the mean of the measure if
    the showers of both samples are shuffled: what statistics alone give.

    Args:
        generated: cells above the cut (see :func:`cells_of`).
        reference: likewise.
        detector: of both.
        streams: random numbers of bootstrap and shuffling.
    """
    one, two = (_Sample(s, relative_to_axis(s)) for s in (generated, reference))
    pitch = square_cells(detector.readout)
    radius = two.radius
    # Points without cells: rings of a centimetre resolve a shower's core and halo.
    width = 10.0 if pitch is None else max(pitch)
    rings = radial_edges(width, float(np.quantile(radius, _REACH)) if len(radius) else width)
    windows = energy_windows(generated.incident_energy, reference.incident_energy)
    found = []
    for definition in _definitions(detector.readout.n_layers, rings):
        a, b = definition.entries(one), definition.entries(two)
        binning = _binning(definition, b.values)
        slices = []
        for window in windows:
            inside = [s.cells.incident_energy for s in (one, two)]
            c, d = (entries.of(window.holds(energy)) for entries, energy in zip((a, b), inside, strict=True))
            # The bins of the whole range are too coarse for one energy.
            own = adapted_binning(d.values, bins=int(np.clip(d.n // 40, 10, 50))) if definition.single else binning
            measured = _measure(c.rows(own), d.rows(own), streams.child(f"clouds/{definition.key}/{window.energy:g}"))
            slices.append(
                CloudSlice(
                    energy=window.energy, energy_min=window.low, energy_max=window.high, showers=(c.n, d.n), js=measured
                )
            )
        found.append(_result(definition, binning, a, b, tuple(slices), streams))
    return tuple(found)


def _binning(definition: _Definition, reference: Float64) -> Binning:
    assert definition.edges is not None
    published = Binning(definition.edges, log=definition.log, source=_SOURCE)
    if not definition.single:
        return published
    low, high = np.quantile(reference, [0.01, 0.99]) if len(reference) else (0.0, 0.0)
    # Made for 10 to 100 GeV; a narrow sample would fill a few of those bins and show nothing.
    fine = high - low > _FEWEST_BINS * (published.edges[1] - published.edges[0])
    return published_or_adapted(published if fine else None, reference)


def _weights(generator: np.random.Generator, n: int) -> Float64:
    """How often each of n showers is drawn, (draws, n)."""
    drawn: Float64 = generator.multinomial(n, np.full(n, 1 / n), size=_DRAWS).astype(np.float64)
    return drawn


def _drawn(weights: Float64, rows: Any) -> Float64:
    """Histograms of bootstrap draws, (draws, bins + 2)."""
    product: Float64 = (rows.T @ weights.T).T
    return product


def _measure(one: Any, two: Any, streams: Streams) -> JensenShannon:
    """Divergence and distance between two sets of rows, with error and expectation."""
    generator = streams.generator(0)
    totals = [np.asarray(rows.sum(axis=0)).ravel() for rows in (one, two)]
    first, second = (_drawn(_weights(generator, rows.shape[0]), rows) for rows in (one, two))
    pooled = vstack([one, two]).tocsr()
    n, m = one.shape[0], two.shape[0]
    chosen = np.zeros((_DRAWS, n + m))
    for row in chosen:
        row[generator.permutation(n + m)[:n]] = 1
    shuffled = _drawn(chosen, pooled)
    rest = np.maximum(totals[0] + totals[1] - shuffled, 0)
    drawn = js_divergence(first, second)
    by_chance = js_divergence(shuffled, rest)
    return JensenShannon(
        divergence=Value(value=float(js_divergence(*totals)), error=float(drawn.std(ddof=1))),
        distance=Value(value=float(js_distance(*totals)), error=float(np.sqrt(drawn).std(ddof=1))),
        expected_divergence=float(by_chance.mean()),
        expected_distance=float(np.sqrt(by_chance).mean()),
    )


def _result(
    definition: _Definition,
    binning: Binning,
    one: _Entries,
    two: _Entries,
    slices: tuple[CloudSlice, ...],
    streams: Streams,
) -> CloudObservable:
    rows = [entries.rows(binning) for entries in (one, two)]
    generator = streams.child(f"clouds/{definition.key}/errors").generator(0)
    means, errors = [], []
    for r in rows:
        n = r.shape[0]
        means.append(np.asarray(r.sum(axis=0)).ravel() / n)
        errors.append(_drawn(_weights(generator, n), r).std(axis=0, ddof=1) / n)
    # Thousands of published bins are empty in both samples; what is left out changes no measure.
    used = np.flatnonzero((means[0] + means[1])[1:-1])
    low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, binning.bins)
    kept = np.r_[0, 1 + low : 1 + high, binning.bins + 1]
    return CloudObservable(
        key=definition.key,
        label=definition.label,
        unit=definition.unit,
        content=definition.content,
        binning=binning.source,
        log=binning.log,
        edges=tuple(binning.edges[low : high + 1].tolist()),
        generated=tuple(means[0][kept].tolist()),
        generated_error=tuple(errors[0][kept].tolist()),
        reference=tuple(means[1][kept].tolist()),
        reference_error=tuple(errors[1][kept].tolist()),
        js=_measure(rows[0], rows[1], streams.child(f"clouds/{definition.key}")),
        slices=slices,
    )


def cloud_features(showers: Showers | ShowerPoints) -> NDArray[np.float32]:
    """Inputs of a classifier: the 25 features of arXiv:2309.05704, section 4, and the incident energy.

    log10 of the incident energy, visible over incident energy, cells, the centre of gravity in three directions, and the
    shares of the visible energy in ten groups of layers and in ten rings around the axis. Groups and rings are those of
    that publication, the groups stretched to the number of layers.

    Args:
        showers: cells above the cut.

    Returns:
        Float32 (N, 26).
    """
    cells = cells_as_points(showers) if isinstance(showers, Showers) else showers
    axial = relative_to_axis(cells)
    n, n_layers = len(cells), 30 if cells.readout is None else cells.readout.n_layers
    place = axial.points.astype(np.float64)
    energy, index, total = place[:, 3], cells.shower_index, visible_energy(cells)
    safe = np.where(total > 0, total, 1.0)

    def shares(edges: Float64, values: Float64) -> Float64:
        bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        sums = np.bincount(index * 10 + bins, weights=energy, minlength=n * 10).reshape(n, 10)
        share: Float64 = sums / safe[:, None]
        return share

    groups = shares(np.asarray(_GROUPS) * n_layers / 30, place[:, 2])
    rings = shares(np.asarray(_RINGS), np.hypot(place[:, 0], place[:, 1]))
    plain = ShowerPoints(axial.offsets, axial.points, axial.incident_energy, axial.particle, None)
    single = [np.log10(cells.incident_energy), total / cells.incident_energy, hit_count(cells)]
    return np.column_stack([*single, centre_of_gravity(plain), groups, rings]).astype(np.float32)
