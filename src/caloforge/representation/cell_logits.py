"""Cells of a layer as logits of scaled logarithms: the published representation of convolutional L2LFlows (arXiv:2405.20407)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.errors import ShowerFileError
from caloforge.representation.layers import LayerSums
from caloforge.representation.logit import Logit
from caloforge.representation.restoring import unless_finite
from caloforge.representation.settings import VoxelBasics
from caloforge.representation.shares import EncodedShares, least_deposit

__all__ = ["CellLogits", "CellScale", "keep_brightest"]

#: Added to the largest cell of a layer, MeV.
_ROOM = 1e-3
#: Added to a cell's share of it before the logarithm, whose decades become the interval from 0 to 1.
_FLOOR, _DECADES = 1e-7, 7.0
_MARGIN = 1e-2


class CellScale(nn.Module):
    """The largest cell of each layer in the training data, MeV.

    Args:
        layers: number of layers L.
    """

    largest: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.register_buffer("largest", torch.full((layers,), math.nan, dtype=torch.float64))

    def fit(self, blocks: Iterable[Tensor], sums: LayerSums) -> dict[str, Tensor]:
        """Find them.

        Args:
            blocks: deposits as the model learns them, without noise, (N, V) each, MeV.
            sums: the layers.

        Returns:
            The state of this module.

        Raises:
            ShowerFileError: if a layer is empty in all showers.
        """
        found = torch.zeros_like(self.largest)
        for deposits in blocks:
            parts = [block.amax(dim=(0, 2)) for block in sums.blocks(deposits.double())]
            found = torch.maximum(found, torch.cat(parts).to(found.device))
        if not bool((found > 0).all()):
            raise ShowerFileError(
                f"layer {int(found.argmin())} is empty in all training rows, so it has no largest cell"
            )
        return {"largest": found}


class CellLogits(nn.Module):
    """``y = logit(a + (1 - 2 a) (log10(x + 1e-7) / 7 + 1))``, a = 0.01, of cells x of one layer over its largest cell, at most 1.

    The way back keeps the brightest cells, scaled to the layer's energy: as many as stay above the threshold then.

    Args:
        settings: threshold.
        detector: the voxels.
        layer: number of the layer.
        scale: the largest cells.
    """

    def __init__(self, settings: VoxelBasics, detector: Detector, *, layer: int, scale: CellScale) -> None:
        super().__init__()
        self.features = detector.readout.layer_sizes[layer]
        self.least = least_deposit(settings, detector)
        self.logit = Logit(_MARGIN)
        self.layer = layer
        #: All layers share it, so it is no part of one of them.
        self._scale = (scale,)

    @property
    def largest(self) -> Tensor:
        """The layer's largest cell, MeV, and a little more."""
        return self._scale[0].largest[self.layer] + _ROOM

    def encode(self, noisy: Tensor) -> EncodedShares:
        """Deposits with noise (N, n), MeV; the log-determinant is that of the map from them."""
        share = noisy.clamp_min(0) / self.largest
        shifted = share.clamp_max(1) + _FLOOR
        # The logarithm of 1 + 1e-7 lies above 0 by so little that float32 does not see it.
        y, logdet = self.logit((torch.log10(shifted) / _DECADES + 1).clamp(0, 1))
        slopes = torch.log(shifted * self.largest * (math.log(10) * _DECADES)).sum(dim=1)
        return EncodedShares(y, logdet - slopes, ((noisy >= 0) & (share <= 1)).all(dim=1))

    def decode(self, y: Tensor, energies: Tensor | None) -> Tensor:
        """Variables (N, n) and the layer's energy with noise (N, 1), MeV, or None, to deposits, float64 (N, n), MeV.

        They are NaN for a shower whose cells or energy are not finite.
        """
        exponent = (self.logit.restore(y.double()) - 1) * _DECADES
        made = (torch.pow(10.0, exponent) - _FLOOR).clamp_min(0) * self.largest
        if energies is None:
            return unless_finite(torch.where(made >= self.least, made, torch.zeros_like(made)), made, y)
        return unless_finite(keep_brightest(made, energies, self.least), made, y, energies)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {
            "transform": "logit of log10 energy of cells",
            "floor_relative": _FLOOR,
            "decades": _DECADES,
            "alpha": _MARGIN,
            "largest_MeV": None if math.isnan(float(self.largest)) else self._scale[0].largest.tolist(),
        }


def keep_brightest(cells: Tensor, energies: Tensor, cut: float) -> Tensor:
    """Cells of one layer, scaled to its energy; of them the brightest, so many that none is below the threshold then.

    The renormalisation of L2LFlows, as the program of arXiv:2405.20407 keeps it.

    Args:
        cells: not negative, (N, n), MeV.
        energies: of the layer, (N, 1), MeV; a layer with less than ``cut`` is empty.
        cut: the threshold, MeV, above 0.

    Returns:
        (N, n), MeV: zero or at least ``cut``, with the layer's energy together.
    """
    ordered, order = torch.sort(cells, dim=1, descending=True)
    factors = energies / ordered.cumsum(dim=1).clamp_min(torch.finfo(cells.dtype).tiny)
    rank = torch.arange(1, cells.shape[1] + 1, device=cells.device)
    count = ((ordered * factors >= cut) * rank).amax(dim=1, keepdim=True)
    factor = factors.gather(1, (count - 1).clamp_min(0))
    kept = torch.where(rank <= count, ordered * factor, torch.zeros_like(ordered))
    return torch.zeros_like(kept).scatter(1, order, kept)
