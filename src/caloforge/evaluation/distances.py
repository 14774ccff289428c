"""Distances between two samples of one number: from histograms, and from the values themselves.

Errors are bootstrap standard deviations: showers are drawn again with replacement. For a histogram of one entry per
shower that is a multinomial draw of its counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from caloforge.errors import UsageError
from caloforge.evaluation.histograms import Binning, fill
from caloforge.evaluation.observables import Observable
from caloforge.evaluation.results import CorrelationResult, ObservableResult, Value
from caloforge.random import Streams

__all__ = [
    "chi2",
    "compare_correlations",
    "compare_observable",
    "compare_spectrum",
    "expected_separation",
    "js_distance",
    "js_divergence",
    "ks_distance",
    "pearson_correlation",
    "separation_power",
    "wasserstein_distance",
]

Float64 = NDArray[np.float64]
Counts = NDArray[np.int64] | Float64

#: Bootstrap draws: errors are then known to 7 %.
_DRAWS = 100


def _shares(counts: Counts) -> Float64:
    total = counts.sum(axis=-1, keepdims=True)
    return counts / np.where(total > 0, total, 1)


def separation_power(one: Counts, two: Counts) -> Float64:
    """S = 1/2 sum_i (p_i - q_i)^2 / (p_i + q_i), with p and q normalised to 1 (triangular discrimination).

    arXiv:2009.03796, eq. 15, as used by CaloChallenge. 0 for equal histograms, 1 for disjoint ones.

    Args:
        one: counts, shape (..., bins), under- and overflow included if they shall count.
        two: counts of the other sample, the same shape.

    Returns:
        Shape (...).
    """
    p, q = _shares(one), _shares(two)
    both = p + q
    power: Float64 = 0.5 * ((p - q) ** 2 / np.where(both > 0, both, 1)).sum(axis=-1)
    return power


def expected_separation(one: Counts, two: Counts) -> float:
    """Mean separation power of two samples of the same truth and of these sizes: (bins - 1)/4 (1/N1 + 1/N2).

    From the multinomial variance of p_i - q_i; ``bins`` counts those in which either sample has entries.
    """
    n, m = float(one.sum()), float(two.sum())
    if not n or not m:
        return 0.0
    occupied = int(((one + two) > 0).sum())
    return (occupied - 1) / 4 * (1 / n + 1 / m)


def chi2(one: Counts, two: Counts) -> tuple[float, int]:
    """Chi-squared of two histograms of unweighted entries, and its degrees of freedom.

    chi2 = sum_i (sqrt(M/N) n_i - sqrt(N/M) m_i)^2 / (n_i + m_i) over occupied bins, ndf = occupied bins - 1
    (N. Gagunashvili, arXiv:physics/0605123).

    Returns:
        Chi-squared and ndf; (0, 0) if there is nothing to compare.
    """
    n, m = float(one.sum()), float(two.sum())
    if not n or not m:
        return 0.0, 0
    used = (one + two) > 0
    difference = np.sqrt(m / n) * one[used] - np.sqrt(n / m) * two[used]
    return float((difference**2 / (one[used] + two[used])).sum()), int(used.sum()) - 1


def js_divergence(one: Counts, two: Counts, *, base: float = 2.0) -> Float64:
    """Jensen-Shannon divergence 1/2 KL(p|m) + 1/2 KL(q|m) with m = (p + q)/2, shape (...).

    In bits by default, so between 0 and 1. Not its square root, which is :func:`js_distance` (and what
    ``scipy.spatial.distance.jensenshannon`` returns).

    Args:
        one: counts, shape (..., bins).
        two: counts of the other sample, the same shape.
        base: of the logarithm; ``math.e`` gives nats.
    """
    p, q = _shares(one), _shares(two)
    m = (p + q) / 2
    safe = np.where(m > 0, m, 1)
    terms = sum(x * np.log(np.where(x > 0, x / safe, 1)) for x in (p, q))
    divergence: Float64 = 0.5 * np.sum(terms, axis=-1) / np.log(base)
    return np.maximum(divergence, 0)


def js_distance(one: Counts, two: Counts, *, base: float = 2.0) -> Float64:
    """Jensen-Shannon distance, the square root of the divergence and a metric, shape (...)."""
    return np.sqrt(js_divergence(one, two, base=base))


class _Pooled:
    """Two samples sorted together once, so that every bootstrap draw costs two cumulative sums."""

    def __init__(self, one: Float64, two: Float64) -> None:
        if not len(one) or not len(two):
            raise UsageError("a distance needs at least one value in each sample")
        values = np.concatenate([one, two])
        order = np.argsort(values, kind="stable")
        self._sorted = values[order]
        self._from_one = order < len(one)
        self._rank = np.empty(len(values), dtype=np.int64)
        self._rank[order] = np.arange(len(values))
        self._n = len(one)
        # Tied values are one step of the cumulative distributions; only its end counts.
        self._ends = np.append(np.diff(self._sorted) > 0, True)
        self._gaps = np.diff(self._sorted)

    def distances(self, generator: np.random.Generator | None = None) -> tuple[float, float]:
        """KS and Wasserstein distance, of the samples or of a bootstrap draw from them."""
        n, m = self._n, len(self._sorted) - self._n
        if generator is None:
            steps = np.where(self._from_one, 1 / n, -1 / m)
        else:
            steps = np.zeros(n + m)
            first = np.bincount(generator.integers(0, n, n), minlength=n)
            second = np.bincount(generator.integers(0, m, m), minlength=m)
            steps[self._rank[:n]] = first / n
            steps[self._rank[n:]] = -second / m
        difference = np.abs(np.cumsum(steps))
        return float(difference[self._ends].max()), float(difference[:-1] @ self._gaps)


def ks_distance(one: Float64, two: Float64) -> float:
    """Kolmogorov-Smirnov distance: the largest difference of the two cumulative distributions."""
    return _Pooled(one, two).distances()[0]


def wasserstein_distance(one: Float64, two: Float64) -> float:
    """Earth mover's distance of order one: the area between the two cumulative distributions."""
    return _Pooled(one, two).distances()[1]


def _error(draws: Float64) -> float:
    return float(np.std(draws, ddof=1))


def _histogram_values(
    one: NDArray[np.int64], two: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> dict[str, Value | float]:
    """Measures of two histograms with errors from bootstrap draws of both, each (draws, bins + 2)."""
    measures: tuple[tuple[str, Callable[[Counts, Counts], Float64]], ...] = (
        ("separation", separation_power),
        ("js_divergence", js_divergence),
        ("js_distance", js_distance),
    )
    found: dict[str, Value | float] = {
        name: Value(value=float(measure(one, two)), error=_error(measure(first, second))) for name, measure in measures
    }
    found["separation_in_range"] = float(separation_power(one[1:-1], two[1:-1]))
    return found


def compare_observable(
    generated: Observable, reference: Observable, binning: Binning, streams: Streams, *, prefix: str
) -> ObservableResult:
    """Every distance of one observable between two samples, with bootstrap errors.

    Args:
        generated: its values in the generated sample.
        reference: its values in the reference.
        binning: bins of both histograms.
        streams: random numbers of the bootstrap; the key of the observable is mixed in.
        prefix: name of the set of observables.
    """
    generator = streams.child(f"bootstrap/{prefix}/{generated.key}").generator(0)
    one, two = fill(binning, generated.values).counts, fill(binning, reference.values).counts
    n, m = len(generated.values), len(reference.values)
    first = generator.multinomial(n, _shares(one), size=_DRAWS)
    second = generator.multinomial(m, _shares(two), size=_DRAWS)
    pooled = _Pooled(generated.values, reference.values)
    ks, earth = pooled.distances()
    drawn = np.asarray([pooled.distances(generator) for _ in range(_DRAWS)])
    square, ndf = chi2(one, two)
    return ObservableResult(
        key=f"{prefix}/{generated.key}",
        family=generated.family,
        layer=generated.layer,
        label=generated.label,
        unit=generated.unit,
        binning=binning.source,
        log=binning.log,
        edges=tuple(binning.edges.tolist()),
        counts=tuple(one.tolist()),
        reference_counts=tuple(two.tolist()),
        separation_expected=expected_separation(one, two),
        chi2_ndf=square / ndf if ndf else 0.0,
        ks=Value(value=ks, error=_error(drawn[:, 0])),
        wasserstein=Value(value=earth, error=_error(drawn[:, 1])),
        empty=(generated.empty, reference.empty),
        **_histogram_values(one, two, first, second),
    )


def _weights(generator: np.random.Generator, n: int) -> NDArray[np.int64]:
    """How often each of ``n`` showers is drawn in one bootstrap."""
    return np.bincount(generator.integers(0, n, n), minlength=n)


def compare_spectrum(
    generated: NDArray[np.int64],
    reference: NDArray[np.int64],
    binning: Binning,
    streams: Streams,
    *,
    key: str,
    label: str,
) -> ObservableResult:
    """Distances of a spectrum with many entries per shower; whole showers are resampled for the errors.

    KS and Wasserstein distance are those of the binned spectra. There is no chi-squared, since the entries of one
    shower are not independent, and no expectation of the separation power for the same reason.

    Args:
        generated: ``fill_spectrum`` of the generated showers, shape (N, bins + 2).
        reference: the same of the reference.
        binning: the bins, MeV.
        streams: random numbers of the bootstrap.
        key: name of the spectrum.
        label: axis label.
    """
    generator = streams.child(f"bootstrap/{key}").generator(0)
    one, two = generated.sum(axis=0), reference.sum(axis=0)
    first = np.stack([_weights(generator, len(generated)) @ generated for _ in range(_DRAWS)])
    second = np.stack([_weights(generator, len(reference)) @ reference for _ in range(_DRAWS)])
    centres = np.concatenate([binning.edges[:1], (binning.edges[1:] + binning.edges[:-1]) / 2, binning.edges[-1:]])

    def cumulative(a: Counts, b: Counts) -> tuple[Float64, Float64]:
        difference = np.abs(np.cumsum(_shares(a) - _shares(b), axis=-1))
        return difference.max(axis=-1), difference[..., :-1] @ np.diff(centres)

    ks, earth = cumulative(one, two)
    drawn_ks, drawn_earth = cumulative(first, second)
    return ObservableResult(
        key=key,
        family=key.rsplit("/", 1)[-1],
        layer=None,
        label=label,
        unit="MeV",
        binning=binning.source,
        log=binning.log,
        edges=tuple(binning.edges.tolist()),
        counts=tuple(one.tolist()),
        reference_counts=tuple(two.tolist()),
        separation_expected=0.0,
        chi2_ndf=None,
        ks=Value(value=float(ks), error=_error(drawn_ks)),
        wasserstein=Value(value=float(earth), error=_error(drawn_earth)),
        empty=(0, 0),
        **_histogram_values(one, two, first, second),
    )


def pearson_correlation(values: Float64, weights: NDArray[np.int64] | None = None) -> Float64:
    """Pearson correlations of the columns of ``values`` (N, K), shape (K, K); 0 for a column that never varies."""
    w = np.ones(len(values)) if weights is None else weights.astype(np.float64)
    centred = values - (w @ values) / w.sum()
    covariance = (centred * w[:, None]).T @ centred / w.sum()
    spread = np.sqrt(np.diag(covariance))
    # A column that is constant up to rounding has no correlations.
    varies = spread > 1e-12 * np.abs(values).max(axis=0, initial=1e-300)
    scale = np.where(varies, spread, np.inf)
    matrix: Float64 = covariance / np.outer(scale, scale)
    np.fill_diagonal(matrix, 1.0)
    return np.clip(matrix, -1, 1)


def compare_correlations(
    generated: Float64, reference: Float64, labels: tuple[str, ...], streams: Streams
) -> CorrelationResult:
    """Pearson correlations of layer energies in both samples, and how far they differ.

    Args:
        generated: layer energies, shape (N, layers).
        reference: likewise.
        labels: names of the layers.
        streams: random numbers of the bootstrap.
    """
    generator = streams.child("bootstrap/correlations").generator(0)
    one, two = pearson_correlation(generated), pearson_correlation(reference)
    off = ~np.eye(len(labels), dtype=bool)

    def differences(a: Float64, b: Float64) -> tuple[float, float]:
        difference = (a - b)[off]
        if not len(difference):
            return 0.0, 0.0
        return float(np.abs(difference).max()), float(np.sqrt(np.mean(difference**2)))

    largest, rms = differences(one, two)
    drawn = np.asarray(
        [
            differences(
                pearson_correlation(generated, _weights(generator, len(generated))),
                pearson_correlation(reference, _weights(generator, len(reference))),
            )
            for _ in range(_DRAWS)
        ]
    )
    return CorrelationResult(
        layers=labels,
        matrix=tuple(map(tuple, one.tolist())),
        reference_matrix=tuple(map(tuple, two.tolist())),
        largest_difference=Value(value=largest, error=_error(drawn[:, 0])),
        rms_difference=Value(value=rms, error=_error(drawn[:, 1])),
    )
