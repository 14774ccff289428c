"""The last linear layer of a spline flow's network together with the splines that it sets, rational-quadratic or cubic.

The raw parameters, some dozens for every feature of every row, are by far the largest numbers of a flow. The compiled kernel
makes those of one feature after the other and hands them to the spline while they are in the first cache; backwards their
gradients go from the spline into the products of the layer in the same way.
"""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import torch
from torch import Tensor

from caloforge.kernels.ops.cubic_splines import cubic_spline
from caloforge.kernels.ops.linear import Staircase, plain_linear
from caloforge.kernels.ops.registry import SUFFIXES, operator
from caloforge.kernels.ops.splines import MOST_BINS, plain_rqs

__all__ = ["SplineKind", "raw_by_rows", "spline_layer"]

SplineKind = Literal["rqs", "cubic"]


def spline_layer(
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    shape: tuple[float, ...],
    *,
    kind: SplineKind = "rqs",
    stairs: Staircase | None = None,
    inverse: bool = False,
    keep_raw: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Splines of all features, whose raw parameters are ``hidden W^T + b``.

    Args:
        x: values (N, D).
        hidden: hidden units (N, H).
        weight: W, (D P, H), with P rows for each feature, the raw parameters of a spline; zero where ``stairs`` says so.
        bias: b, (D P,).
        shape: bound, smallest relative bin width and height, smallest derivative (of no meaning for cubic splines).
        kind: ``rqs``, see :func:`caloforge.kernels.ops.splines.rqs`, or ``cubic``, see
            :func:`caloforge.kernels.ops.cubic_splines.cubic_spline`.
        stairs: of a masked layer; the P rows of a feature have the same reach.
        inverse: evaluate the inverse splines.
        keep_raw: whether the raw parameters are wanted; else they may be empty.

    Returns:
        Outputs (N, D), the logarithm of the determinant of this direction (N,), nats, and the raw parameters in the form
        (T, D, P, W): rows in T tiles of W, row n in tile n // W, zero beyond the last row. All three have gradients.
    """
    reach = None if stairs is None else _reach_of_features(stairs, x.shape[1])
    keep = keep_raw or (torch.is_grad_enabled() and any(t.requires_grad for t in (x, hidden, weight, bias)))
    outputs, logdet, tiles = _SplineLayer.apply(x, hidden, weight, bias, reach, keep, kind, inverse, shape)  # type: ignore[no-untyped-call]
    return outputs, logdet, tiles


def raw_by_rows(tiles: Tensor, rows: int) -> Tensor:
    """Raw parameters (N, D, P) from tiles of rows (T, D, P, W), as :func:`spline_layer` gives them."""
    return tiles.permute(0, 3, 1, 2).flatten(0, 1)[:rows]


def _reach_of_features(stairs: Staircase, features: int) -> Tensor:
    return stairs.reach.view(features, -1)[:, 0].contiguous()


def _bins(parameters: int, kind: str) -> int:
    """Bins of a spline with so many raw parameters."""
    return (parameters + 1) // 3 if kind == "rqs" else parameters // 2 - 1


# ---- plain PyTorch --------------------------------------------------------------------------------------------------


def _plain_spline(x: Tensor, raw: Tensor, kind: str, inverse: bool, *shape: float) -> tuple[Tensor, Tensor]:
    if kind == "rqs":
        return plain_rqs(x, raw, inverse, *shape)
    limits = dict(zip(("bound", "min_bin_width", "min_bin_height"), shape, strict=False))
    return cubic_spline(x, raw, inverse=inverse, **limits)


def _plain_forward(
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    reach: Tensor | None,
    keep: bool,
    kind: str,
    inverse: bool,
    *shape: float,
) -> tuple[Tensor, Tensor, Tensor]:
    raw = plain_linear(hidden, weight, bias, None, None, None, None, None, [], 1.0).view(*x.shape, -1)
    outputs, logabsdet = _plain_spline(x, raw, kind, inverse, *shape)
    return outputs, logabsdet.sum(dim=-1), raw.permute(1, 2, 0)[None].contiguous()


def _plain_backward(
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    raw: Tensor,
    reach: Tensor | None,
    grad_outputs: Tensor,
    grad_logdet: Tensor,
    grad_raw: Tensor | None,
    weights: bool,
    kind: str,
    inverse: bool,
    *shape: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    raw, to_log = raw_by_rows(raw, len(x)), grad_logdet[:, None].expand_as(x)
    with torch.enable_grad():
        leaves = x.detach().requires_grad_(), raw.detach().requires_grad_()
        results = _plain_spline(*leaves, kind, inverse, *shape)
        to_x, to_raw = torch.autograd.grad(results, leaves, (grad_outputs, to_log))
    if grad_raw is not None:
        to_raw = to_raw + raw_by_rows(grad_raw, len(x))
    flat = to_raw.flatten(1)
    if not weights:
        return to_x, flat @ weight, x.new_empty(0), x.new_empty(0)
    to_weight = flat.t() @ hidden
    if reach is not None:
        columns = torch.arange(hidden.shape[1], device=x.device)
        each = reach.to(x.device).repeat_interleave(len(weight) // len(reach))
        to_weight *= columns < each[:, None]
    return to_x, flat @ weight, to_weight, flat.sum(dim=0)


# ---- compiled -------------------------------------------------------------------------------------------------------


def _tiles(library: ctypes.CDLL, x: Tensor) -> tuple[int, int]:
    found = (ctypes.c_int64 * 2)()
    getattr(library, f"caloforge_spline_layer_tiles_{SUFFIXES[x.dtype]}")(len(x), found)
    return found[0], found[1]


def _settings(
    x: Tensor, hidden: Tensor, weight: Tensor, reach: Tensor | None, kind: str, inverse: bool, shape: tuple[float, ...]
) -> tuple[Any, ...]:
    bins = _bins(len(weight) // x.shape[1], kind)
    return (
        (ctypes.c_int64 * 4)(*x.shape, hidden.shape[1], bins),
        None if reach is None else reach.data_ptr(),
        (ctypes.c_double * 4)(*shape),
        int(kind == "cubic"),
        int(inverse),
        torch.get_num_threads(),
    )


def _compiled_forward(
    library: ctypes.CDLL,
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    reach: Tensor | None,
    keep: bool,
    kind: str,
    inverse: bool,
    *shape: float,
) -> Any:
    if x.dtype not in SUFFIXES or _bins(len(weight) // x.shape[1], kind) > MOST_BINS:
        return NotImplemented
    x, hidden, weight, bias = (t.contiguous() for t in (x, hidden, weight, bias))
    tiles, width = _tiles(library, x)
    raw = x.new_empty((tiles, x.shape[1], len(weight) // x.shape[1], width) if keep else 0)
    outputs, logdet = torch.empty_like(x), x.new_empty(len(x))
    getattr(library, f"caloforge_spline_layer_forward_{SUFFIXES[x.dtype]}")(
        *_settings(x, hidden, weight, reach, kind, inverse, shape),
        *(t.data_ptr() for t in (x, hidden, weight, bias)), raw.data_ptr() if keep else None, outputs.data_ptr(),
        logdet.data_ptr(),
    )  # fmt: skip
    return outputs, logdet, raw


def _compiled_backward(
    library: ctypes.CDLL,
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    raw: Tensor,
    reach: Tensor | None,
    grad_outputs: Tensor,
    grad_logdet: Tensor,
    grad_raw: Tensor | None,
    weights: bool,
    kind: str,
    inverse: bool,
    *shape: float,
) -> Any:
    if x.dtype not in SUFFIXES or (raw.shape[0], raw.shape[3]) != _tiles(library, x):
        return NotImplemented
    given = [t.contiguous() for t in (x, hidden, weight, raw, grad_outputs, grad_logdet)]
    x, hidden, weight = given[:3]
    if grad_raw is not None:
        grad_raw = grad_raw.contiguous()
    results = torch.empty_like(x), torch.empty_like(hidden)
    of_weights = (torch.empty_like(weight), x.new_empty(len(weight))) if weights else (x.new_empty(0), x.new_empty(0))
    getattr(library, f"caloforge_spline_layer_backward_{SUFFIXES[x.dtype]}")(
        *_settings(x, hidden, weight, reach, kind, inverse, shape),
        *(t.data_ptr() for t in given), None if grad_raw is None else grad_raw.data_ptr(),
        *(t.data_ptr() for t in results), *(t.data_ptr() if weights else None for t in of_weights),
    )  # fmt: skip
    return *results, *of_weights


_SHAPE = "str kind, bool inverse, float bound, float min_bin_width, float min_bin_height, float min_derivative"
_forward = operator(
    f"spline_layer(Tensor x, Tensor hidden, Tensor weight, Tensor bias, Tensor? reach, bool keep, {_SHAPE}) "
    "-> (Tensor, Tensor, Tensor)",
    _plain_forward,
    _compiled_forward,
)
_backward = operator(
    "spline_layer_backward(Tensor x, Tensor hidden, Tensor weight, Tensor raw, Tensor? reach, Tensor grad_outputs, "
    f"Tensor grad_logdet, Tensor? grad_raw, bool weights, {_SHAPE}) -> (Tensor, Tensor, Tensor, Tensor)",
    _plain_backward,
    _compiled_backward,
)


class _SplineLayer(torch.autograd.Function):
    """Saves the raw parameters; the backward pass evaluates the curves again."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        reach: Tensor | None,
        keep: bool,
        kind: str,
        inverse: bool,
        shape: tuple[float, ...],
    ) -> Any:
        results = _forward(x, hidden, weight, bias, reach, keep, kind, inverse, *shape)
        ctx.save_for_backward(x, hidden, weight, bias, results[2], reach)
        ctx.rest = kind, inverse, shape
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor | None, grad_logdet: Tensor | None, grad_raw: Tensor | None) -> Any:
        x, hidden, weight, bias, raw, reach = ctx.saved_tensors
        kind, inverse, shape = ctx.rest
        if grad_outputs is None:
            grad_outputs = torch.zeros_like(x)
        if grad_logdet is None:
            grad_logdet = x.new_zeros(len(x))
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            if grad_raw is None:
                grad_raw = torch.zeros_like(raw)
            leaves = (x, hidden, weight, bias)
            results = _differentiable(*leaves, reach, raw.shape[3], kind, inverse, shape)
            wanted = [t for t in leaves if t.requires_grad]
            found = iter(torch.autograd.grad(results, wanted, (grad_outputs, grad_logdet, grad_raw), create_graph=True))
            return *(next(found) if t.requires_grad else None for t in leaves), *[None] * 5
        weights = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        grads = _backward(
            x, hidden, weight, raw, reach, grad_outputs, grad_logdet, grad_raw, weights, kind, inverse, *shape
        )  # fmt: skip
        return *(g if want else None for g, want in zip(grads, ctx.needs_input_grad, strict=False)), *[None] * 5


def _differentiable(
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    reach: Tensor | None,
    width: int,
    kind: str,
    inverse: bool,
    shape: tuple[float, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in operations that can be differentiated any number of times, raw parameters in tiles of that width."""
    if reach is not None:
        each = reach.repeat_interleave(len(weight) // len(reach))
        weight = weight * (torch.arange(weight.shape[1]) < each[:, None]).to(weight.device)
    raw = torch.nn.functional.linear(hidden, weight, bias).view(*x.shape, -1)
    outputs, logabsdet = _plain_spline(x, raw, kind, inverse, *shape)
    padded = torch.nn.functional.pad(raw, (0, 0, 0, 0, 0, -len(x) % width))
    return outputs, logabsdet.sum(dim=-1), padded.view(-1, width, *padded.shape[1:]).permute(0, 2, 3, 1)
