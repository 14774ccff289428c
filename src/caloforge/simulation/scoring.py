"""From Geant4's energy deposits to showers.

Everything is vectorised over the deposits of several showers; the cost is a few per cent of Geant4's own
(``overhead.py`` measures it).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, particle_mass, particle_name
from caloforge.errors import SimulationError
from caloforge.showers import sum_in_voxels
from caloforge.simulation.engines.base import Deposits
from caloforge.simulation.geometry import plate_layers
from caloforge.units import ELECTRON_MASS, MeV, format_energy, keV

__all__ = ["Scorer", "check_energy_balance", "released_energy"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

#: Geant4's rounding, per shower.
_ROUNDING = 1.0 * keV
#: What a nucleus can release when a stopped hadron or a slow neutron is captured: the largest binding energies of a
#: nucleon are 20.6 MeV (in helium).
_CAPTURE = 21.0 * MeV


class Scorer:
    """Adds up deposits in the readout of one detector.

    Args:
        detector: with a stack.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._plate_layers = plate_layers(detector)

    @property
    def needs_depth(self) -> bool:
        """Whether layers are found from the depth of the deposits, not from their plates."""
        return self._plate_layers is None

    def layers(self, deposits: Deposits) -> Index:
        """Readout layer of each deposit, -1 outside all layers, shape (M,)."""
        if self._plate_layers is not None:
            of_deposit: Index = self._plate_layers[deposits.plate]
            return of_deposit
        return self._detector.readout.layer_of_depth(deposits.z)

    def voxels(self, deposits: Deposits, n: int) -> tuple[Floats, Floats]:
        """Raw energy per voxel (n, V) and per layer outside its voxels (n, layers), MeV."""
        readout = self._detector.readout
        layer = self.layers(deposits)
        return sum_in_voxels(readout, n, deposits.shower, deposits.x, deposits.y, layer, deposits.energy)

    def finish_voxels(self, voxels: Floats, overflow: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Apply the readout threshold (to voxels only) and divide by the sampling fraction."""
        kept = np.where(voxels >= self._detector.readout_threshold, voxels, 0.0)
        scale = 1.0 / (self._detector.sampling_fraction or 1.0)
        return (kept * scale).astype(np.float32), (overflow * scale).astype(np.float32)

    def points(self, deposits: Deposits, n: int) -> tuple[NDArray[np.float32], Index]:
        """Every deposit as a point, ordered by shower; the order within a shower is Geant4's, plate by plate.

        No threshold is applied. Deposits outside all readout layers have no layer number and are left out.

        Returns:
            Points x, y (mm), layer, energy (MeV, divided by the sampling fraction), float32 (M, 4), and the number of
            points of each shower, int64 (n,).
        """
        layer = self.layers(deposits)
        inside = layer >= 0
        # Few distinct values: a stable sort of small integers is a radix sort, linear in the number of points.
        order = np.argsort(deposits.shower.astype(np.uint16), kind="stable")
        order = order[inside[order]]
        points = np.empty((len(order), 4), dtype=np.float32)
        points[:, 0] = deposits.x[order]
        points[:, 1] = deposits.y[order]
        points[:, 2] = layer[order]
        points[:, 3] = deposits.energy[order] / (self._detector.sampling_fraction or 1.0)
        return points, np.bincount(deposits.shower[order], minlength=n)


def released_energy(pdg: int) -> float:
    """What can end up as deposits on top of the kinetic energy, MeV.

    A positron annihilates with an electron of the material; a muon, a meson or an antibaryon gives up its rest mass
    (the electrons or positrons that it decays into included, and again one electron of the material). Baryon number is
    conserved, so a proton's mass stays; what a nucleus gains by capturing hadrons is bounded by its binding energy.
    """
    kind = abs(pdg)
    if kind in (11, 22):
        return 2 * ELECTRON_MASS if pdg == -11 else 0.0
    if kind == 13:
        return particle_mass(pdg) + ELECTRON_MASS
    mass = particle_mass(pdg)
    if kind >= 1000:  # baryons have four digits and more
        return _CAPTURE + (2 * mass if pdg < 0 else 0.0)
    return _CAPTURE + mass + ELECTRON_MASS


def check_energy_balance(raw: Floats, kinetic: Floats, pdg: int, *, first: int = 0) -> None:
    """Refuse showers that deposit more than there is.

    Args:
        raw: all recorded deposits of each shower before thresholds and sampling fraction, MeV, shape (N,).
        kinetic: incident kinetic energies, MeV, shape (N,).
        pdg: incident particle.
        first: number of the first shower, for the message.

    Raises:
        SimulationError: naming the first such shower.
    """
    allowed = kinetic * (1 + 1e-9) + released_energy(pdg) + _ROUNDING
    wrong = np.flatnonzero(~(raw <= allowed))
    if len(wrong):
        k = int(wrong[0])
        raise SimulationError(
            f"shower {first + k}: Geant4 deposited {format_energy(float(raw[k]))} of a "
            f"{format_energy(float(kinetic[k]))} {particle_name(pdg)}, more than the "
            f"{format_energy(float(allowed[k]))} that there are"
        )
