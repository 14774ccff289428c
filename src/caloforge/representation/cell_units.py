"""Cells as numbers of the order of one, for networks whose output is a cell's energy and may be exactly zero."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.representation.layers import LayerSums

__all__ = ["CellUnits", "CellUnitsKind"]

#: ``units``: energy over one unit for all cells. ``shares``: share of the layer over the standard deviation of that share.
CellUnitsKind = Literal["units", "shares"]

#: The standard deviation of a share counts as at least this part of the share of each cell if all were alike.
_LEAST = 1e-3
_TINY = 1e-9


class CellUnits(nn.Module):
    """Deposits to cells in units, and back.

    Args:
        detector: a calorimeter with voxels.
        kind: see ``CellUnitsKind``.
        unit: MeV; None takes the median of the lit cells of the training data.

    Attributes:
        unit: MeV.
        spread: with ``shares``: standard deviation of the share of every cell, float64 (V,); ones otherwise.
        middle: with ``shares``: its mean in units of that, float64 (V,); zeros otherwise.
    """

    unit: Tensor
    spread: Tensor
    middle: Tensor

    def __init__(self, detector: Detector, kind: CellUnitsKind, unit: float | None) -> None:
        super().__init__()
        self.kind, self.given = kind, unit
        self.sums = LayerSums(detector.readout.layer_sizes)
        self.register_buffer("unit", torch.tensor(unit or 1.0, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(detector.readout.n_voxels, dtype=torch.float64))
        self.register_buffer("middle", torch.zeros(detector.readout.n_voxels, dtype=torch.float64))

    def fitted(self, deposits: Tensor) -> dict[str, Tensor]:
        """The state for some training rows.

        Args:
            deposits: behind the threshold, (N, V), MeV.
        """
        lit = deposits[deposits > 0].double()
        unit = torch.tensor(self.given or 1.0, dtype=torch.float64)
        if self.given is None and len(lit):
            unit = lit.median().cpu()
        if self.kind == "units":
            return {"unit": unit, "spread": torch.ones_like(self.spread), "middle": torch.zeros_like(self.middle)}
        energies = self.sums(deposits, dtype=torch.float64)
        shares = deposits.double() / self.sums.spread(energies).clamp_min(_TINY)
        rows = self.sums.spread((energies > 0).sum(dim=0, keepdim=True).clamp_min(1))[0]
        mean = shares.sum(dim=0) / rows
        sizes = torch.tensor(self.sums.layer_sizes, dtype=torch.float64, device=deposits.device)
        least = self.sums.spread(_LEAST / sizes[None])[0]
        spread = torch.maximum((shares.square().sum(dim=0) / rows - mean.square()).clamp_min(0).sqrt(), least)
        return {"unit": unit, "spread": spread, "middle": mean / spread}

    def encode(self, deposits: Tensor, energies: Tensor) -> Tensor:
        """Deposits (N, V) and energies of the layers (N, L), MeV, to cells, float64 (N, V); an empty layer to zeros."""
        if self.kind == "units":
            return deposits.double() / self.unit
        return deposits.double() / (self.sums.spread(energies.double()).clamp_min(_TINY) * self.spread)

    def balanced(self, cells: Tensor, energies: Tensor) -> Tensor:
        """With ``shares``: cells scaled so that those of a layer make up all of it, (N, V).

        Args:
            cells: as a network makes them, (N, V), not negative. A layer of zeros becomes the mean one.
            energies: of the layers, (N, L), MeV; the cells of an empty one are zero.
        """
        if self.kind == "units":
            return cells
        spread = self.spread.to(cells.dtype)
        empty = self.sums.spread(self.sums(cells * spread) < _TINY)
        cells = torch.where(empty, self.middle.to(cells.dtype), cells)
        found = cells / self.sums.spread(self.sums(cells * spread).clamp_min(_TINY))
        return found * self.sums.spread(energies > 0).to(cells.dtype)

    def decode(self, cells: Tensor, energies: Tensor | None) -> Tensor:
        """Cells (N, V), and with ``shares`` energies of the layers (N, L), MeV, to deposits, float64 (N, V), MeV."""
        if self.kind == "units" or energies is None:
            return cells.double() * self.unit
        return cells.double() * self.spread * self.sums.spread(energies)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {"cells": self.kind, "unit_MeV": float(self.unit)}
