"""The weights of networks as they are now, found quickly.

Packed weights are made anew whenever weights have changed, so somebody has to look before every call. Walking through attributes
takes a good part of the time of a small network; this reads the dictionaries in which ``nn.Module`` keeps parameters, buffers and
children. They and ``Tensor._version`` (``caloforge.kernels.ops.packing``) are all that is used of PyTorch's inside.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from caloforge.kernels.ops.packing import PackedCopies

__all__ = ["first_parameter", "weights_now"]


def first_parameter(module: nn.Module) -> Tensor | None:
    """What ``next(module.parameters(), None)`` is, without names and a list of all modules: asked several times per shower."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        if child is not None and (found := first_parameter(child)) is not None:
            return found
    return None


class _Found:
    """Where the tensors of some modules are, as long as the modules have the same children, and packed copies of them."""

    def __init__(self, modules: Sequence[nn.Module], buffers: Sequence[str]) -> None:
        every = [part for module in modules for part in module.modules()]
        self.copies: PackedCopies[Any] = PackedCopies()
        self._modules = list(modules)
        self._children = [part._modules for part in every if part._modules]
        self._before = [dict(children) for children in self._children]
        self._places: list[tuple[Mapping[str, Tensor | None], str]] = [
            (part._parameters, name) for part in every for name in part._parameters
        ]
        self._places += [(part._buffers, name) for part in every for name in buffers if name in part._buffers]

    def fits(self, modules: Sequence[nn.Module]) -> bool:
        """Whether these are the modules, with the children that they had."""
        return self._modules == modules and self._children == self._before

    def tensors(self) -> list[Tensor]:
        """The tensors as they are now."""
        return [tensor for place, name in self._places if (tensor := place[name]) is not None]


_all: weakref.WeakKeyDictionary[nn.Module, _Found] = weakref.WeakKeyDictionary()


def weights_now(
    owner: nn.Module, modules: list[nn.Module], buffers: Sequence[str]
) -> tuple[list[Tensor], PackedCopies[Any]]:
    """All parameters of some modules of a network, and then those buffers that count, as they are at this moment.

    Args:
        owner: whose memory of them it is: one list of modules for each owner.
        modules: the modules, children of the owner; not the owner itself, or it would never be forgotten.
        buffers: names of the buffers that count, wherever a module has them.

    Returns:
        The tensors, and the owner's packed copies of them, which vanish with it.
    """
    found = _all.get(owner)
    if found is None or not found.fits(modules):
        found = _all[owner] = _Found(modules, buffers)
    return found.tensors(), found.copies
