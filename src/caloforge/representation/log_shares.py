"""Shares and energy fractions as logarithms, with relative noise: the published variables of CaloINN (arXiv:2312.09290)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.random import Streams
from caloforge.representation.energies import EnergyFractions
from caloforge.representation.layers import LayerNormalisation, LayerSums
from caloforge.representation.logarithm import LogMargin
from caloforge.representation.noise import DequantisationNoise
from caloforge.representation.restoring import unless_finite
from caloforge.representation.shares import EncodedShares

__all__ = ["LogShares"]


class LogShares(nn.Module):
    """Shares of all voxels and fractions of the incident energy, with noise, behind ``log(x + alpha)``.

    Of ``layers``: each voxel's share of its layer, then the recursive energy fractions, of which the first is the deposited
    over the incident energy, unscaled, so that it may lie above 1. Of the ``shower``, as the authors' program has it for the
    CaloGAN calorimeter: each voxel's share of all that is deposited, then that first fraction alone.

    Deposits are taken as the file has them, whatever the threshold. On the way back the noise's width is subtracted, what is
    left below it is 0, and the shares of each layer, or of the shower, are divided by their sum.

    Args:
        detector: the voxels.
        of: what the shares are of.
        noise: width of the uniform noise on shares and fractions.
        alpha: margin of the logarithm.
    """

    learnt: Tensor

    def __init__(self, detector: Detector, *, of: Literal["layers", "shower"], noise: float, alpha: float) -> None:
        super().__init__()
        sizes = detector.readout.layer_sizes if of == "layers" else (detector.readout.n_voxels,)
        self.of = of
        self.normalisation = LayerNormalisation(sizes)
        self.sums: LayerSums = self.normalisation.sums
        several = torch.tensor([size > 1 for size in sizes])[self.sums.voxel_layers]
        self.register_buffer("learnt", torch.nonzero(several).flatten(), persistent=False)
        self.fractions = EnergyFractions()
        self.features = len(self.learnt) + len(sizes)
        self.noise = DequantisationNoise(self.features, noise)
        self.width = noise
        self.log = LogMargin(alpha)

    @property
    def margin(self) -> LogMargin:
        """The last step."""
        return self.log

    def encode(
        self, deposits: Tensor, incident_energy: Tensor, streams: Streams, rows: Tensor, counter: int
    ) -> EncodedShares:
        """Deposits (N, V) and incident energies (N,), MeV, to logarithms; the last three arguments address the noise."""
        deposits = deposits.double()
        energies = self.sums(deposits)
        u, _ = self.fractions(energies, incident_energy.double())
        shares = self.normalisation.transform(deposits, energies).index_select(1, self.learnt)
        plain = torch.cat([shares, u], dim=1)
        noisy, _ = self.noise(plain, self.noise.draw(streams.child("relative"), rows, counter))
        y, logdet = self.log(noisy)
        return EncodedShares(y, logdet, torch.ones_like(logdet, dtype=torch.bool))

    def decode(self, y: Tensor, incident_energy: Tensor) -> Tensor:
        """Logarithms (N, n) and incident energies (N,), MeV, to deposits, float64 (N, V), MeV; NaN where one is not finite."""
        noisy = self.log.restore(y.double())
        plain = noisy - self.width
        plain = torch.where(plain >= self.width, plain, torch.zeros_like(plain))
        first = len(self.learnt)
        u = torch.cat([plain[:, first : first + 1], plain[:, first + 1 :].clamp_max(1)], dim=1)
        energies = self.fractions.restore(u, incident_energy.double())
        ones = plain.new_ones(plain.shape[0], self.sums.voxel_layers.shape[0])
        shares = ones.index_copy(1, self.learnt, plain[:, :first])
        shares = self.normalisation.transform(shares, self.sums(shares))
        deposits, _ = self.normalisation.inverse(shares, energies)
        return unless_finite(deposits, noisy)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {
            "energies": [self.fractions.describe() | {"of": "the incident energy"}],
            "shares": self.normalisation.describe() | {"of": self.of},
            "noise": {"transform": "uniform noise", "width_relative": self.width},
            "log": self.log.describe(),
        }
