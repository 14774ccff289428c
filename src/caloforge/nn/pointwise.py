"""PointWise Net: a network that moves every point of a shower on its own (arXiv:2305.04847, 2309.05704, 2511.01460).

Each layer is a linear map whose outputs are gated and shifted by the condition of the shower. Points come packed: all
points of all showers in one table, and where each shower's rows start. There is no padding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from caloforge.errors import ConfigError
from caloforge.kernels.ops.linear import fits_kernel, gated_linear
from caloforge.kernels.ops.pointwise import (
    SLOPE,
    PointWeights,
    generate_points,
    move_points,
    move_points_plainly,
    pack_pointwise,
    packed_index,
    pointwise_plan,
)
from caloforge.kernels.ops.registry import eager
from caloforge.nn.weights import weights_now

__all__ = ["PointWiseNet", "packed_index"]


def _equal_size(offsets: Tensor) -> int | None:
    """Points of every shower if all have equally many, else None; on a GPU looking would wait for it, so None.

    None also for whoever writes down what is done, since other showers have other sizes.
    """
    if offsets.is_cuda or torch.compiler.is_compiling() or torch.jit.is_tracing() or len(offsets) < 2:  # type: ignore[attr-defined, no-untyped-call]
        return None
    counts = offsets.diff()
    size = int(counts[0])
    return size if size and bool((counts == size).all()) else None


class _GatedLinear(nn.Module):
    """``linear(x) * sigmoid(gate(condition)) + shift(condition)``."""

    def __init__(self, inputs: int, outputs: int, context_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(context_features, outputs)
        self.shift = nn.Linear(context_features, outputs, bias=False)

    def modulation(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Gates and shifts of conditions (N, C), each (N, outputs)."""
        return torch.sigmoid(self.gate(context)), self.shift(context)


class PointWiseNet(nn.Module):
    """The network.

    Args:
        widths: outputs of the hidden layers.
        context_features: length of the condition of a shower.
        features: of a point, in and out.
        time_features: length of the embedding of the noise level, even.
        fourier_std: standard deviation of the fixed random frequencies of that embedding.

    Raises:
        ConfigError: if the embedding has an odd length.
    """

    frequencies: Tensor

    def __init__(
        self,
        widths: Sequence[int],
        context_features: int,
        *,
        features: int = 4,
        time_features: int = 64,
        fourier_std: float = 16.0,
    ) -> None:
        super().__init__()
        if time_features % 2:
            raise ConfigError(f"the embedding of the noise level needs an even length, not {time_features}")
        self.features = features
        self.register_buffer("frequencies", fourier_std * torch.randn(time_features // 2))
        self.time = nn.Linear(time_features, time_features)
        sizes = [features, *widths, features]
        context = time_features + context_features
        self.layers = nn.ModuleList(_GatedLinear(a, b, context) for a, b in itertools.pairwise(sizes))

    def embed(self, noise: Tensor, context: Tensor) -> Tensor:
        """The whole condition (N, time features + C) from noise levels (N,) and conditions (N, C)."""
        angles = (2 * math.pi) * noise[:, None] * self.frequencies
        waves = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
        return torch.cat([functional.leaky_relu(self.time(waves), SLOPE), context], dim=-1)

    def forward(self, points: Tensor, noise: Tensor, context: Tensor, offsets: Tensor) -> Tensor:
        """Move points.

        Args:
            points: packed points (M, features).
            noise: noise level of each shower, (N,), as the network is to see it.
            context: condition of each shower, (N, C).
            offsets: where the showers start, int64 (N + 1,).

        Returns:
            (M, features).
        """
        if torch.is_grad_enabled() or not self._served(points, noise, context):
            condition = self.embed(noise, context)
            return self._gathered(points, [layer.modulation(condition) for layer in self.gated_layers()], offsets)
        return move_points(*self.packed(), points, noise, context, offsets)

    def forward_reference(self, points: Tensor, noise: Tensor, context: Tensor, offsets: Tensor) -> Tensor:
        """As :meth:`forward`, shower by shower in plain PyTorch, without gradients."""
        return move_points_plainly(self._weights(), points, noise, context, offsets)

    def packed(self) -> tuple[Tensor, Tensor]:
        """The weights, in CPU memory, as one tensor, and what it looks like; from memory if nothing has changed since."""
        tensors, copies = weights_now(self, [self.time, self.layers], ())
        pair: tuple[Tensor, Tensor] = copies.get([*tensors, self.frequencies], None, self.pack)
        return pair

    def pack(self) -> tuple[Tensor, Tensor]:
        """As :meth:`packed`, without looking into memory."""
        weights = self._weights()
        plan = pointwise_plan(weights)
        return pack_pointwise(weights, plan), plan

    def unpacked(self) -> tuple[list[Tensor], Tensor]:
        """Weights and biases in the order in which they are packed, and the plan: what a program with the same kernels needs."""
        weights = self._weights()
        return [tensor.detach() for tensor in weights.tensors()], pointwise_plan(weights)

    def _served(self, *tensors: Tensor) -> bool:
        """Whether an operator takes tensors like these."""
        own = self.frequencies
        return eager(own, *tensors) and all(tensor.dtype == own.dtype for tensor in tensors)

    def _weights(self) -> PointWeights:
        layers = self.gated_layers()
        weight = torch.cat([w for layer in layers for w in (layer.gate.weight, layer.shift.weight)])
        bias = torch.cat([b for layer in layers for b in (layer.gate.bias, torch.zeros_like(layer.gate.bias))])
        linear = [(layer.linear.weight, layer.linear.bias) for layer in layers]
        return PointWeights(self.frequencies, (self.time.weight, self.time.bias), (weight, bias), linear)

    @torch.no_grad()
    def generate(
        self,
        z: Tensor,
        starts: Tensor,
        offsets: Tensor,
        noise: float,
        context: Tensor,
        scales: tuple[float, float, float],
    ) -> Tensor:
        """``skip z + out F(scale z)`` with this network F, all in one: the sample of a one-step model; without gradients.

        Args:
            z: standard normal numbers, (K, features); each shower takes the first rows of its own.
            starts: where those of each shower start, int64 (N,) or longer.
            offsets: where the points of each shower start, int64 (N + 1,).
            noise: noise level of all showers, as the network is to see it.
            context: condition of each shower, (N, C).
            scales: scale, skip and out.

        Returns:
            float64 (M, features), packed.
        """
        if not self._served(z, context):
            return self.generate_reference(z, starts, offsets, noise, context, scales)
        return generate_points(*self.packed(), z, starts, offsets, noise, context, scales)

    @torch.no_grad()
    def generate_reference(
        self,
        z: Tensor,
        starts: Tensor,
        offsets: Tensor,
        noise: float,
        context: Tensor,
        scales: tuple[float, float, float],
    ) -> Tensor:
        """As :meth:`generate`, step by step."""
        scale, skip, out = scales
        shower = packed_index(offsets)
        number = torch.arange(len(shower), device=z.device) - offsets[shower]
        own = z.index_select(0, starts[shower] + number)
        output = self((own * scale).to(context.dtype), context.new_full((len(context),), noise), context, offsets)
        sample: Tensor = skip * own.double() + out * output.double()
        return sample

    def gated_layers(self) -> list[_GatedLinear]:
        """The layers, from the first to the last."""
        return [layer for layer in self.layers if isinstance(layer, _GatedLinear)]

    def _gathered(self, points: Tensor, modulations: Sequence[tuple[Tensor, Tensor]], offsets: Tensor) -> Tensor:
        """All points at once, with gradients."""
        layers = self.gated_layers()
        slopes = [SLOPE] * (len(layers) - 1) + [1.0]
        if fits_kernel(points, layers[0].linear.weight, *modulations[0]) and not offsets.is_cuda:
            for layer, (gate, shift), slope in zip(layers, modulations, slopes, strict=True):
                weight, bias = layer.linear.weight, layer.linear.bias
                points = gated_linear(points, weight, bias, gate, shift, offsets, slope=slope)
            return points
        size = _equal_size(offsets)
        if size is not None:
            # Broadcasting spares looking up gates and shifts for every point, and adding up their gradients again.
            index = None
            points = points.reshape(len(offsets) - 1, size, self.features)
        else:
            index = packed_index(offsets)
        for layer, pair, slope in zip(layers, modulations, slopes, strict=True):
            gate, shift = (m[:, None] if index is None else m.index_select(0, index) for m in pair)
            points = torch.addcmul(shift, layer.linear(points), gate)
            if slope != 1:
                points = functional.leaky_relu(points, slope)
        return points.reshape(-1, self.features)
