"""Exact inversion of masked autoregressive flows without recomputation.

A MADE block is inverted feature by feature. With hidden units sorted by degree, the units that see only the first i
features are the first ``ready[i]`` ones, in every hidden layer. When feature i becomes known, exactly the units
``ready[i] .. ready[i + 1]`` become computable, once and for all; the spline parameters of the next feature need nothing
else. All steps together do the arithmetic of one masked pass instead of D of them.

An inverse autoregressive flow is slow in the other direction, from data to latent, and solved by the same means: only
the order of the blocks and the direction of the splines differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caloforge.nn.inverse.compiled import compiled_inverse
from caloforge.nn.inverse.incremental import invert_incrementally

if TYPE_CHECKING:
    from caloforge.nn.autoregressive import AutoregressiveFlow

__all__ = ["invert_flow", "invert_incrementally"]


@torch.no_grad()
def invert_flow(flow: AutoregressiveFlow, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Evaluate a flow in its slow direction by the fastest means at hand: compiled kernels on a CPU, else plain PyTorch.

    Args:
        flow: The flow; dropout is off whatever its mode.
        z: What is given (batch, D): latents, or data for a flow that reads latents.
        context: Conditions (batch, C), or None.

    Returns:
        What was looked for (batch, D), and the log |det| of this direction (batch,), nats.
    """
    parameter = next(flow.parameters())
    if z.device.type == "cpu" and z.dtype == parameter.dtype:
        compiled = compiled_inverse(flow, z.shape[0])
        if compiled is not None:
            return compiled(z, context)
    return invert_incrementally(flow, z, context)
