"""Mean energy and mean number of lit cells in every layer, generated over reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from caloforge.evaluation.results import LayerMeans, Value
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.scratch import by_blocks

__all__ = ["SIGNIFICANT_SHARE", "compare_layers", "largest_deviation"]

Float64 = NDArray[np.float64]

#: Layers with a smaller share of the energy do not count in :func:`largest_deviation`.
SIGNIFICANT_SHARE = 0.01
#: Logarithms of energies that differ by less are of one energy, which a file has rounded.
_SAME_ENERGY = 1e-6


def _by_layer(showers: Showers | ShowerPoints, layers: int) -> tuple[Float64, Float64]:
    """Energy (MeV) and number of lit cells (or points) of each layer, both (N, layers)."""
    if isinstance(showers, Showers):
        energy, lit = by_blocks(_of_voxels, showers)
        return energy, lit
    cell = showers.shower_index * layers + showers.points[:, 2].astype(np.int64)
    sums = (np.bincount(cell, weights, len(showers) * layers) for weights in (showers.points[:, 3], None))
    energy, lit = (s.reshape(len(showers), layers).astype(np.float64) for s in sums)
    return energy, lit


def _of_voxels(showers: Showers) -> tuple[Float64, Float64]:
    lit = np.stack([np.count_nonzero(showers.deposits[:, k], axis=1) for k in showers.readout.layer_slices], axis=1)
    return showers.layer_energies(), lit.astype(np.float64)


def _energy_basis(incident: Float64, reference: Float64) -> Float64:
    """1, t and t^2 with t the logarithm of the incident energy, centred and scaled by the reference's, (N, 3)."""
    logarithms = np.log(reference)
    spread = float(logarithms.std())
    t = (np.log(incident) - logarithms.mean()) / (spread if spread > _SAME_ENERGY else 1.0)
    return np.stack([np.ones_like(t), t, t * t], axis=1)


def _adjusted_mean(values: Float64, basis: Float64, target: Float64) -> tuple[Float64, Float64]:
    """Mean of the values (N, L) as it would be if the basis (N, 3) had the mean ``target`` (3,), and its error; both (L,).

    A least-squares fit carries the mean from the sample's own incident energies to those of the reference. The error is
    that of the fit's residuals, whatever their spread at each energy (H. White, Econometrica 48 (1980) 817).
    """
    # Of one or two energies the functions are not independent; the shortest solution is then taken.
    solve = np.linalg.pinv(basis, rcond=_SAME_ENERGY)
    pull = target @ solve
    residuals = values - basis @ (solve @ values)
    rank = float((solve.T * basis).sum())
    return pull @ values, np.sqrt(pull**2 @ residuals**2 * len(values) / max(len(values) - rank, 1.0))


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

    Energies are divided by the incident energy of their shower, so that every shower counts alike; in sums a few showers of
    the highest energies would say everything. Numbers of lit cells, which grow far more slowly, are taken as they are. What
    is left of a dependence on the incident energy is fitted in each sample by a quadratic in its logarithm, and both means
    are taken at the reference's energies. So neither values nor errors hold the accident of which energies were drawn. The
    means are unbiased if both samples have the same spectrum, or if the trend is such a quadratic; their ratio then is,
    but for a part of (relative error of the reference)^2.

    Args:
        generated: the sample that is judged, N showers.
        reference: what it is judged by, M showers.
        labels: names of the L layers.

    Returns:
        Ratios with statistical errors (one standard deviation); None where the reference has nothing.
    """
    one, two = (_by_layer(s, len(labels)) for s in (generated, reference))
    incident = [s.incident_energy.astype(np.float64) for s in (generated, reference)]
    bases = [_energy_basis(energy, incident[1]) for energy in incident]
    target = bases[1].mean(axis=0)
    energies = [
        _adjusted_mean(sample[0] / energy[:, None], basis, target)
        for sample, energy, basis in zip((one, two), incident, bases, strict=True)
    ]
    lit = [_adjusted_mean(sample[1], basis, target) for sample, basis in zip((one, two), bases, strict=True)]
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
