"""The high-level features of CaloChallenge (arXiv:2410.21611), for any readout with voxels.

The challenge's eta is x = r cos(alpha) and its phi is y = r sin(alpha), both mm; r is the arithmetic centre of the
radial bin. Centres and widths in eta and phi exist for layers with more than one sector only (more than one cell along
the axis, for Cartesian layers). An empty layer has 0 for all of them, a spike that the published histograms keep.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import PolarGrid, Readout
from caloforge.evaluation.observables.observable import Observable, layer_moments, lit_layers
from caloforge.showers import Showers

__all__ = [
    "calochallenge_observables",
    "centres",
    "empty_fraction",
    "high_level_feature_names",
    "high_level_features",
    "transverse_layers",
    "widths",
]

Float64 = NDArray[np.float64]

#: Lengths are divided by it in the feature vector (mm).
_LENGTH = 100.0
#: Keeps the logarithm of an empty layer's energy finite (MeV).
_LOG_FLOOR = 1e-8


def transverse_layers(readout: Readout, axis: str) -> list[int]:
    """Layers in which a position along an axis means something.

    Args:
        readout: the voxels.
        axis: ``eta`` or ``phi``.
    """
    chosen = []
    for number, layer in enumerate(readout.layers):
        if isinstance(layer.grid, PolarGrid):
            resolved = layer.grid.n_alpha > 1
        elif layer.grid is not None:
            resolved = layer.grid.shape[0 if axis == "eta" else 1] > 1
        else:
            resolved = False
        if resolved:
            chosen.append(number)
    return chosen


def centres(showers: Showers) -> tuple[Float64, Float64, Float64]:
    """Centres of energy <eta>, <phi>, <r> of each layer, mm, each (N, layers)."""
    return layer_moments(showers, "x")[0], layer_moments(showers, "y")[0], layer_moments(showers, "r")[0]


def widths(showers: Showers) -> tuple[Float64, Float64, Float64]:
    """Widths of the energy in eta, phi and r of each layer, mm, each (N, layers)."""
    return layer_moments(showers, "x")[1], layer_moments(showers, "y")[1], layer_moments(showers, "r")[1]


def empty_fraction(showers: Showers) -> Float64:
    """Share of a layer's voxels that hold no energy, shape (N, layers).

    The challenge calls it "sparsity"; CaloFlow calls the opposite so: see
    :func:`caloforge.evaluation.observables.caloflow.filled_fraction`.
    """
    starts = [where.start for where in showers.readout.layer_slices]
    dark = np.add.reduceat(showers.deposits <= 0, starts, axis=1, dtype=np.int64)
    fraction: Float64 = dark / np.asarray(showers.readout.layer_sizes, dtype=np.float64)
    return fraction


def high_level_feature_names(readout: Readout) -> list[str]:
    """Names of the columns of :func:`high_level_features`."""
    every = range(readout.n_layers)
    eta, phi = transverse_layers(readout, "eta"), transverse_layers(readout, "phi")
    groups: list[tuple[str, list[int] | range]] = [
        ("log10 E_layer", every), ("<eta>/100", eta), ("<phi>/100", phi), ("width eta/100", eta),
        ("width phi/100", phi),
    ]  # fmt: skip
    names = ["log10 E_inc"]
    for title, layers in groups:
        names.extend(f"{title} {readout.layers[k].label}" for k in layers)
    names.append("log10 E_tot")
    for title in ("empty fraction", "<r>/100", "width r/100"):
        names.extend(f"{title} {readout.layers[k].label}" for k in every)
    return names


def high_level_features(showers: Showers) -> Float64:
    """The feature vector of the challenge's high-level classifier, FPD and KPD, in its order and scaling.

    log10 E_inc; log10(E_layer + 1e-8); <eta>/100; <phi>/100; width eta/100; width phi/100; log10(E_tot + 1e-8);
    empty fraction; <r>/100; width r/100. Energies in MeV, lengths in mm. 30 / 46 / 362 / 362 features for dataset 1
    photons / pions / dataset 2 / 3, as since November 2023.

    Returns:
        Shape (N, features).
    """
    energy = showers.layer_energies()
    eta = transverse_layers(showers.readout, "eta")
    phi = transverse_layers(showers.readout, "phi")
    eta_centre, eta_width = layer_moments(showers, "x")
    phi_centre, phi_width = layer_moments(showers, "y")
    r_centre, r_width = layer_moments(showers, "r")
    return np.concatenate(
        [
            np.log10(showers.incident_energy)[:, None],
            np.log10(energy + _LOG_FLOOR),
            eta_centre[:, eta] / _LENGTH,
            phi_centre[:, phi] / _LENGTH,
            eta_width[:, eta] / _LENGTH,
            phi_width[:, phi] / _LENGTH,
            np.log10(energy.sum(axis=1, keepdims=True) + _LOG_FLOOR),
            empty_fraction(showers),
            r_centre / _LENGTH,
            r_width / _LENGTH,
        ],
        axis=1,
    )


def calochallenge_observables(showers: Showers) -> list[Observable]:
    """The observables of the challenge's histograms, the voxel spectrum aside."""
    labels = [layer.label for layer in showers.readout.layers]
    dark = (~lit_layers(showers)).sum(axis=0)
    energy = showers.layer_energies()
    found = [
        Observable(
            "response", "response", None, r"$E_\mathrm{tot} / E_\mathrm{inc}$", "",
            energy.sum(axis=1) / showers.incident_energy,
        )
    ]  # fmt: skip

    def add(family: str, label: str, unit: str, values: Float64, layers: list[int], *, undefined: bool = True) -> None:
        found.extend(
            Observable(
                f"{family}/{labels[k]}", family, k, f"{label} of layer {labels[k]}", unit, values[:, k],
                int(dark[k]) if undefined else 0,
            )
            for k in layers
        )  # fmt: skip

    every = list(range(len(labels)))
    eta, phi = transverse_layers(showers.readout, "eta"), transverse_layers(showers.readout, "phi")
    add("layer-energy", "energy", "MeV", energy, every, undefined=False)
    for axis, coordinate, layers, symbol in (
        ("eta", "x", eta, r"$\eta$"),
        ("phi", "y", phi, r"$\phi$"),
        ("r", "r", every, "$r$"),
    ):
        centre, width = layer_moments(showers, coordinate)  # type: ignore[arg-type]
        add(f"{axis}-centre", f"centre of energy in {symbol}", "mm", centre, layers)
        add(f"{axis}-width", f"width in {symbol}", "mm", width, layers)
    add("empty-fraction", "empty fraction", "", empty_fraction(showers), every, undefined=False)
    return found
