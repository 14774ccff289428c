"""The observables of CaloFlow (arXiv:2106.05285, section 5), most of them from CaloGAN (arXiv:1712.10321).

E_k is the energy in layer k, E_tot their sum (the paper's E_tot with a hat), both MeV. The paper's phi is the grid's x
and its eta the grid's y. Where a layer is empty, or a whole shower, a ratio or a centroid is 0: the authors' own code
adds 1e-16 to denominators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from caloforge.evaluation.observables.observable import TINY, Observable, layer_moments, lit_layers
from caloforge.showers import Showers

__all__ = [
    "brightest_ratio",
    "caloflow_observables",
    "energy_ratio",
    "eta_centroid",
    "eta_width",
    "filled_fraction",
    "layer_energy",
    "layer_fraction",
    "layer_weighted_energy",
    "phi_centroid",
    "shower_depth",
    "shower_depth_width",
    "total_energy",
]

Float64 = NDArray[np.float64]


def layer_energy(showers: Showers) -> Float64:
    """E_k, the energy in each layer (section 5.2), MeV, shape (N, layers)."""
    return showers.layer_energies()


def total_energy(showers: Showers) -> Float64:
    """E_tot = sum_k E_k (section 5.2), MeV, shape (N,)."""
    return showers.total_energy()


def layer_fraction(showers: Showers) -> Float64:
    """E_k / E_tot (section 5.2), shape (N, layers)."""
    energy = showers.layer_energies()
    fraction: Float64 = energy / (energy.sum(axis=1, keepdims=True) + TINY)
    return fraction


def layer_weighted_energy(showers: Showers) -> Float64:
    """l_d = sum_k k E_k (section 5.2), MeV, shape (N,)."""
    energy = showers.layer_energies()
    weighted: Float64 = energy @ np.arange(energy.shape[1], dtype=np.float64)
    return weighted


def shower_depth(showers: Showers) -> Float64:
    """s_d = l_d / E_tot (section 5.2), in layers, shape (N,)."""
    depth: Float64 = layer_weighted_energy(showers) / (showers.total_energy() + TINY)
    return depth


def shower_depth_width(showers: Showers) -> Float64:
    """sigma_sd = sqrt(sum_k k^2 E_k / E_tot - s_d^2) (section 5.2; CaloGAN's shower depth width), shape (N,)."""
    energy = showers.layer_energies()
    total = energy.sum(axis=1) + TINY
    k = np.arange(energy.shape[1], dtype=np.float64)
    width: Float64 = np.sqrt(np.maximum(energy @ (k * k) / total - (energy @ k / total) ** 2, 0))
    return width


def _brightest(showers: Showers, rank: int) -> Float64:
    """Energy of the voxel that is ``rank``-th in its layer, MeV, (N, layers); 0 if the layer has fewer voxels."""
    columns = []
    for where, size in zip(showers.readout.layer_slices, showers.readout.layer_sizes, strict=True):
        if rank > size:
            columns.append(np.zeros(len(showers)))
            continue
        layer = showers.deposits[:, where]
        columns.append(np.partition(layer, size - rank, axis=1)[:, size - rank].astype(np.float64))
    return np.stack(columns, axis=1)


def brightest_ratio(showers: Showers, rank: int = 1) -> Float64:
    """Energy of a layer's brightest voxel (``rank`` 1), second brightest (2), ... over E_k (section 5.3).

    Returns:
        Shape (N, layers); 0 for an empty layer.
    """
    ratio: Float64 = _brightest(showers, rank) / (showers.layer_energies() + TINY)
    return ratio


def energy_ratio(showers: Showers) -> Float64:
    """E_ratio,k = (I_1 - I_2) / (I_1 + I_2) of a layer's two brightest voxels (eq. 5.1), shape (N, layers)."""
    first, second = _brightest(showers, 1), _brightest(showers, 2)
    return (first - second) / (first + second + TINY)


def filled_fraction(showers: Showers) -> Float64:
    """Share of a layer's voxels that hold energy, shape (N, layers).

    The paper calls it "sparsity" (section 5.3). CaloChallenge calls the opposite so: see
    :func:`caloforge.evaluation.observables.calochallenge.empty_fraction`.
    """
    starts = [where.start for where in showers.readout.layer_slices]
    lit = np.add.reduceat(showers.deposits > 0, starts, axis=1, dtype=np.int64)
    fraction: Float64 = lit / np.asarray(showers.readout.layer_sizes, dtype=np.float64)
    return fraction


def eta_centroid(showers: Showers) -> Float64:
    """<eta_k> = sum(I H) / E_k with the voxel centres H (eq. 5.2), mm, shape (N, layers)."""
    return layer_moments(showers, "y")[0]


def phi_centroid(showers: Showers) -> Float64:
    """<phi_k> = sum(I F) / E_k with the voxel centres F (eq. 5.2), mm, shape (N, layers)."""
    return layer_moments(showers, "x")[0]


def eta_width(showers: Showers) -> Float64:
    """sigma_k, the standard deviation in eta, CaloGAN's layer lateral width (eq. 5.3), mm, shape (N, layers)."""
    return layer_moments(showers, "y")[1]


def caloflow_observables(showers: Showers) -> list[Observable]:
    """Every observable of the paper's figures 11 to 19, and the differences of centroids between layers.

    The differences are the authors' centroid correlations (their plotting code, beside the paper).
    """
    labels = [layer.label for layer in showers.readout.layers]
    lit = lit_layers(showers)
    dark_layers = (~lit).sum(axis=0)
    dark_showers = int((~lit.any(axis=1)).sum())
    eta, width = layer_moments(showers, "y")
    phi, _ = layer_moments(showers, "x")

    found: list[Observable] = []

    def per_layer(
        family: str, label: Callable[[str], str], unit: str, values: Float64, undefined: Sequence[int]
    ) -> None:
        found.extend(
            Observable(f"{family}/{name}", family, k, label(name), unit, values[:, k], int(undefined[k]))
            for k, name in enumerate(labels)
        )

    def whole(family: str, label: str, unit: str, values: Float64, undefined: int) -> None:
        found.append(Observable(family, family, None, label, unit, values, undefined))

    nowhere = [0] * len(labels)
    per_layer("layer-energy", lambda k: f"$E_{{{k}}}$", "MeV", layer_energy(showers), nowhere)
    whole("total-energy", r"$\hat{E}_\mathrm{tot}$", "MeV", total_energy(showers), 0)
    per_layer(
        "layer-fraction",
        lambda k: rf"$E_{{{k}}} / \hat{{E}}_\mathrm{{tot}}$",
        "",
        layer_fraction(showers),
        [dark_showers] * len(labels),
    )
    whole("layer-weighted-energy", r"$l_d = \sum_k k\,E_k$", "MeV", layer_weighted_energy(showers), 0)
    whole("shower-depth", r"shower depth $s_d$", "", shower_depth(showers), dark_showers)
    whole("shower-depth-width", r"shower depth width $\sigma_{s_d}$", "", shower_depth_width(showers), dark_showers)
    for rank, name in ((1, "brightest"), (2, "second-brightest")):
        per_layer(
            name,
            lambda k, r=rank: rf"$I_{{{k},({r})}} / E_{{{k}}}$",  # type: ignore[misc]
            "",
            brightest_ratio(showers, rank),
            dark_layers,
        )
    per_layer("energy-ratio", lambda k: rf"$E_{{\mathrm{{ratio}},{k}}}$", "", energy_ratio(showers), dark_layers)
    per_layer("filled-fraction", lambda k: f"filled fraction of layer {k}", "", filled_fraction(showers), nowhere)
    per_layer("phi-centroid", lambda k: rf"$\langle\phi_{{{k}}}\rangle$", "mm", phi, dark_layers)
    per_layer("eta-centroid", lambda k: rf"$\langle\eta_{{{k}}}\rangle$", "mm", eta, dark_layers)
    per_layer("eta-width", lambda k: rf"$\sigma_{{{k}}}$", "mm", width, dark_layers)
    for axis, centroid in (("phi", phi), ("eta", eta)):
        for one in range(len(labels) - 1):
            # All pairs of three layers; only neighbours where there are many, as 45 layers would make 990.
            others = range(one + 1, len(labels)) if len(labels) <= 4 else (one + 1,)
            for two in others:
                a, b = labels[one], labels[two]
                found.append(
                    Observable(
                        f"{axis}-centroid-difference/{a}-{b}",
                        f"{axis}-centroid-difference",
                        None,
                        rf"$\langle\{axis}_{{{a}}}\rangle - \langle\{axis}_{{{b}}}\rangle$",
                        "mm",
                        centroid[:, one] - centroid[:, two],
                        int((~(lit[:, one] & lit[:, two])).sum()),
                    )
                )
    return found
