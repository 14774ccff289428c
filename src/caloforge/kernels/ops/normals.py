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
    counters: NDArray[np.int64],
) -> NDArray[np.float32]:
    """What ``streams.ragged_normal(indices, sizes, counters)`` is.

    Args:
        streams: of the numbers.
        indices: numbers of the showers, (N,).
        sizes: how many numbers each needs, (N,).
        counters: how often each was drawn before, (N,).
    """
    rows = np.empty((3, len(indices)), dtype=np.int64)
    rows[0], rows[1] = indices, counters
    sizes.cumsum(out=rows[2])
    drawn: Tensor = _normals(*streams.key().view(np.int64).tolist(), torch.from_numpy(rows))
    numbers: NDArray[np.float32] = drawn.numpy()
    return numbers


def _plain(low: int, high: int, rows: Tensor) -> Tensor:
    key = np.array([low, high], dtype=np.int64).view(np.uint64)
    return torch.from_numpy(ragged_normal_of(key, *rows.cpu().numpy()))


def _compiled(library: ctypes.CDLL, low: int, high: int, rows: Tensor) -> Any:
    return _kernel(library, low, high, rows) if _same_as_numpy(library) else NotImplemented


def _kernel(library: ctypes.CDLL, low: int, high: int, rows: Tensor) -> Tensor:
    rows, count = rows.contiguous(), rows.shape[1]
    out = torch.empty(int(rows[2, -1]) if count else 0)
    library.caloforge_normals(low, high, count, rows.data_ptr(), out.data_ptr())
    return out


@functools.cache
def _same_as_numpy(library: ctypes.CDLL) -> bool:
    """Numpy does not promise its method for normal numbers for ever, so the first numbers in each process are compared."""
    case = (7, -8, torch.tensor([[1], [1], [_COMPARED]]))
    fast, plain = _kernel(library, *case), _plain(*case)
    return torch.equal(fast.view(torch.int32), plain.view(torch.int32))


# The key of the streams in two halves; number of the shower, attempt, and end of its numbers in each column of the rows.
_normals = operator("normals(int low, int high, Tensor rows) -> Tensor", _plain, _compiled)
