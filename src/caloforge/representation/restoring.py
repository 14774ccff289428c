"""From noisy shares and noisy layer energies back to deposits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from caloforge.representation.cuts import cut_layers
from caloforge.representation.layers import LayerSums

__all__ = ["clean_layer_energies", "restore_deposits", "unless_finite"]


def restore_deposits(
    shares: Tensor,
    energies: Tensor,
    *,
    noise: float,
    energy_noise: float,
    energy_shift: Tensor,
    cut: float,
    sums: LayerSums,
) -> Tensor:
    """Take the training noise away, then cut and rescale in one step.

    A voxel is lit or not by its own share times the layer's energy; only the lit ones are then scaled so that they hold that
    energy. A flow's shares do not add up to one exactly: scaled first, a layer in which the flow made no voxel bright
    would have all its noise raised above the threshold.

    Args:
        shares: each voxel's share of its layer, with noise, (N, V); they need not add up to one.
        energies: energies of the layers, with noise, (N, L), MeV.
        noise: width of the uniform noise that the voxels had in training, MeV.
        energy_noise: width of the noise of one energy, MeV.
        energy_shift: mean of the noise on each layer's energy, (L,), MeV.
        cut: the threshold, MeV, above 0 and not below ``noise``.
        sums: the layers.

    Returns:
        Deposits (N, V), MeV: zero or at least ``cut``, with the layer energies given.
    """
    clean = clean_layer_energies(energies, energy_noise=energy_noise, energy_shift=energy_shift, cut=cut)
    sizes = torch.tensor(sums.layer_sizes, dtype=clean.dtype, device=clean.device)
    noisy = shares * sums.spread(clean + sizes * (noise / 2))
    return cut_layers(noisy - noise / 2, clean, cut, sums, margin=noise / 2)


def clean_layer_energies(energies: Tensor, *, energy_noise: float, energy_shift: Tensor, cut: float) -> Tensor:
    """Layer energies (N, L) without their noise, MeV; arguments as for :func:`restore_deposits`."""
    clean = energies - energy_shift
    # What is as far below the threshold as noise alone can bring it belongs as far above it.
    return torch.where(clean >= cut - energy_noise / 2, cut + (clean - cut).abs(), clean.clamp_min(0))


def unless_finite(deposits: Tensor, *sources: Tensor) -> Tensor:
    """Deposits (N, V), but NaN for a row of which a source (N, ...) is not finite.

    Comparisons with what is no number are false, so a threshold would make an empty shower of it that looks whole.
    """
    sums = torch.stack([source.sum(dim=1) for source in sources])
    return torch.where(torch.isfinite(sums).all(dim=0)[:, None], deposits, math.nan)
