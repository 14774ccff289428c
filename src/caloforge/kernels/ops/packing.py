"""Packed copies of a module's weights, made anew whenever the weights have changed."""

from __future__ import annotations

import ctypes
import operator
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from caloforge.kernels.ops.registry import gpu_kernels, kernel_library

__all__ = ["PackedCopies", "addresses_of", "new_memory", "pack_plainly", "plain_weights"]

T = TypeVar("T")
_HUGE = 1 << 21
_VERSION = operator.attrgetter("_version")
#: Numbers of each tensor that are looked at to notice a change.
_SAMPLES = 8


def addresses_of(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Where the numbers of some tensors are; the tensors must stay alive."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def new_memory(library: ctypes.CDLL, numbers: int, dtype: torch.dtype) -> Tensor:
    """A tensor (numbers,) in CPU memory, not yet written to; a large one lies in huge pages where the system has them."""
    size = numbers * dtype.itemsize
    if size < _HUGE // 2:
        return torch.empty(numbers, dtype=dtype)
    whole = (size + _HUGE - 1) // _HUGE * _HUGE
    spare = torch.empty(whole + _HUGE, dtype=torch.uint8)
    start = -spare.data_ptr() % _HUGE
    library.caloforge_huge_pages(spare.data_ptr() + start, whole)
    return spare[start : start + size].view(dtype)


def pack_plainly(weights: Sequence[Tensor]) -> Tensor:
    """All numbers of some tensors one behind the other, in any memory: what plain twins take for packed weights."""
    return torch.cat([weight.detach().reshape(-1) for weight in weights])


def plain_weights(packed: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The tensors of these shapes that :func:`pack_plainly` has put together.

    Raises:
        ValueError: if the numbers are not as many.
    """
    sizes = [torch.Size(shape).numel() for shape in shapes]
    if sum(sizes) != packed.numel():
        raise ValueError("the packed weights do not fit their plan: they were packed by another kernel")
    return [part.view(*shape) for part, shape in zip(torch.split(packed, sizes), shapes, strict=True)]


class Watch:
    """Notices when tensors change.

    Addresses and version counters tell of replaced tensors and of ordinary writes. A few samples of each tensor tell of
    writes through ``parameter.data``, common in weight averaging, which leave the version counters alone. (PyTorch has no public
    way to read a version counter; ``Tensor._version`` is what its documentation of autograd speaks of.)
    """

    def __init__(self, tensors: list[Tensor], addresses: list[int], library: ctypes.CDLL | None) -> None:
        self.addresses = addresses
        self._pointers = (ctypes.c_void_p * len(tensors))(*addresses)
        self._sizes = (ctypes.c_int64 * len(tensors))(*[tensor.nbytes for tensor in tensors])
        self._library = library

    def fingerprint(self, tensors: list[Tensor]) -> Any:
        """Of some numbers of each tensor."""
        if self._library is None:
            if not tensors[0].is_cpu:  # one transfer for all of them
                flat = [tensor.detach().reshape(-1) for tensor in tensors]
                samples = torch.cat([part[:: max(1, len(part) // _SAMPLES)][:_SAMPLES] for part in flat])
                return samples.double().cpu().numpy().tobytes()
            return b"".join(_sampled(tensor) for tensor in tensors)
        return self._library.caloforge_fingerprint(self._pointers, self._sizes, len(tensors))


def _sampled(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    index = torch.linspace(0, max(len(flat) - 1, 0), min(_SAMPLES, len(flat))).long()
    return flat[index].numpy().tobytes()


class PackedCopies(Generic[T]):
    """Packed copies of some tensors, by layout, with the state of the tensors they were made from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._kernels: ctypes.CDLL | str | None = None
        self._copies: dict[Hashable, tuple[Any, list[int], T]] = {}

    def get(self, tensors: list[Tensor], layout: Hashable, make: Callable[[], T]) -> T:
        """The copy for a layout, made anew if the tensors, or the kernels in use, have changed.

        Args:
            tensors: as they are now, in one memory.
            layout: which copy.
            make: makes it.
        """
        with self._lock:
            library = kernel_library() if tensors[0].is_cpu else None
            kernels, addresses = library if tensors[0].is_cpu else gpu_kernels(), list(map(Tensor.data_ptr, tensors))
            if self._watch is None or self._watch.addresses != addresses or self._kernels != kernels:
                self._watch, self._kernels, self._copies = Watch(tensors, addresses, library), kernels, {}
            versions, fingerprint = list(map(_VERSION, tensors)), self._watch.fingerprint(tensors)
            known = self._copies.get(layout)
            if known is None or known[0] != fingerprint or known[1] != versions:
                known = self._copies[layout] = (fingerprint, versions, make())
            return known[2]
