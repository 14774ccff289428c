"""Cells of a layer as logarithms of their energies, and back: the representation of convolutional flows (arXiv:2405.20407)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.representation.cuts import cut_layers
from caloforge.representation.dequantisation import Dequantisation
from caloforge.representation.layers import LayerSums
from caloforge.representation.restoring import clean_layer_energies, unless_finite
from caloforge.representation.settings import VoxelBasics
from caloforge.representation.shares import EncodedShares, least_deposit

__all__ = ["CellLogs"]


class CellLogs(nn.Module):
    """``y = (log10(d + floor) - log10(reference)) / decades`` of the cells of one layer.

    Args:
        settings: noise and threshold.
        detector: the voxels.
        layer: number of the layer.
        floor: added to a cell's energy before the logarithm, MeV; None takes a tenth of the noise, or a hundredth of the
            threshold if there is no noise.
        reference: cell energy whose variable is 0, MeV; None takes ten times the threshold.
        decades: decades of cell energy to a unit of its variable.
    """

    energy_shift: Tensor

    def __init__(
        self,
        settings: VoxelBasics,
        detector: Detector,
        *,
        layer: int,
        floor: float | None,
        reference: float | None,
        decades: float,
    ) -> None:
        super().__init__()
        self.settings, self.decades = settings, decades
        self.features = detector.readout.layer_sizes[layer]
        self.least = least_deposit(settings, detector)
        self.floor = floor or (settings.noise / 10 if settings.noise else self.least / 100)
        self.reference = reference or 10 * self.least
        self.middle = math.log10(self.reference)
        self.sums = LayerSums((self.features,))
        shift = Dequantisation(settings, detector).energy_shift[layer : layer + 1]
        self.register_buffer("energy_shift", shift.clone(), persistent=False)

    def encode(self, noisy: Tensor) -> EncodedShares:
        """Deposits with noise (N, n), MeV; the log-determinant is that of the map from them."""
        shifted = noisy.clamp_min(0) + self.floor
        y = (torch.log10(shifted) - self.middle) / self.decades
        logdet = -torch.log(shifted).sum(dim=1) - self.features * math.log(math.log(10) * self.decades)
        return EncodedShares(y, logdet, (noisy >= 0).all(dim=1))

    def decode(self, y: Tensor, energies: Tensor | None) -> Tensor:
        """Variables (N, n) and the layer's energy with noise (N, 1), MeV, or None, to deposits, float64 (N, n), MeV.

        They are NaN for a shower whose cells or energy are not finite.
        """
        margin = self.settings.noise / 2
        estimates = torch.pow(10.0, y.double() * self.decades + self.middle) - self.floor - margin
        if energies is None:
            lit = estimates >= self.least - margin
            energy = torch.where(lit, self.least + (estimates - self.least).abs(), torch.zeros_like(estimates))
            return unless_finite(energy, estimates)
        clean = clean_layer_energies(
            energies,
            energy_noise=self.settings.energy_noise,
            energy_shift=self.energy_shift.to(energies),
            cut=self.least,
        )
        return unless_finite(cut_layers(estimates, clean, self.least, self.sums, margin=margin), estimates, energies)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {
            "transform": "log10 energy of cells",
            "floor_MeV": self.floor,
            "reference_MeV": self.reference,
            "decades": self.decades,
        }
