"""Packed copies of a module's weights for the kernels, made anew whenever the weights have changed."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["SUFFIXES", "PackedCopies", "Watch", "addresses_of", "packed_copies"]

#: Ends of the names of the kernels for each type of numbers.
SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}

T = TypeVar("T")


def addresses_of(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Where the numbers of some tensors are; the tensors must stay alive."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


class Watch:
    """Notices when tensors change.

    Addresses and version counters tell of replaced tensors and of ordinary writes. A few samples of each tensor tell of
    writes through ``parameter.data``, common in weight averaging, which leave the version counters alone.

    Args:
        tensors: in CPU memory.
        library: the loaded kernels.
    """

    def __init__(self, tensors: list[Tensor], library: ctypes.CDLL) -> None:
        self.addresses = [tensor.data_ptr() for tensor in tensors]
        self._pointers = (ctypes.c_void_p * len(tensors))(*self.addresses)
        self._sizes = (ctypes.c_int64 * len(tensors))(*[tensor.nbytes for tensor in tensors])
        self._library = library

    def state(self, tensors: list[Tensor]) -> tuple[Any, ...]:
        """Equal to an earlier state as long as the tensors are unchanged."""
        fingerprint = self._library.caloforge_fingerprint(self._pointers, self._sizes, len(tensors))
        return fingerprint, [tensor._version for tensor in tensors]


class PackedCopies(Generic[T]):
    """Packed copies of the weights of some modules, by layout, with the state of the weights they were made from.

    Args:
        buffers: names of the buffers that belong to the weights, wherever a module has them.
    """

    def __init__(self, buffers: tuple[str, ...]) -> None:
        self.lock = threading.Lock()
        self.watch: Watch | None = None
        self.copies: dict[Hashable, tuple[Any, T]] = {}
        self._buffers = buffers
        self._parts: list[Any] = []
        self._holders: list[tuple[dict[str, Any], str]] = []

    def _tensors(self, parts: list[Any]) -> list[Tensor]:
        # Straight from the dictionaries of the modules: attribute access would take ten times as long.
        if self._parts != parts:
            self._parts = parts
            modules = [module for part in parts if part is not None for module in part.modules()]
            self._holders = [(module._parameters, name) for module in modules for name in module._parameters]
            self._holders += [(m._buffers, name) for m in modules for name in self._buffers if name in m._buffers]
        found = (holder[name] for holder, name in self._holders)
        return [tensor for tensor in found if tensor is not None]

    def get(self, parts: list[Any], library: ctypes.CDLL, layout: Hashable, make: Callable[[], T]) -> T:
        """The copy for a layout, made anew if the weights have changed.

        Args:
            parts: the modules whose weights these are, None for what is not there.
            library: the loaded kernels.
            layout: which copy.
            make: makes it.
        """
        with self.lock:
            tensors = self._tensors(parts)
            if self.watch is None or self.watch.addresses != [tensor.data_ptr() for tensor in tensors]:
                self.watch, self.copies = Watch(tensors, library), {}
            state = self.watch.state(tensors)
            known = self.copies.get(layout)
            if known is None or known[0] != state:
                known = self.copies[layout] = (state, make())
            return known[1]


_all: weakref.WeakKeyDictionary[nn.Module, PackedCopies[Any]] = weakref.WeakKeyDictionary()
_all_lock = threading.Lock()


def packed_copies(module: nn.Module, buffers: tuple[str, ...]) -> PackedCopies[Any]:
    """The copies of a module; they vanish with it."""
    with _all_lock:
        return _all.setdefault(module, PackedCopies(buffers))
