"""ShowerFlow in the direction of sampling: affine couplings, and splines whose parameters depend on the condition alone.

The compiled kernels add up every number in the same order whatever else is in the batch, so a shower comes out bit for bit the
same alone and among others.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.kernels.ops.linear_rational import (
    MARGIN,
    MIN_SIZE,
    MIN_SLOPE,
    SLOPE_SHIFT,
    linear_rational_spline,
    raw_linear_rational_count,
)
from caloforge.kernels.ops.packing import addresses_of, new_memory, pack_plainly, plain_weights
from caloforge.kernels.ops.registry import SUFFIXES, check_status, operator

__all__ = ["FlowStep", "pack_showerflow", "run_steps", "sample_showerflow", "showerflow_plan"]


@dataclass(frozen=True)
class FlowStep:
    """A coupling or a spline of the flow in the direction of sampling, with the permutations in front of it.

    Attributes:
        source: incoming value that becomes value i, int64 (D,).
        spline: whether it is a spline rather than a coupling.
        weights: weights and biases of the three layers of the network that says its parameters.
    """

    source: Tensor
    spline: bool
    weights: Sequence[Tensor]


def showerflow_plan(steps: Sequence[FlowStep], last: Tensor, *, context: int, bins: int) -> Tensor:
    """What a packed flow looks like, int64, in CPU memory.

    Args:
        steps: in the order of sampling.
        last: which of the values that come out of the last step is output i, (D,).
        context: length of the condition.
        bins: of every spline.
    """
    plan = [len(last), context, len(steps), bins]
    for step in steps:
        plan += [int(step.spline), len(step.weights[0]), *step.source.tolist()]
    return torch.tensor(plan + last.tolist(), dtype=torch.int64)


def pack_showerflow(steps: Sequence[FlowStep], plan: Tensor, *, single: bool) -> Tensor:
    """The weights of a flow as one tensor for :func:`sample_showerflow`.

    Args:
        steps: in the order of sampling.
        plan: from :func:`showerflow_plan`.
        single: for one shower at a time instead of many side by side.
    """
    packed: Tensor = _pack([weight.detach() for step in steps for weight in step.weights], plan, single)
    return packed


def sample_showerflow(
    packed: Tensor, plan: Tensor, z: Tensor, context: Tensor, bound: float, *, single: bool
) -> Tensor:
    """Evaluate a packed flow, without gradients.

    Args:
        packed: from :func:`pack_showerflow`.
        plan: from :func:`showerflow_plan`.
        z: standard normal numbers, (N, D), of the weights' type.
        context: conditions (N, C), likewise.
        bound: the splines act on [-bound, bound].
        single: as when packing.

    Returns:
        (N, D).
    """
    x: Tensor = _sample(packed, plan, z.detach(), context.detach(), single, bound)
    return x


def run_steps(steps: Sequence[FlowStep], last: Tensor, z: Tensor, context: Tensor, bound: float) -> Tensor:
    """As :func:`sample_showerflow`, from weights that are not packed, in plain PyTorch, with gradients."""
    kept = z.shape[-1] // 2
    for step in steps:
        z = z[..., step.source.to(z.device)]
        still, moved = z[..., :kept], z[..., kept:]
        units = context if step.spline else torch.cat([still, context], dim=-1)
        for number, (weight, bias) in enumerate(zip(step.weights[::2], step.weights[1::2], strict=True)):
            units = nn.functional.linear(nn.functional.relu(units) if number else units, weight, bias)
        if step.spline:
            z = linear_rational_spline(z, units.reshape(*z.shape, -1), bound=bound)[0]
        else:
            shift, raw = units.chunk(2, dim=-1)
            z = torch.cat([still, moved * torch.exp(torch.tanh(raw)) + shift], dim=-1)
    return z[..., last.to(z.device)]


def _plain_pack(weights: Sequence[Tensor], plan: Tensor, single: bool) -> Tensor:
    return pack_plainly(weights)


def _plain_sample(packed: Tensor, plan: Tensor, z: Tensor, context: Tensor, single: bool, bound: float) -> Tensor:
    features, given, count, bins, *rest = plan.tolist()
    steps, kept, done = [], features // 2, 0
    for _ in range(count):
        spline, hidden, source, rest = rest[0], rest[1], rest[2 : 2 + features], rest[2 + features :]
        inputs = given if spline else kept + given
        outputs = features * raw_linear_rational_count(bins) if spline else 2 * (features - kept)
        shapes = [(hidden, inputs), (hidden,), (hidden, hidden), (hidden,), (outputs, hidden), (outputs,)]
        size = sum(torch.Size(shape).numel() for shape in shapes)
        steps.append(FlowStep(torch.tensor(source), bool(spline), plain_weights(packed[done : done + size], shapes)))
        done += size
    plain_weights(packed[done:], [])  # nothing is left over
    with torch.no_grad():
        return run_steps(steps, torch.tensor(rest), z, context, bound)


def _compiled_pack(library: ctypes.CDLL, weights: Sequence[Tensor], plan: Tensor, single: bool) -> Any:
    dtype = weights[0].dtype
    if dtype not in SUFFIXES:
        return NotImplemented
    suffix, weights = SUFFIXES[dtype], [weight.contiguous() for weight in weights]
    numbers = getattr(library, f"caloforge_showerflow_numbers_{suffix}")(plan.data_ptr(), single)
    if not numbers:
        return NotImplemented
    packed = new_memory(library, numbers, dtype)
    work = getattr(library, f"caloforge_showerflow_pack_{suffix}")
    work(plan.data_ptr(), single, addresses_of(weights), packed.data_ptr())
    return packed


def _compiled_sample(
    library: ctypes.CDLL, packed: Tensor, plan: Tensor, z: Tensor, context: Tensor, single: bool, bound: float
) -> Any:
    if packed.dtype not in SUFFIXES:
        return NotImplemented
    z, context = z.contiguous(), context.contiguous()
    x = torch.empty_like(z)
    status = getattr(library, f"caloforge_showerflow_sample_{SUFFIXES[packed.dtype]}")(
        plan.data_ptr(), single, bound, MIN_SIZE, MIN_SLOPE, SLOPE_SHIFT, MARGIN, packed.numel(), packed.data_ptr(),
        len(z), z.data_ptr(), context.data_ptr(), x.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return x if check_status(status) else NotImplemented


_pack = operator("showerflow_pack(Tensor[] weights, Tensor plan, bool single) -> Tensor", _plain_pack, _compiled_pack)
_sample = operator(
    "showerflow_sample(Tensor packed, Tensor plan, Tensor z, Tensor context, bool single, float bound) -> Tensor",
    _plain_sample,
    _compiled_sample,
)
