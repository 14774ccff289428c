"""Named high-level features of showers on any readout, for classifiers that read physics rather than voxels.

Everything is a sum over lit cells, so voxels (Cartesian and polar) and points that were placed in cells have the same
features. Positions count from where the shower axis meets a layer. What is not defined, such as the centroid of an empty
layer, is NaN: decision trees take it for what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caloforge.evaluation.clouds import relative_to_axis
from caloforge.showers import ShowerPoints
from caloforge.units import format_energy

__all__ = ["FeatureTable", "energy_steps", "feature_table"]

Float64 = NDArray[np.float64]
Index = NDArray[np.int64]

#: Number of brightest cells of a layer that are looked at one by one.
_BRIGHTEST = 3
#: Steps of the counts over the threshold of the analysis.
_STEPS = (2, 4, 8, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
#: A step is left out if a smaller share of all showers has a cell above it.
_RARE = 0.01
#: Where there is no threshold, counts start where this share of all cells is left out.
_DUST = 0.01


@dataclass(frozen=True)
class FeatureTable:
    """Features of showers.

    Attributes:
        names: ``family`` or ``family/layer``, unique.
        families: likewise the part before the stroke.
        values: float64 (N, features); NaN where a feature is not defined.
    """

    names: tuple[str, ...]
    values: Float64

    @property
    def families(self) -> tuple[str, ...]:
        """The family of each feature: its name without the layer."""
        return tuple(name.split("/")[0] for name in self.names)


def energy_steps(reference: ShowerPoints, threshold: float) -> tuple[float, ...]:
    """Energies (MeV) above which cells are counted, rising from the threshold: 2, 4, 8, 16 times it, then in steps of 4.

    Args:
        reference: cells of the reference; energies that hardly any of its showers reach are left out.
        threshold: of the analysis, MeV; 0 begins where 1 % of all cells of the reference is left out.
    """
    energy = reference.points[:, 3].astype(np.float64)
    if not len(energy):
        return ()
    lowest = threshold if threshold > 0 else float(np.quantile(energy, _DUST))
    brightest = np.zeros(len(reference))
    np.maximum.at(brightest, reference.shower_index, energy)
    steps = [lowest * factor for factor in _STEPS]
    return tuple(step for step in steps if (brightest >= step).mean() >= _RARE)


def feature_table(cells: ShowerPoints, steps: tuple[float, ...], labels: tuple[str, ...]) -> FeatureTable:
    """Features of every shower.

    ``incident-energy`` (its logarithm), ``response`` (E_dep / E_inc), the components of the direction if it is known, and of
    each layer: ``energy`` (its logarithm), ``x-centroid``, ``y-centroid``, ``x-width``, ``y-width`` (energy-weighted mean and
    standard deviation, mm), ``lit`` (lit cells), ``brightest-1`` to ``-3`` (their share of the layer's energy), and
    ``above-...`` (cells with at least this energy).

    Args:
        cells: lit cells of each shower, above the threshold.
        steps: energies above which cells are counted, MeV; see :func:`energy_steps`.
        labels: of the layers.
    """
    axial = relative_to_axis(cells)
    n, layers = len(cells), len(labels)
    x, y, energy = (axial.points[:, k].astype(np.float64) for k in (0, 1, 3))
    place = cells.shower_index * layers + cells.points[:, 2].astype(np.int64)

    def summed(weights: Float64 | NDArray[np.bool_]) -> Float64:
        total: Float64 = np.bincount(place, weights=weights, minlength=n * layers).astype(np.float64).reshape(n, layers)
        return total

    deposited = summed(energy)
    lit = summed(np.ones(len(energy)))
    known = np.where(deposited > 0, deposited, np.nan)
    found: dict[str, Float64] = {"energy": np.log(known)}
    for name, position in (("x", x), ("y", y)):
        mean = summed(energy * position) / known
        found[f"{name}-centroid"] = mean
        # Around the mean: the difference of two squares would lose digits far from the axis.
        away = position - mean.ravel()[place]
        found[f"{name}-width"] = np.sqrt(summed(energy * away**2) / known)
    found["lit"] = lit
    for rank, share in enumerate(_brightest(place, energy, lit), start=1):
        found[f"brightest-{rank}"] = share.reshape(n, layers) / known
    for step in steps:
        found[f"above-{format_energy(step).replace(' ', '')}"] = summed(energy >= step)
    incident = cells.incident_energy
    single = {"incident-energy": np.log(incident), "response": deposited.sum(axis=1) / incident}
    if cells.direction is not None:
        single |= {f"direction-{axis}": cells.direction[:, k].astype(np.float64) for k, axis in enumerate("xyz")}
    names = [*single, *(f"{family}/{label}" for family in found for label in labels)]
    return FeatureTable(tuple(names), np.column_stack([*single.values(), *found.values()]))


def _brightest(place: Index, energy: Float64, lit: Float64) -> list[Float64]:
    """Energy of the brightest cell, the second one, ... of every layer of every shower, 0 where there are fewer."""
    order = np.lexsort((-energy, place))
    counts = lit.ravel().astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    ranked = np.append(energy[order], 0.0)
    return [np.where(counts > rank, ranked[np.minimum(starts + rank, len(order))], 0.0) for rank in range(_BRIGHTEST)]
