"""Linear layers for training: masked ones, and what stands around a layer in one sweep over memory.

``y = activate(x W^T + b + extra)``, or ``y = activate(gate (x W^T + b) + shift)`` with gates and shifts that belong to
groups of consecutive rows (the points of a shower). The activation is a leaky ReLU, a ReLU, or none. Rows of weights may
be zero from some column on, as in a MADE whose units are sorted by degree; products then leave out what is zero, and the
gradients of those weights are exactly zero.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from caloforge.kernels.ops.registry import SUFFIXES, eager, kernel_library, operator

__all__ = ["Staircase", "fits_kernel", "gated_linear", "linear", "plain_linear"]

#: Rows of weights in one step of a staircase product in plain PyTorch: large enough for an efficient matrix product, small
#: enough to skip most of the empty corner.
_ROWS_PER_STEP = 1024


class Staircase:
    """Which weights of a masked layer may be other than zero: row r those of its first ``reach[r]`` columns.

    Args:
        reach: int64 (O,), not decreasing.

    Attributes:
        reach: the same as int32, always in CPU memory.
        steps: rows cut into steps, four numbers each: first row, end, shortest reach, longest reach.
    """

    def __init__(self, reach: Tensor) -> None:
        if bool((reach.diff() < 0).any()):
            raise ValueError("the reach of the rows of a staircase must not decrease")
        self.reach = reach.to("cpu", torch.int32)
        count = max(1, round(reach.numel() / _ROWS_PER_STEP))
        edges = [reach.numel() * k // count for k in range(count + 1)]
        self.steps = [n for a, b in pairwise(edges) for n in (a, b, int(reach[a]), int(reach[b - 1]))]


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stairs: Staircase | None = None,
    extra: Tensor | None = None,
    slope: float = 1.0,
) -> Tensor:
    """``activate(x W^T + b + extra)``.

    Args:
        x: inputs (N, I).
        weight: W, (O, I); zero where ``stairs`` says so.
        bias: b, (O,), or None.
        stairs: of a masked layer.
        extra: added before the activation, (N, O).
        slope: of the leaky ReLU below zero; 0 for a ReLU, 1 for no activation.

    Returns:
        (N, O).
    """
    reach, steps = (None, []) if stairs is None else (stairs.reach, stairs.steps)
    out: Tensor = _Linear.apply(x, weight, bias, extra, None, None, None, reach, steps, slope)  # type: ignore[no-untyped-call]
    return out


def gated_linear(
    x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor, shift: Tensor, offsets: Tensor, *, slope: float = 1.0
) -> Tensor:
    """``activate(gate (x W^T + b) + shift)``.

    Args:
        x: inputs (N, I).
        weight: W, (O, I).
        bias: b, (O,).
        gate: of each group of rows, (G, O).
        shift: likewise.
        offsets: where the groups start, int64 (G + 1,), the last one N.
        slope: of the leaky ReLU below zero; 1 for no activation.

    Returns:
        (N, O).
    """
    out: Tensor = _Linear.apply(x, weight, bias, None, gate, shift, offsets, None, [], slope)  # type: ignore[no-untyped-call]
    return out


def fits_kernel(*tensors: Tensor | None) -> bool:
    """Whether there is a kernel for tensors such as these, and calling it is best."""
    given = [t for t in tensors if t is not None]
    return (
        eager(*given)
        and given[0].dtype in SUFFIXES
        and all(t.dtype == given[0].dtype for t in given)
        and not torch.is_autocast_enabled("cpu")
        and kernel_library() is not None
    )


# ---- plain PyTorch --------------------------------------------------------------------------------------------------


def _rows_of_groups(offsets: Tensor) -> Tensor:
    counts = offsets.diff()
    return torch.repeat_interleave(torch.arange(len(counts), device=offsets.device), counts)


def _activate(value: Tensor, slope: float) -> Tensor:
    return value if slope == 1 else functional.leaky_relu(value, slope) if slope else functional.relu(value)


def plain_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    extra: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    offsets: Tensor | None,
    reach: Tensor | None,
    steps: Sequence[int],
    slope: float,
) -> Tensor:
    """All of it in PyTorch operations: any device, any type of numbers."""
    if steps:
        out = x.new_empty(x.shape[0], weight.shape[0])
        for first, end, _, longest in zip(*[iter(steps)] * 4, strict=True):
            columns = x[:, :longest], weight[first:end, :longest].t()
            if bias is None:
                torch.mm(*columns, out=out[:, first:end])
            else:
                torch.addmm(bias[first:end], *columns, out=out[:, first:end])
    else:
        out = functional.linear(x, weight, bias)
    if extra is not None:
        out = out + extra
    if gate is not None:
        assert shift is not None
        assert offsets is not None
        row = _rows_of_groups(offsets)
        out = torch.addcmul(shift[row], out, gate[row])
    return _activate(out, slope)


def _plain_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    offsets: Tensor | None,
    reach: Tensor | None,
    steps: Sequence[int],
    slope: float,
    out: Tensor,
    grad: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Gradients of inputs, weights, bias, what is in front of the activation, gates and shifts; those not wanted are empty."""
    before = grad if slope == 1 else torch.where(out > 0, grad, grad * slope)
    to_product, to_gate, to_shift = before, x.new_empty(0), x.new_empty(0)
    if gate is not None:
        assert offsets is not None
        row = _rows_of_groups(offsets)
        product = functional.linear(x, weight, bias)
        to_gate = torch.zeros_like(gate).index_add_(0, row, before * product)
        to_shift = torch.zeros_like(gate).index_add_(0, row, before)
        to_product = before * gate[row]
    to_x, to_weight, to_bias = x.new_empty(0), x.new_empty(0), x.new_empty(0)
    parts = list(zip(*[iter(steps)] * 4, strict=True)) or [(0, len(weight), x.shape[1], x.shape[1])]
    if wanted[0]:
        to_x = torch.zeros_like(x)
        for first, end, _, longest in parts:
            to_x[:, :longest].addmm_(to_product[:, first:end], weight[first:end, :longest])
    if wanted[1]:
        to_weight = torch.zeros_like(weight)
        for first, end, shortest, longest in parts:
            torch.mm(to_product[:, first:end].t(), x[:, :longest], out=to_weight[first:end, :longest])
            if reach is not None:
                columns = torch.arange(shortest, longest, device=x.device)
                to_weight[first:end, shortest:longest] *= columns < reach[first:end, None].to(x.device)
    if wanted[2]:
        to_bias = to_product.sum(dim=0)
    return to_x, to_weight, to_bias, before, to_gate, to_shift


# ---- compiled -------------------------------------------------------------------------------------------------------


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _common(x: Tensor, weight: Tensor, gate: Tensor | None, offsets: Tensor | None) -> tuple[Any, Tensor | None]:
    sizes = (ctypes.c_int64 * 4)(x.shape[0], *weight.shape[::-1], 0 if gate is None else len(gate))
    return sizes, _whole(offsets)


def _compiled_forward(
    library: ctypes.CDLL,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    extra: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    offsets: Tensor | None,
    reach: Tensor | None,
    steps: Sequence[int],
    slope: float,
) -> Any:
    if x.dtype not in SUFFIXES:
        return NotImplemented
    x, weight = x.contiguous(), weight.contiguous()
    others = [_whole(t) for t in (bias, extra, gate, shift)]
    sizes, starts = _common(x, weight, gate, offsets)
    out = x.new_empty(x.shape[0], weight.shape[0])
    getattr(library, f"caloforge_linear_forward_{SUFFIXES[x.dtype]}")(
        sizes, _address(reach), slope, _address(starts), torch.get_num_threads(), x.data_ptr(), weight.data_ptr(),
        *(_address(t) for t in others), out.data_ptr(),
    )  # fmt: skip
    return out


def _compiled_backward(
    library: ctypes.CDLL,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    offsets: Tensor | None,
    reach: Tensor | None,
    steps: Sequence[int],
    slope: float,
    out: Tensor,
    grad: Tensor,
    wanted: Sequence[bool],
) -> Any:
    if x.dtype not in SUFFIXES:
        return NotImplemented
    x, weight, out, grad = (t.contiguous() for t in (x, weight, out, grad))
    bias, gate = _whole(bias), _whole(gate)
    sizes, starts = _common(x, weight, gate, offsets)
    before = grad if slope == 1 else torch.empty_like(grad)
    gated = gate is not None and wanted[1]
    results = [
        torch.empty_like(like) if want and like is not None else None
        for like, want in ((x, wanted[0]), (weight, wanted[1]), (bias, wanted[1]), (gate, gated), (gate, gated))
    ]
    getattr(library, f"caloforge_linear_backward_{SUFFIXES[x.dtype]}")(
        sizes, _address(reach), slope, _address(starts), torch.get_num_threads(),
        *(_address(t) for t in (x, weight, bias, gate, out, grad, before, *results)),
    )  # fmt: skip
    to_x, to_weight, to_bias, to_gate, to_shift = (x.new_empty(0) if t is None else t for t in results)
    return to_x, to_weight, to_bias, before, to_gate, to_shift


_forward = operator(
    "linear(Tensor x, Tensor weight, Tensor? bias, Tensor? extra, Tensor? gate, Tensor? shift, Tensor? offsets, "
    "Tensor? reach, int[] steps, float slope) -> Tensor",
    plain_linear,
    _compiled_forward,
)
_backward = operator(
    "linear_backward(Tensor x, Tensor weight, Tensor? bias, Tensor? gate, Tensor? offsets, Tensor? reach, int[] steps, "
    "float slope, Tensor out, Tensor grad, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _plain_backward,
    _compiled_backward,
)


class _Linear(torch.autograd.Function):
    """Saves inputs and outputs; an activation is known from the sign of what it gave."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        extra: Tensor | None,
        gate: Tensor | None,
        shift: Tensor | None,
        offsets: Tensor | None,
        reach: Tensor | None,
        steps: Sequence[int],
        slope: float,
    ) -> Tensor:
        out: Tensor = _forward(x, weight, bias, extra, gate, shift, offsets, reach, steps, slope)
        ctx.save_for_backward(x, weight, bias, extra, gate, shift, offsets, reach, out)
        ctx.rest = steps, slope
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, bias, extra, gate, shift, offsets, reach, out = ctx.saved_tensors
        steps, slope = ctx.rest
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            return *_differentiable(x, weight, bias, extra, gate, shift, offsets, reach, slope, grad), *[None] * 4
        # Gates get their gradients together with the weights.
        wanted = [needed[0], any(needed[1:3]) or any(needed[4:6]), needed[2]]
        to_x, to_weight, to_bias, before, to_gate, to_shift = _backward(
            x, weight, bias, gate, offsets, reach, steps, slope, out, grad, wanted
        )
        results = (to_x, to_weight, to_bias, before, to_gate, to_shift)
        return *(g if want else None for g, want in zip(results, needed[:6], strict=True)), *[None] * 4


def _differentiable(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    extra: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    offsets: Tensor | None,
    reach: Tensor | None,
    slope: float,
    grad: Tensor,
) -> list[Tensor | None]:
    """Gradients of the six tensors that can be differentiated again."""
    if reach is not None:
        weight = weight * (torch.arange(weight.shape[1]) < reach[:, None]).to(weight.device)
    given = [x, weight, bias, extra, gate, shift]
    leaves = [t for t in given if t is not None and t.requires_grad]
    out = plain_linear(x, weight, bias, extra, gate, shift, offsets, None, [], slope)
    found = iter(torch.autograd.grad(out, leaves, grad, create_graph=True))
    return [next(found) if t is not None and t.requires_grad else None for t in given]
