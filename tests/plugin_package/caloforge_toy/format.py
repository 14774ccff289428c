"""A file format in one file: energies in GeV, one dataset for showers and one for incident energies."""

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Readout
from caloforge.showers import Showers
from caloforge.showers.formats.base import Block, Encoder, Format, Reader
from caloforge.showers.hdf5 import Array, Column


class ToyReader(Reader):
    """Reads ``toy_deposits`` (N, V) and ``toy_incident`` (N,), both in GeV."""

    format = "toy-gev"
    kind = "voxels"

    def _setup(self) -> None:
        self._n = self.expect("toy_incident", (None,)).shape[0]
        self.expect("toy_deposits", (self._n, None if self.detector is None else self.readout.n_voxels))

    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """Incident kinetic energies, MeV."""
        return self.rows("toy_incident", start, stop).astype(np.float64) * 1000

    def _read(self, start: int, stop: int) -> Block:
        deposits = self.float32("toy_deposits", start, stop) * np.float32(1000)
        return Showers(deposits, self.incident_energies(start, stop), self.particle, self.readout)


def encoder(readout: Readout | None) -> Encoder:
    """How blocks of showers become columns of the file."""

    def encode(block: Block) -> dict[Column, Array]:
        assert isinstance(block, Showers)  # the format takes nothing else
        return {
            Column("toy_incident", (), np.dtype(np.float64)): block.incident_energy / 1000,
            Column("toy_deposits", block.deposits.shape[1:], np.dtype(np.float32)): block.deposits / 1000,
        }

    return encode


def is_toy(file: h5py.File) -> bool:
    """Whether an open file has this layout."""
    return "toy_deposits" in file and "toy_incident" in file


FORMAT = Format("toy-gev", "the toy's own: GeV in two datasets", is_toy, ToyReader, ("voxels",), encoder)
