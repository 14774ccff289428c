"""Networks of CaloGAN (arXiv:1712.10321) on images of detector layers: generator streams, in-painting, critic streams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from caloforge.nn.batch_layers import BatchNorm1d
from caloforge.nn.local import (
    Fans,
    LocallyConnected,
    MinibatchFeatures,
    as_cells,
    as_images,
    bordered,
    even_same,
)

__all__ = [
    "CriticStream",
    "EnergyHead",
    "GeneratorStream",
    "ImageCritic",
    "ImageGenerator",
    "InPainting",
    "Norm",
    "leaky",
]

#: Batch norm as published (momentum and epsilon of Keras); layer norm over channels and cells of each row; nothing.
Norm = Literal["batch", "layer", "none"]
_SLOPE = 0.3
#: Bias of the carried image at the start: its share of the output is e^-10.
_CARRY_BIAS = -10.0


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU of slope 0.3."""
    return functional.leaky_relu(x, _SLOPE)


class _Normalised(nn.Module):
    """A norm of cells (H, W, N, C)."""

    def __init__(self, kind: Norm, channels: int) -> None:
        super().__init__()
        self.batch = BatchNorm1d(channels, eps=1e-3, momentum=0.01) if kind == "batch" else None
        self.layer = nn.GroupNorm(1, channels) if kind == "layer" else None

    def forward(self, cells: Tensor) -> Tensor:
        if self.batch is not None:
            flat: Tensor = self.batch(cells.reshape(-1, cells.shape[3]))
            return flat.reshape(cells.shape)
        return cells if self.layer is None else as_cells(self.layer(as_images(cells)))


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    made = nn.Conv2d(inputs, outputs, 2)
    nn.init.kaiming_uniform_(made.weight, nonlinearity="relu")
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made


class GeneratorStream(nn.Module):
    """From numbers of a shower to images of one or several layers of one shape (LAGAN, arXiv:1701.05927).

    Args:
        inputs: numbers of a shower.
        shape: rows and columns of the layers.
        layers: number of layers.
        channels: of the image that the dense layer makes, two rows and columns larger than the layer.
        norm: behind the convolution.
        fans: see :class:`~caloforge.nn.local.LocallyConnected`.
        bias: whether every cell of the images has a bias.
    """

    def __init__(
        self, inputs: int, shape: tuple[int, int], layers: int, channels: int, *, norm: Norm, fans: Fans, bias: bool
    ) -> None:
        super().__init__()
        self.image = (channels, shape[0] + 2, shape[1] + 2)
        self.dense = nn.Linear(inputs, channels * self.image[1] * self.image[2])
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.convolution = _convolution(channels, 16)
        self.norm = _Normalised(norm, 16)
        self.first = LocallyConnected(16, self.image[1:], 6, (2, 2), fans=fans)
        self.second = LocallyConnected(
            6, self.first.output, layers, (2, 2), bias=bias, initial="glorot-normal", fans=fans
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to images (N, layers, rows, columns), of any sign."""
        image = self.dense(x).reshape(-1, *self.image)
        cells = self.norm(as_cells(leaky(self.convolution(even_same(image)))))
        return as_images(self.second.cells(leaky(self.first.cells(cells))))

    @torch.no_grad()
    def start(self, x: Tensor, mean: Tensor) -> None:
        """Scale the last layer so that over some inputs every cell has a standard deviation of 1 about a mean.

        Args:
            x: (N, inputs).
            mean: (layers, rows, columns).
        """
        bias = self.second.bias
        assert bias is not None
        made = self(x).flatten(2)
        spread = made.std(dim=0).clamp_min(1e-6)
        self.second.weight.div_(spread.T[:, None])
        bias.copy_(mean.flatten(1).to(bias) - (made.mean(dim=0) - bias) / spread)


class InPainting(nn.Module):
    """What layers get of the layer before them: weights of a softmax for every cell, own image against carried one.

    Args:
        layers: number of layers that get it.
        shape: rows and columns.
        periodic: whether rows go round.
        fans: see :class:`~caloforge.nn.local.LocallyConnected`.
    """

    def __init__(self, layers: int, shape: tuple[int, int], *, periodic: bool, fans: Fans) -> None:
        super().__init__()
        self.layers, self.periodic = layers, periodic
        around = (shape[0] + 2, shape[1] + 2)
        self.gates = LocallyConnected(layers + 1, around, 2 * layers, (3, 3), initial="glorot-uniform", fans=fans)
        assert self.gates.bias is not None
        with torch.no_grad():
            self.gates.bias[layers:] = _CARRY_BIAS

    def forward(self, own: Tensor, carried: Tensor) -> Tensor:
        """Own images (N, layers, H, W) and the carried one (N, 1, H, W) to images like the own."""
        both = as_cells(torch.cat([own, carried], dim=1))
        gates = as_images(self.gates.cells(bordered(both, periodic=self.periodic)))
        share = torch.sigmoid(gates[:, : self.layers] - gates[:, self.layers :])  # the softmax of two
        return share * own + (1 - share) * carried


class EnergyHead(nn.Module):
    """Numbers of a shower to what its energies are made of: one for the shower and one for each layer.

    Args:
        inputs: numbers of a shower.
        layers: number of layers.
        width: of two hidden layers.
    """

    def __init__(self, inputs: int, layers: int, width: int = 64) -> None:
        super().__init__()
        sizes = (inputs, width, width, 1 + layers)
        self.steps = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        for step in self.steps:
            nn.init.xavier_uniform_(step.weight)  # type: ignore[arg-type]
            nn.init.zeros_(step.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to (N, 1 + layers), of any sign."""
        for step in self.steps[:-1]:
            x = leaky(step(x))
        last: Tensor = self.steps[-1](x)
        return last


class ImageGenerator(nn.Module):
    """Streams with in-painting between them: numbers of a shower to images of all its layers, which are not negative.

    Args:
        streams: one for each group of layers.
        painting: for each group but the first, what it gets of the last layer of the group before it; none for no in-painting.
        carried: modules that bring that layer onto the grid of the group, (N, 1, H, W) to (N, 1, H, W), one for each painting.
        head: makes energies beside the images; None if the images have their own.
        embedding: numbers (types, latents) of types of showers, by which random ones are multiplied before they come here; None
            for none.
    """

    def __init__(
        self,
        streams: Iterable[GeneratorStream],
        painting: Iterable[InPainting],
        carried: Iterable[nn.Module],
        head: EnergyHead | None = None,
        embedding: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.embedding = embedding
        self.streams = nn.ModuleList(streams)
        self.painting = nn.ModuleList(painting)
        self.carried = nn.ModuleList(carried)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, inputs) to images (N, layers, rows, columns) of every group."""
        found = [stream(x) for stream in self.streams]
        for k, (painting, carried) in enumerate(zip(self.painting, self.carried, strict=True), 1):
            found[k] = painting(found[k], carried(found[k - 1][:, -1:]))
        return [image.relu() for image in found]


class CriticStream(nn.Module):
    """From images of layers to features of a critic, with what the batch has in common (arXiv:1606.03498) if asked for.

    Args:
        inputs: images of a shower.
        shape: rows and columns.
        channels: of the four convolutions.
        shares: numbers of lit cells that are compared over the batch too.
        norm: behind the last three.
        minibatch: whether rows are compared.
        periodic: whether rows go round.
        fans: see :class:`~caloforge.nn.local.LocallyConnected`.

    Attributes:
        flat: features of the images.
        features: features in all.
    """

    def __init__(
        self,
        inputs: int,
        shape: tuple[int, int],
        channels: tuple[int, int, int, int],
        shares: int,
        *,
        norm: Norm,
        minibatch: bool,
        periodic: bool,
        fans: Fans,
    ) -> None:
        super().__init__()
        self.periodic = periodic
        self.convolution = _convolution(inputs, channels[0])
        steps, before = [], channels[0]
        kernels = (((3, 3), (1, 2)), ((2, 2), (1, 1)), ((2, 2), (1, 2)))
        for filters, (kernel, stride) in zip(channels[1:], kernels, strict=True):
            around = (shape[0] + 2, shape[1] + 2)
            step = LocallyConnected(before, around, filters, kernel, stride=stride, fans=fans)
            steps.append(step)
            shape, before = step.output, filters
        self.steps = nn.ModuleList(steps)
        self.norms = nn.ModuleList(_Normalised(norm, filters) for filters in channels[1:])
        self.flat = before * shape[0] * shape[1]
        self.alike = MinibatchFeatures(self.flat) if minibatch else None
        self.alike_shares = MinibatchFeatures(shares) if minibatch else None
        self.features = self.flat + shares + (20 if minibatch else 0)

    def forward(self, images: Tensor, shares: Tensor) -> Tensor:
        """Images (N, inputs, H, W) and shares of lit cells (N, shares) to (N, features)."""
        x = as_cells(leaky(self.convolution(even_same(images))))
        for step, norm in zip(self.steps, self.norms, strict=True):
            assert isinstance(step, LocallyConnected)
            x = norm(leaky(step.cells(bordered(x, periodic=self.periodic))))
        found = [as_images(x).flatten(1), shares]
        if self.alike is not None and self.alike_shares is not None:
            found += [self.alike(found[0]).tanh(), self.alike_shares(shares).tanh()]
        return torch.cat(found, dim=1)


class ImageCritic(nn.Module):
    """Scores of showers from images, lit cells and energies.

    Args:
        streams: one for each group of layers.
        energies: numbers of the layers.
        event: numbers of the shower.
        minibatch: whether energies of the layers are compared over the batch.
        types: of showers, among which it guesses that of each (ACGAN, arXiv:1610.09585); 0 for no guess.
    """

    def __init__(
        self, streams: Sequence[CriticStream], energies: int, event: int, *, minibatch: bool, types: int = 0
    ) -> None:
        super().__init__()
        self.streams = nn.ModuleList(streams)
        self.alike = MinibatchFeatures(energies) if minibatch else None
        features = sum(stream.features for stream in streams) + energies + event + (10 if minibatch else 0)
        self.score = nn.Linear(features, 1)
        nn.init.xavier_uniform_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.guess = nn.Linear(features, types) if types else None
        if self.guess is not None:
            nn.init.xavier_uniform_(self.guess.weight)
            nn.init.zeros_(self.guess.bias)

    def forward(
        self, images: list[Tensor], lit: list[Tensor], energies: Tensor, event: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Scores (N,), and logits of the types (N, types) or None.

        Args:
            images: of every group.
            lit: shares of lit cells of every group.
            energies: numbers of the layers.
            event: numbers of the shower.
        """
        found = [stream(image, shares) for stream, image, shares in zip(self.streams, images, lit, strict=True)]
        found += [energies, event]
        if self.alike is not None:
            found.append(self.alike(energies).tanh())
        features = torch.cat(found, dim=1)
        return self.score(features)[:, 0], None if self.guess is None else self.guess(features)
