"""The observables of CaloClouds (arXiv:2309.05704, 2511.01460): cells above half a MIP, profiles, centre of gravity.

They are made from points (x, y, layer, energy); showers on voxels become points at the centres of their cells first.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from caloforge.errors import UsageError
from caloforge.evaluation.observables.observable import Observable
from caloforge.showers import ShowerPoints, Showers

__all__ = [
    "caloclouds_observables",
    "cell_energies",
    "cells_as_points",
    "centre_of_gravity",
    "hit_count",
    "longitudinal_profile",
    "radial_profile",
    "visible_energy",
]

Float64 = NDArray[np.float64]

Weight = Literal["energy", "occupancy"]


def cells_as_points(showers: Showers, *, cut: float = 0.0) -> ShowerPoints:
    """Every voxel above a cut as a point at the centre of its cell.

    Args:
        showers: on voxels.
        cut: MeV; a cell needs more than nothing and at least this much. CaloClouds cuts at half the energy of a
            minimum-ionising particle, 0.1 MeV in the silicon of ILD.
    """
    shower, voxel = np.nonzero((showers.deposits > 0) & (showers.deposits >= cut))
    x, y = showers.readout.centres()[voxel, :2].T
    layer = showers.readout.voxel_layers[voxel]
    points = np.stack([x, y, layer, showers.deposits[shower, voxel]], axis=1).astype(np.float32)
    counts = np.bincount(shower, minlength=len(showers))
    return ShowerPoints(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        points,
        showers.incident_energy,
        showers.particle,
        showers.readout,
        showers.direction,
    )


def cell_energies(points: ShowerPoints) -> Float64:
    """Energies of all cells of all showers, MeV, shape (M,): the cell energy spectrum with its MIP peak."""
    energies: Float64 = points.points[:, 3].astype(np.float64)
    return energies


def visible_energy(points: ShowerPoints) -> Float64:
    """Energy of all cells of each shower, MeV, shape (N,)."""
    return points.total_energy()


def hit_count(points: ShowerPoints) -> NDArray[np.int64]:
    """Number of cells of each shower (its occupancy), shape (N,)."""
    return np.diff(points.offsets)


def _sum(points: ShowerPoints, bins: NDArray[np.int64], n_bins: int, weight: Weight) -> Float64:
    """Sum in (shower, bin), shape (N, n_bins); bins outside 0..n_bins-1 are left out."""
    if weight not in ("energy", "occupancy"):
        raise UsageError(f"a profile of '{weight}' is not known, expected energy or occupancy")
    inside = (bins >= 0) & (bins < n_bins)
    where = points.shower_index[inside] * n_bins + bins[inside]
    weights = points.points[inside, 3].astype(np.float64) if weight == "energy" else None
    total = np.bincount(where, weights=weights, minlength=len(points) * n_bins)
    return total.astype(np.float64, copy=False).reshape(len(points), n_bins)


def longitudinal_profile(points: ShowerPoints, n_layers: int, weight: Weight = "energy") -> Float64:
    """Energy (MeV) or number of cells in each layer of each shower, shape (N, layers)."""
    return _sum(points, points.points[:, 2].astype(np.int64), n_layers, weight)


def radial_profile(points: ShowerPoints, edges: Float64, weight: Weight = "energy") -> Float64:
    """Energy (MeV) or number of cells between radii around the entry point, shape (N, bins).

    Args:
        points: the showers.
        edges: radii, mm, shape (bins + 1,); cells outside them are left out.
        weight: what is summed.
    """
    radius = np.hypot(points.points[:, 0].astype(np.float64), points.points[:, 1].astype(np.float64))
    return _sum(points, np.searchsorted(edges, radius, side="right") - 1, len(edges) - 1, weight)


def centre_of_gravity(points: ShowerPoints) -> Float64:
    """Energy-weighted mean of x (mm), y (mm) and layer number (or depth, mm, if the readout knows it), shape (N, 3).

    A shower without cells has 0.
    """
    place = points.points[:, :3].astype(np.float64)
    if points.readout is not None and len(points.readout.depths):
        place[:, 2] = points.readout.depths.mean(axis=1)[points.points[:, 2].astype(np.int64)]
    energy = points.points[:, 3].astype(np.float64)
    total = points.total_energy()
    index = points.shower_index
    weighted = [np.bincount(index, weights=energy * place[:, k], minlength=len(points)) for k in range(3)]
    return np.stack(weighted, axis=1) / np.where(total > 0, total, 1.0)[:, None]


def caloclouds_observables(points: ShowerPoints, n_layers: int, radii: Float64) -> list[Observable]:
    """Sums, occupancies, profiles and centre of gravity.

    Args:
        points: the showers, already cut.
        n_layers: number of layers of the longitudinal profile.
        radii: edges of the radial profile, mm, shape (bins + 1,).
    """
    energy, hits, gravity = visible_energy(points), hit_count(points), centre_of_gravity(points)
    dark = int((hits == 0).sum())
    depth_known = points.readout is not None and len(points.readout.depths) > 0
    found = [
        Observable("visible-energy", "visible-energy", None, r"$E_\mathrm{vis}$", "MeV", energy),
        Observable("hit-count", "hit-count", None, r"cells above the cut", "", hits.astype(np.float64)),
        Observable("gravity-x", "gravity-x", None, r"centre of gravity $x$", "mm", gravity[:, 0], dark),
        Observable("gravity-y", "gravity-y", None, r"centre of gravity $y$", "mm", gravity[:, 1], dark),
        Observable(
            "gravity-z", "gravity-z", None, "centre of gravity " + ("$z$" if depth_known else "(layer)"),
            "mm" if depth_known else "", gravity[:, 2], dark,
        ),
    ]  # fmt: skip
    for weight, unit in (("energy", "MeV"), ("occupancy", "")):
        layers = longitudinal_profile(points, n_layers, weight)  # type: ignore[arg-type]
        rings = radial_profile(points, radii, weight)  # type: ignore[arg-type]
        found.extend(
            Observable(f"layer-{weight}/{k}", f"layer-{weight}", k, f"{weight} in layer {k}", unit, layers[:, k])
            for k in range(n_layers)
        )
        found.extend(
            Observable(
                f"ring-{weight}/{k}", f"ring-{weight}", None,
                f"{weight} from {radii[k]:.3g} to {radii[k + 1]:.3g} mm", unit, rings[:, k],
            )
            for k in range(len(radii) - 1)
        )  # fmt: skip
    return found
