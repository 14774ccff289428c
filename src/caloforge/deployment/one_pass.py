"""Flows that sample in one pass, as the C++ runtime takes them: linear layers one behind the other, nothing left to be folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from caloforge.errors import UsageError
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.coupling import CouplingFlow

__all__ = ["one_pass_autoregressive", "one_pass_coupling"]

Linear = tuple[Tensor, Tensor]


def _files(
    name: str,
    numbers: Sequence[int],
    spline: Sequence[float],
    sources: Sequence[Tensor],
    steps: Sequence[Sequence[Tensor]],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    plan = torch.cat([torch.tensor(numbers, dtype=torch.int64), *(source.long().cpu() for source in sources)])
    tensors = {f"{name}.plan": plan}
    for k, weights in enumerate(steps):
        tensors |= {f"{name}.step.{k}.weights.{i}": w.detach().float().clone() for i, w in enumerate(weights)}
    return {"kind": "one-pass", "spline": list(spline)}, tensors


def one_pass_coupling(name: str, flow: CouplingFlow) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a coupling flow from latents to data.

    Args:
        name: of its tensors.
        flow: the flow.

    Raises:
        UsageError: if its networks hold what the runtime does not know.
    """
    chain = list(reversed(list(flow.chain())))
    first = chain[0][1]
    layers = folded_layers(first.network)
    hidden = layers[0][0].shape[0] if len(layers) > 1 else 1
    numbers = [
        flow.features, flow.context_features, len(chain), first.bins, int(first.kind == "cubic"), int(first.whole_rows), 0,
        len(layers), hidden, first.passive,
    ]  # fmt: skip
    sources, steps, same = [], [], torch.arange(flow.features)
    for norm, block, permutation in chain:
        sources.append(same if permutation is None else permutation.inverse_index)
        ones = torch.ones(flow.features)
        affine = [ones, torch.zeros(flow.features)]
        if norm is not None:
            affine = [torch.exp(-norm.log_scale.double()), norm.mean]
        steps.append([tensor for pair in folded_layers(block.network) for tensor in pair] + affine)
    return _files(name, numbers, first.spline_shape, sources, steps)


def one_pass_autoregressive(name: str, flow: AutoregressiveFlow) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of an inverse autoregressive flow from latents to data.

    Args:
        name: of its tensors.
        flow: a flow that reads latents.
    """
    chain = list(reversed(list(flow.chain())))
    made = chain[0][0].conditioner
    numbers = [
        flow.features, flow.context_features, len(chain), flow.bins, 0, 0, 1,
        len(made.layers()) + 1, made.hidden_features, flow.features,
    ]  # fmt: skip
    sources, steps, same = [], [], torch.arange(flow.features)
    for block, permutation in chain:
        sources.append(same if permutation is None else permutation.inverse_index)
        own = block.conditioner
        parts = [*own.layers(), own.output_layer, *([] if own.context_layer is None else [own.context_layer])]
        tensors = [cast("Tensor", tensor) for layer in parts for tensor in (layer.weight, layer.bias)]
        steps.append([*tensors, torch.ones(flow.features), torch.zeros(flow.features)])
    return _files(name, numbers, flow.spline_shape, sources, steps)


def folded_layers(network: nn.Sequential) -> list[Linear]:
    """Weights and biases of the linear layers, with the batch norms behind them in them.

    Raises:
        UsageError: if there is another layer that does something while sampling.
    """
    found: list[Linear] = []
    for layer in network:
        if isinstance(layer, nn.Linear):
            found.append((layer.weight.detach().double(), layer.bias.detach().double()))
        elif isinstance(layer, nn.BatchNorm1d):
            weight, bias = found[-1]
            mean, variance = cast("Tensor", layer.running_mean).double(), cast("Tensor", layer.running_var).double()
            scale = layer.weight.detach().double() / torch.sqrt(variance + layer.eps)
            found[-1] = weight * scale[:, None], (bias - mean) * scale + layer.bias.detach().double()
        elif (
            not (isinstance(layer, nn.LeakyReLU) and layer.negative_slope == _SLOPE)
            and "Dropout" not in type(layer).__name__
        ):
            raise UsageError(f"the C++ runtime does not know networks with a layer '{type(layer).__name__}'")
    return found


#: Of the leaky ReLUs, as in onepass.cpp.
_SLOPE = 0.01
