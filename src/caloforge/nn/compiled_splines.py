"""Rational-quadratic splines on a CPU through the compiled kernels, with gradients."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from caloforge.nn.native import native_library
from caloforge.nn.native.packed import SUFFIXES

__all__ = ["can_compile", "compiled_rqs"]

_MOST_BINS = 64


def can_compile(inputs: Tensor, raw_parameters: Tensor) -> bool:
    """Whether the kernels serve these tensors: real ones on the CPU, in float32 or float64, and nobody is tracing."""
    return (
        inputs.dtype in SUFFIXES
        and inputs.device.type == "cpu"
        and raw_parameters.device.type == "cpu"
        and raw_parameters.dtype == inputs.dtype
        and raw_parameters.shape[:-1] == inputs.shape
        and raw_parameters.shape[-1] < 3 * _MOST_BINS
        and type(inputs) in (Tensor, nn.Parameter)
        and type(raw_parameters) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and native_library() is not None
    )


def compiled_rqs(
    inputs: Tensor,
    raw_parameters: Tensor,
    *,
    bound: float,
    min_bin_width: float,
    min_bin_height: float,
    min_derivative: float,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """As :func:`caloforge.nn.splines.rqs`, for tensors that :func:`can_compile` accepts; differentiable once."""
    settings = (int(inverse), (raw_parameters.shape[-1] + 1) // 3, bound, min_bin_width, min_bin_height, min_derivative)
    outputs, logabsdet = _Spline.apply(inputs, raw_parameters, settings)  # type: ignore[no-untyped-call]
    return outputs, logabsdet


def _function(name: str, dtype: torch.dtype) -> ctypes._NamedFuncPointer:
    return getattr(native_library(), f"caloforge_spline_{name}_{SUFFIXES[dtype]}")  # type: ignore[no-any-return]


class _Spline(torch.autograd.Function):
    """Saves inputs and raw parameters only; the backward pass evaluates the curve again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, raw: Tensor, settings: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        inputs, raw = inputs.contiguous(), raw.contiguous()
        ctx.save_for_backward(inputs, raw)
        ctx.settings = settings
        outputs, logabsdet = torch.empty_like(inputs), torch.empty_like(inputs)
        _function("forward", inputs.dtype)(
            inputs.numel(), *settings, torch.get_num_threads(),
            *(tensor.data_ptr() for tensor in (inputs, raw, outputs, logabsdet)),
        )  # fmt: skip
        return outputs, logabsdet

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor, grad_logabsdet: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs, raw = ctx.saved_tensors
        grad_inputs, grad_raw = torch.empty_like(inputs), torch.empty_like(raw)
        gradients = (grad_outputs.contiguous(), grad_logabsdet.contiguous())
        _function("backward", inputs.dtype)(
            inputs.numel(), *ctx.settings, torch.get_num_threads(),
            *(tensor.data_ptr() for tensor in (inputs, raw, *gradients, grad_inputs, grad_raw)),
        )  # fmt: skip
        return grad_inputs, grad_raw, None
