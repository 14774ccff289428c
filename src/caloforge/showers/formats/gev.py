"""MeV inside, GeV in the file, and not a bit lost on the way.

``1000 * (x / 1000)`` is often not ``x``. Beside energies in GeV, CaloForge therefore stores what is missing: for
incident energies the remainder in MeV, for point energies (float32) the number of float32 steps, which is -1, 0 or 1
almost always. Other programs need neither.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from caloforge.units import GeV

__all__ = ["SMALLEST", "energies_from_gev", "energies_to_gev", "points_from_gev", "points_to_gev"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Steps = NDArray[np.int8]

#: Below this energy (MeV) float32 has no full precision left in GeV.
SMALLEST = float(np.finfo(np.float32).tiny) * 2 * GeV


def energies_to_gev(energies: Float64) -> tuple[Float64, Float64]:
    """Energies (MeV) in GeV, and the remainder in MeV."""
    in_gev = energies / GeV
    return in_gev, energies - in_gev * GeV


def energies_from_gev(in_gev: Float64, remainder: Float64 | None) -> Float64:
    """Energies in MeV; exactly the original ones with the remainder, rounded once without."""
    return in_gev * GeV if remainder is None else in_gev * GeV + remainder


def _back(in_gev: Float32) -> Float32:
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused by the checks
        return (in_gev.astype(np.float64) * GeV).astype(np.float32)


def points_to_gev(energies: Float32) -> tuple[Float32, Steps]:
    """Energies (MeV, 0 or at least ``SMALLEST``) in GeV, and the float32 steps that the way back misses."""
    in_gev = (energies.astype(np.float64) / GeV).astype(np.float32)
    steps = energies.view(np.int32) - _back(in_gev).view(np.int32)
    return in_gev, steps.astype(np.int8)


def points_from_gev(in_gev: Float32, steps: Steps | None) -> Float32:
    """Energies in MeV; exactly the original ones with the steps, rounded once without."""
    energies = _back(in_gev)
    return energies if steps is None else (energies.view(np.int32) + steps).view(np.float32)
