"""Critics of the bounded-information-bottleneck autoencoder (arXiv:2005.05334, arXiv:2303.18150).

A critic sees a shower beside what the autoencoder made of it, or beside itself. What it makes of the difference is a learnt
norm; the rest says whether the second one looks like a shower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from caloforge.nn.batch_layers import gathered
from caloforge.nn.bottleneck import SLOPE, ConvolutionStack, Flat

__all__ = ["BatchStatistics", "LatentCritic", "PairCritic"]

#: Widths of the embedding of a difference between two showers of a batch.
_EMBEDDING = (64, 64, 16)
#: Numbers that each branch hands on, as a share of the width behind them; the publications have 64 of 256.
_SHARE = 4
#: The two-angle critic takes ln(x + e^-5) + 5, which is ln(e^5 x + 1).
_STEEP = math.exp(5.0)


class LatentCritic(nn.Module):
    """Says of each latent by itself how unlike a standard normal number it is.

    Args:
        hidden: widths of the hidden layers.
    """

    def __init__(self, hidden: Sequence[int] = (50, 100, 50)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *hidden), hidden, strict=False):
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.01)]
        self.network = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def forward(self, latents: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        found: Tensor = self.network(latents[..., None])
        return found[..., 0]


class BatchStatistics(nn.Module):
    """How the spread and the sum of a shower's cells differ from those of the other showers of the batch.

    Every difference is embedded; mean and standard deviation of the embeddings over the batch are what is handed on.

    Args:
        features: numbers handed on.
        cells: sums are over the square root of this.
    """

    def __init__(self, features: int, cells: int = 1) -> None:
        super().__init__()
        self.root = math.sqrt(cells)
        self.spread, self.sum = (self._embedding() for _ in range(2))
        self.last = nn.Linear(4 * _EMBEDDING[-1], features)

    @staticmethod
    def _embedding() -> nn.ModuleList:
        widths = (1, *_EMBEDDING)
        return nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in zip(widths, _EMBEDDING, strict=False))

    def forward(self, cells: Tensor) -> Tensor:
        """Cells (N, V) to (N, F)."""
        parts = []
        for layers, values in ((self.spread, _spread(cells)), (self.sum, cells.sum(dim=1) / self.root)):
            x = (gathered(values)[None, :] - values[:, None])[..., None]
            for layer in layers:
                x = functional.leaky_relu(layer(x), 0.01)
            parts += [_spread(x), x.mean(dim=1)]
        return functional.leaky_relu(self.last(torch.cat(parts, dim=1)), SLOPE)


def _spread(x: Tensor) -> Tensor:
    """Standard deviation along the second axis, (N, M, ...) to (N, ...), with a gradient also where all values are the same."""
    variance = (x - x.mean(dim=1, keepdim=True)).square().sum(dim=1) / max(x.shape[1] - 1, 1)
    return (variance + 1e-12).sqrt()


class PairCritic(nn.Module):
    """Judges pairs of showers.

    Args:
        cells: number of cells V.
        bodies: convolutions of the second shower's cells and of their logarithms, or :class:`~caloforge.nn.bottleneck.Flat`.
        conditions: number of conditions C, each of which has a branch.
        width: of the hidden layers.
        hidden: number of hidden layers.
        two_angles: the critic of arXiv:2303.18150: batch statistics, a difference of logarithms, another logarithm, and small
            energies in front of the convolutions; otherwise that of arXiv:2005.05334.
        pairs: whether the differences are seen; otherwise the critic sees the second shower alone.
        of_one: whether cells are of the order of one, and not of MeV: then the logarithm is that of arXiv:2303.18150, energies
            are not made small, and sums are over the square root of the number of cells.
    """

    def __init__(
        self,
        cells: int,
        bodies: tuple[ConvolutionStack | Flat, ConvolutionStack | Flat],
        conditions: int,
        *,
        width: int,
        hidden: int,
        two_angles: bool,
        pairs: bool = True,
        of_one: bool = False,
    ) -> None:
        super().__init__()
        self.steep = two_angles or of_one
        self.factor = 1e-3 if two_angles and not of_one else 1.0
        each = max(width // _SHARE, 1)
        self.two_angles = two_angles
        self.raw, self.log = bodies
        self.raw_out, self.log_out = (nn.Linear(body.features, each) for body in bodies)
        self.difference = nn.Linear(cells, each) if pairs else None
        self.conditions = nn.ModuleList(nn.Linear(1, each) for _ in range(conditions))
        self.log_difference = nn.Linear(cells, each) if pairs and two_angles else None
        branches = 2 + conditions + (1 + two_angles if pairs else 0)
        if two_angles:
            self.statistics, self.log_statistics = (BatchStatistics(each, cells if of_one else 1) for _ in range(2))
            branches += 2
        layers: list[nn.Module] = []
        for before in (branches * each, *[width] * (hidden - 1)):
            layers += [nn.Linear(before, width), nn.LeakyReLU(SLOPE)]
        self.network = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, truth: Tensor, cells: Tensor, conditions: Tensor) -> Tensor:
        """How real the second showers look.

        Args:
            truth: cells of real showers, (N, V), not negative.
            cells: what the autoencoder made of them, or the same again, (N, V), not negative.
            conditions: (N, C).

        Returns:
            (N,).
        """
        logs = self._logarithm(cells)
        parts = [self.raw_out(self.raw(self.factor * cells)), self.log_out(self.log(logs))]
        parts += [layer(conditions[:, number, None]) for number, layer in enumerate(self.conditions)]
        parts = [functional.leaky_relu(part, SLOPE) for part in parts]
        if self.difference is not None:
            slope = SLOPE if self.two_angles else 0.01
            parts.append(functional.leaky_relu(self.difference(cells - truth), slope))
        if self.log_difference is not None:
            parts.append(functional.leaky_relu(self.log_difference(logs - self._logarithm(truth)), SLOPE))
        if self.two_angles:
            parts += [self.statistics(cells), self.log_statistics(logs)]
        found: Tensor = self.network(torch.cat(parts, dim=1))
        return found[:, 0]

    def _logarithm(self, cells: Tensor) -> Tensor:
        # An interpolation of two showers may be negative by rounding.
        return torch.log1p((_STEEP if self.steep else 1.0) * cells.clamp_min(0))
