"""Initial weights of a coupling flow from the marginal distributions of its training data.

As for autoregressive flows (``caloforge.models.marginals``): what each variable looks like by itself is known from
quantiles. A coupling block transforms only half of the variables, so every block starts as the splines that make those
that it transforms standard normal, as they come out of the blocks before it. In a convolutional flow all pixels of a
channel share these splines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caloforge.models.marginals import normal_knots, quantile_knots, raw_spline_parameters
from caloforge.nn.convolutional import ConvolutionalFlow
from caloforge.nn.coupling import CouplingFlow

__all__ = ["start_convolutions_from_marginals", "start_coupling_from_marginals"]

#: About how many pixels of a channel give its quantiles.
_PIXELS = 100_000


@torch.no_grad()
def start_coupling_from_marginals(flow: CouplingFlow, values: Tensor, *, splines: bool = True) -> None:
    """Set initial weights as this module describes, and the activation norms to mean 0 and standard deviation 1.

    Args:
        flow: the flow; the last layers of its networks are overwritten, their weights by zeros.
        values: training data as the flow sees them, (rows, D).
        splines: start the splines from the distributions; else only the activation norms are set.
    """
    for norm, block, permutation in flow.chain():
        if norm is not None:
            norm.start_from(values)
            values, _ = norm(values)
        output = block.network[-1]
        assert isinstance(output, torch.nn.Linear)
        active = values[:, block.passive :]
        if splines:
            targets = normal_knots(block.bins, block.active, values.device)
            knots = quantile_knots(active, targets[0]).clamp(-block.bound, block.bound)
            output.weight.zero_()
            output.bias.copy_(raw_spline_parameters(block, knots, targets).flatten())
        raw = output.bias.view(block.active, -1).expand(len(values), -1, -1)
        active, _ = block.spline(active, raw)
        values = torch.cat([values[:, : block.passive], active], dim=1)
        values = values if permutation is None else permutation(values)


@torch.no_grad()
def start_convolutions_from_marginals(flow: ConvolutionalFlow, image: Tensor, *, splines: bool = True) -> None:
    """The same for a convolutional flow, whose couplings must be as they begin.

    Args:
        flow: the flow; the biases of its couplings' last convolutions are overwritten.
        image: training images, (rows, H, W).
        splines: start the splines from the distributions; else only the activation norms are set.
    """
    z = flow.squeeze(image[:, None])
    for norm, coupling, mixing in flow.chain():
        norm.start_from(z)
        z, _ = norm(z)
        bias = coupling.network.last.bias
        active = z[:, coupling.passive :].movedim(1, -1)
        if splines:
            values = active.flatten(0, -2)
            values = values[:: max(1, len(values) // _PIXELS)]
            targets = normal_knots(coupling.bins, coupling.active, z.device)
            knots = quantile_knots(values, targets[0]).clamp(-coupling.bound, coupling.bound)
            bias.copy_(raw_spline_parameters(coupling, knots, targets).flatten())
        raw = bias.view(coupling.active, -1).expand(*active.shape, -1)
        active, _ = coupling.spline(active, raw)
        z = torch.cat([z[:, : coupling.passive], active.movedim(-1, 1)], dim=1)
        z, _ = mixing(z)
