"""Layers of adversarial networks on detector images: weights that differ from cell to cell, comparisons within a batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from caloforge.nn.batch_layers import gathered

__all__ = ["Fans", "LocallyConnected", "MinibatchFeatures", "as_cells", "as_images", "bordered", "even_same"]

Initial = Literal["he-uniform", "glorot-uniform", "glorot-normal"]
Fans = Literal["cell", "keras"]


def even_same(x: Tensor) -> Tensor:
    """One row below and one column to the right of images (N, C, H, W): 'same' padding of Keras for a kernel of 2 x 2."""
    return functional.pad(x, (0, 1, 0, 1))


def as_cells(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in the order of the cells, (H, W, N, C)."""
    return images.permute(2, 3, 0, 1).contiguous()


def as_images(cells: Tensor) -> Tensor:
    """What :func:`as_cells` undoes: (H, W, N, C) to (N, C, H, W)."""
    return cells.permute(2, 3, 0, 1).contiguous()


def bordered(cells: Tensor, *, periodic: bool) -> Tensor:
    """Cells (H, W, N, C) with a border of one: zeros, or in the first axis what lies on the other side."""
    x = functional.pad(cells, (0, 0, 0, 0, 1, 1))
    return torch.cat([x[-1:], x, x[:1]]) if periodic else functional.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))


class LocallyConnected(nn.Module):
    """A convolution without shared weights: every cell of the output has its own (Keras' LocallyConnected2D, valid padding).

    Args:
        channels: of the input.
        shape: rows and columns of the input.
        filters: channels of the output.
        kernel: rows and columns of the kernel.
        stride: rows and columns from one output cell to the next.
        bias: whether every output cell and filter has a bias.
        initial: distribution of the initial weights.
        fans: what their width is counted by: inputs and outputs of a ``cell``, or as ``keras`` does, over all cells.

    Attributes:
        output: rows and columns of the output.
        weight: (cells, kernel * channels, filters).
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
        initial: Initial = "he-uniform",
        fans: Fans = "cell",
    ) -> None:
        super().__init__()
        rows, columns = ((side - k) // s + 1 for side, k, s in zip(shape, kernel, stride, strict=True))
        self.output = (rows, columns)
        self.kernel, self.stride, self.filters = kernel, stride, filters
        inputs, cells = channels * kernel[0] * kernel[1], rows * columns
        spread = cells if fans == "keras" else 1
        weight = torch.empty(cells, inputs, filters)
        variance = 2.0 / ((inputs if initial == "he-uniform" else inputs + filters) * spread)
        if initial == "glorot-normal":
            nn.init.normal_(weight, std=math.sqrt(variance))
        else:
            limit = math.sqrt(3.0 * variance)
            nn.init.uniform_(weight, -limit, limit)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(filters, cells)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, rows, columns) to (N, filters, output rows, output columns)."""
        return as_images(self.cells(as_cells(x)))

    def cells(self, x: Tensor) -> Tensor:
        """The same for values in the order (rows, columns, N, channels), in which one product for each cell needs no copies."""
        rows, columns = self.output
        down, right = self.stride
        patches = torch.cat(
            [
                x[i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
                for i in range(self.kernel[0])
                for j in range(self.kernel[1])
            ],
            dim=3,
        ).flatten(0, 1)
        none = patches.new_zeros(1, 1, 1) if self.bias is None else self.bias.T[:, None]
        made = torch.baddbmm(none, patches, self.weight)
        return made.reshape(rows, columns, x.shape[2], self.filters)


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
        # Rounded: last digits must not say which way showers are pushed that are the same to a critic (two empty layers).
        grain = torch.finfo(own.dtype).eps ** 0.75
        own = own + ((own / grain).round() * grain - own).detach()
        distance = torch.cdist(own.transpose(0, 1), gathered(own).transpose(0, 1), p=1.0)
        return torch.exp(-distance).sum(dim=2).T
