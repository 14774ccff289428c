"""What a flow learns instead of the deposits of a file: voxels behind the threshold, and everything with noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.random import Streams
from caloforge.representation.layers import LayerSums
from caloforge.representation.noise import DequantisationNoise
from caloforge.representation.settings import VoxelBasics

__all__ = ["Dequantisation", "NoisyShowers"]

_SUMS = {"transform": "sum of noisy voxels"}


class NoisyShowers(NamedTuple):
    """Showers with noise.

    Attributes:
        voxels: deposits with noise (N, V), MeV.
        energies: layer energies with noise, float64 (N, L), MeV, as a flow of the energies learns them.
        visible: the deposits behind the threshold, without noise (N, V), MeV.
    """

    voxels: Tensor
    energies: Tensor
    visible: Tensor


class Dequantisation(nn.Module):
    """Threshold, then uniform noise on voxels and on layer energies (arXiv:2106.05285, section 4.2).

    The noise of a shower is a function of the streams, its row and the counter, so a loss and a likelihood that are given the
    same ones see the same noise.

    Args:
        settings: widths and threshold.
        detector: the voxels, and the threshold unless ``cut`` is set.
    """

    def __init__(self, settings: VoxelBasics, detector: Detector) -> None:
        super().__init__()
        self.settings = settings
        self.cut = max(detector.analysis_threshold if settings.cut is None else settings.cut, 0.0)
        self.sums = LayerSums(detector.readout.layer_sizes)
        self.voxel_noise = DequantisationNoise(detector.readout.n_voxels, settings.noise)
        self.layer_noise = DequantisationNoise(detector.readout.n_layers, settings.energy_noise)
        self.summed_noise = DequantisationNoise(detector.readout.n_voxels, settings.energy_noise)

    def visible(self, deposits: Tensor) -> Tensor:
        """Deposits (N, V), MeV, as the model learns them: without those below the threshold, if so configured."""
        if not self.settings.cut_first or self.cut == 0:
            return deposits
        return torch.where(deposits >= self.cut, deposits, torch.zeros_like(deposits))

    def layer_energies(self, deposits: Tensor) -> Tensor:
        """Layer energies without noise, float64 (N, L), MeV, of the visible ones of the deposits (N, V), MeV."""
        energies: Tensor = self.sums(self.visible(deposits), dtype=torch.float64)
        return energies

    def forward(
        self, deposits: Tensor, streams: Streams, rows: Tensor, counter: int, dtype: torch.dtype
    ) -> NoisyShowers:
        """Showers with noise.

        Args:
            deposits: as the file has them, (N, V), MeV.
            streams: random streams of the noise.
            rows: numbers of the rows, int64 (N,), in CPU memory.
            counter: number of the epoch, or of the draw of a likelihood.
            dtype: precision of the voxels.
        """
        visible = self.visible(deposits).to(dtype)
        voxels, _ = self.voxel_noise(visible, self.voxel_noise.draw(streams.child("voxels"), rows, counter))
        if self.settings.energy_noise_per == "voxel" and self.settings.energy_noise == self.settings.noise:
            return NoisyShowers(voxels, self.sums(voxels, dtype=torch.float64), visible)
        return NoisyShowers(voxels, self.noisy_energies(deposits, streams, rows, counter), visible)

    def noisy_energies(self, deposits: Tensor, streams: Streams, rows: Tensor, counter: int) -> Tensor:
        """The ``energies`` of :meth:`forward` alone, without the work for the voxels where it can be saved."""
        if self.settings.energy_noise_per == "voxel":
            uniform = self.summed_noise.draw(streams.child("voxels"), rows, counter)
            noisy, _ = self.summed_noise(self.visible(deposits).double(), uniform)
            sums: Tensor = self.sums(noisy)
            return sums
        uniform = self.layer_noise.draw(streams.child("layers"), rows, counter)
        energies: Tensor = self.layer_noise(self.layer_energies(deposits), uniform)[0]
        return energies

    @property
    def energy_shift(self) -> Tensor:
        """Mean of the noise on the energy of each layer, float64 (L,), MeV."""
        if self.settings.energy_noise_per == "layer":
            return self.layer_noise.mean
        shift: Tensor = self.sums(self.summed_noise.mean[None])[0]
        return shift

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        per = self.settings.energy_noise_per
        energies = self.layer_noise.describe() if per == "layer" else _SUMS | {"width_MeV": self.settings.energy_noise}
        return {
            "cut_MeV": self.cut,
            "cut_first": self.settings.cut_first,
            "voxels": self.voxel_noise.describe(),
            "energies": energies | {"per": per},
        }
