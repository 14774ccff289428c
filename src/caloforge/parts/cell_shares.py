"""Which share of a radial profile lies in each cell of a layer, for showers along the axis, from tables over the radius."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from caloforge.detectors import CartesianGrid, PolarGrid, Readout

__all__ = ["CellShares", "rectangle_shares", "ring_shares"]

#: Radii R of the tables, in units of the Moliere radius; between them shares are linear in ln R.
_RADII = (0.004, 40.0, 108)


def rectangle_shares(x_edges: Tensor, y_edges: Tensor, radius: Tensor) -> Tensor:
    """Integral of R^2 / (pi (x^2 + y^2 + R^2)^2) over rectangles, (K, nx, ny), from edges (mm) and radii R (K,)."""
    x, y, r = x_edges[None, :, None], y_edges[None, None, :], radius[:, None, None]
    across, along = (x**2 + r**2).sqrt(), (y**2 + r**2).sqrt()
    corners = (x / across * torch.atan(y / across) + y / along * torch.atan(x / along)) / (2 * math.pi)
    return corners.diff(dim=1).diff(dim=2)


def ring_shares(edges: Tensor, radius: Tensor) -> Tensor:
    """The same over rings, (K, n), from radii of their edges (mm)."""
    square = edges[None] ** 2
    return (square / (square + radius[:, None] ** 2)).diff(dim=1)


class CellShares(nn.Module):
    """Energy in cells from energies that layers have at certain radii R.

    Attributes:
        runs: first layer and end of each run of layers with the same cells; the table of run k is the buffer ``table_k``, of
            shape (radii, cells).
        low, step: logarithm of the lowest radius of the tables (Moliere radii), and that of the ratio of two neighbours.
        radii: how many there are.

    Args:
        readout: layers with cells.
        unit: Moliere radius, mm.
    """

    def __init__(self, readout: Readout, unit: float) -> None:
        super().__init__()
        low, high, count = _RADII
        radii = torch.from_numpy(np.geomspace(low, high, count))
        self.layers, self.radii = readout.n_layers, count
        self.low, self.step = math.log(low), math.log(high / low) / (count - 1)
        self.runs: list[tuple[int, int]] = []
        grids: list[object] = []
        for number, layer in enumerate(readout.layers):
            if grids and layer.grid == grids[-1]:
                self.runs[-1] = (self.runs[-1][0], number + 1)
                continue
            grids.append(layer.grid)
            self.runs.append((number, number + 1))
            self.register_buffer(f"table_{len(grids) - 1}", _table(layer.grid, radii * unit), persistent=False)

    def forward(self, layer: Tensor, radius: Tensor, energy: Tensor) -> Tensor:
        """Energy in each cell, float64 (N, V).

        Args:
            layer: of each portion of energy, (P,).
            radius: R of each portion, Moliere radii, (N, P).
            energy: (N, P).
        """
        place = ((radius.log() - self.low) / self.step).clamp(0, self.radii - 1.001)
        low = place.long()
        upper = (place - low) * energy
        weights = torch.zeros(len(radius), self.layers * self.radii, dtype=energy.dtype, device=energy.device)
        index = layer * self.radii + low
        weights.scatter_add_(1, index, energy - upper)
        weights.scatter_add_(1, index + 1, upper)
        by_layer = weights.reshape(len(radius), self.layers, self.radii)
        parts = [
            (by_layer[:, first:stop] @ self.get_buffer(f"table_{k}")).flatten(1)
            for k, (first, stop) in enumerate(self.runs)
        ]
        return torch.cat(parts, dim=1)

    def contained(self, layer: Tensor, radius: Tensor) -> Tensor:
        """Share of the energy that lies in the cells of its layer at all, (..., P); arguments as for :meth:`forward`."""
        sums = torch.cat(
            [self.get_buffer(f"table_{k}").sum(dim=1).expand(b - a, -1) for k, (a, b) in enumerate(self.runs)]
        )
        place = ((radius.log() - self.low) / self.step).clamp(0, self.radii - 1.001)
        low = place.long()
        of_layer = layer.expand_as(low)
        return torch.lerp(sums[of_layer, low], sums[of_layer, low + 1], place - low)


def _table(grid: object, radii: Tensor) -> Tensor:
    if isinstance(grid, CartesianGrid):
        edges = [torch.tensor(e, dtype=torch.float64) for e in (grid.x_edges, grid.y_edges)]
        return rectangle_shares(edges[0], edges[1], radii).flatten(1)
    assert isinstance(grid, PolarGrid)  # a readout with voxels has one or the other
    rings = ring_shares(torch.tensor(grid.r_edges, dtype=torch.float64), radii)
    return (rings / grid.n_alpha).repeat(1, grid.n_alpha)
