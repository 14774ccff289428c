"""Voxels as logits of their share of the layer's energy, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from caloforge.detectors import Detector, Readout
from caloforge.errors import ConfigError
from caloforge.random import Streams
from caloforge.representation.dequantisation import Dequantisation, NoisyShowers
from caloforge.representation.layers import DroppedVoxelNormalisation, LayerNormalisation
from caloforge.representation.logit import Logit
from caloforge.representation.restoring import restore_deposits, unless_finite
from caloforge.representation.settings import PostProcessing, ShareSettings, VoxelBasics

__all__ = ["LEAST_DEPOSIT", "EncodedShares", "VoxelShares", "axis_voxels", "check_noise", "least_deposit"]

#: No deposit is smaller than this (MeV): the threshold where neither detector nor noise gives one.
LEAST_DEPOSIT = 1e-6


class EncodedShares(NamedTuple):
    """Voxels as a flow sees them.

    Attributes:
        y: logits of the shares (N, n).
        logdet: log-determinant (N,), nats, of the map from the shares; with a voxel left out, from the deposits at given
            layer energies, to which minus the sum over layers of (voxels - 1) ln E belongs.
        inside: whether all shares lie between 0 and 1, bool (N,).
    """

    y: Tensor
    logdet: Tensor
    inside: Tensor


class VoxelShares(nn.Module):
    """Deposits with noise to logits of their shares of the layer energy (arXiv:2106.05285, equations 4.2 and 4.3), and back.

    Of a layer with a single voxel there is nothing to learn. With a voxel left out of each layer (``drop_voxel``) shares and
    layer energies are as many as deposits.

    Back to deposits leads, by ``postprocessing``: ``exact`` takes the noise away, keeps the layer energies through the
    threshold, and leaves layers below it empty; ``renormalise`` scales to the layer energies by absolute values, then cuts
    (arXiv:2106.05285, section 4.3); ``multiply`` multiplies by the layer energy and cuts, whatever the shares add up to
    (arXiv:2305.11934).

    Args:
        settings: noise, margin, threshold.
        detector: the voxels.
        layers: numbers of the layers that are represented; None takes all.
        postprocessing: see above.
        share_noise: width of uniform noise on the shares of all layers instead of noise on the deposits; 0 has none.

    Raises:
        ConfigError: if no layer has several voxels.
    """

    learnt: Tensor
    energy_shift: Tensor

    def __init__(
        self,
        settings: ShareSettings,
        detector: Detector,
        *,
        layers: Sequence[int] | None = None,
        postprocessing: PostProcessing = "exact",
        share_noise: float = 0.0,
    ) -> None:
        super().__init__()
        readout = detector.readout
        chosen = tuple(range(readout.n_layers)) if layers is None else tuple(layers)
        sizes = tuple(readout.layer_sizes[number] for number in chosen)
        self.settings, self.postprocessing, self.share_noise = settings, postprocessing, share_noise
        self.cut = max(detector.analysis_threshold if settings.cut is None else settings.cut, 0.0)
        self.least = least_deposit(settings, detector)
        self.logit = Logit(settings.alpha)
        self.normalisation = LayerNormalisation(sizes)
        self.sums = self.normalisation.sums
        self.dropped: DroppedVoxelNormalisation | None = None
        if settings.drop_voxel:
            starts = np.cumsum([0, *sizes])[:-1].tolist()
            bright = [axis_voxels(readout)[number] - readout.layer_slices[number].start for number in chosen]
            places = [start + voxel for start, voxel in zip(starts, bright, strict=True)]
            self.dropped = DroppedVoxelNormalisation(sizes, places)
            learnt, self.learnt_sizes = self.dropped.kept, self.dropped.kept_sizes
        else:
            several = torch.tensor([size > 1 for size in sizes])[self.sums.voxel_layers]
            learnt, self.learnt_sizes = torch.nonzero(several).flatten(), tuple(s if s > 1 else 0 for s in sizes)
        if not len(learnt):
            raise ConfigError(f"a model of voxels needs a layer with several of them, '{detector.name}' has none")
        self.register_buffer("learnt", learnt, persistent=False)
        noise = Dequantisation(settings, detector).energy_shift
        self.register_buffer("energy_shift", noise[list(chosen)].clone(), persistent=False)

    @property
    def features(self) -> int:
        """Number of variables n."""
        return len(self.learnt)

    def transform(self, noisy: Tensor) -> Tensor:
        """Logits alone, (N, n), for training losses, of deposits with noise (N, V), MeV."""
        shares = self.normalisation.transform(noisy, self.sums(noisy))
        return self.logit.transform(shares.index_select(1, self.learnt))

    def all_logits(self, noisy: Tensor) -> Tensor:
        """Logits of the shares of all voxels, learnt or not, (N, V), as conditions of another layer."""
        return self.logit.transform(self.normalisation.transform(noisy, self.sums(noisy)).clamp(0, 1))

    def encode_noisy(
        self, noisy: NoisyShowers, dequantisation: Dequantisation, streams: Streams, rows: Tensor, counter: int
    ) -> EncodedShares:
        """Showers with noise to logits: with noise on the shares, if there is one, instead of that on the deposits."""
        if not self.share_noise:
            return self.encode(noisy.voxels)
        uniform = dequantisation.voxel_noise.draw(streams.child("voxels"), rows, counter)
        return self.encode(noisy.visible, uniform)

    def encode(self, noisy: Tensor, share_uniform: Tensor | None = None) -> EncodedShares:
        """Deposits with noise to logits.

        Args:
            noisy: (N, V), MeV.
            share_uniform: uniform numbers (N, V) for the noise on the shares, if there is one.
        """
        if self.dropped is not None:
            shares, _, volume = self.dropped(noisy)
        else:
            shares = self.normalisation.transform(noisy, self.sums(noisy))
            if self.share_noise and share_uniform is not None:
                moved = share_uniform.to(device=shares.device, dtype=shares.dtype)
                shares = (shares + self.share_noise * moved) / (1 + self.share_noise)
            shares, volume = shares.index_select(1, self.learnt), noisy.new_zeros(noisy.shape[0])
        inside = ((shares >= 0) & (shares <= 1)).all(dim=1)
        y, logdet = self.logit(shares.clamp(0, 1))
        return EncodedShares(y, logdet + volume, inside)

    def decode(self, y: Tensor, energies: Tensor) -> Tensor:
        """Logits (N, n) and layer energies with noise, float64 (N, L), MeV, to deposits, float64 (N, V), MeV."""
        shares = self.logit.restore(y, clamp=self.postprocessing != "renormalise").double()
        return self.deposits(self.completed(shares), energies)

    def completed(self, shares: Tensor) -> Tensor:
        """Shares of all voxels (N, V) from those that are learnt (N, n)."""
        if self.dropped is None:
            ones = shares.new_ones(shares.shape[0], self.sums.voxel_layers.shape[0])
            return ones.index_copy(1, self.learnt, shares)
        complete = self.dropped.complete(shares)
        return complete if self.postprocessing == "renormalise" else complete.clamp_min(0)

    def deposits(self, shares: Tensor, energies: Tensor) -> Tensor:
        """Shares of all voxels (N, V), with noise, and layer energies with noise (N, L), MeV, to deposits (N, V), MeV.

        They are NaN for a shower whose shares or energies are not finite.
        """
        return unless_finite(self._deposits(shares, energies), shares, energies)

    def _deposits(self, shares: Tensor, energies: Tensor) -> Tensor:
        match self.postprocessing:
            case "renormalise":
                scaled, _ = self.normalisation.inverse(shares, energies / self.sums(shares.abs()))
                return torch.where(scaled >= self.cut, scaled.clamp_min(0), torch.zeros_like(scaled))
            case "multiply":
                visible = torch.where(energies >= self.cut, energies, torch.zeros_like(energies))
                energy = shares * self.sums.spread(visible)
                return torch.where(energy >= self.cut, energy, torch.zeros_like(energy))
        if self.share_noise:
            shares = ((1 + self.share_noise) * shares - self.share_noise / 2).clamp_min(0)
        return restore_deposits(
            shares,
            energies,
            noise=0.0 if self.share_noise else self.settings.noise,
            energy_noise=self.settings.energy_noise,
            energy_shift=self.energy_shift.to(energies),
            cut=self.least,
            sums=self.sums,
        )

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        shares = self.normalisation if self.dropped is None else self.dropped
        noise = {"share_noise": self.share_noise} if self.share_noise else {}
        return {"shares": shares.describe(), **noise, "logit": self.logit.describe(), "back": self.postprocessing}


def least_deposit(settings: VoxelBasics, detector: Detector) -> float:
    """No deposit that a model makes is smaller than this, MeV: the threshold, or what its noise cannot tell from nothing."""
    cut = detector.analysis_threshold if settings.cut is None else settings.cut
    return max(cut, settings.noise, LEAST_DEPOSIT)


def check_noise(settings: ShareSettings) -> None:
    """Refuse settings of the noise that contradict each other.

    Only if the energies of the layers are the sums of their noisy voxels does a voxel that is left out follow from the others.

    Raises:
        ValueError: naming the settings, for pydantic to say where they stand.
    """
    noise, energy_noise, sums = settings.noise, settings.energy_noise, settings.energy_noise_per == "voxel"
    if settings.drop_voxel and not (sums and energy_noise == noise):
        raise ValueError(
            "'drop_voxel' needs layer energies that are the sums of the noisy voxels: "
            "'energy_noise_per' voxel and 'energy_noise' equal to 'noise'"
        )


def axis_voxels(readout: Readout) -> list[int]:
    """Flat number of the voxel of each layer that lies nearest to the axis: bright in almost every shower."""
    distance = np.hypot(*readout.centres()[:, :2].T)
    return [where.start + int(distance[where].argmin()) for where in readout.layer_slices]
