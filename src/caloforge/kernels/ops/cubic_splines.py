"""Monotonic cubic splines with linear tails (Durkan et al., arXiv:1906.02145; Steffen, A&A 239 (1990) 443).

The spline maps [-bound, bound] onto itself through K bins, each a cubic, and is the identity outside. Raw parameters
are K widths, K heights and the derivatives at both ends; those at interior knots follow from Steffen's rule, which
keeps every bin monotonic. Unlike the rational-quadratic spline the derivative jumps at the ends of the interval.

As with ``caloforge.kernels.ops.splines`` nothing indexes with a boolean mask or synchronises with the host.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from caloforge.errors import ConfigError
from caloforge.kernels.ops.splines import check_spline_minima, spline_knots

__all__ = ["cubic_parameter_count", "cubic_spline", "raw_end_derivative"]

#: Smallest derivative at the ends of the interval relative to the mean slope of the bin there; 3 is the largest for
#: which a cubic with any admissible slope at its other end stays monotonic.
_LEAST_END, _LARGEST_END = 1e-3, 3.0
#: Steps of the bracketed Newton search: bisection alone would give 32 bits, the steps of Newton the rest.
_STEPS = 32


def cubic_parameter_count(bins: int) -> int:
    """Number of raw parameters of one spline with ``bins`` bins: ``2 * bins + 2``."""
    return 2 * bins + 2


def cubic_spline(
    inputs: Tensor,
    raw_parameters: Tensor,
    *,
    bound: float,
    min_bin_width: float = 1e-6,
    min_bin_height: float = 1e-6,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Evaluate a monotonic cubic spline with linear tails, or its inverse, element by element.

    The maths runs in at least float32 whatever the inputs. The inverse brackets the root of each cubic and closes in on
    it; its gradient is that of one last Newton step, which is the exact one.

    Args:
        inputs: Values (...).
        raw_parameters: Unconstrained parameters (..., 2K + 2): widths, heights, derivative at the left and right end.
        bound: Half-width of the interval on which the spline acts; outside it is the identity.
        min_bin_width: Smallest bin width as a fraction of the interval.
        min_bin_height: Smallest bin height as a fraction of the interval.
        inverse: Evaluate the inverse function instead.

    Returns:
        Outputs (...) and the logarithm of the derivative of the evaluated direction (...), in nats.

    Raises:
        ConfigError: If the last axis of the parameters is not 2K + 2 with K > 1, or the minima leave no room.

    Source: arXiv:1906.02145, section 3.1; the derivatives at interior knots are Steffen's, equation 11 there.
    """
    bins, rest = divmod(int(raw_parameters.shape[-1]) - 2, 2)
    if rest or bins < 2:
        raise ConfigError(
            f"cubic spline parameters must number 2K + 2 per input with K > 1, not {raw_parameters.shape[-1]}"
        )
    check_spline_minima(bins, bound, min_bin_width, min_bin_height, _LEAST_END)
    dtype = torch.promote_types(torch.promote_types(inputs.dtype, raw_parameters.dtype), torch.float32)
    x, raw = inputs.to(dtype), raw_parameters.to(dtype)

    clamped = x.clamp(-bound, bound)
    knots = spline_knots(raw[..., : 2 * bins], bound, (min_bin_width, min_bin_height))
    # Rounded knots of the narrowest bins may coincide in float32 when the minimum is below its resolution.
    sizes = knots.diff(dim=-1).clamp_min(2 * bound * torch.finfo(dtype).eps)
    widths, heights = sizes.unbind(dim=-2)
    slopes = heights / widths
    derivatives = _derivatives(widths, slopes, raw[..., 2 * bins :])

    searched = knots[..., 1 if inverse else 0, 1:-1]
    index = (clamped[..., None] >= searched).sum(dim=-1, keepdim=True)
    left, bottom = (edges.gather(-1, index)[..., 0] for edges in knots.unbind(dim=-2))
    width, height, slope = (values.gather(-1, index)[..., 0] for values in (widths, heights, slopes))
    # Derivatives in units of the bin's mean slope: then every bin is a curve from (0, 0) to (1, 1).
    start = derivatives.gather(-1, index)[..., 0] / slope
    end = derivatives.gather(-1, index + 1)[..., 0] / slope

    if inverse:
        theta = _solve((clamped - bottom) / height, start, end)
        inner = left + width * theta
    else:
        theta = (clamped - left) / width
        inner = bottom + height * _curve(theta, start, end)
    log_slope = torch.log(slope) + torch.log(_rise(theta, start, end).clamp_min(torch.finfo(dtype).tiny))

    inside = (x >= -bound) & (x <= bound)
    outputs = torch.where(inside, inner, x)
    logabsdet = torch.where(inside, -log_slope if inverse else log_slope, torch.zeros_like(x))
    return outputs, logabsdet


def _derivatives(widths: Tensor, slopes: Tensor, raw_ends: Tensor) -> Tensor:
    """Derivatives at all knots (..., K + 1) from bin widths and mean slopes (..., K) and raw end values (..., 2)."""
    before, after = slopes[..., :-1], slopes[..., 1:]
    wide, wider = widths[..., :-1], widths[..., 1:]
    parabola = (before * wider + after * wide) / (wide + wider)
    interior = torch.minimum(torch.minimum(2 * before, 2 * after), parabola)
    relative = _LEAST_END + (_LARGEST_END - 2 * _LEAST_END) * torch.sigmoid(raw_ends)
    ends = relative * torch.stack([slopes[..., 0], slopes[..., -1]], dim=-1)
    return torch.cat([ends[..., :1], interior, ends[..., 1:]], dim=-1)


def _curve(theta: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Cubic from (0, 0) to (1, 1) with the given derivatives there."""
    rest = 1 - theta
    return theta * (theta * (3 - 2 * theta) + rest * (start * rest - end * theta))


def _rise(theta: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Derivative of :func:`_curve`."""
    rest = 1 - theta
    return 6 * theta * rest + start * rest * (1 - 3 * theta) + end * theta * (3 * theta - 2)


def _solve(eta: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Position theta in [0, 1] at which the curve has the height eta."""
    least = torch.finfo(eta.dtype).tiny
    with torch.no_grad():
        low, high, theta = torch.zeros_like(eta), torch.ones_like(eta), eta.clamp(0, 1)
        for _ in range(_STEPS):
            excess = _curve(theta, start, end) - eta
            low, high = torch.where(excess < 0, theta, low), torch.where(excess < 0, high, theta)
            newton = theta - excess / _rise(theta, start, end).clamp_min(least)
            theta = torch.where((newton > low) & (newton < high), newton, 0.5 * (low + high))
    excess = _curve(theta, start, end) - eta
    return (theta - excess / _rise(theta, start, end).clamp_min(torch.finfo(eta.dtype).eps)).clamp(0, 1)


def raw_end_derivative(relative: float) -> float:
    """Raw parameter of a derivative at an end, given relative to the mean slope of the bin there."""
    share = (relative - _LEAST_END) / (_LARGEST_END - 2 * _LEAST_END)
    return math.log(share / (1 - share))
