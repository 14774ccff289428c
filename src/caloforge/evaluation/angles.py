"""The internal angle of a shower: the direction that its own hits point in (arXiv:2511.01460, section 4.3).

It is the first principal component of the hits, weighted by energy. With all hits it is biased, since what is lost before
the first layer and what scatters back is not symmetric about an inclined axis; with the few per cent of highest energy it
is not. Angles are those of a collider: theta from the beam (local x), phi around it, 90 degrees along the layers' normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caloforge.errors import UsageError
from caloforge.evaluation.distances import compare_observable
from caloforge.evaluation.histograms import Binning, adapted_binning
from caloforge.evaluation.observables import Observable
from caloforge.evaluation.results import AngleBias, AngleResult, AngleScanPoint, Value
from caloforge.random import Streams
from caloforge.showers import ShowerPoints

__all__ = ["FRACTIONS", "AngleErrors", "angle_errors", "compare_angles", "principal_axes", "theta_phi"]

Float64 = NDArray[np.float64]

#: Shares of the hits, highest energies first; the publication compares 100 % with 4 %.
FRACTIONS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
_COMPARED = (1.0, 0.04)
#: Fewer hits define no axis that would say anything.
_FEWEST_HITS = 3
#: Bins of the bias; showers with directions spread by less than this (radians) have nothing to scan.
_BINS = 12
_NARROW = 0.02
_DRAWS = 100


def principal_axes(points: ShowerPoints, fraction: float = 1.0) -> Float64:
    """Direction of the energy-weighted first principal component of each shower's hits.

    With hits at r_i of energies E_i and their weighted mean m, it is the eigenvector of the largest eigenvalue of
    ``sum_i E_i (r_i - m)(r_i - m)^T``, pointing into the calorimeter.

    Args:
        points: cells (or points) of the showers; the readout must know the depth of its layers.
        fraction: share of the hits that is used, those of highest energy; at least three.

    Returns:
        Unit vectors, float64 (N, 3); NaN for a shower of fewer than three hits, or all in one place.

    Raises:
        UsageError: if the depths are not known, or the fraction is not in (0, 1].
    """
    if points.readout is None or not len(points.readout.depths):
        raise UsageError("the internal angle needs the depth of every layer, and the readout does not say it")
    if not 0 < fraction <= 1:
        raise UsageError(f"the share of hits is {fraction:g}, expected more than 0 and at most 1")
    n, counts = len(points), np.diff(points.offsets)
    index, energy = points.shower_index, points.points[:, 3].astype(np.float64)
    order = np.lexsort((-energy, index))
    # Rank of each hit in its shower, by energy.
    rank = np.arange(len(order)) - points.offsets[index]
    wanted = np.maximum(np.ceil(fraction * counts - 1e-9), _FEWEST_HITS)
    kept = order[rank < wanted[index]]
    place = points.points[kept, :3].astype(np.float64)
    place[:, 2] = points.readout.depths.mean(axis=1)[points.points[kept, 2].astype(np.int64)]
    shower, weight = index[kept], energy[kept]

    def total(values: Float64) -> Float64:
        return np.bincount(shower, weights=values, minlength=n).astype(np.float64, copy=False)

    whole = total(weight)
    safe = np.where(whole > 0, whole, 1.0)
    mean = np.stack([total(weight * place[:, k]) for k in range(3)], axis=1) / safe[:, None]
    away = place - mean[shower]
    spread = np.empty((n, 3, 3))
    for a in range(3):
        for b in range(a, 3):
            spread[:, a, b] = spread[:, b, a] = total(weight * away[:, a] * away[:, b]) / safe
    values, vectors = np.linalg.eigh(spread)
    axes: Float64 = vectors[:, :, 2] * np.where(vectors[:, 2:, 2] < 0, -1.0, 1.0)
    axes[(counts < _FEWEST_HITS) | ~(values[:, 2] > 1e-9)] = np.nan
    return axes


def theta_phi(directions: NDArray[np.floating]) -> tuple[Float64, Float64]:
    """Polar angle from the beam and azimuth around it, radians, both (N,), of unit vectors (N, 3) in the local frame.

    The inverse of ``(x, y, z) = (cos theta, sin theta cos phi, sin theta sin phi)``.
    """
    x, y, z = np.asarray(directions, dtype=np.float64).T
    return np.arccos(np.clip(x, -1, 1)), np.arctan2(z, y)


@dataclass(frozen=True)
class AngleErrors:
    """Reconstructed against true directions; showers without an axis are left out.

    Attributes:
        total: angle between the two, radians, (M,).
        theta: reconstructed minus true polar angle, radians, (M,).
        phi: the same of the azimuth.
        true_theta: radians, (M,).
        true_phi: radians, (M,).
        undefined: showers without an axis.
    """

    total: Float64
    theta: Float64
    phi: Float64
    true_theta: Float64
    true_phi: Float64
    undefined: int


def angle_errors(points: ShowerPoints, fraction: float = 1.0) -> AngleErrors:
    """Errors of the internal angle (arXiv:2511.01460, section 4.3).

    Args:
        points: cells of the showers; without directions they are along +z.
        fraction: share of the hits that is used, those of highest energy.
    """
    axes = principal_axes(points, fraction)
    found = np.isfinite(axes).all(axis=1)
    axes = axes[found]
    true = np.tile([0.0, 0.0, 1.0], (len(points), 1)) if points.direction is None else points.direction
    true = true[found].astype(np.float64)
    true = true / np.linalg.norm(true, axis=1, keepdims=True)
    # From sine and cosine: the arc cosine alone has no digits left at small angles.
    sine = np.linalg.norm(np.cross(axes, true), axis=1)
    total = np.arctan2(sine, (axes * true).sum(axis=1))
    theta, phi = theta_phi(axes)
    true_theta, true_phi = theta_phi(true)
    turn = np.remainder(phi - true_phi + np.pi, 2 * np.pi) - np.pi
    return AngleErrors(total, theta - true_theta, turn, true_theta, true_phi, int((~found).sum()))


def _observables(errors: AngleErrors, fraction: float) -> list[Observable]:
    hits = "all hits" if fraction == 1 else f"highest {100 * fraction:g} % of hits"
    return [
        Observable(
            f"{name}/{100 * fraction:g}", f"angle-{name}", None, f"{label}, {hits}", "rad", values, errors.undefined
        )
        for name, label, values in (
            ("total", r"$\Delta\alpha$", errors.total),
            ("theta", r"$\Delta\theta$", errors.theta),
            ("phi", r"$\Delta\phi$", errors.phi),
        )
    ]  # fmt: skip


def _binning(reference: Float64) -> Binning:
    """Bins over the bulk; the long tails of a principal axis count as under- and overflow."""
    low, high = np.quantile(reference, [0.02, 0.98])
    if not high - low > 1e-6:
        return adapted_binning(reference)
    return Binning(np.linspace(low, high, 41))


def _moments(values: Float64, generator: np.random.Generator) -> tuple[Value, Value]:
    """Mean and standard deviation, with bootstrap errors."""
    drawn = values[generator.integers(0, len(values), (_DRAWS, len(values)))]
    return (
        Value(value=float(values.mean()), error=float(drawn.mean(axis=1).std(ddof=1))),
        Value(value=float(values.std()), error=float(drawn.std(axis=1).std(ddof=1))),
    )


def _profile(true: Float64, error: Float64, edges: Float64) -> tuple[tuple[float | None, ...], ...]:
    """Mean error in bins of the true angle, and its standard error; None where there are fewer than five showers."""
    bins = np.searchsorted(edges, true, side="right") - 1
    means: list[float | None] = []
    widths: list[float | None] = []
    for k in range(len(edges) - 1):
        inside = error[bins == k]
        enough = len(inside) >= 5
        means.append(float(inside.mean()) if enough else None)
        widths.append(float(inside.std(ddof=1) / np.sqrt(len(inside))) if enough else None)
    return tuple(means), tuple(widths)


def _bias(one: AngleErrors, two: AngleErrors, fraction: float) -> list[AngleBias]:
    found = []
    for name in ("theta", "phi"):
        true = getattr(two, f"true_{name}")
        low, high = float(true.min()), float(true.max())
        if high - low < _NARROW:
            continue
        edges = np.linspace(low, np.nextafter(high, np.inf), _BINS + 1)
        columns = [_profile(getattr(e, f"true_{name}"), getattr(e, name), edges) for e in (one, two)]
        found.append(
            AngleBias(
                angle=name,
                fraction=fraction,
                edges=tuple(edges.tolist()),
                generated=columns[0][0],
                generated_error=columns[0][1],
                reference=columns[1][0],
                reference_error=columns[1][1],
            )
        )
    return found


def compare_angles(generated: ShowerPoints, reference: ShowerPoints, streams: Streams) -> AngleResult:
    """Errors of the internal angle in both samples: with all and with the 4 % of highest energy, the scan, the bias.

    Args:
        generated: cells above the cut.
        reference: likewise.
        streams: random numbers of the bootstrap.

    Raises:
        UsageError: if the depths of the layers are not known, or no shower has an axis.
    """
    observables, scan, bias = [], [], []
    undefined = (0, 0)
    for fraction in FRACTIONS:
        one, two = (angle_errors(s, fraction) for s in (generated, reference))
        if not len(one.total) or not len(two.total):
            raise UsageError("no shower has the three hits that an internal angle needs")
        undefined = (one.undefined, two.undefined)
        generators = [streams.child(f"angles/{fraction:g}/{word}").generator(0) for word in ("one", "two")]
        moments = [_moments(e.total, g) for e, g in zip((one, two), generators, strict=True)]
        scan.append(
            AngleScanPoint(
                fraction=fraction,
                generated=moments[0][0],
                generated_spread=moments[0][1],
                reference=moments[1][0],
                reference_spread=moments[1][1],
            )
        )
        if fraction in _COMPARED:
            bias += _bias(one, two, fraction)
            observables += [
                compare_observable(a, b, _binning(b.values), streams, prefix="angle")
                for a, b in zip(_observables(one, fraction), _observables(two, fraction), strict=True)
            ]
    return AngleResult(undefined=undefined, errors=tuple(observables), scan=tuple(scan), bias=tuple(bias))
