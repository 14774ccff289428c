"""The exact fast inverse in plain PyTorch: any device, any dtype, the reference for the compiled kernels.

Features are taken in groups. What a group needs from features and hidden units known before it is one dense matrix
product per layer; inside the group remains a small triangle, walked step by step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from caloforge.nn.autoregressive import AutoregressiveFlow, AutoregressiveSpline

__all__ = ["invert_incrementally", "ready_units", "solving_order"]

#: Features per group: long enough for efficient products, short enough that the triangle inside stays small.
_GROUP = 16
#: Rows per tile on a CPU, so that the activations of a tile stay in its cache; an accelerator takes all rows at once.
_CPU_ROWS = 2048


def ready_units(degrees: Tensor, features: int) -> list[int]:
    """Number of hidden units that need only the first i features, for i = 0 .. features.

    Args:
        degrees: Sorted degrees of the hidden units (H,).
        features: Number of features D.
    """
    counts: list[int] = torch.searchsorted(degrees.cpu(), torch.arange(features + 1), right=True).tolist()
    return counts


def solving_order(flow: AutoregressiveFlow) -> tuple[list[tuple[AutoregressiveSpline, Tensor | None]], Tensor | None]:
    """The blocks in the order in which they are solved, and how values are reordered in between.

    Args:
        flow: The flow.

    Returns:
        Each block with the index (D,) that reorders the values on their way into it, and the index that reorders what
        comes out in the end; None where the order stays.
    """
    chain = list(flow.chain())
    if not flow.reads_latents:
        return [(block, None if p is None else p.inverse_index) for block, p in reversed(chain)], None
    indices = [None, *(None if p is None else p.index for _, p in chain)]
    return [(block, index) for (block, _), index in zip(chain, indices, strict=False)], indices[-1]


@torch.no_grad()
def invert_incrementally(flow: AutoregressiveFlow, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Evaluate a whole flow in its slow direction in plain PyTorch, without gradients.

    Args:
        flow: The flow; dropout is off whatever its mode.
        z: What is given (batch, D): latents, or data for a flow that reads latents.
        context: Conditions (batch, C), or None.

    Returns:
        What was looked for (batch, D), and the log |det| of this direction (batch,), nats.
    """
    step = max(1, z.shape[0]) if z.device.type != "cpu" else _CPU_ROWS
    if z.shape[0] > step:
        parts = [
            invert_incrementally(flow, z[k : k + step], None if context is None else context[k : k + step])
            for k in range(0, z.shape[0], step)
        ]
        return torch.cat([x for x, _ in parts]), torch.cat([logdet for _, logdet in parts])
    logdet = z.new_zeros(z.shape[0])
    blocks, last = solving_order(flow)
    for block, index in blocks:
        if index is not None:
            z = z.index_select(1, index)
        z, contribution = _invert_tile(block, z, context, inverse=not flow.reads_latents)
        logdet = logdet + contribution
    return z if last is None else z.index_select(1, last), logdet


def _invert_tile(
    block: AutoregressiveSpline, z: Tensor, context: Tensor | None, *, inverse: bool
) -> tuple[Tensor, Tensor]:
    made = block.conditioner
    count, per_feature = made.features, made.parameters_per_feature
    layers = made.layers()
    ready = ready_units(made.degrees, count)
    x = torch.zeros_like(z)
    logdet = z.new_zeros(z.shape[0])
    # sources[l] feeds layer l; sources[-1] feeds the output layer. Everything not yet known is zero.
    sources = [x, *(z.new_zeros(z.shape[0], made.hidden_features) for _ in layers)]
    entry = None if made.context_layer is None else nn.functional.relu(made.context_layer(context))

    def complete(first: int, end: int, base: list[Tensor], offset: int, known: list[int], seen: list[int]) -> None:
        """Finish units first .. end of every layer: what the group start gave, plus the part inside the group."""
        for k, layer in enumerate(layers):
            weight = layer.weight[first:end, known[k] : seen[k]]
            values = base[k][:, first - offset : end - offset] + sources[k][:, known[k] : seen[k]] @ weight.t()
            sources[k + 1][:, first:end] = nn.functional.relu(values)

    for start in range(0, count, _GROUP):
        stop = min(start + _GROUP, count)
        begin, end = (ready[start] if start else 0), ready[stop]
        known = [start, *([begin] * len(made.hidden))]
        base = [
            torch.addmm(layer.bias[begin:end], sources[k][:, : known[k]], layer.weight[begin:end, : known[k]].t())
            for k, layer in enumerate(layers)
        ]
        if entry is not None:
            base[0] += entry[:, begin:end]
        if begin < ready[start]:  # units that see the context alone, complete from the beginning
            complete(begin, ready[start], base, begin, known, [start, *([ready[start]] * len(made.hidden))])
        out = made.output_layer
        raw_rows = slice(start * per_feature, stop * per_feature)
        raw = torch.addmm(out.bias[raw_rows], sources[-1][:, :begin], out.weight[raw_rows, :begin].t())
        raw = raw.view(-1, stop - start, per_feature)
        for i in range(start, stop):
            own = slice(i * per_feature, (i + 1) * per_feature)
            parameters = raw[:, i - start] + sources[-1][:, begin : ready[i]] @ out.weight[own, begin : ready[i]].t()
            value, logabsdet = block.spline(z[:, i], parameters, inverse=inverse)
            x[:, i] = value
            logdet += logabsdet
            if ready[i + 1] > ready[i]:
                seen = [i + 1, *([ready[i + 1]] * len(made.hidden))]
                complete(ready[i], ready[i + 1], base, begin, known, seen)
    return x, logdet
