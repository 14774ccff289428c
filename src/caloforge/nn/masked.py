"""Weights that a mask keeps at zero need no room in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from caloforge.nn.made import StaircaseLinear

__all__ = ["with_masked_weights", "without_masked_weights"]


def _masks(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, StaircaseLinear):
            yield f"{name}.weight".removeprefix("."), module.mask


def without_masked_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a model's state, the weights of its masked layers as rows of those that the mask leaves.

    Args:
        model: the model.
        tensors: by their names in its ``state_dict``.
    """
    return dict(tensors) | {name: tensors[name][mask] for name, mask in _masks(model) if name in tensors}


def with_masked_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with whole weights again, as ``load_state_dict`` takes them; what is whole already stays.

    A row of another length than the mask says is left for others to refuse.
    """
    whole = dict(tensors)
    for name, mask in _masks(model):
        row = tensors.get(name)
        if row is not None and row.ndim == 1 and len(row) == int(mask.sum()):
            full = torch.zeros(mask.shape, dtype=row.dtype)
            full[mask.cpu()] = row
            whole[name] = full
    return whole
