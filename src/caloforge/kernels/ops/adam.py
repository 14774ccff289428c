"""One step of Adam for many tensors at once (Kingma and Ba, arXiv:1412.6980; decoupled decay: arXiv:1711.05101).

Adam is bound by memory. The compiled kernel reads and writes each number once, and leaves out the ends of rows where
weights, gradients and moments are all zero, which those of a masked layer are for ever.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caloforge.kernels.ops.registry import SUFFIXES, operator

__all__ = ["adam_step"]


def adam_step(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    extents: Sequence[Tensor],
    step: int,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    *,
    decoupled: bool,
) -> None:
    """Change weights and moments in place, as ``torch.optim.Adam`` or ``AdamW`` does.

    Args:
        weights: dense tensors of one type.
        gradients: of the same shapes.
        means: first moments.
        squares: second moments.
        extents: for each tensor of several columns, int32 (rows,): from where on weights and moments of a row are zero, -1
            where that is not known yet; changed in place. Empty to look at every number.
        step: number of this step, from 1.
        rate: learning rate.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
        decay: weight decay.
        decoupled: whether the decay acts on the weights instead of their gradients.
    """
    if decay:
        extents = [t.new_empty(0, dtype=torch.int32) for t in weights]
    _adam(weights, gradients, means, squares, extents, step, rate, *betas, eps, decay, decoupled)


def _plain(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    extents: Sequence[Tensor],
    step: int,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    decoupled: bool,
) -> None:
    scale = (1 - beta2**step) ** 0.5
    for weight, gradient, mean, square in zip(weights, gradients, means, squares, strict=True):
        g = gradient
        if decay and decoupled:
            weight.mul_(1 - rate * decay)
        elif decay:
            g = g + decay * weight
        mean.lerp_(g, 1 - beta1)
        square.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        weight.addcdiv_(mean, (square.sqrt() / scale).add_(eps), value=-rate / (1 - beta1**step))


def _compiled(
    library: ctypes.CDLL,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    extents: Sequence[Tensor],
    step: int,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    decoupled: bool,
) -> Any:
    every = [*weights, *gradients, *means, *squares]
    dtype = weights[0].dtype
    if dtype not in SUFFIXES or any(t.dtype != dtype or not t.is_contiguous() for t in every):
        return NotImplemented
    addresses: list[int | None] = []
    shapes: list[int] = []
    for weight, gradient, mean, square, extent in zip(weights, gradients, means, squares, extents, strict=True):
        addresses += (t.data_ptr() for t in (weight, gradient, mean, square))
        addresses.append(extent.data_ptr() if extent.numel() else None)
        shapes += (extent.numel(), weight.numel() // extent.numel()) if extent.numel() else (1, weight.numel())
    numbers = (
        rate / (1 - beta1**step), beta1, beta2, (1 - beta2**step) ** 0.5, eps, 0.0 if decoupled else decay,
        1 - rate * decay if decoupled else 1.0,
    )  # fmt: skip
    getattr(library, f"caloforge_adam_{SUFFIXES[dtype]}")(
        len(weights), (ctypes.c_void_p * len(addresses))(*addresses), (ctypes.c_int64 * len(shapes))(*shapes),
        (ctypes.c_double * len(numbers))(*numbers), torch.get_num_threads(),
    )  # fmt: skip
    return None


_adam = operator(
    "adam(Tensor(a!)[] weights, Tensor[] gradients, Tensor(b!)[] means, Tensor(c!)[] squares, Tensor(d!)[] extents, int step, "
    "float rate, float beta1, float beta2, float eps, float decay, bool decoupled) -> ()",
    _plain,
    _compiled,
)
