"""Monotonic linear-rational splines with linear tails (Dolatabadi et al., arXiv:2001.05168).

Every bin is two pieces, each a ratio of two linear functions, which meet at the fraction lambda of the bin. So the
inverse is as cheap as the function, and its derivative is continuous. The elementwise flow transforms of ShowerFlow
(arXiv:2309.05704) are splines of this kind. Outside [-bound, bound] the spline is the identity.

Inputs are clamped before the maths and the tails are selected afterwards, so gradients are finite everywhere and
nothing depends on boolean indexing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError

__all__ = ["MARGIN", "MIN_SIZE", "MIN_SLOPE", "SLOPE_SHIFT", "linear_rational_spline", "raw_linear_rational_count"]

#: Smallest size of a bin, relative to the interval, and smallest slope at a knot.
MIN_SIZE, MIN_SLOPE = 1e-3, 1e-3
#: What is added to a raw slope, so that 0 is a slope of 1.
SLOPE_SHIFT = math.log(math.expm1(1 - MIN_SLOPE))
#: Lambda stays this far away from the ends of its bin.
MARGIN = 0.025


def raw_linear_rational_count(bins: int) -> int:
    """Number of raw parameters of one spline: widths, heights, interior slopes and lambdas, ``4 * bins - 1``."""
    return 4 * bins - 1


def _knots(raw: Tensor, bound: float) -> Tensor:
    """Edges of the bins (..., K + 1) from raw sizes (..., K), exact at both ends."""
    bins = raw.shape[-1]
    sizes = MIN_SIZE + (1 - MIN_SIZE * bins) * torch.softmax(raw, dim=-1)
    inner = 2 * bound * torch.cumsum(sizes[..., :-1], dim=-1) - bound
    return nn.functional.pad(nn.functional.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def linear_rational_spline(
    inputs: Tensor, raw_parameters: Tensor, *, bound: float, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Evaluate splines or their inverses, element by element.

    Args:
        inputs: values (...).
        raw_parameters: unconstrained parameters (..., 4K - 1): widths, heights, interior slopes, lambdas. Zeros give the
            identity.
        bound: half-width of the interval on which the splines act.
        inverse: evaluate the inverse functions.

    Returns:
        Outputs (...) and the logarithm of the derivative of the evaluated direction (...), nats.

    Raises:
        ConfigError: if the last axis of the parameters is not 4K - 1, or there are too many bins.

    Source: arXiv:2001.05168, section 4.1, algorithm 1.
    """
    bins, rest = divmod(int(raw_parameters.shape[-1]) + 1, 4)
    if rest or not bins or bins * MIN_SIZE >= 1:
        raise ConfigError(f"parameters of linear-rational splines number 4K - 1, not {raw_parameters.shape[-1]}")
    raw = raw_parameters.to(torch.promote_types(raw_parameters.dtype, torch.float32))
    x = inputs.to(raw.dtype)
    raw_widths, raw_heights, raw_slopes, raw_lambdas = torch.split(raw, [bins, bins, bins - 1, bins], dim=-1)
    x_knots, y_knots = _knots(raw_widths, bound), _knots(raw_heights, bound)
    slopes = nn.functional.pad(MIN_SLOPE + nn.functional.softplus(raw_slopes + SLOPE_SHIFT), (1, 1), value=1.0)
    lambdas = MARGIN + (1 - 2 * MARGIN) * torch.sigmoid(raw_lambdas)

    clamped = x.clamp(-bound, bound)
    searched = y_knots if inverse else x_knots
    index = (clamped[..., None] >= searched[..., 1:-1]).sum(dim=-1, keepdim=True)
    left, right = (x_knots.gather(-1, index + k).squeeze(-1) for k in (0, 1))
    bottom, top = (y_knots.gather(-1, index + k).squeeze(-1) for k in (0, 1))
    slope_left, slope_right = (slopes.gather(-1, index + k).squeeze(-1) for k in (0, 1))
    lam = lambdas.gather(-1, index).squeeze(-1)
    width, height = right - left, top - bottom

    # Weights of the bin's left end (1), right end and middle; the middle's height follows.
    weight_right = torch.sqrt(slope_left / slope_right)
    weight_middle = (lam * slope_left + (1 - lam) * weight_right * slope_right) * width / height
    middle = ((1 - lam) * bottom + lam * weight_right * top) / ((1 - lam) + lam * weight_right)

    if inverse:
        first = clamped <= middle
        low, high = clamped - bottom, top - clamped
        over = weight_middle * (middle - clamped)
        ones = torch.ones_like(low)
        theta = torch.where(
            first,
            lam * low / torch.where(first, low + over, ones),
            (-over + lam * weight_right * high) / torch.where(first, ones, weight_right * high - over),
        )
    else:
        theta = (clamped - left) / width
        first = theta <= lam
    bottom_part = torch.where(first, lam - theta, weight_middle * (1 - theta))
    top_part = torch.where(first, weight_middle * theta, weight_right * (theta - lam))
    total = bottom_part + top_part
    start, end = torch.where(first, bottom, middle), torch.where(first, middle, top)
    outputs = left + theta * width if inverse else (bottom_part * start + top_part * end) / total
    slope = torch.where(first, lam * weight_middle, (1 - lam) * weight_middle * weight_right)
    log_slope = torch.log(slope * (end - start) / width) - 2 * torch.log(total)
    inside = (x >= -bound) & (x <= bound)
    zeros = torch.zeros_like(x)
    return torch.where(inside, outputs, x), torch.where(inside, -log_slope if inverse else log_slope, zeros)
