"""Initial weights of an autoregressive spline flow from the marginal distributions of its training data.

With weights drawn at random a flow first has to learn, voxel by voxel, where its data lie at all: most voxels sit in a
spike at the lower end of the logit, 14 standard deviations from the base distribution. That is known from quantiles.
So the first block starts as the spline that makes each variable standard normal by itself, the others start as the
identity with their knots where normal variables are, and training begins with the correlations.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from caloforge.nn.autoregressive import AutoregressiveFlow, AutoregressiveSpline
from caloforge.nn.convolutional import ImageCoupling
from caloforge.nn.coupling import SplineCoupling
from caloforge.nn.cubic_splines import raw_end_derivative
from caloforge.stage import TrainingBatch, TrainingData

__all__ = ["collect_rows", "normal_knots", "quantile_knots", "raw_spline_parameters", "start_from_marginals"]

#: Distance of interior knots, standard deviations; with 8 bins 3 % of a normal variable lie beyond them, with 10 bins
#: 0.3 %. Wider ones would describe the tails worse, in which much of a layer's mean energy can lie.
_KNOT_DISTANCE, _FARTHEST_KNOT = 2.2 / 3, 3.3
#: The output weights that make parameters depend on other variables are scaled by this, so that biases dominate first.
_DEPENDENCE = 0.01
#: Narrowest bin, as a share of the interval, and limits of slopes: a spike must not start as a wall.
_NARROWEST, _FLATTEST, _STEEPEST = 3e-5, 0.02, 50.0
#: What is left of a bin's height, as a share of the interval, when the least that the block allows is taken away.
_LEAST_HEIGHT = 1e-6


def collect_rows(data: TrainingData, most: int, values: Callable[[TrainingBatch], Tensor]) -> Tensor:
    """What ``values`` gives for about ``most`` rows, evenly spread over the training data, (rows, D).

    Args:
        data: the training rows.
        most: about how many rows.
        values: function of a batch, (B, D).
    """
    stride = max(1, math.ceil(len(data) / most))
    parts, seen = [], 0
    for batch in data:
        chosen = torch.arange((-seen) % stride, len(batch), stride)
        seen += len(batch)
        parts.append(values(batch).index_select(0, chosen.to(batch.deposits.device)))
    return torch.cat(parts)


@torch.no_grad()
def start_from_marginals(flow: AutoregressiveFlow, values: Tensor) -> None:
    """Set initial weights as described above.

    Args:
        flow: the flow, with random weights; its biases are overwritten and its output weights made smaller.
        values: training data as the flow sees them, (rows, D).
    """
    for number, block in enumerate(flow.blocks):
        assert isinstance(block, AutoregressiveSpline)
        targets = normal_knots(block.bins, flow.features, values.device)
        knots = targets if number else quantile_knots(values, targets[0]).clamp(-block.bound, block.bound)
        output = block.conditioner.output_layer
        output.weight.mul_(_DEPENDENCE)
        output.bias.copy_(raw_spline_parameters(block, knots, targets).flatten())


def normal_knots(bins: int, features: int, device: torch.device) -> Tensor:
    """Interior knots at fixed places of a normal variable, float64 (features, bins - 1)."""
    outermost = min(_KNOT_DISTANCE * (bins - 2) / 2, _FARTHEST_KNOT)
    normal = torch.linspace(-outermost, outermost, bins - 1, dtype=torch.float64, device=device)
    return normal.expand(features, -1)


def quantile_knots(values: Tensor, normal: Tensor) -> Tensor:
    """Where the values (rows, D) have the quantiles that belong to the normal knots (K - 1,), float64 (D, K - 1)."""
    ordered = values.double().sort(dim=0).values
    place = (torch.special.ndtr(normal) * (len(ordered) - 1)).round().long()
    return ordered.index_select(0, place).t()


def raw_spline_parameters(
    block: AutoregressiveSpline | SplineCoupling | ImageCoupling, knots: Tensor, targets: Tensor
) -> Tensor:
    """Raw parameters (D, P) of the block's splines through interior knots (D, K - 1) with given values (D, K - 1)."""
    widths, heights = (
        torch.diff(torch.nn.functional.pad(inner, (1, 1)) + _ends(inner, block.bound)) / (2 * block.bound)
        for inner in (knots, targets)
    )
    widths = widths.clamp_min(max(_NARROWEST, 2 * block.min_bin_width))
    widths = widths / widths.sum(dim=1, keepdim=True)
    sizes = [
        torch.log(widths - block.min_bin_width),
        torch.log((heights - block.min_bin_height).clamp_min(_LEAST_HEIGHT)),
    ]
    if isinstance(block, SplineCoupling) and block.kind == "cubic":
        return torch.cat([*sizes, torch.full_like(widths[:, :2], raw_end_derivative(1.0))], dim=1)
    slopes = heights / widths
    # The geometric mean of the slopes on both sides belongs to a monotonic curve without overshoot.
    derivatives = (slopes[:, 1:] * slopes[:, :-1]).sqrt().clamp(_FLATTEST, _STEEPEST)
    return torch.cat([*sizes, torch.log(torch.expm1(derivatives - block.min_derivative))], dim=1)


def _ends(inner: Tensor, bound: float) -> Tensor:
    """Zeros (D, K + 1) with the ends of the interval in the outer columns."""
    ends = inner.new_zeros(inner.shape[0], inner.shape[1] + 2)
    ends[:, 0], ends[:, -1] = -bound, bound
    return ends
