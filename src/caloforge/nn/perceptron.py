"""Perceptrons: linear layers with activations between them, each layer and what follows it in one sweep over memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from caloforge.kernels.ops.linear import fits_kernel, linear

__all__ = ["Perceptron"]

#: Multiplications from which on the operator is worth its overhead.
_LEAST_WORK = 200_000


class Perceptron(nn.Sequential):
    """As ``torch.nn.Sequential``; on a CPU a linear layer and a (leaky) ReLU behind it are one operator."""

    def forward(self, x: Tensor) -> Tensor:
        """All layers, inputs (N, I)."""
        return _run(list(self), x)

    def hidden_units(self, x: Tensor) -> Tensor:
        """All layers but the last."""
        return _run(list(self)[:-1], x)


def _run(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    number = 0
    while number < len(layers):
        layer = layers[number]
        slope = _slope(layers[number + 1]) if number + 1 < len(layers) else None
        if (
            isinstance(layer, nn.Linear)
            and x.ndim == 2
            and len(x) * layer.weight.numel() >= _LEAST_WORK
            and fits_kernel(x, layer.weight, layer.bias)
        ):
            x = linear(x, layer.weight, layer.bias, slope=1.0 if slope is None else slope)
            number += 1 if slope is None else 2
        else:
            x = layer(x)
            number += 1
    return x


def _slope(layer: nn.Module) -> float | None:
    """Slope of an activation below zero; None for every other layer."""
    if isinstance(layer, nn.ReLU):
        return 0.0
    return float(layer.negative_slope) if isinstance(layer, nn.LeakyReLU) else None
