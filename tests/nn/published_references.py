"""Published networks once more, in plain float64 numpy, from the words of the papers and their programs: slow and obvious.

Nothing here is shared with the package; weights come in as arrays. Convolutions are loops over pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def leaky_relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.01 * x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def same_convolution(image: Array, weight: Array, bias: Array, *, periodic: bool) -> Array:
    """3 x 3 over (channels, height, width); beyond the edges zeros, or along a periodic first axis the other end."""
    _, height, width = image.shape
    made = np.zeros((len(weight), height, width))
    for i in range(height):
        for j in range(width):
            for a in (-1, 0, 1):
                for b in (-1, 0, 1):
                    row, column = i + a, j + b
                    if periodic:
                        row %= height
                    if 0 <= row < height and 0 <= column < width:
                        made[:, i, j] += weight[:, :, a + 1, b + 1] @ image[:, row, column]
            made[:, i, j] += bias
    return made


def step_convolution(image: Array, weight: Array, bias: Array) -> Array:
    """Kernel as wide as the step: each block becomes a pixel."""
    _, height, width = image.shape
    rows, columns = weight.shape[2:]
    made = np.zeros((len(weight), height // rows, width // columns))
    for i in range(height // rows):
        for j in range(width // columns):
            block = image[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            made[:, i, j] = (weight * block).sum(axis=(1, 2, 3)) + bias
    return made


def step_transposed(image: Array, weight: Array, bias: Array) -> Array:
    """The way back: each pixel becomes a block. Weight (in, out, rows, columns)."""
    _, height, width = image.shape
    rows, columns = weight.shape[2:]
    made = np.zeros((weight.shape[1], height * rows, width * columns))
    for i in range(height):
        for j in range(width):
            block = np.einsum("c,cors->ors", image[:, i, j], weight)
            made[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] = block + bias[:, None, None]
    return made


def batch_norm(image: Array, weight: Array, bias: Array, mean: Array, variance: Array) -> Array:
    """With running statistics; channels first."""
    shape = (-1,) + (1,) * (image.ndim - 1)
    scaled = (image - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + 1e-5)
    return scaled * weight.reshape(shape) + bias.reshape(shape)


class Reader:
    """Weights in the order in which a network has its layers."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.names: Iterator[str] = iter(dict.fromkeys(name.rpartition(".")[0] for name in weights))

    def layer(self) -> list[Array]:
        """Tensors of the next layer, without the counter of a batch norm."""
        name = next(self.names)
        own = {key.rpartition(".")[2]: value for key, value in self.weights.items() if key.rpartition(".")[0] == name}
        return [own[key] for key in ("weight", "bias", "running_mean", "running_var") if key in own]


def unet(image: Array, weights: Mapping[str, Weights], levels: int, *, periodic: bool) -> Array:
    """The U-Net of convolutional L2LFlows (src/flow.py): output (channels, height, width).

    On each level two 3 x 3 convolutions, each with batch norm and leaky ReLU; down by a convolution whose kernel is its step,
    to twice the channels; at the bottom an activation alone; up likewise; the image of the same level is put behind what comes
    up, then two 3 x 3 convolutions again. On the first level the last of them has neither norm nor activation: it gives the
    spline parameters.

    Args:
        image: (channels, height, width).
        weights: of the parts ``first``, ``down``, ``inside``, ``up``, ``outside`` and ``last``.
        levels: how many times it goes down.
        periodic: whether the first axis closes on itself.
    """
    read = {name: Reader(part) for name, part in weights.items()}

    def normed(x: Array, reader: Reader) -> Array:
        x = same_convolution(x, *reader.layer(), periodic=periodic)
        return leaky_relu(batch_norm(x, *reader.layer()))

    x = normed(normed(image, read["first"]), read["first"])
    kept = []
    for level in range(levels):
        kept.append(x)
        x = step_convolution(x, *read["down"].layer())
        bottom = level == levels - 1
        x = leaky_relu(x) if bottom else normed(normed(x, read["inside"]), read["inside"])
    for level in reversed(range(levels)):
        x = step_transposed(x, *read["up"].layer())
        x = normed(np.concatenate([x, kept.pop()]), read["outside"])
        if level:
            x = normed(x, read["outside"])
    return same_convolution(x, *read["last"].layer(), periodic=periodic)


def context_net(images: Array, weights: Weights, *, periodic: bool) -> Array:
    """1 x 1, 3 x 3, strided and 3 x 3 convolutions with leaky ReLUs between them, none at the end."""
    read = Reader(weights)
    weight, bias = read.layer()
    x = leaky_relu(np.einsum("oc,chw->ohw", weight[:, :, 0, 0], images) + bias[:, None, None])
    x = leaky_relu(same_convolution(x, *read.layer(), periodic=periodic))
    x = leaky_relu(step_convolution(x, *read.layer()))
    return same_convolution(x, *read.layer(), periodic=periodic)


def mixing(image: Array, order: Array, lower: Array, upper: Array, scales: Array, bias: Array) -> Array:
    """Channels in another order, then the upper and the lower triangular matrix, then a bias.

    Args:
        image: (channels, height, width).
        order: which channel comes to each place.
        lower: below the diagonal of ones, row by row.
        upper: above the diagonal, row by row.
        scales: the diagonal of the upper one.
        bias: (channels,).
    """
    c = len(bias)
    low, up = np.eye(c), np.diag(scales)
    entries, others = iter(lower), iter(upper)
    for i in range(c):
        for j in range(i):
            low[i, j] = next(entries)
    for i in range(c):
        for j in range(i + 1, c):
            up[i, j] = next(others)
    moved = np.stack([image[int(k)] for k in order])
    made = np.zeros_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            made[:, y, x] = low @ (up @ moved[:, y, x]) + bias
    return made
