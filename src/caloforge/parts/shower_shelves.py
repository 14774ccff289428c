"""Stored showers by energy and direction: the nearest ones, and how their layers move with the energy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.parts.stored_showers import StoredShowers, SymmetryChoice

__all__ = ["SAME_LOG_ENERGY", "ShowerShelves", "powers"]

#: Energies whose logarithms differ by less are equal; they come from files in single precision.
SAME_LOG_ENERGY = 1e-6
#: Of this many showers asked for at once, in a library of showers with directions, all distances are in memory together.
_BLOCK = 256
#: Degree of the polynomial in the logarithm of the energy that a layer's mean share follows.
_DEGREE = 3


def powers(x: Tensor) -> Tensor:
    """Powers 0 to 3 of numbers (N,), (N, 4)."""
    return x[:, None] ** torch.arange(_DEGREE + 1, device=x.device)


class ShowerShelves(nn.Module):
    """The showers in the order of their energies, and where they lie among conditions.

    Args:
        detector: of the showers.
        symmetries: which images of a shower count as showers of their own.
        points: whether points are kept although the detector has cells.
    """

    log_energy: Tensor
    direction: Tensor
    trend: Tensor

    def __init__(self, detector: Detector, symmetries: SymmetryChoice, *, points: bool) -> None:
        super().__init__()
        self.stored = StoredShowers(detector, symmetries, points=points)
        self.register_buffer("log_energy", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("direction", torch.zeros(0, 3, dtype=torch.float64))
        self.register_buffer("trend", torch.zeros(detector.readout.n_layers, _DEGREE + 1, dtype=torch.float64))

    @property
    def straight(self) -> bool:
        """Whether all showers fly along +z."""
        return bool((self.direction[:, 2] > 1 - 1e-6).all())

    def mean_shares(self, log_energy: Tensor) -> Tensor:
        """Mean share of the incident energy in each layer, (N, L); never far below what was seen."""
        return (powers(log_energy - self.log_energy.mean()) @ self.trend.T).clamp_min(1e-5)

    def nearest(self, wanted: Tensor, direction: Tensor, chance: Tensor, neighbours: int) -> Tensor:
        """One of so many nearest showers, at random and of those as near as the last: int64 (N,).

        Distances are those of log energies (N,) and directions (N, 3) in units of their ranges; ``chance`` is uniform, (N,).
        """
        span = (self.log_energy[-1] - self.log_energy[0]).clamp_min(1e-3)
        spread = self.direction.amax(dim=0) - self.direction.amin(dim=0)
        width = spread.max().clamp_min(1e-3)
        known = torch.cat([self.log_energy[:, None] / span, self.direction / width], dim=1)
        asked = torch.cat([wanted[:, None] / span, direction / width], dim=1)
        count, found = min(neighbours, len(known)), []
        for start in range(0, len(asked), _BLOCK):
            distance = torch.cdist(asked[start : start + _BLOCK], known, compute_mode="donot_use_mm_for_euclid_dist")
            reach = distance.kthvalue(count, dim=1, keepdim=True).values + SAME_LOG_ENERGY
            order = distance.argsort(dim=1, stable=True)
            near = (distance <= reach).sum(dim=1)
            place = torch.minimum((chance[start : start + _BLOCK] * near).long(), near - 1)
            found.append(order.gather(1, place[:, None])[:, 0])
        return torch.cat(found)

    def shares_moved(self, rows: Tensor, wanted: Tensor, own: Tensor) -> Tensor:
        """Factors of the layers, (N, L), under which showers keep their totals and get the mean shares of another energy.

        Args:
            rows: which showers, int64 (N,).
            wanted: log of the energies that are asked for, (N,).
            own: log of theirs, (N,).
        """
        ratio = (self.mean_shares(wanted) / self.mean_shares(own)).clamp(0.5, 2.0)
        energies = self.stored.layer_energies(rows)
        total = (energies * ratio).sum(dim=1).clamp_min(1e-300)
        return ratio * (energies.sum(dim=1) / total)[:, None]
