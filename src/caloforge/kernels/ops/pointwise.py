"""PointWise Net: points of showers through gated linear layers, without gradients.

Layer k gives ``linear(x) * sigmoid(gate(condition)) + shift(condition)``, and a leaky ReLU follows all but the last. The
condition is an embedding of the noise level with the condition of the shower behind it. The compiled kernels, and the plain
twins too, add up every number in the same order whatever else is in the batch, so a shower comes out bit for bit the same
alone and among others.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from caloforge.kernels.ops.packing import addresses_of, new_memory, pack_plainly, plain_weights
from caloforge.kernels.ops.registry import SUFFIXES, check_status, operator

__all__ = [
    "SLOPE",
    "PointWeights",
    "generate_points",
    "move_points",
    "move_points_plainly",
    "pack_pointwise",
    "packed_index",
    "pointwise_plan",
]

#: Of the leaky ReLU on the negative side.
SLOPE = 0.01


@dataclass(frozen=True)
class PointWeights:
    """The weights of a network.

    Attributes:
        frequencies: of the embedding of the noise level, (T / 2,).
        time: weight (T, T) and bias of what follows the waves.
        modulation: weight (2 * outputs of all layers, T + C) and bias: gates, then shifts, layer by layer.
        layers: weights (outputs, inputs) and biases.
    """

    frequencies: Tensor
    time: tuple[Tensor, Tensor]
    modulation: tuple[Tensor, Tensor]
    layers: Sequence[tuple[Tensor, Tensor]]

    def tensors(self) -> list[Tensor]:
        """In the order in which they are packed."""
        return [self.frequencies, *self.time, *self.modulation, *itertools.chain.from_iterable(self.layers)]


def packed_index(offsets: Tensor) -> Tensor:
    """Number of the shower of each packed point, int64 (M,), from where the showers start, int64 (N + 1,)."""
    counts = offsets.diff()
    return torch.repeat_interleave(torch.arange(len(counts), device=offsets.device), counts)


def pointwise_plan(weights: PointWeights) -> Tensor:
    """What a packed network looks like, int64, in CPU memory: features, T, C, number of layers, outputs of each layer."""
    time = len(weights.time[1])
    outputs = [len(bias) for _, bias in weights.layers]
    context = weights.modulation[0].shape[1] - time
    return torch.tensor([weights.layers[0][0].shape[1], time, context, len(outputs), *outputs], dtype=torch.int64)


def pack_pointwise(weights: PointWeights, plan: Tensor) -> Tensor:
    """The weights of a network as one tensor."""
    packed: Tensor = _pack([weight.detach() for weight in weights.tensors()], plan)
    return packed


def move_points(
    packed: Tensor, plan: Tensor, points: Tensor, noise: Tensor, context: Tensor, offsets: Tensor
) -> Tensor:
    """Move points.

    Args:
        packed: from :func:`pack_pointwise`.
        plan: from :func:`pointwise_plan`.
        points: all points of all showers, (M, features), of the weights' type.
        noise: noise level of each shower, (N,), as the network is to see it.
        context: condition of each shower, (N, C).
        offsets: where the points of each shower start, int64 (N + 1,).

    Returns:
        (M, outputs of the last layer).
    """
    moved: Tensor = _move(packed, plan, points.detach(), noise.detach(), context.detach(), offsets)
    return moved


def generate_points(
    packed: Tensor,
    plan: Tensor,
    z: Tensor,
    starts: Tensor,
    offsets: Tensor,
    noise: float,
    context: Tensor,
    scales: tuple[float, float, float],
) -> Tensor:
    """``skip z + out F(scale z)`` with a network F that has as many outputs as features: the sample of a one-step model.

    Args:
        packed: from :func:`pack_pointwise`.
        plan: from :func:`pointwise_plan`.
        z: standard normal numbers, (K, features), of the weights' type; each shower takes the first rows of its own.
        starts: where those of each shower start, int64 (N,) or longer.
        offsets: where the points of each shower start, int64 (N + 1,).
        noise: noise level of all showers, as the network is to see it.
        context: condition of each shower, (N, C).
        scales: scale, skip and out.

    Returns:
        float64 (M, features), packed.
    """
    output: Tensor = _generate(packed, plan, z.detach(), starts, offsets, noise, context.detach(), *scales)
    return output


# ---- plain PyTorch --------------------------------------------------------------------------------------------------


@torch.no_grad()
def move_points_plainly(
    weights: PointWeights, points: Tensor, noise: Tensor, context: Tensor, offsets: Tensor
) -> Tensor:
    """As :func:`move_points`, from weights that are not packed: one shower after the other.

    Gates and shifts are folded into the weights, the least work where calls are cheap.
    """
    weight, bias = weights.modulation
    modulations = []
    for shower in range(len(noise)):
        # Products of the same shape for every shower: equal bits whatever else is in the batch.
        angles = (2 * math.pi) * noise[shower : shower + 1, None] * weights.frequencies
        waves = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
        embedded = functional.leaky_relu(functional.linear(waves, *weights.time), SLOPE)
        condition = torch.cat([embedded, context[shower : shower + 1]], dim=-1)
        modulations.append(functional.linear(condition, weight))
    widths = [len(layer_bias) for _, layer_bias in weights.layers for _ in range(2)]
    moved = points.new_empty(len(points), widths[-1])
    if not modulations:
        return moved
    pieces = torch.split(torch.cat(modulations) + bias, widths, dim=1)
    folded = []
    for (layer, layer_bias), raw, shift in zip(weights.layers, pieces[::2], pieces[1::2], strict=True):
        gate = torch.sigmoid(raw)
        folded.append((layer, gate, shift + gate * layer_bias))
    for shower, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
        if start == stop:
            continue
        # A fresh copy has the same alignment wherever the shower stands, so products are rounded in the same way.
        x = points[start:stop].clone()
        for number, (layer, gate, shift) in enumerate(folded):
            x = torch.addmm(shift[shower].clone(), x, (layer * gate[shower][:, None]).t())
            if number + 1 < len(folded):
                functional.leaky_relu_(x, SLOPE)
        moved[start:stop] = x
    return moved


def _unpacked(packed: Tensor, plan: Tensor) -> PointWeights:
    features, time, context, count, *outputs = plan.tolist()
    gates = 2 * sum(outputs)
    shapes = [(time // 2,), (time, time), (time,), (gates, time + context), (gates,)]
    for inputs, width in itertools.pairwise([features, *outputs]):
        shapes += [(width, inputs), (width,)]
    frequencies, *rest = plain_weights(packed, shapes)
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    return PointWeights(frequencies, pairs[0], pairs[1], pairs[2 : 2 + count])


def _plain_pack(weights: Sequence[Tensor], plan: Tensor) -> Tensor:
    return pack_plainly(weights)


def _plain_move(
    packed: Tensor, plan: Tensor, points: Tensor, noise: Tensor, context: Tensor, offsets: Tensor
) -> Tensor:
    return move_points_plainly(_unpacked(packed, plan), points, noise, context, offsets)


def _plain_generate(
    packed: Tensor,
    plan: Tensor,
    z: Tensor,
    starts: Tensor,
    offsets: Tensor,
    noise: float,
    context: Tensor,
    scale: float,
    skip: float,
    out: float,
) -> Tensor:
    shower = packed_index(offsets)
    number = torch.arange(len(shower), device=z.device) - offsets[shower]
    own = z.index_select(0, starts[shower] + number)
    level = context.new_full((len(context),), noise)
    output = _plain_move(packed, plan, (own * scale).to(context.dtype), level, context, offsets)
    return skip * own.double() + out * output.double()


# ---- compiled -------------------------------------------------------------------------------------------------------


def _compiled_pack(library: ctypes.CDLL, weights: Sequence[Tensor], plan: Tensor) -> Any:
    dtype = weights[0].dtype
    if dtype not in SUFFIXES:
        return NotImplemented
    suffix, weights = SUFFIXES[dtype], [weight.contiguous() for weight in weights]
    packed = new_memory(library, getattr(library, f"caloforge_pointwise_numbers_{suffix}")(plan.data_ptr()), dtype)
    work = getattr(library, f"caloforge_pointwise_pack_{suffix}")
    work(plan.data_ptr(), addresses_of(weights), packed.data_ptr())
    return packed


def _compiled_move(
    library: ctypes.CDLL,
    packed: Tensor,
    plan: Tensor,
    points: Tensor,
    noise: Tensor,
    context: Tensor,
    offsets: Tensor,
) -> Any:
    if packed.dtype not in SUFFIXES:
        return NotImplemented
    points, noise, context, offsets = (t.contiguous() for t in (points, noise, context, offsets))
    moved = points.new_empty(len(points), int(plan[-1]))
    status = getattr(library, f"caloforge_pointwise_move_{SUFFIXES[packed.dtype]}")(
        plan.data_ptr(), packed.numel(), packed.data_ptr(), len(noise), offsets.data_ptr(), points.data_ptr(),
        noise.data_ptr(), context.data_ptr(), moved.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return moved if check_status(status) else NotImplemented


def _compiled_generate(
    library: ctypes.CDLL,
    packed: Tensor,
    plan: Tensor,
    z: Tensor,
    starts: Tensor,
    offsets: Tensor,
    noise: float,
    context: Tensor,
    *scales: float,
) -> Any:
    if packed.dtype not in SUFFIXES:
        return NotImplemented
    z, starts, offsets, context = (t.contiguous() for t in (z, starts, offsets, context))
    output = torch.empty(int(offsets[-1]), int(plan[-1]), dtype=torch.float64)
    status = getattr(library, f"caloforge_pointwise_generate_{SUFFIXES[packed.dtype]}")(
        plan.data_ptr(), packed.numel(), packed.data_ptr(), len(context), offsets.data_ptr(), z.data_ptr(),
        starts.data_ptr(), noise, context.data_ptr(), *scales, output.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return output if check_status(status) else NotImplemented


_pack = operator("pointwise_pack(Tensor[] weights, Tensor plan) -> Tensor", _plain_pack, _compiled_pack)
_move = operator(
    "pointwise_move(Tensor packed, Tensor plan, Tensor points, Tensor noise, Tensor context, Tensor offsets) -> Tensor",
    _plain_move,
    _compiled_move,
)
_generate = operator(
    "pointwise_generate(Tensor packed, Tensor plan, Tensor z, Tensor starts, Tensor offsets, float noise, Tensor context, "
    "float scale, float skip, float out) -> Tensor",
    _plain_generate,
    _compiled_generate,
)
