"""Initial weights of a coupling flow from the marginal distributions of its training data.

As for autoregressive flows (``caloforge.models.marginals``): what each variable looks like by itself is known from
quantiles. A coupling block transforms only half of the variables, so every block starts as the splines that make those
that it transforms standard normal, as they come out of the blocks before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caloforge.models.marginals import normal_knots, quantile_knots, raw_spline_parameters
from caloforge.nn.coupling import CouplingFlow

__all__ = ["start_coupling_from_marginals"]


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
