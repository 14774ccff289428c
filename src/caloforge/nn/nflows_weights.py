"""Exchange of weights with nflows 0.14 (github.com/bayesiains/nflows) as pure state mappings; nflows is not imported.

The peer flow is a ``CompositeTransform`` of ``MaskedPiecewiseRationalQuadraticAutoregressiveTransform`` (feed-forward
blocks, linear tails) and ``Permutation`` in the same order as here. Its hidden units take the degrees 1 .. D - 1 in
turn; ours are the same units sorted by degree, so only published masks can be exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from caloforge.errors import ConfigError
from caloforge.nn.autoregressive import AutoregressiveSpline, MaskedAutoregressiveFlow
from caloforge.nn.made import MADE, StaircaseLinear
from caloforge.nn.permutations import FixedPermutation

__all__ = ["load_nflows_state", "nflows_state"]


def _cyclic_degrees(conditioner: MADE) -> Tensor:
    largest = conditioner.features - 1
    units = torch.arange(conditioner.hidden_features)
    return units % largest + 1 if largest else torch.zeros_like(units)


def _layers(conditioner: MADE) -> Iterator[tuple[str, StaircaseLinear, bool, bool]]:
    """Peer's name, layer, whether its rows and whether its columns are hidden units."""
    yield "initial_layer", conditioner.input_layer, True, False
    for k, layer in enumerate(conditioner.layers()[1:]):
        yield f"blocks.{k}.linear", layer, True, True
    yield "final_layer", conditioner.output_layer, False, True


def _parts(
    flow: MaskedAutoregressiveFlow, prefix: str
) -> Iterator[tuple[str, AutoregressiveSpline | FixedPermutation]]:
    """Peer's name and part, in the order of the chain."""
    position = 0
    for block, permutation in flow.chain():
        if block.conditioner.masks != "published":
            raise ConfigError("weights can be exchanged with nflows only for published masks, this flow has even ones")
        yield f"{prefix}{position}.", block
        position += 1
        if permutation is not None:
            yield f"{prefix}{position}.", permutation
            position += 1


def nflows_state(flow: MaskedAutoregressiveFlow, *, prefix: str = "_transform._transforms.") -> dict[str, Tensor]:
    """State of the equivalent nflows flow, complete with masks and degrees, for its ``load_state_dict``.

    Args:
        flow: A flow with published masks.
        prefix: Path of the list of transforms in the peer's state.

    Raises:
        ConfigError: If the flow has even masks.
    """
    state: dict[str, Tensor] = {}
    for name, part in _parts(flow, prefix):
        if isinstance(part, FixedPermutation):
            state[f"{name}_permutation"] = part.index.clone()
            continue
        conditioner = part.conditioner
        cyclic = _cyclic_degrees(conditioner)
        back = torch.argsort(torch.argsort(cyclic, stable=True))  # peer's unit j is our unit back[j]
        for layer_name, layer, hidden_rows, hidden_columns in _layers(conditioner):
            weight, mask, bias = layer.weight.detach(), layer.mask, layer.bias.detach()
            if hidden_rows:
                weight, mask, bias = weight[back], mask[back], bias[back]
            if hidden_columns:
                weight, mask = weight[:, back], mask[:, back]
            degrees = cyclic
            if not hidden_rows:
                degrees = torch.arange(1, conditioner.features + 1)
                degrees = degrees.repeat_interleave(conditioner.parameters_per_feature)
            full = f"{name}autoregressive_net.{layer_name}."
            state[f"{full}weight"], state[f"{full}bias"] = weight.clone(), bias.clone()
            state[f"{full}mask"], state[f"{full}degrees"] = mask.to(weight.dtype), degrees.clone()
        if conditioner.context_layer is not None:
            full = f"{name}autoregressive_net.context_layer."
            state[f"{full}weight"] = conditioner.context_layer.weight.detach()[back].clone()
            state[f"{full}bias"] = conditioner.context_layer.bias.detach()[back].clone()
    return state


@torch.no_grad()
def load_nflows_state(
    flow: MaskedAutoregressiveFlow, state: Mapping[str, Tensor], *, prefix: str = "_transform._transforms."
) -> None:
    """Take over weights, biases and permutations of an nflows flow of the same shape.

    Args:
        flow: A flow with published masks and as many permutations as the peer; changed in place.
        state: The peer's state.
        prefix: Path of the list of transforms in the peer's state.

    Raises:
        ConfigError: If the flow has even masks, or a tensor is missing or of another shape.
    """

    def take(name: str, shape: torch.Size) -> Tensor:
        if name not in state:
            raise ConfigError(f"the nflows state lacks '{name}'")
        if state[name].shape != shape:
            raise ConfigError(f"'{name}' of the nflows state is {tuple(state[name].shape)}, expected {tuple(shape)}")
        return state[name]

    for name, part in _parts(flow, prefix):
        if isinstance(part, FixedPermutation):
            part.set_index(take(f"{name}_permutation", part.index.shape))
            continue
        conditioner = part.conditioner
        order = torch.argsort(_cyclic_degrees(conditioner), stable=True)  # our unit j is the peer's unit order[j]
        for layer_name, layer, hidden_rows, hidden_columns in _layers(conditioner):
            full = f"{name}autoregressive_net.{layer_name}."
            weight, bias = take(f"{full}weight", layer.weight.shape), take(f"{full}bias", layer.bias.shape)
            if hidden_rows:
                weight, bias = weight[order], bias[order]
            layer.weight.copy_(weight[:, order] if hidden_columns else weight)
            layer.bias.copy_(bias)
            layer.apply_mask()
        if conditioner.context_layer is not None:
            full = f"{name}autoregressive_net.context_layer."
            for parameter, suffix in (
                (conditioner.context_layer.weight, "weight"),
                (conditioner.context_layer.bias, "bias"),
            ):
                parameter.copy_(take(f"{full}{suffix}", parameter.shape)[order])
