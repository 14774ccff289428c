"""CaloGAN files (arXiv:1712.10321), as CaloFlow reads them too (arXiv:2106.05285).

``layer_0``, ``layer_1`` ... (N, a, b) and ``overflow`` (N, layers) in MeV, ``energy`` (N, 1) in GeV. CaloForge adds
``energy_remainder`` (N, 1), MeV, what ``1000 * energy`` lacks to the exact value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Readout
from caloforge.errors import OutputError
from caloforge.showers.formats.base import Block, Encoder, Format, Reader, from_catalogue, per_shower
from caloforge.showers.formats.gev import energies_from_gev, energies_to_gev
from caloforge.showers.formats.native import energies_column, optional_columns
from caloforge.showers.hdf5 import Array, Column, guarded
from caloforge.showers.showers import Showers

ENTRIES = ("calogan",)

__all__ = ["CALOGAN"]


class CaloGANReader(Reader):
    """Reads the CaloGAN layout."""

    format = "calogan"
    kind = "voxels"

    def _setup(self) -> None:
        self._n = per_shower(self, "energy")
        with guarded(self.path):
            count = sum(name.startswith("layer_") for name in self.file)
        self._layers = [f"layer_{k}" for k in range(count)]
        shapes = tuple(self.expect(name, (self._n, None, None)).shape[1:] for name in self._layers)
        if self.detector is None:
            self.detector = from_catalogue(lambda readout: readout.layer_shapes == shapes)
        if self.detector is not None and self.readout.layer_shapes != shapes:
            raise self.error(
                f"has layers of {_listed(shapes)} cells, but the detector '{self.detector.name}' has "
                f"{_listed(self.readout.layer_shapes)}"
            )
        for name, width in (("overflow", len(shapes)), ("directions", 3), ("energy_remainder", 1)):
            if self.has(name):
                self.expect(name, (self._n, width))

    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """See ``Reader``."""
        return in_mev(self, "energy", "energy_remainder", start, stop)

    def _read(self, start: int, stop: int) -> Block:
        readout = self.readout
        deposits = np.empty((stop - start, readout.n_voxels), dtype=np.float32)
        for name, where in zip(self._layers, readout.layer_slices, strict=True):
            deposits[:, where] = self.float32(name, start, stop).reshape(stop - start, -1)
        return Showers(
            deposits,
            self.incident_energies(start, stop),
            self.particle,
            readout,
            self.directions_of(start, stop),
            self.overflow("overflow", start, stop) if self.has("overflow") else None,
        )

    def content(self) -> dict[str, Any]:
        """See ``Reader``."""
        return {"extras": [name for name in ("directions", "overflow") if self.has(name)]}


def in_mev(reader: Reader, name: str, remainder: str, start: int, stop: int) -> NDArray[np.float64]:
    """Incident energies that the file holds in GeV, float64 (stop - start,), MeV."""
    in_gev = reader.rows(name, start, stop).reshape(-1).astype(np.float64, copy=False)
    rest = reader.rows(remainder, start, stop).reshape(-1) if reader.has(remainder) else None
    return energies_from_gev(in_gev, rest)


def gev_columns(block: Block, prefix: str = "") -> dict[Column, Array]:
    """Incident energies in GeV and their remainders."""
    in_gev, remainder = energies_to_gev(block.incident_energy[:, None])
    return {energies_column(f"{prefix}energy"): in_gev, energies_column(f"{prefix}energy_remainder"): remainder}


def _encoder(readout: Readout | None) -> Encoder:
    if readout is None or not readout.has_voxels:
        raise OutputError("the CaloGAN layout holds voxels, so it needs a detector with voxels")

    def encode(block: Block) -> dict[Column, Array]:
        assert isinstance(block, Showers)
        columns = gev_columns(block)
        for k, cells in enumerate(block.layers()):
            columns[Column(f"layer_{k}", cells.shape[1:], np.dtype(np.float32))] = cells
        return columns | optional_columns(block)

    return encode


def _listed(shapes: tuple[tuple[int, ...], ...]) -> str:
    shown = [" x ".join(map(str, shape)) for shape in shapes]
    return ", ".join(shown if len(shown) < 8 else [*shown[:3], "...", shown[-1]])


CALOGAN = Format(
    "calogan",
    "CaloGAN and CaloFlow: layer_k and overflow in MeV, energy in GeV (arXiv:1712.10321)",
    lambda file: "layer_0" in file and "energy" in file,
    CaloGANReader,
    ("voxels",),
    _encoder,
)
