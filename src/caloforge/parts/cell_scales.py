"""What is usual in each cell: its unit, and how often it is lit, of the training showers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from caloforge.random import Streams
from caloforge.representation import LayerSums
from caloforge.stage import FitStage, TrainingData, deposits_of

__all__ = ["CellScales", "CellScalesFit"]

#: Cells are taken to be lit, and dark, at least so often; share of the incident energy below which no unit lies.
_RARELY, _LEAST_UNIT = 2e-3, 1e-8
#: Least mean share of a layer.
_LEAST_SHARE = 1e-6


class CellScales(nn.Module):
    """Deposits of every cell as positive parts of normal numbers of width 1, in units of the cell.

    The place of such a number makes it positive as often as the cell is lit, the unit gives it the mean of the cell.

    Args:
        sizes: numbers of cells of the layers.

    Attributes:
        shares: mean share of the incident energy in every layer, (L,).
        cells: unit of each cell, a share of the incident energy, (V,).
        lit: share of the showers in which each cell is lit, (V,).
    """

    shares: Tensor
    cells: Tensor
    lit: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sums = LayerSums(sizes)
        per_layer = torch.full((1, len(sizes)), 1.0 / len(sizes))
        counts = torch.tensor([list(map(float, sizes))])
        self.register_buffer("shares", per_layer[0])
        self.register_buffer("cells", self.sums.spread(per_layer / counts)[0])
        self.register_buffer("lit", torch.full((sum(sizes),), 0.5))

    def places(self) -> Tensor:
        """Means of the normal numbers, float64 (V,)."""
        places: Tensor = torch.special.ndtri(self.lit.double().clamp(_RARELY, 1 - _RARELY))
        return places


class CellScalesFit(FitStage):
    """Finds the scales.

    Args:
        path: of the part in its model.
        part: the scales.
        threshold: deposits below are 0, MeV.
    """

    def __init__(self, path: str, part: CellScales, threshold: float) -> None:
        super().__init__(path, {path: part})
        self.path, self.part, self.threshold = path, part, threshold

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.FitStage.fit`."""
        mean, lit = (torch.zeros_like(self.part.cells, dtype=torch.float64) for _ in range(2))
        for batch in data:
            deposits = deposits_of(batch).double()
            deposits = torch.where(deposits < self.threshold, 0.0, deposits)
            mean += (deposits / batch.incident_energy.double()[:, None]).sum(dim=0) / len(data)
            lit += (deposits > 0).double().sum(dim=0) / len(data)
        place = torch.special.ndtri(lit.clamp(_RARELY, 1 - _RARELY))
        # Mean of the positive part of a normal number of width 1.
        positive = torch.exp(-place.square() / 2) / math.sqrt(2 * math.pi) + place * torch.special.ndtr(place)
        # A cell or layer that is never lit has no scale of its own, and wants none.
        found = {
            "shares": self.part.sums(mean[None])[0].clamp_min(_LEAST_SHARE),
            "cells": (mean / positive).clamp_min(_LEAST_UNIT),
            "lit": lit,
        }
        return {f"{self.path}.{name}": value.float() for name, value in found.items()}
