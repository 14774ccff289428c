"""LEMURS and Par04 grids (arXiv:2509.05108): cylinders around the flight direction, in MeV; only read.

``showers`` (N, r, phi, z), ``incident_energy`` (N,), ``incident_theta`` and ``incident_phi`` (N,), radians, of the momentum in
the frame of the experiment, whose z is the beam. Deposits are those of the active material, not divided by a sampling
fraction. All detectors of the data set have grids of equal size, so the detector has to be named.

In CaloForge's local frame x is along the beam and z points away from it, so the direction is (cos theta, 0, sin theta);
phi only says where on the barrel the particle entered, which the local frame follows.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.showers.formats.base import Block, Format, Reader, per_shower
from caloforge.showers.showers import Showers

ENTRIES = ("lemurs",)

__all__ = ["LEMURS"]


class LemursReader(Reader):
    """Reads LEMURS and Par04 grids."""

    format = "lemurs"
    kind = "voxels"

    def _setup(self) -> None:
        self._n = per_shower(self, "incident_energy")
        r, phi, z = self.expect("showers", (self._n, None, None, None)).shape[1:]
        for name in self._angles:
            if per_shower(self, name) != self._n:
                raise self.error(f"'{name}' has not one value for each of {self._n} showers")
        if self.detector is not None and self.readout.layer_shapes != ((phi, r),) * z:
            raise self.error(
                f"has {z} layers of {phi} x {r} cells (angle, radius), which the detector '{self.detector.name}' has not"
            )

    @property
    def _angles(self) -> list[str]:
        return [name for name in ("incident_theta", "incident_phi") if self.has(name)]

    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """See ``Reader``."""
        return self.rows("incident_energy", start, stop).reshape(-1).astype(np.float64)

    def _read(self, start: int, stop: int) -> Block:
        readout = self.readout
        grid = self.float32("showers", start, stop)
        deposits = np.ascontiguousarray(grid.transpose(0, 3, 2, 1)).reshape(stop - start, -1)
        energies, directions = self.incident_energies(start, stop), self.directions_of(start, stop)
        return Showers(deposits, energies, self.particle, readout, directions)

    def directions_of(self, start: int, stop: int) -> NDArray[np.float32] | None:
        """See ``Reader``."""
        if "incident_theta" not in self._angles:
            return None
        theta = self.rows("incident_theta", start, stop).reshape(-1).astype(np.float64)
        return np.stack([np.cos(theta), np.zeros_like(theta), np.sin(theta)], axis=1).astype(np.float32)

    def content(self) -> dict[str, Any]:
        """See ``Reader``."""
        return {"extras": ["directions"] if "incident_theta" in self._angles else []}


def _has_layout(file: h5py.File) -> bool:
    showers = file.get("showers")
    return isinstance(showers, h5py.Dataset) and showers.ndim == 4 and "incident_energy" in file


LEMURS = Format(
    "lemurs",
    "LEMURS and Par04 grids: showers (N, r, phi, z) and incident_energy in MeV (arXiv:2509.05108; read only)",
    _has_layout,
    LemursReader,
)
