"""What classifiers see of a shower: the published preprocessings, as flat float32 rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.evaluation.clouds import cloud_features
from caloforge.evaluation.observables import high_level_features
from caloforge.showers import Showers
from caloforge.units import GeV

__all__ = [
    "INPUTS",
    "InputFunction",
    "caloflow_inputs",
    "high_level_inputs",
    "low_level_inputs",
    "low_normalised_inputs",
]

Float32 = NDArray[np.float32]
#: All of them take voxels; ``caloclouds`` takes points (cells), too.
InputFunction = Callable[[Any], Float32]

#: CaloFlow's unit of energy, MeV.
_UNIT = 100 * GeV
_ALPHA = 1e-6
_TINY = 1e-16


def caloflow_inputs(showers: Showers, *, normalised: bool = False, logit: bool = False) -> Float32:
    """Inputs of CaloFlow's classifiers (arXiv:2106.05285, appendices A and B).

    Voxels in 100 GeV, or divided by their layer's energy (``normalised``); with ``logit`` those become
    logit(1e-6 + (1 - 2e-6) v) / 10. Then log10(E_inc / 10 GeV), then log10(E_k / 100 GeV + 1e-8) + 2 of each layer.

    Returns:
        Shape (N, V + 1 + layers): 508 columns on ``calogan``.
    """
    n, v, layers = len(showers), showers.readout.n_voxels, showers.readout.n_layers
    energy = showers.layer_energies() / _UNIT
    out = np.empty((n, v + 1 + layers), dtype=np.float32)
    for number, where in enumerate(showers.readout.layer_slices):
        voxels = showers.deposits[:, where].astype(np.float64) / _UNIT
        if normalised:
            voxels /= energy[:, number : number + 1] + _TINY
        if logit:
            # A voxel above 100 GeV has no logit; it is as far out as one of 100 GeV.
            x = _ALPHA + (1 - 2 * _ALPHA) * np.clip(voxels, 0, 1)
            voxels = np.log(x / (1 - x)) / 10
        out[:, where] = voxels
    out[:, v] = np.log10(showers.incident_energy / (10 * GeV))
    out[:, v + 1 :] = np.log10(energy + 1e-8) + 2
    return out


def low_level_inputs(showers: Showers) -> Float32:
    """CaloChallenge's low-level inputs: log10(E_inc / MeV), then voxels / E_inc; shape (N, 1 + V)."""
    out = np.empty((len(showers), 1 + showers.readout.n_voxels), dtype=np.float32)
    out[:, 0] = np.log10(showers.incident_energy)
    np.divide(showers.deposits, showers.incident_energy[:, None], out=out[:, 1:], casting="same_kind")
    return out


def low_normalised_inputs(showers: Showers) -> Float32:
    """CaloChallenge's layer-normalised inputs: log10 E_inc, voxels / E_layer, log10(E_layer + 1e-8), energies in MeV.

    The public script applies no threshold here; this evaluation has applied the analysis threshold to both samples
    before, as everywhere.

    Returns:
        Shape (N, 1 + V + layers).
    """
    v = showers.readout.n_voxels
    energy = showers.layer_energies()
    out = np.empty((len(showers), 1 + v + showers.readout.n_layers), dtype=np.float32)
    out[:, 0] = np.log10(showers.incident_energy)
    for number, where in enumerate(showers.readout.layer_slices):
        out[:, 1 + where.start : 1 + where.stop] = showers.deposits[:, where] / (energy[:, number : number + 1] + _TINY)
    out[:, 1 + v :] = np.log10(energy + 1e-8)
    return out


def high_level_inputs(showers: Showers) -> Float32:
    """CaloChallenge's high-level features; see ``observables.high_level_features``."""
    return high_level_features(showers).astype(np.float32)


def ratio_inputs(showers: Showers) -> Float32:
    """CaloChallenge's high-level features, log10(E_tot / E_inc), and E_k / E_tot of each layer.

    Response and fractions are functions of the challenge's features, but at a resolution of a per cent a network has to
    amplify small differences of large numbers to find them, which takes far more showers than reading them.

    Returns:
        Shape (N, features + 1 + layers).
    """
    energy = showers.layer_energies()
    total = energy.sum(axis=1, keepdims=True)
    response = np.log10(total / showers.incident_energy[:, None] + 1e-4)
    return np.concatenate([high_level_features(showers), response, energy / (total + _TINY)], axis=1).astype(np.float32)


INPUTS: dict[str, InputFunction] = {
    "caloflow-unnormalised": caloflow_inputs,
    "caloflow-normalised": lambda showers: caloflow_inputs(showers, normalised=True),
    "caloflow-logit": lambda showers: caloflow_inputs(showers, logit=True),
    "caloflow-logit-normalised": lambda showers: caloflow_inputs(showers, normalised=True, logit=True),
    "low-level": low_level_inputs,
    "low-normalised": low_normalised_inputs,
    "high-level": high_level_inputs,
    "high-level-ratios": ratio_inputs,
    "caloclouds": cloud_features,
}
