"""Monotonic rational-quadratic splines with linear tails (Durkan et al., arXiv:1906.04032).

The spline maps [-bound, bound] onto itself through K bins, each a ratio of two quadratics, and is the identity outside.
Raw parameters are laid out as in nflows, so that weights can be exchanged: K widths, K heights, K - 1 interior
derivatives; the derivative at both ends is 1.

Nothing here indexes with a boolean mask or synchronises with the host: inputs are clamped before the maths and the
tails are selected afterwards. So the functions export, run under CUDA graphs, and give finite gradients everywhere.
On a CPU, outside of tracing, compiled kernels do the same arithmetic in one sweep over memory, with gradients.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.kernels.ops.registry import SUFFIXES, eager, kernel_library, operator

__all__ = [
    "MOST_BINS",
    "check_spline_minima",
    "plain_rqs",
    "plain_rqs_backward",
    "raw_parameter_count",
    "rqs",
    "spline_knots",
]

#: Most bins that the compiled kernels know.
MOST_BINS = 64


def raw_parameter_count(bins: int) -> int:
    """Number of raw parameters of one spline with ``bins`` bins: ``3 * bins - 1``."""
    return 3 * bins - 1


def check_spline_minima(bins: int, bound: float, *minima: float) -> None:
    """Refuse settings for which no monotonic spline exists.

    Args:
        bins: Number of bins K.
        bound: Half-width of the interval on which the spline acts.
        *minima: Smallest relative bin width and height (their K-fold must leave room), then the smallest derivative.

    Raises:
        ConfigError: If a value is out of range; the message names it.
    """
    min_bin_width, min_bin_height, min_derivative = minima
    if bins < 1:
        raise ConfigError(f"a spline needs at least one bin, not {bins}")
    if not bound > 0:
        raise ConfigError(f"the spline bound must be positive, not {bound}")
    for name, value in (("width", min_bin_width), ("height", min_bin_height)):
        if not 0 < value * bins < 1:
            raise ConfigError(f"the minimal bin {name} must lie between 0 and 1/{bins}, not {value}")
    if not 0 < min_derivative < 1:
        raise ConfigError(f"the minimal spline derivative must lie between 0 and 1, not {min_derivative}")


def spline_knots(raw: Tensor, bound: float, minima: tuple[float, float]) -> Tensor:
    """Bin edges along x and y (..., 2, K + 1) from raw sizes (..., 2K), exact at both ends."""
    bins = raw.shape[-1] // 2
    shares = torch.softmax(raw.reshape(*raw.shape[:-1], 2, bins), dim=-1)
    if minima[0] == minima[1]:
        sizes = minima[0] + (1 - minima[0] * bins) * shares
    else:
        pieces = zip(minima, shares.unbind(dim=-2), strict=True)
        sizes = torch.stack([minimum + (1 - minimum * bins) * share for minimum, share in pieces], dim=-2)
    inner = 2 * bound * torch.cumsum(sizes[..., :-1], dim=-1) - bound
    return nn.functional.pad(nn.functional.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def rqs(
    inputs: Tensor,
    raw_parameters: Tensor,
    *,
    bound: float,
    min_bin_width: float = 1e-6,
    min_bin_height: float = 1e-6,
    min_derivative: float = 1e-6,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Evaluate a rational-quadratic spline with linear tails, or its inverse, element by element.

    The maths runs in at least float32 whatever the inputs (bfloat16 under autocast included). Sizes of bins are
    differences of the rounded knots, so that neighbouring bins meet exactly and forward and inverse see one curve.

    Args:
        inputs: Values (...).
        raw_parameters: Unconstrained parameters (..., 3K - 1): widths, heights, interior derivatives.
        bound: Half-width of the interval on which the spline acts; outside it is the identity.
        min_bin_width: Smallest bin width as a fraction of the interval.
        min_bin_height: Smallest bin height as a fraction of the interval.
        min_derivative: Smallest derivative at an interior knot.
        inverse: Evaluate the inverse function instead.

    Returns:
        Outputs (...) and the logarithm of the derivative of the evaluated direction (...), in nats.

    Raises:
        ConfigError: If the last axis of the parameters is not 3K - 1 or the minima leave no room.

    Source: arXiv:1906.04032, section 3.1 (equations 4 to 8).
    """
    bins, rest = divmod(int(raw_parameters.shape[-1]) + 1, 3)
    if rest:
        raise ConfigError(f"spline parameters must number 3K - 1 per input, not {raw_parameters.shape[-1]}")
    check_spline_minima(bins, bound, min_bin_width, min_bin_height, min_derivative)

    dtype = torch.promote_types(torch.promote_types(inputs.dtype, raw_parameters.dtype), torch.float32)
    x, raw = inputs.to(dtype), raw_parameters.to(dtype)
    shape = (bound, min_bin_width, min_bin_height, min_derivative)
    if eager(x, raw) and raw.shape[:-1] == x.shape and x.dtype in SUFFIXES and bins <= MOST_BINS and kernel_library():
        outputs, logabsdet = _Spline.apply(x, raw, inverse, shape)  # type: ignore[no-untyped-call]
        return outputs, logabsdet
    return plain_rqs(x, raw, inverse, *shape)


def plain_rqs(
    x: Tensor,
    raw: Tensor,
    inverse: bool,
    bound: float,
    min_bin_width: float,
    min_bin_height: float,
    min_derivative: float,
) -> tuple[Tensor, Tensor]:
    """As :func:`rqs`, in PyTorch operations only: any device, exportable, differentiable any number of times."""
    bins = (raw.shape[-1] + 1) // 3
    clamped = x.clamp(-bound, bound)
    knots = spline_knots(raw[..., : 2 * bins], bound, (min_bin_width, min_bin_height))
    slopes = nn.functional.pad(min_derivative + nn.functional.softplus(raw[..., 2 * bins :]), (1, 1), value=1.0)

    searched = knots[..., 1 if inverse else 0, 1:-1]
    bin_index = (clamped[..., None] >= searched).sum(dim=-1)[..., None, None].expand(*x.shape, 3, 1)
    # One table of x, y and slope at every knot: two look-ups instead of six.
    table = torch.cat([knots, slopes[..., None, :]], dim=-2)
    left, bottom, slope_left = table.gather(-1, bin_index)[..., 0].unbind(dim=-1)
    right, top, slope_right = table.gather(-1, bin_index + 1)[..., 0].unbind(dim=-1)
    width, height = right - left, top - bottom

    # Rounded knots of the flattest bins may coincide in float32 when the caller's minimum is below its resolution.
    smallest = 2 * bound * torch.finfo(x.dtype).eps
    width = width.clamp_min(smallest)
    height = height.clamp_min(smallest)
    delta = height / width
    curvature = slope_left + slope_right - 2 * delta

    if inverse:
        theta = _solve_bin((clamped - bottom) / height, delta, slope_left, curvature)
        inner = left + theta * width
    else:
        theta = (clamped - left) / width
    spread = theta * (1 - theta)
    denominator = delta + curvature * spread
    if not inverse:
        inner = bottom + height * (delta * theta.square() + slope_left * spread) / denominator
    numerator = slope_right * theta.square() + 2 * delta * spread + slope_left * (1 - theta).square()
    log_slope = torch.log(numerator) + 2 * (torch.log(delta) - torch.log(denominator))

    inside = (x >= -bound) & (x <= bound)
    outputs = torch.where(inside, inner, x)
    logabsdet = torch.where(inside, -log_slope if inverse else log_slope, torch.zeros_like(x))
    return outputs, logabsdet


def _solve_bin(eta: Tensor, delta: Tensor, slope_left: Tensor, curvature: Tensor) -> Tensor:
    """Relative position theta in the bin at relative height eta in [0, 1].

    Solves a theta^2 + b theta + c = 0 (arXiv:1906.04032, equations 6 to 8, divided by the bin height). Of the two
    algebraically equal roots the one that adds numbers of equal sign is taken, so that nothing cancels.
    """
    a = delta - slope_left + eta * curvature
    b = slope_left - eta * curvature
    c = -delta * eta
    root = torch.sqrt((b.square() - 4 * a * c).clamp_min(torch.finfo(eta.dtype).tiny))
    rising = b >= 0
    # b < 0 happens only with a > 0 (the curve passes eta = 1 at theta = 1); the unused branch gets a harmless divisor.
    ones = torch.ones_like(b)
    stable = -2 * c / torch.where(rising, b + root, ones)
    other = (root - b) / torch.where(rising, ones, 2 * a)
    return torch.where(rising, stable, other)


def plain_rqs_backward(
    x: Tensor, raw: Tensor, grad_outputs: Tensor, grad_logabsdet: Tensor, inverse: bool, *shape: float
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`plain_rqs` by values (...) and raw parameters (..., 3K - 1), from those by its two results."""
    with torch.enable_grad():
        leaves = x.detach().requires_grad_(), raw.detach().requires_grad_()
        results = plain_rqs(*leaves, inverse, *shape)
        gradients = torch.autograd.grad(results, leaves, (grad_outputs, grad_logabsdet))
    return gradients[0], gradients[1]


def _settings(x: Tensor, raw: Tensor, inverse: bool, shape: tuple[float, ...]) -> tuple[Any, ...]:
    return x.numel(), int(inverse), (raw.shape[-1] + 1) // 3, *shape, torch.get_num_threads()


def _compiled_forward(library: ctypes.CDLL, x: Tensor, raw: Tensor, inverse: bool, *shape: float) -> Any:
    if x.dtype not in SUFFIXES or raw.shape[-1] >= 3 * MOST_BINS:
        return NotImplemented
    x, raw = x.contiguous(), raw.contiguous()
    tensors = x, raw, torch.empty_like(x), torch.empty_like(x)
    work = getattr(library, f"caloforge_spline_forward_{SUFFIXES[x.dtype]}")
    work(*_settings(x, raw, inverse, shape), *(t.data_ptr() for t in tensors))
    return tensors[2:]


def _compiled_backward(
    library: ctypes.CDLL,
    x: Tensor,
    raw: Tensor,
    grad_outputs: Tensor,
    grad_logabsdet: Tensor,
    inverse: bool,
    *shape: float,
) -> Any:
    if x.dtype not in SUFFIXES or raw.shape[-1] >= 3 * MOST_BINS:
        return NotImplemented
    x, raw, grad_outputs, grad_logabsdet = (t.contiguous() for t in (x, raw, grad_outputs, grad_logabsdet))
    tensors = x, raw, grad_outputs, grad_logabsdet, torch.empty_like(x), torch.empty_like(raw)
    work = getattr(library, f"caloforge_spline_backward_{SUFFIXES[x.dtype]}")
    work(*_settings(x, raw, inverse, shape), *(t.data_ptr() for t in tensors))
    return tensors[4:]


_SHAPE = "bool inverse, float bound, float min_bin_width, float min_bin_height, float min_derivative"
_forward = operator(f"rqs(Tensor x, Tensor raw, {_SHAPE}) -> (Tensor, Tensor)", plain_rqs, _compiled_forward)
_backward = operator(
    f"rqs_backward(Tensor x, Tensor raw, Tensor grad_outputs, Tensor grad_logabsdet, {_SHAPE}) -> (Tensor, Tensor)",
    plain_rqs_backward,
    _compiled_backward,
)


class _Spline(torch.autograd.Function):
    """Saves inputs and raw parameters only; the backward pass evaluates the curve again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, raw: Tensor, inverse: bool, shape: tuple[float, ...]) -> Any:
        ctx.inverse, ctx.shape = inverse, shape
        ctx.save_for_backward(x, raw)
        return _forward(x, raw, inverse, *shape)

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor, grad_logabsdet: Tensor) -> Any:
        x, raw = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            pull_back = torch.func.vjp(lambda a, b: plain_rqs(a, b, ctx.inverse, *ctx.shape), x, raw)[1]
            return *pull_back((grad_outputs, grad_logabsdet)), None, None
        return *_backward(x, raw, grad_outputs, grad_logabsdet, ctx.inverse, *ctx.shape), None, None
