"""Initial weights of a spline flow from the marginal distributions of its training data.

With weights drawn at random a flow first has to learn, voxel by voxel, where its data lie at all: most voxels sit in a spike at
the lower end of the logit, 14 standard deviations from the base distribution. That is known from quantiles. So the first block
of an autoregressive flow starts as the spline that makes each variable standard normal by itself, the others start as the
identity with their knots where normal variables are, and training begins with the correlations. A coupling block transforms
only half of the variables, so every block starts as the splines that make those that it transforms standard normal, as they
come out of the blocks before it. In a convolutional flow all pixels of a channel share these splines.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.kernels.ops.cubic_splines import raw_end_derivative
from caloforge.models import Aid, ShowerModel
from caloforge.nn.autoregressive import AutoregressiveFlow, AutoregressiveSpline
from caloforge.nn.convolutional import ConvolutionalFlow, ImageCoupling
from caloforge.nn.coupling import CouplingFlow, SplineCoupling
from caloforge.parts.flows import FlowStage
from caloforge.random import Streams
from caloforge.stage import GradientStage, TrainingConfig, TrainingData
from caloforge.validation import Settings

__all__ = ["MarginalStart", "normal_knots", "quantile_knots", "raw_spline_parameters", "start_from_marginals"]

#: Distance of interior knots, standard deviations; with 8 bins 3 % of a normal variable lie beyond them, with 10 bins
#: 0.3 %. Wider ones would describe the tails worse, in which much of a layer's mean energy can lie.
_KNOT_DISTANCE, _FARTHEST_KNOT = 2.2 / 3, 3.3
#: The output weights that make parameters depend on other variables are scaled by this, so that biases dominate first.
_DEPENDENCE = 0.01
#: Narrowest bin, as a share of the interval, and limits of slopes: a spike must not start as a wall.
_NARROWEST, _FLATTEST, _STEEPEST = 3e-5, 0.02, 50.0
#: What is left of a bin's height, as a share of the interval, when the least that the block allows is taken away.
_LEAST_HEIGHT = 1e-6
#: About how many pixels of a channel give its quantiles.
_PIXELS = 100_000


class MarginalStart(Aid):
    """Sets the initial weights of every flow that a stage trains by its likelihood, as this module describes."""

    kind = "marginal-start"
    title: ClassVar[str] = "flows start from the distribution of each variable"

    def __init__(self, config: Settings, model: ShowerModel) -> None:
        super().__init__(config, model)
        if not any(isinstance(stage, FlowStage) for stage in model.stages(TrainingConfig())):
            raise ConfigError(
                f"the aid '{self.kind}' does not suit the model '{model.kind}', which trains no flow by its likelihood"
            )

    @torch.no_grad()
    def before_training(self, model: ShowerModel, stage: GradientStage, data: TrainingData, streams: Streams) -> None:
        """See :meth:`caloforge.models.Aid.before_training`."""
        if isinstance(stage, FlowStage):
            start_from_marginals(stage.flow, stage.start_values(data, streams))


@torch.no_grad()
def start_from_marginals(flow: nn.Module, values: Tensor) -> None:
    """Set initial weights of a flow as described above; those of another kind of flow stay as they are.

    Args:
        flow: the flow, with random weights; the biases of its output layers are overwritten, their weights made small or zero.
        values: training data as the flow sees them, (rows, D).
    """
    match flow:
        case AutoregressiveFlow():
            _start_autoregressive(flow, values)
        case CouplingFlow():
            flow.start_norms(values, _start_coupling)
        case ConvolutionalFlow():
            flow.start_norms(values, _start_image_coupling)


def _start_autoregressive(flow: AutoregressiveFlow, values: Tensor) -> None:
    for number, block in enumerate(flow.blocks):
        assert isinstance(block, AutoregressiveSpline)
        targets = normal_knots(block.bins, flow.features, values.device)
        knots = targets if number else quantile_knots(values, targets[0]).clamp(-block.bound, block.bound)
        output = block.conditioner.output_layer
        output.weight.mul_(_DEPENDENCE)
        output.bias.copy_(raw_spline_parameters(block, knots, targets).flatten())


def _start_coupling(block: SplineCoupling, active: Tensor) -> None:
    """Splines of one coupling block from the variables that it transforms, (rows, A)."""
    output = block.network[-1]
    assert isinstance(output, torch.nn.Linear)
    targets = normal_knots(block.bins, block.active, active.device)
    knots = quantile_knots(active, targets[0]).clamp(-block.bound, block.bound)
    output.weight.zero_()
    output.bias.copy_(raw_spline_parameters(block, knots, targets).flatten())


def _start_image_coupling(block: ImageCoupling, active: Tensor) -> None:
    """Splines of one coupling of images from the channels that it transforms, (rows, A, H, W)."""
    values = active.movedim(1, -1).flatten(0, -2)
    values = values[:: max(1, len(values) // _PIXELS)]
    targets = normal_knots(block.bins, block.active, active.device)
    knots = quantile_knots(values, targets[0]).clamp(-block.bound, block.bound)
    assert block.network.last.bias is not None
    block.network.last.bias.copy_(raw_spline_parameters(block, knots, targets).flatten())


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
