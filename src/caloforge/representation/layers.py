"""Voxels relative to the energy of their layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError

__all__ = ["DroppedVoxelNormalisation", "LayerNormalisation", "LayerSums"]

#: Added to a layer's energy before dividing by it, MeV (100 GeV x 1e-16 would be the published constant; this one is
#: as far below any noise and keeps an empty layer without noise at zero instead of 0/0).
_TINY = 1e-16


class LayerSums(nn.Module):
    """Sums over the voxels of each layer, and values of layers spread over their voxels.

    Args:
        layer_sizes: number of voxels of each layer.

    Raises:
        ConfigError: if a layer is empty or there is none.
    """

    voxel_layers: Tensor

    def __init__(self, layer_sizes: Sequence[int]) -> None:
        super().__init__()
        if not layer_sizes or min(layer_sizes) < 1:
            raise ConfigError(f"layers need at least one voxel each, not {list(layer_sizes)}")
        self.layer_sizes = tuple(layer_sizes)
        #: Runs of consecutive layers of equal size as (first voxel, layers, voxels per layer): one operation each.
        self.runs: list[tuple[int, int, int]] = []
        start = 0
        for size, run in groupby(self.layer_sizes):
            count = len(list(run))
            self.runs.append((start, count, size))
            start += count * size
        sizes, voxels = torch.tensor(self.layer_sizes), sum(self.layer_sizes)
        index = torch.repeat_interleave(torch.arange(len(self.layer_sizes)), sizes, output_size=voxels)
        self.register_buffer("voxel_layers", index, persistent=False)

    def blocks(self, values: Tensor) -> list[Tensor]:
        """Views (N, layers, voxels) of the runs of equal layers in ``values`` (N, V)."""
        return [
            values[:, start : start + count * size].reshape(values.shape[0], count, size)
            for start, count, size in self.runs
        ]

    def forward(self, values: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """Sum over the voxels (N, V) of each layer, (N, L), in ``dtype``."""
        return torch.cat([block.sum(dim=-1, dtype=dtype) for block in self.blocks(values)], dim=1)

    def moments(self, energies: Tensor, places: Tensor, over: Tensor) -> tuple[Tensor, Tensor]:
        """Energy-weighted mean and variance of a coordinate in each layer, (N, L) each.

        The variance is taken from the mean, not as a difference of squares, which loses digits far from the axis.

        Args:
            energies: of the voxels, (N, V).
            places: the coordinate, (V,).
            over: energies of the layers, (N, L), or what divides in their place where they are none.
        """
        mean = self(energies * places) / over
        return mean, self(energies * (places - self.spread(mean)).square()) / over

    def brightest(self, values: Tensor, ranks: int) -> Tensor:
        """The largest values of each layer, in order, (N, L, ranks), 0 where a layer has fewer voxels.

        Args:
            values: not negative, (N, V).
            ranks: how many.
        """
        padded = [nn.functional.pad(block, (0, ranks - 1)) for block in self.blocks(values)]
        return torch.cat([block.topk(ranks, dim=-1).values for block in padded], dim=1)

    def spread(self, per_layer: Tensor) -> Tensor:
        """Repeat values of layers (N, L) for each of their voxels, (N, V)."""
        return per_layer.index_select(1, self.voxel_layers)


class LayerNormalisation(nn.Module):
    """Voxel energies divided by the energy of their layer, which is an independent variable.

    The shares are as many as the voxels, and a flow on them does not know that they add up to one; together with the
    layer energies they are more variables than deposits (arXiv:2106.05285, section 4.3). So the log-determinant is
    that of the map at fixed layer energies.

    Args:
        layer_sizes: number of voxels of each layer.
    """

    sizes: Tensor

    def __init__(self, layer_sizes: Sequence[int]) -> None:
        super().__init__()
        self.sums = LayerSums(layer_sizes)
        self.register_buffer("sizes", torch.tensor(layer_sizes, dtype=torch.float64), persistent=False)

    def transform(self, deposits: Tensor, layer_energies: Tensor) -> Tensor:
        """The shares alone, for training losses that need no log-determinant."""
        return deposits / self.sums.spread(layer_energies + _TINY)

    def forward(self, deposits: Tensor, layer_energies: Tensor) -> tuple[Tensor, Tensor]:
        """Deposits to shares.

        Args:
            deposits: (N, V), MeV.
            layer_energies: (N, L), MeV; usually ``self.sums(deposits)``.

        Returns:
            Shares (N, V) and log |det d shares / d deposits| at fixed layer energies (N,), nats.
        """
        logdet = -(torch.log(layer_energies + _TINY) * self.sizes.to(layer_energies.dtype)).sum(dim=1)
        return self.transform(deposits, layer_energies), logdet

    def inverse(self, shares: Tensor, layer_energies: Tensor) -> tuple[Tensor, Tensor]:
        """Shares to deposits, at the same layer energies; shapes as in :meth:`forward`."""
        logdet = (torch.log(layer_energies + _TINY) * self.sizes.to(layer_energies.dtype)).sum(dim=1)
        return shares * self.sums.spread(layer_energies + _TINY), logdet

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {"transform": "share of the layer energy", "layers": list(self.sums.layer_sizes)}


class DroppedVoxelNormalisation(nn.Module):
    """Deposits to layer energies and the shares of all voxels but one in each layer: a square map.

    The missing share of a layer is what the others leave, so V deposits become V - L shares and L energies.

    Args:
        layer_sizes: number of voxels of each layer.
        dropped: flat number of the voxel left out of each layer; a bright one, since its share is what remains.

    Raises:
        ConfigError: if ``dropped`` does not name one voxel of each layer.
    """

    sizes: Tensor
    kept: Tensor
    dropped: Tensor
    restore_order: Tensor

    def __init__(self, layer_sizes: Sequence[int], dropped: Sequence[int]) -> None:
        super().__init__()
        self.sums = LayerSums(layer_sizes)
        voxels = sum(layer_sizes)
        inside = len(dropped) == len(layer_sizes) and all(0 <= voxel < voxels for voxel in dropped)
        if not inside or self.sums.voxel_layers[list(dropped)].tolist() != list(range(len(layer_sizes))):
            raise ConfigError(f"one voxel of each layer must be dropped, not {list(dropped)}")
        kept = torch.tensor(sorted(set(range(voxels)) - set(dropped)), dtype=torch.int64)
        self.register_buffer("sizes", torch.tensor(layer_sizes, dtype=torch.float64), persistent=False)
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("dropped", torch.tensor(dropped, dtype=torch.int64), persistent=False)
        order = torch.argsort(torch.cat([kept, self.dropped]))
        self.register_buffer("restore_order", order, persistent=False)

    @property
    def kept_sizes(self) -> tuple[int, ...]:
        """Number of shares of each layer, for a flow that keeps layers together; layers of one voxel have none."""
        return tuple(size - 1 for size in self.sums.layer_sizes)

    def transform(self, deposits: Tensor, layer_energies: Tensor) -> Tensor:
        """The shares alone, for training losses that need no log-determinant."""
        return (deposits / self.sums.spread(layer_energies + _TINY)).index_select(1, self.kept)

    def forward(self, deposits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Deposits to shares and energies.

        Args:
            deposits: (N, V), MeV.

        Returns:
            Shares (N, V - L), layer energies (N, L) in MeV, and log |det d(shares, energies) / d deposits| (N,), nats:
            minus the sum over layers of (voxels - 1) log E.
        """
        energies = self.sums(deposits)
        return self.transform(deposits, energies), energies, -self._log_volume(energies)

    def complete(self, shares: Tensor) -> Tensor:
        """All shares (N, V) from the kept ones (N, V - L); those left out may come out negative."""
        member = self.sums.voxel_layers.index_select(0, self.kept)
        taken = shares.new_zeros(shares.shape[0], len(self.sums.layer_sizes)).index_add(1, member, shares)
        return torch.cat([shares, 1 - taken], dim=1).index_select(1, self.restore_order)

    def inverse(self, shares: Tensor, layer_energies: Tensor) -> tuple[Tensor, Tensor]:
        """Shares (N, V - L) and energies (N, L) to deposits (N, V), and the log-determinant (N,)."""
        return self.complete(shares) * self.sums.spread(layer_energies), self._log_volume(layer_energies)

    def _log_volume(self, energies: Tensor) -> Tensor:
        return (torch.log(energies + _TINY) * (self.sizes.to(energies.dtype) - 1)).sum(dim=1)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {
            "transform": "share of the layer energy, one voxel of each layer left out",
            "layers": list(self.sums.layer_sizes),
            "left_out": self.dropped.tolist(),
        }
