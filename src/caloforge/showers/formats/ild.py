"""Files of the ILD calorimeter models (BIB-AE, L2LFlows, ConvL2LFlows): one group, named after the cells of a layer.

Group ``30x30`` (or other numbers): ``layers`` (N, layers, a, b) in MeV, ``energy`` (N, 1) in GeV, and ``layer_e``
(N, layers), the energy of each layer in GeV, which is written and not read. CaloForge adds ``energy_remainder`` (N, 1),
MeV, what ``1000 * energy`` lacks to the exact value, and ``overflow`` and ``directions`` if the showers have them.
"""

from __future__ import annotations

import re
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Readout
from caloforge.errors import OutputError
from caloforge.showers.formats.base import Block, Encoder, Format, Reader, from_catalogue, per_shower
from caloforge.showers.formats.calogan import gev_columns, in_mev
from caloforge.showers.formats.native import optional_columns
from caloforge.showers.hdf5 import Array, Column, guarded
from caloforge.showers.showers import Showers
from caloforge.units import GeV

ENTRIES = ("ild",)

__all__ = ["ILD"]


def _group(file: h5py.File) -> str | None:
    names = [name for name in file if re.fullmatch(r"\d+x\d+", name) and isinstance(file[name], h5py.Group)]
    return names[0] if len(names) == 1 else None


class ILDReader(Reader):
    """Reads the layout of the ILD models."""

    format = "ild"
    kind = "voxels"

    def _setup(self) -> None:
        with guarded(self.path):
            self._prefix = f"{_group(self.file)}/"
        self._n = per_shower(self, f"{self._prefix}energy")
        layers, *cells = self.expect(f"{self._prefix}layers", (self._n, None, None, None)).shape[1:]
        shapes = (tuple(cells),) * layers
        if self.detector is None:
            self.detector = from_catalogue(lambda readout: readout.layer_shapes == shapes)
        if self.detector is not None and self.readout.layer_shapes != shapes:
            raise self.error(
                f"has {layers} layers of {cells[0]} x {cells[1]} cells, which the detector '{self.detector.name}' has not"
            )
        for name, width in (("overflow", layers), ("directions", 3), ("energy_remainder", 1)):
            if self.has(self._prefix + name):
                self.expect(self._prefix + name, (self._n, width))

    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """See ``Reader``."""
        return in_mev(self, f"{self._prefix}energy", f"{self._prefix}energy_remainder", start, stop)

    def directions_of(self, start: int, stop: int) -> NDArray[np.float32] | None:
        """See ``Reader``."""
        name = f"{self._prefix}directions"
        return self.directions(name, start, stop) if self.has(name) else None

    def _read(self, start: int, stop: int) -> Block:
        readout = self.readout
        overflow = f"{self._prefix}overflow"
        return Showers(
            self.float32(f"{self._prefix}layers", start, stop).reshape(stop - start, -1),
            self.incident_energies(start, stop),
            self.particle,
            readout,
            self.directions_of(start, stop),
            self.overflow(overflow, start, stop) if self.has(overflow) else None,
        )

    def content(self) -> dict[str, Any]:
        """See ``Reader``."""
        return {"extras": [name for name in ("directions", "overflow") if self.has(self._prefix + name)]}


def _encoder(readout: Readout | None) -> Encoder:
    if readout is None or not readout.has_voxels or len(set(readout.layer_shapes)) != 1:
        raise OutputError(
            "the ILD layout is one block of cells, so it needs a detector whose layers all have equally many"
        )
    a, b = readout.layer_shapes[0]
    n_layers, prefix = readout.n_layers, f"{a}x{b}/"

    def encode(block: Block) -> dict[Column, Array]:
        assert isinstance(block, Showers)
        columns = gev_columns(block, prefix)
        cells = block.deposits.reshape(-1, n_layers, a, b)
        columns[Column(f"{prefix}layers", (n_layers, a, b), np.dtype(np.float32))] = cells
        layer_energies = (block.layer_energies() / GeV).astype(np.float32)
        columns[Column(f"{prefix}layer_e", (n_layers,), np.dtype(np.float32))] = layer_energies
        return columns | optional_columns(block, prefix)

    return encode


def _has_layout(file: h5py.File) -> bool:
    name = _group(file)
    return name is not None and "layers" in file[name] and "energy" in file[name]


ILD = Format(
    "ild",
    "ILD models (BIB-AE, L2LFlows): a group such as 30x30 with layers in MeV and energy in GeV (arXiv:2005.05334)",
    _has_layout,
    ILDReader,
    ("voxels",),
    _encoder,
)
