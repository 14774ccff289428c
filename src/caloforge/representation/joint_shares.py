"""Shares of voxels and fractions of layer energies as the variables of one flow."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.random import Streams
from caloforge.representation.conditions import highest_energy
from caloforge.representation.dequantisation import Dequantisation
from caloforge.representation.energies import EnergyScale
from caloforge.representation.layer_energies import LayerEnergies
from caloforge.representation.logit import Logit
from caloforge.representation.settings import JointSettings, VoxelBasics
from caloforge.representation.shares import EncodedShares, VoxelShares

__all__ = ["JointShares", "check_share_noise", "share_noise_width"]


class JointShares(nn.Module):
    """Logits of the voxels' shares, then logits of the energy fractions.

    Args:
        settings: noise, margin, threshold, fractions.
        detector: the voxels.
        noise_on: ``deposits``: noise of one width in MeV on the voxels; ``shares``: noise of one width on the shares of all
            layers, see :func:`share_noise_width`.
    """

    def __init__(self, settings: JointSettings, detector: Detector, *, noise_on: Literal["deposits", "shares"]) -> None:
        super().__init__()
        width = share_noise_width(settings, detector) if noise_on == "shares" else 0.0
        self.dequantisation = Dequantisation(settings, detector)
        self.shares = VoxelShares(settings, detector, share_noise=width)
        self.energies = LayerEnergies(
            detector.readout.n_layers,
            fractions=settings.energy_fractions,
            scale=settings.energy_scale,
            extra_energy=settings.extra_energy,
            alpha=settings.alpha,
        )
        self.drop_voxel = settings.drop_voxel

    @property
    def features(self) -> int:
        """Number of variables."""
        return self.shares.features + self.energies.layers

    @property
    def margin(self) -> Logit:
        """The last step."""
        return self.shares.logit

    @property
    def scale(self) -> EnergyScale:
        """The most that a shower deposits."""
        assert isinstance(self.energies.scale, EnergyScale)
        return self.energies.scale

    def encode(
        self, deposits: Tensor, incident_energy: Tensor, streams: Streams, rows: Tensor, counter: int
    ) -> EncodedShares:
        """Deposits (N, V) and incident energies (N,), MeV, to variables; the last three arguments address the noise.

        The log-determinant is that of the map from shares and fractions, or with a voxel left out from the deposits.
        """
        # In float32 a share of almost 1 would have no logit.
        noisy = self.dequantisation(deposits, streams, rows, counter, torch.float64)
        shares = self.shares.encode_noisy(noisy, self.dequantisation, streams, rows, counter)
        energies = self.energies.encode(noisy.energies, incident_energy)
        logdet = shares.logdet + energies.logdet
        logdet = logdet + energies.volume if self.drop_voxel else logdet
        y = torch.cat([shares.y, energies.y], dim=1)
        return EncodedShares(y, logdet, shares.inside & energies.possible)

    def decode(self, y: Tensor, incident_energy: Tensor) -> Tensor:
        """Variables (N, D) and incident energies (N,), MeV, to deposits, float64 (N, V), MeV."""
        first = self.shares.features
        y = y.double()
        return self.shares.decode(y[:, :first], self.energies.decode(y[:, first:], incident_energy))

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {
            "noise": self.dequantisation.describe(),
            "energies": self.energies.describe(),
            "shapes": self.shares.describe(),
        }


def share_noise_width(settings: VoxelBasics, detector: Detector) -> float:
    """Width of the noise on shares: what ``noise`` is of the highest energy."""
    return settings.noise / highest_energy(detector)


def check_share_noise(settings: VoxelBasics, noise_on: str) -> None:
    """Refuse noise on shares together with layer energies that are sums of noisy voxels.

    Raises:
        ValueError: naming the settings, for pydantic to say where they stand.
    """
    if noise_on == "shares" and settings.energy_noise_per == "voxel":
        raise ValueError("noise on the shares gives no sums of noisy voxels, so 'energy_noise_per' must be layer")
