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


def _sizes(raw: Array, least: float, bound: float) -> Array:
    """Widths or heights of bins that fill [-bound, bound], none smaller than a share ``least`` of it."""
    e = np.exp(raw - raw.max())
    return 2 * bound * (least + (1 - least * len(raw)) * e / e.sum())


def _bin(x: float, widths: Array, heights: Array, bound: float) -> tuple[int, float, float]:
    """Number of the bin of x, and its left and lower edge."""
    left, bottom = -bound, -bound
    for k in range(len(widths)):
        if x < left + widths[k] or k == len(widths) - 1:
            return k, left, bottom
        left, bottom = left + widths[k], bottom + heights[k]
    raise AssertionError


def rational_quadratic(x: float, raw: Array, bins: int, bound: float, least: float) -> tuple[float, float]:
    """Value and logarithm of the slope (arXiv:1906.04032, equation 4): widths, heights, slopes at knots; 1 at the ends."""
    if not -bound <= x <= bound:
        return x, 0.0
    w, h = _sizes(raw[:bins], least, bound), _sizes(raw[bins : 2 * bins], least, bound)
    d = np.concatenate([[1.0], least + softplus(raw[2 * bins :]), [1.0]])
    k, left, bottom = _bin(x, w, h, bound)
    s, t = h[k] / w[k], (x - left) / w[k]
    below = s + (d[k + 1] + d[k] - 2 * s) * t * (1 - t)
    y = bottom + h[k] * (s * t**2 + d[k] * t * (1 - t)) / below
    slope = s**2 * (d[k + 1] * t**2 + 2 * s * t * (1 - t) + d[k] * (1 - t) ** 2) / below**2
    return y, float(np.log(slope))


def cubic(x: float, raw: Array, bins: int, bound: float, least: float) -> tuple[float, float]:
    """Value and logarithm of the slope of a monotonic cubic spline with Steffen's slopes at interior knots (arXiv:1906.02145).

    Widths, heights, and two numbers for the slopes at the ends, which lie between 0.001 and 2.999 times those of their bins.
    """
    if not -bound <= x <= bound:
        return x, 0.0
    w, h = _sizes(raw[:bins], least, bound), _sizes(raw[bins : 2 * bins], least, bound)
    s = h / w
    d = np.zeros(bins + 1)
    for k in range(1, bins):
        mean = (s[k - 1] * w[k] + s[k] * w[k - 1]) / (w[k - 1] + w[k])
        d[k] = min(2 * s[k - 1], 2 * s[k], mean)
    ends = 0.001 + 2.998 * sigmoid(raw[2 * bins :])
    d[0], d[bins] = ends[0] * s[0], ends[1] * s[-1]
    k, left, bottom = _bin(x, w, h, bound)
    # Powers of the distance from the left knot.
    a = (d[k] + d[k + 1] - 2 * s[k]) / w[k] ** 2
    b = (3 * s[k] - 2 * d[k] - d[k + 1]) / w[k]
    t = x - left
    return bottom + ((a * t + b) * t + d[k]) * t, float(np.log((3 * a * t + 2 * b) * t + d[k]))


def coupling_block(
    x: Array,
    condition: Array,
    weights: Weights,
    spline: str,
    *,
    bins: int,
    bound: float,
    least: float,
    whole_rows: bool,
) -> tuple[Array, float]:
    """One block of CaloINN: the first half, rounded up, and the condition set splines for the others.

    Linear layers with leaky ReLU (and, for data set 1, batch norm in front of it) between them.

    Args:
        x: variables of one shower, (D,).
        condition: (C,).
        weights: of the network, in order.
        spline: ``rqs`` or ``cubic``.
        bins: of the splines.
        bound: likewise.
        least: likewise.
        whole_rows: whether an event with one variable outside the splines passes as it is, as published.
    """
    passive = -(-len(x) // 2)
    if whole_rows and max(abs(x[passive:])) > bound:
        return x, 0.0
    read = Reader(weights)
    layers = [read.layer() for _ in range(len({name.rpartition(".")[0] for name in weights}))]
    hidden = np.concatenate([x[:passive], condition])
    for number, tensors in enumerate(layers):
        if len(tensors) == 4:  # a batch norm
            hidden = leaky_relu(batch_norm(hidden, *tensors))
            continue
        weight, bias = tensors
        hidden = weight @ hidden + bias
        last = number == len(layers) - 1
        if not last and len(layers[number + 1]) == 2:
            hidden = leaky_relu(hidden)
    function = {"rqs": rational_quadratic, "cubic": cubic}[spline]
    made, logdet = x.copy(), 0.0
    for k, raw in enumerate(hidden.reshape(len(x) - passive, -1)):
        made[passive + k], log_slope = function(float(x[passive + k]), raw, bins, bound, least)
        logdet += log_slope
    return made, logdet


def linear_rational(x: float, raw: Array, bins: int, bound: float) -> tuple[float, float]:
    """Value and slope of a linear-rational spline (arXiv:2001.05168, algorithm 1): widths, heights, slopes, lambdas."""
    if not -bound <= x <= bound:
        return x, 1.0
    w, h = _sizes(raw[:bins], 1e-3, bound), _sizes(raw[bins : 2 * bins], 1e-3, bound)
    shift = np.log(np.exp(1 - 1e-3) - 1)  # so that zeros are slopes of 1
    d = np.concatenate([[1.0], 1e-3 + softplus(raw[2 * bins : 3 * bins - 1] + shift), [1.0]])
    lam = 0.025 + 0.95 * sigmoid(raw[3 * bins - 1 :])
    k, left, bottom = _bin(x, w, h, bound)
    top, s, part = bottom + h[k], h[k] / w[k], lam[k]
    wa, wb = 1.0, np.sqrt(d[k] / d[k + 1])
    wm = (part * wa * d[k] + (1 - part) * wb * d[k + 1]) / s
    middle = ((1 - part) * wa * bottom + part * wb * top) / ((1 - part) * wa + part * wb)
    t = (x - left) / w[k]
    if t <= part:
        below = wa * (part - t) + wm * t
        y, slope = (wa * bottom * (part - t) + wm * middle * t) / below, wa * wm * part * (middle - bottom) / below**2
    else:
        below = wm * (1 - t) + wb * (t - part)
        y, slope = (
            (wm * middle * (1 - t) + wb * top * (t - part)) / below,
            wm * wb * (1 - part) * (top - middle) / below**2,
        )
    return float(y), float(slope / w[k])


def perceptron(x: Array, tensors: list[Array]) -> Array:
    """Linear layers with ReLU between them."""
    for k in range(0, len(tensors), 2):
        x = tensors[k] @ x + tensors[k + 1]
        if k < len(tensors) - 2:
            x = np.maximum(x, 0)
    return x


def shower_flow(
    z: Array, condition: Array, steps: list[tuple[str, list[Array]]], bins: int, bound: float
) -> tuple[Array, float]:
    """The way of sampling of ShowerFlow, and its log-determinant.

    Args:
        z: normal numbers, (D,).
        condition: (C,).
        steps: kinds and tensors. ``affine``: the first half, rounded down, stays; with the condition it gives shift and
            logarithm of the scale of the others, which a hyperbolic tangent bounds. ``spline``: one spline for each feature,
            from the condition alone. ``permutation``: which feature comes to each place.
        bins: of the splines.
        bound: likewise.
    """
    x, logdet = z.copy(), 0.0
    for kind, tensors in steps:
        if kind == "permutation":
            x = np.array([x[int(k)] for k in tensors[0]])
        elif kind == "affine":
            half = len(x) // 2
            given = perceptron(np.concatenate([x[:half], condition]), tensors)
            shift, log_scale = given[: len(x) - half], np.tanh(given[len(x) - half :])
            x = np.concatenate([x[:half], np.exp(log_scale) * x[half:] + shift])
            logdet += log_scale.sum()
        else:
            raw = perceptron(condition, tensors).reshape(len(x), -1)
            pairs = [linear_rational(float(v), own, bins, bound) for v, own in zip(x, raw, strict=True)]
            x = np.array([value for value, _ in pairs])
            logdet += sum(np.log(slope) for _, slope in pairs)
    return x, float(logdet)


def pointwise_net(
    point: Array, noise: float, condition: Array, frequencies: Array, time: list[Array], layers: list[list[Array]]
) -> Array:
    """PointWise Net for one point.

    The noise level as sines and cosines of 2 pi times fixed frequencies, then a linear layer with leaky ReLU; with the condition
    of the shower that is the context. Every layer: linear map times sigmoid of a linear map of the context, plus a linear map
    of the context without bias; leaky ReLU between the layers.

    Args:
        point: (4,).
        noise: level as the network sees it.
        condition: (C,).
        frequencies: (n / 2,).
        time: weight and bias of the embedding.
        layers: weight and bias of the map, weight and bias of the gate, weight of the shift.
    """
    angles = 2 * np.pi * noise * frequencies
    embedded = leaky_relu(time[0] @ np.concatenate([np.sin(angles), np.cos(angles)]) + time[1])
    context = np.concatenate([embedded, condition])
    for number, (weight, bias, gate, gate_bias, shift) in enumerate(layers):
        point = (weight @ point + bias) * sigmoid(gate @ context + gate_bias) + shift @ context
        if number < len(layers) - 1:
            point = leaky_relu(point)
    return point
