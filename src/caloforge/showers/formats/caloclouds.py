"""Training files of CaloClouds (arXiv:2309.05704, arXiv:2511.01460): padded point clouds, energies in GeV; only read.

``events`` (N, 4, M): x across the beam (mm), layer, z along the beam (mm), energy of the point; places without a point have
no energy. ``energy`` (N,) or (N, 1), incident. ``p_norm_local`` (N, 3), where it is there, is the flight direction in the
same axes. In CaloForge's local frame x is along the beam and z points into the calorimeter, so that (x, y, z) here is
(z, x, depth) there. The files do not say where the particle entered: see ``MovePoints``.
"""

from __future__ import annotations

import warnings
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.errors import CaloForgeWarning
from caloforge.showers.formats.base import Format, Reader, per_shower
from caloforge.showers.showers import ShowerPoints
from caloforge.units import GeV

ENTRIES = ("caloclouds",)

__all__ = ["CALOCLOUDS"]

#: Bytes of the padded array that is held at a time.
_BATCH = 64 * 2**20
#: Distance from the axis, mm, from which the mean of all points cannot be a fluctuation.
_OFF_CENTRE = 10.0


class CaloCloudsReader(Reader):
    """Reads the training files of CaloClouds."""

    format = "caloclouds"
    kind = "points"

    def _setup(self) -> None:
        self._n = per_shower(self, "energy")
        self._width = int(self.expect("events", (self._n, 4, None)).shape[2])
        self._direction = "p_norm_local" if self.has("p_norm_local") else None
        if self._direction is not None:
            self.expect(self._direction, (self._n, 3))
        if self._n:
            self._look_at_entry()

    def _look_at_entry(self) -> None:
        points = self._read(0, min(self._n, 100)).points
        if points[:, 3].sum() > 0:
            x, y = np.average(points[:, :2], axis=0, weights=points[:, 3])
            if self._direction is None and np.hypot(x, y) > _OFF_CENTRE:
                warnings.warn(
                    f"{self.path}: its showers are centred at x = {x:.0f} mm, y = {y:.0f} mm, so they seem to have entered "
                    f"there; 'caloforge convert --entry {x:.0f},{y:.0f}' moves them to the middle",
                    CaloForgeWarning,
                    stacklevel=6,
                )

    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """See ``Reader``."""
        return self.rows("energy", start, stop).reshape(-1).astype(np.float64) * GeV

    def _read(self, start: int, stop: int) -> ShowerPoints:
        step = max(1, _BATCH // max(1, 16 * self._width))
        clouds, counts = [np.empty((0, 4), np.float32)], [np.empty(0, np.int64)]
        for first in range(start, stop, step):
            padded = self.float32("events", first, min(first + step, stop)).transpose(0, 2, 1)
            filled = padded[:, :, 3] != 0
            counts.append(np.count_nonzero(filled, axis=1))
            with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused by the checks
                x, layer, z, energy = padded[filled].T
                # Newer files spread the depth over each layer: 3.7 is in layer 3.
                clouds.append(np.stack([z, x, np.floor(layer), energy * np.float32(GeV)], axis=1))
        return ShowerPoints(
            np.concatenate([[0], *counts]).astype(np.int64).cumsum(),
            np.concatenate(clouds),
            self.incident_energies(start, stop),
            self.particle,
            None if self.detector is None else self.readout,
            self.directions_of(start, stop),
        )

    def directions_of(self, start: int, stop: int) -> NDArray[np.float32] | None:
        """See ``Reader``."""
        return None if self._direction is None else self.directions(self._direction, start, stop)[:, [2, 0, 1]]

    def content(self) -> dict[str, Any]:
        """See ``Reader``."""
        return {"extras": [] if self._direction is None else ["directions"]}


def _has_layout(file: h5py.File) -> bool:
    events = file.get("events")
    return isinstance(events, h5py.Dataset) and events.ndim == 3 and events.shape[1] == 4 and "energy" in file


CALOCLOUDS = Format(
    "caloclouds",
    "training files of CaloClouds: events (N, 4, M) and energy in GeV (arXiv:2309.05704; read only)",
    _has_layout,
    CaloCloudsReader,
    rank=60,
)
