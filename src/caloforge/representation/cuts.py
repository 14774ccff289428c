"""A threshold that keeps layer energies: cut and rescaling in one step."""

from __future__ import annotations

import torch
from torch import Tensor

from caloforge.representation.layers import LayerSums

__all__ = ["cut_layers"]


def cut_layers(
    estimates: Tensor, layer_energies: Tensor, cut: float, sums: LayerSums, *, margin: float = 0.0, stable: bool = False
) -> Tensor:
    """Deposits that are zero or at least ``cut``, and whose sum in every layer is exactly the layer's energy.

    A voxel is kept if its estimate is at least ``cut - margin``. Kept voxels are scaled by one factor per layer, and
    those that this would leave below the cut are put onto it; the factor takes that into account. If a layer's energy
    does not suffice for all of them, the faintest are dropped. A layer with less than ``cut`` is empty; in one with
    more, at least the brightest voxel is kept.

    Args:
        estimates: first guess of the deposits, (N, V), MeV; may be negative.
        layer_energies: what each layer shall hold, (N, L), MeV.
        cut: the threshold, MeV, above 0.
        sums: the layers.
        margin: by how much the estimate of a kept voxel may fall short of the cut because of training noise, MeV; it is
            reflected at the cut, which undoes the blurring of a spectrum that ends there.
        stable: whether of equal estimates, as tables have them, the first is kept whatever the batch; ONNX has no such sort.

    Returns:
        Deposits (N, V), MeV.
    """
    parts, first = [], 0
    for block in sums.blocks(estimates):
        energies = layer_energies[:, first : first + block.shape[1], None]
        first += block.shape[1]
        parts.append(_cut(block, energies, cut, margin, stable=stable).flatten(1))
    return torch.cat(parts, dim=1)


def _cut(estimates: Tensor, energies: Tensor, cut: float, margin: float, *, stable: bool) -> Tensor:
    """One run of layers: estimates (N, L, n), energies (N, L, 1)."""
    reflected = torch.where(estimates >= cut - margin, cut + (estimates - cut).abs(), estimates)
    # ONNX has the first of these only.
    if not stable:
        ordered, order = torch.sort(reflected, dim=-1, descending=True)
    else:
        ordered, order = torch.sort(reflected, dim=-1, descending=True, stable=True)
    rank = torch.arange(1, ordered.shape[-1] + 1, device=ordered.device)
    wanted = (ordered >= cut).sum(dim=-1, keepdim=True).clamp_min(1)
    affordable = torch.floor(energies / cut).clamp_min(0)  # none in a layer below the cut
    count = torch.minimum(wanted.to(energies.dtype), affordable)
    kept = rank <= count
    # The clamp matters for a brightest voxel that is kept against its estimate: it is the layer, whatever it was.
    values = torch.where(kept, ordered.clamp_min(cut), torch.zeros_like(ordered))
    # With the faintest kept voxels on the cut, the j brightest share what is left; the largest j is right for which
    # none of them comes to lie below the cut.
    left = energies - cut * (count - rank)
    factor = left / values.cumsum(dim=-1).clamp_min(torch.finfo(values.dtype).tiny)
    scaled_last = torch.where(kept, factor * values, torch.zeros_like(values))
    free = (scaled_last >= cut).sum(dim=-1, keepdim=True)
    chosen = factor.gather(-1, (free - 1).clamp_min(0))
    result = torch.where(rank <= free, values * chosen, torch.full_like(values, cut))
    result = torch.where(kept, result, torch.zeros_like(values))
    return torch.zeros_like(result).scatter(-1, order, result)
