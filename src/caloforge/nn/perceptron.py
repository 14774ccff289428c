"""Perceptrons: linear layers with activations between them, each layer and what follows it in one sweep over memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from caloforge.kernels.ops.linear import fits_kernel, linear

__all__ = ["Perceptron", "dense"]

#: Multiplications from which on the operator is worth its overhead.
_LEAST_WORK = 200_000


def dense(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float = 1.0) -> Tensor:
    """``x W^T + b`` and a leaky ReLU: by the operator where it fits and is worth its overhead.

    Args:
        x: inputs (..., I).
        weight: W, (O, I).
        bias: b, (O,), or None.
        slope: of the activation below zero; 0 for a ReLU, 1 for none.

    Returns:
        (..., O).
    """
    if x.ndim == 2 and len(x) * weight.numel() >= _LEAST_WORK and fits_kernel(x, weight, bias):
        return linear(x, weight, bias, slope=slope)
    out = nn.functional.linear(x, weight, bias)
    return out if slope == 1 else nn.functional.leaky_relu(out, slope) if slope else nn.functional.relu(out)


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
        number += 1
        if not isinstance(layer, nn.Linear):
            x = layer(x)
            continue
        slope = _slope(layers[number]) if number < len(layers) else None
        x = dense(x, layer.weight, layer.bias, 1.0 if slope is None else slope)
        number += slope is not None
    return x


def _slope(layer: nn.Module) -> float | None:
    """Slope of an activation below zero; None for every other layer."""
    if isinstance(layer, nn.ReLU):
        return 0.0
    return float(layer.negative_slope) if isinstance(layer, nn.LeakyReLU) else None
