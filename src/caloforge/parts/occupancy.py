"""How many points a shower of points needs so that it lights as many cells as a real one: factors that a calibration finds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from caloforge.parts.point_settings import SAMPLERS, Sampler

__all__ = ["LEAST_FACTOR", "CalibrationFactors", "rounded_counts"]

#: Least factor on the number of points that the polynomials may give.
LEAST_FACTOR = 0.05


class CalibrationFactors(nn.Module):
    """What the calibration finds, for each sampler.

    Args:
        layers: number of layers L.
        polynomial: whether the number of points is calibrated by polynomials.

    Attributes:
        per_layer: whether every layer gets a factor of its own; an aid may want that.
        occupancy: factors on the number of points of each layer, (samplers, L); with polynomials the largest factor that
            they may give.
        energy: factor on all energies, (samplers,).
        polynomials: lit cells as a cubic of real points, and generated points as a cubic of lit cells, highest power
            first, (samplers, 2, 4); None without polynomials.
    """

    occupancy: Tensor
    energy: Tensor
    polynomials: Tensor

    def __init__(self, layers: int, *, polynomial: bool) -> None:
        super().__init__()
        self.polynomial = polynomial
        self.per_layer = False
        self.register_buffer("occupancy", torch.ones(len(SAMPLERS), layers, dtype=torch.float64))
        self.register_buffer("energy", torch.ones(len(SAMPLERS), dtype=torch.float64))
        if polynomial:
            same = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
            self.register_buffer("polynomials", same.repeat(len(SAMPLERS), 2, 1))

    def of_points(self, total: Tensor, sampler: Sampler) -> Tensor:
        """Factors on numbers of points, (L,) or, with polynomials, (N, 1).

        Args:
            total: points of each shower before the calibration, float64 (N,).
            sampler: which sampler makes the points.
        """
        number = SAMPLERS.index(sampler)
        if not self.polynomial:
            return self.occupancy[number]
        wanted = total
        for cubic in self.polynomials[number]:
            wanted = ((cubic[0] * wanted + cubic[1]) * wanted + cubic[2]) * wanted + cubic[3]
        factor = torch.maximum(wanted / total.clamp_min(1), LEAST_FACTOR * torch.ones_like(wanted))
        return torch.minimum(factor, self.occupancy[number].max())[:, None]

    def calibrated(self, counts: Tensor, sampler: Sampler) -> Tensor:
        """Points to be made in each layer, int64 (N, L), for the flow's counts (N, L)."""
        return rounded_counts(counts, self.of_points(counts.sum(dim=1), sampler))

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {
            name: {
                "occupancy": self.occupancy[k].tolist(),
                "energy": float(self.energy[k]),
                **({"polynomials": self.polynomials[k].tolist()} if self.polynomial else {}),
            }
            for k, name in enumerate(SAMPLERS)
        }


def rounded_counts(counts: Tensor, factors: Tensor) -> Tensor:
    """Counts (N, L) times factors (L,) or (N, 1), whole numbers, int64: at least one where there was one."""
    wanted = torch.floor(counts * factors + 0.5).clamp_min(1)
    return torch.where(counts > 0, wanted, torch.zeros_like(wanted)).long()
