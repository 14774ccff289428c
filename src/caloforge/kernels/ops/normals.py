"""Standard normal numbers of random streams: numpy's, or the same bits several times as fast from a compiled kernel."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caloforge.kernels.ops.registry import operator
from caloforge.random import Streams, ragged_normal_of

__all__ = ["ragged_normal"]

#: So many numbers are compared with numpy's before the kernel is trusted; a few hundred of them are not the usual case.
_COMPARED = 20_000


def ragged_normal(
    streams: Streams,
    indices: NDArray[np.int64],
    sizes: NDArray[np.int64],
    attempts: NDArray[np.int64],
) -> NDArray[np.float32]:
    """What ``streams.ragged_normal(indices, sizes, attempts)`` is.

    Args:
        streams: of the numbers.
        indices: numbers of the showers, (N,).
        sizes: how many numbers each needs, (N,).
        attempts: how often each was drawn before, (N,).
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    columns = (np.ascontiguousarray(numbers, dtype=np.int64) for numbers in (indices, attempts, ends))
    key = torch.from_numpy(streams.key().view(np.int64))
    drawn: Tensor = _normals(key, *(torch.from_numpy(numbers) for numbers in columns))
    numbers: NDArray[np.float32] = drawn.numpy()
    return numbers


def _plain(key: Tensor, indices: Tensor, attempts: Tensor, ends: Tensor) -> Tensor:
    columns = [t.cpu().numpy() for t in (indices, attempts, ends)]
    return torch.from_numpy(ragged_normal_of(key.cpu().numpy().view(np.uint64), *columns))


def _compiled(library: ctypes.CDLL, key: Tensor, indices: Tensor, attempts: Tensor, ends: Tensor) -> Any:
    return _kernel(library, key, indices, attempts, ends) if _same_as_numpy(library) else NotImplemented


def _kernel(library: ctypes.CDLL, key: Tensor, indices: Tensor, attempts: Tensor, ends: Tensor) -> Tensor:
    key, indices, attempts, ends = (t.contiguous() for t in (key, indices, attempts, ends))
    out = torch.empty(int(ends[-1]) if len(ends) else 0)
    library.caloforge_normals(key.data_ptr(), len(ends), *(t.data_ptr() for t in (indices, attempts, ends, out)))
    return out


@functools.cache
def _same_as_numpy(library: ctypes.CDLL) -> bool:
    """Numpy does not promise its method for normal numbers for ever, so the first numbers in each process are compared."""
    one = torch.ones(1, dtype=torch.int64)
    case = (torch.from_numpy(Streams(0, "kernels/normals").key().view(np.int64)), one, one, _COMPARED * one)
    fast, plain = _kernel(library, *case), _plain(*case)
    return torch.equal(fast.view(torch.int32), plain.view(torch.int32))


_normals = operator("normals(Tensor key, Tensor indices, Tensor attempts, Tensor ends) -> Tensor", _plain, _compiled)
