"""Mean energy and mean number of lit cells in every layer, generated over reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from caloforge.evaluation.results import LayerMeans, Value
from caloforge.showers import ShowerPoints, Showers

__all__ = ["SIGNIFICANT_SHARE", "compare_layers", "largest_deviation"]

Float64 = NDArray[np.float64]

#: Layers with a smaller share of the energy do not count in :func:`largest_deviation`.
SIGNIFICANT_SHARE = 0.01


def _by_layer(showers: Showers | ShowerPoints, layers: int) -> tuple[Float64, Float64]:
    """Energy (MeV) and number of lit cells (or points) of each layer, both (N, layers)."""
    if isinstance(showers, Showers):
        lit = np.stack([np.count_nonzero(showers.deposits[:, k], axis=1) for k in showers.readout.layer_slices], axis=1)
        return showers.layer_energies(), lit.astype(np.float64)
    cell = showers.shower_index * layers + showers.points[:, 2].astype(np.int64)
    sums = (np.bincount(cell, weights, len(showers) * layers) for weights in (showers.points[:, 3], None))
    energy, lit = (s.reshape(len(showers), layers).astype(np.float64) for s in sums)
    return energy, lit


def _per_energy(values: Float64, incident: Float64) -> tuple[Float64, Float64]:
    """Sum of the values (N, L) over the sum of the incident energies (N,), and its standard error; both (L,).

    What a layer holds grows with the incident energy, so the errors are those of the residuals: the spread of the
    incident energies, which both samples share, is no part of them.
    """
    ratio = values.sum(axis=0) / incident.sum()
    residuals = values - ratio * incident[:, None]
    count = len(incident)
    return ratio, np.sqrt((residuals**2).sum(axis=0) * count / max(count - 1, 1)) / incident.sum()


def _quotient(one: tuple[Float64, Float64], two: tuple[Float64, Float64]) -> tuple[Value | None, ...]:
    (a, a_error), (b, b_error) = one, two
    found: list[Value | None] = []
    for top, top_error, bottom, bottom_error in zip(a, a_error, b, b_error, strict=True):
        if bottom <= 0:
            found.append(None)
            continue
        ratio = top / bottom
        found.append(Value(value=ratio, error=float(np.hypot(top_error, ratio * bottom_error) / bottom)))
    return tuple(found)


def compare_layers(
    generated: Showers | ShowerPoints, reference: Showers | ShowerPoints, labels: tuple[str, ...]
) -> LayerMeans:
    """Mean energy and mean number of lit cells of every layer, as ratios to the reference.

    Both are taken per incident energy, so that samples with the same spectrum, but not the same energies, can be compared.

    Args:
        generated: the sample that is judged, N showers.
        reference: what it is judged by, M showers.
        labels: names of the L layers.

    Returns:
        Ratios with statistical errors (one standard deviation); None where the reference has nothing.
    """
    one, two = (_by_layer(s, len(labels)) for s in (generated, reference))
    incident = [s.incident_energy.astype(np.float64) for s in (generated, reference)]
    energies, lit = (
        [_per_energy(sample[k], energy) for sample, energy in zip((one, two), incident, strict=True)] for k in (0, 1)
    )
    total = max(float(two[0].sum()), np.finfo(np.float64).tiny)
    return LayerMeans(
        layers=labels,
        share=tuple((two[0].sum(axis=0) / total).tolist()),
        energy=_quotient(*energies),
        lit=_quotient(*lit),
    )


def largest_deviation(means: LayerMeans, ratios: tuple[Value | None, ...]) -> Value | None:
    """The largest deviation from 1 among layers with more than 1 % of the reference's energy, and that layer's error.

    Args:
        means: of all layers.
        ratios: ``means.energy`` or ``means.lit``.

    Returns:
        None if no layer counts.
    """
    counted = [
        Value(value=abs(ratio.value - 1), error=ratio.error)
        for ratio, share in zip(ratios, means.share, strict=True)
        if ratio is not None and share > SIGNIFICANT_SHARE
    ]
    return max(counted, key=lambda v: v.value, default=None)
