"""Layers of adversarial networks on detector images: weights that differ from cell to cell, comparisons within a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from caloforge.nn.batch_layers import gathered

__all__ = ["LocallyConnected", "MinibatchFeatures", "bordered", "even_same"]


def even_same(x: Tensor) -> Tensor:
    """One row below and one column to the right of images (N, C, H, W): 'same' padding of Keras for a kernel of 2 x 2."""
    return functional.pad(x, (0, 1, 0, 1))


def bordered(x: Tensor, *, periodic: bool) -> Tensor:
    """Images (N, C, H, W) with a border of one cell: zeros, or in the first axis what lies on the other side."""
    x = functional.pad(x, (1, 1))
    return torch.cat([x[:, :, -1:], x, x[:, :, :1]], dim=2) if periodic else functional.pad(x, (0, 0, 1, 1))


class LocallyConnected(nn.Module):
    """A convolution without shared weights: every cell of the output has its own (Keras' LocallyConnected2D, valid padding).

    Args:
        channels: of the input.
        shape: rows and columns of the input.
        filters: channels of the output.
        kernel: rows and columns of the kernel.
        stride: rows and columns from one output cell to the next.
        bias: whether every output cell and filter has a bias.
        fans: how wide the initial weights are spread, he-uniform: by the inputs of a ``cell``, or as ``keras`` counts
            them, over all cells.

    Attributes:
        output: rows and columns of the output.
        weight: (cells, channels * kernel, filters).
        bias: (filters, cells), or None.
    """

    def __init__(
        self,
        channels: int,
        shape: tuple[int, int],
        filters: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        bias: bool = True,
        fans: str = "cell",
        glorot: bool = False,
    ) -> None:
        super().__init__()
        rows, columns = ((side - k) // s + 1 for side, k, s in zip(shape, kernel, stride, strict=True))
        self.output = (rows, columns)
        self.kernel, self.stride, self.filters = kernel, stride, filters
        inputs, cells = channels * kernel[0] * kernel[1], rows * columns
        spread = cells if fans == "keras" else 1
        weight = torch.empty(cells, inputs, filters)
        if glorot:
            nn.init.normal_(weight, std=math.sqrt(2.0 / ((inputs + filters) * spread)))
        else:
            limit = math.sqrt(6.0 / (inputs * spread))
            nn.init.uniform_(weight, -limit, limit)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(filters, cells)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, rows, columns) to (N, filters, output rows, output columns)."""
        patches = functional.unfold(x, self.kernel, stride=self.stride)
        made = torch.bmm(patches.permute(2, 0, 1), self.weight).permute(1, 2, 0)
        if self.bias is not None:
            made = made + self.bias
        return made.reshape(len(x), self.filters, *self.output)


class MinibatchFeatures(nn.Module):
    """How many rows of the batch are like each row (minibatch discrimination, arXiv:1606.03498, equation 2).

    Feature k of row i is the sum over all rows j, i itself among them, of exp(- sum_d |K_ikd - K_jkd|), K being a linear
    map of the row. The rows of all processes are compared.

    Args:
        features: of a row.
        kernels: number of features k.
        dimensions: number of d.
    """

    def __init__(self, features: int, kernels: int = 10, dimensions: int = 10) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernels, features, dimensions))
        limit = math.sqrt(6.0 / (kernels * (features + dimensions)))
        nn.init.uniform_(self.weight, -limit, limit)
        self.bias = nn.Parameter(torch.zeros(kernels, dimensions))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) to (N, kernels), each at least 1."""
        own = torch.einsum("nf,kfd->nkd", x, self.weight) + self.bias
        every = gathered(own)
        distance = (own[:, None] - every[None]).abs().sum(dim=3)
        return torch.exp(-distance).sum(dim=1)
