"""Histograms that lose nothing, and the binnings that the field has published.

A histogram here has an underflow bin in front and an overflow bin behind, and the measures count both: with the
published ranges alone a model could move showers out of the plot and improve its score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Layer
from caloforge.errors import UsageError
from caloforge.evaluation.observables import Observable
from caloforge.showers import Showers
from caloforge.showers.scratch import blocks_of, let_go
from caloforge.units import GeV

__all__ = [
    "Binning",
    "Histogram",
    "adapted_binning",
    "bin_numbers",
    "calochallenge_binning",
    "caloclouds_binning",
    "caloflow_binning",
    "fill",
    "fill_spectrum",
    "published_or_adapted",
    "radial_edges",
    "response_binning",
    "voxel_energy_binning",
]

Float64 = NDArray[np.float64]
Counts = NDArray[np.int64]

#: Share of the reference that a published range must hold to be used; below it the range was made for other data.
_ENOUGH = 0.9
_BLOCK = 1 << 21


@dataclass(frozen=True)
class Binning:
    """Bin edges.

    Attributes:
        edges: rising, shape (bins + 1,), in the unit of what is binned.
        log: whether the bins are equally wide in the logarithm.
        source: where they come from: a publication, or ``adapted`` to the reference.
    """

    edges: Float64
    log: bool = False
    source: str = "adapted"

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or not np.isfinite(self.edges).all() or (np.diff(self.edges) <= 0).any():
            raise UsageError("the bin edges of a histogram do not rise")

    @property
    def bins(self) -> int:
        """Number of bins, without under- and overflow."""
        return len(self.edges) - 1


@dataclass(frozen=True)
class Histogram:
    """Counts in bins.

    Attributes:
        binning: the bins.
        counts: int64 (bins + 2,): underflow, the bins, overflow.
    """

    binning: Binning
    counts: Counts

    @property
    def inside(self) -> Counts:
        """The counts without under- and overflow."""
        return self.counts[1:-1]

    @property
    def total(self) -> int:
        """Number of entries, under- and overflow included."""
        return int(self.counts.sum())


def bin_numbers(binning: Binning, values: NDArray[np.floating]) -> NDArray[np.int64]:
    """0 below the range, 1..bins inside, bins + 1 above; the last bin includes its upper edge, as in numpy."""
    numbers = np.searchsorted(binning.edges, values, side="right")
    numbers[values == binning.edges[-1]] = binning.bins
    return numbers


def fill(binning: Binning, values: NDArray[np.floating]) -> Histogram:
    """Histogram of values (any shape, finite)."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return Histogram(binning, np.bincount(bin_numbers(binning, flat), minlength=binning.bins + 2))


def fill_spectrum(binning: Binning, showers: Showers) -> NDArray[np.int64]:
    """Histogram of the lit voxels of each shower, shape (N, bins + 2).

    One row for each shower, because voxels of a shower are not independent: errors come from resampling the rows.
    """
    width = binning.bins + 2
    rows = max(1, _BLOCK // showers.readout.n_voxels)
    parts = []
    for start in range(0, len(showers), rows):
        block = np.asarray(showers.deposits[start : start + rows])
        shower, voxel = np.nonzero(block)
        where = shower * width + bin_numbers(binning, block[shower, voxel].astype(np.float64))
        parts.append(np.bincount(where, minlength=len(block) * width).reshape(len(block), width))
        let_go(showers.deposits)
    return np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.int64)


def adapted_binning(values: Float64, *, bins: int = 60, margin: float = 0.0) -> Binning:
    """Equal bins over all but the outermost 0.1 % of the values on either side; logarithmic over many decades.

    Args:
        values: of the reference, shape (N,).
        bins: number of bins.
        margin: widen a linear range by this share of its width on either side, for samples that lie beyond.
    """
    if not len(values):
        raise UsageError("a histogram cannot be adapted to no values")
    positive = values[values > 0]
    if len(positive) > 0.5 * len(values) and not (values < 0).any():
        low, high = np.quantile(positive, [0.001, 0.999])
        if high / low > 1000:
            return Binning(np.geomspace(low, high, bins + 1), log=True)
    low, high = np.quantile(values, [0.001, 0.999])
    if not high - low > 1e-9 * max(abs(high), abs(low), 1e-9):
        # One value only, which must not sit on an edge.
        spread = max(abs(low), 1.0) / 2
        low, high = low - spread, high + spread
    wider = margin * (high - low)
    return Binning(np.linspace(low - wider, high + wider, bins + 1))


def published_or_adapted(published: Binning | None, values: Float64) -> Binning:
    """A published binning if its range holds 90 % of the reference's values, else one adapted to them."""
    if published is None:
        return adapted_binning(values)
    edges = published.edges
    inside = np.mean((values >= edges[0]) & (values <= edges[-1]))
    return published if inside >= _ENOUGH else adapted_binning(values)


def caloflow_binning(observable: Observable, reference: Float64) -> Binning:
    """Bins of the CaloFlow figures (arXiv:2106.05285; the authors' plotting code), MeV and mm.

    They were made for three layers and electromagnetic showers; a range that holds less than 90 % of the reference is
    replaced by bins adapted to it. The centroids' own range is not published: that of their differences is used.
    """
    lin, geo = np.linspace, np.geomspace
    layer = observable.layer
    by_layer: dict[str, tuple[Float64, ...]] = {
        "layer-energy": (geo(1e-2, 1e2, 100) * GeV, geo(1e-1, 1e3, 100) * GeV, geo(1e-2, 1e2, 100) * GeV),
        "layer-fraction": (lin(0, 0.4, 100), lin(0, 1, 100), lin(0, 0.008, 100)),
        "eta-width": (geo(1, 1e3, 100), geo(1, 1e2, 100), geo(1, 1e3, 100)),
    }
    by_family: dict[str, Float64] = {
        "total-energy": lin(0, 120, 50) * GeV,
        "layer-weighted-energy": geo(1e1, 1e5, 100),
        "shower-depth": lin(0.4, 2, 100),
        "shower-depth-width": lin(0, 0.9, 100),
        "brightest": lin(0, 1, 100),
        "second-brightest": lin(0, 0.5, 100),
        "energy-ratio": lin(0, 1, 100),
        "filled-fraction": lin(0, 1, 20),
        "phi-centroid": lin(-120, 120, 50),
        "eta-centroid": lin(-120, 120, 50),
        "phi-centroid-difference": lin(-120, 120, 50),
        "eta-centroid-difference": lin(-120, 120, 50),
    }
    edges = by_family.get(observable.family)
    if observable.family in by_layer and layer is not None and layer < 3:
        edges = by_layer[observable.family][layer]
    log = observable.family in ("layer-energy", "layer-weighted-energy", "eta-width")
    return published_or_adapted(None if edges is None else Binning(edges, log, "arXiv:2106.05285"), reference)


def calochallenge_binning(observable: Observable, layer: Layer | None, threshold: float, reference: Float64) -> Binning:
    """Bins of the CaloChallenge histograms (arXiv:2410.21611 and its evaluation script), MeV and mm.

    The script chooses its lateral ranges by dataset and layer; the layers' outer radii (41.85 mm in datasets 2 and 3,
    2 m in the hadronic layers 12 to 14 of dataset 1, 200 to 600 mm elsewhere) give the same choice for any readout.

    Args:
        observable: of ``calochallenge_observables``.
        layer: the layer that it belongs to, or None.
        threshold: analysis threshold, MeV; layer energies start there.
        reference: values of the reference, shape (N,).
    """
    source = "arXiv:2410.21611"
    if observable.family == "response":
        return Binning(np.linspace(0.5, 1.5, 101), source=source)
    if observable.family == "empty-fraction":
        return Binning(np.linspace(0, 1, 21), source=source)
    if observable.family == "layer-energy":
        return _log_from_threshold(reference, threshold, 39, source)
    if layer is None or layer.grid is None:
        raise UsageError(f"the observable '{observable.key}' has no published CaloChallenge binning")
    size = 0 if layer.grid.radius <= 50 else 1 if layer.grid.radius <= 1000 else 2
    ranges = {
        "eta-centre": ((-30.0, 30.0), (-100.0, 100.0), (-500.0, 500.0)),
        "phi-centre": ((-30.0, 30.0), (-100.0, 100.0), (-500.0, 500.0)),
        "eta-width": ((0.0, 30.0), (0.0, 100.0), (0.0, 400.0)),
        "phi-width": ((0.0, 30.0), (0.0, 100.0), (0.0, 400.0)),
        "r-centre": ((0.0, 42.0), (0.0, 500.0), (0.0, 1500.0)),
        "r-width": ((0.0, 20.0), (0.0, 500.0), (0.0, 1500.0)),
    }
    low, high = ranges[observable.family][size]
    return Binning(np.linspace(low, high, 101), source=source)


def _log_from_threshold(reference: Float64, threshold: float, bins: int, source: str) -> Binning:
    positive = reference[reference > 0]
    if not len(positive):
        return adapted_binning(reference if len(reference) else np.zeros(1))
    low, high = threshold or float(positive.min()), float(positive.max())
    if not high > low:
        return adapted_binning(reference)
    edges = np.geomspace(low, high, bins + 1)
    edges[-1] = high  # rounding must not push the largest value into the overflow
    return Binning(edges, log=True, source=source)


def voxel_energy_binning(showers: Showers, threshold: float) -> Binning:
    """The challenge's 49 logarithmic bins of voxel energies, from the threshold to the reference's largest, MeV."""
    peak, least = np.zeros(1), np.inf
    for block in blocks_of(showers):
        peak[0] = max(peak[0], block.deposits.max(initial=0.0))
        if not threshold:
            least = min(least, float(block.deposits.min(initial=np.inf, where=block.deposits > 0)))
    lowest = threshold or (least if np.isfinite(least) else 1e-3)
    return _log_from_threshold(peak, lowest, 49, "arXiv:2410.21611")


def response_binning(number: int, particle: int) -> Binning:
    """The challenge's 20 bins of E_tot / E_inc at one of dataset 1's discrete energies.

    Args:
        number: number of the energy, from 0; photons have a finer range from the fifth on.
        particle: PDG id.
    """
    narrow = particle == 22 and number >= 4
    return Binning(np.linspace(0.9, 1.1, 21) if narrow else np.linspace(0.4, 1.4, 21), source="arXiv:2410.21611")


def caloclouds_binning(observable: Observable, reference: Float64) -> Binning:
    """Bins of CaloClouds 3 after projection onto cells (arXiv:2511.01460's code), MeV; adapted where it has none."""
    published = {
        "visible-energy": np.linspace(0, 4000, 51),
        "hit-count": np.linspace(0, 3000, 51),
    }.get(observable.family)
    return published_or_adapted(None if published is None else Binning(published, source="arXiv:2511.01460"), reference)


def radial_edges(cell: float, radius: float) -> Float64:
    """Rings one cell wide around an innermost one of half a cell (CaloClouds 3), mm.

    Args:
        cell: width of a cell, mm.
        radius: the rings reach at least so far, mm.
    """
    rings = max(1, int(np.ceil(radius / cell - 0.5)))
    return np.concatenate([[0.0], cell * (np.arange(rings + 1) + 0.5)])
