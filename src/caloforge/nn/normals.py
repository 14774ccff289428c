"""Standard normal numbers of random streams through a compiled CPU kernel: the same bits as numpy's, several times as fast."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from caloforge.nn.native import native_library
from caloforge.random import Streams

__all__ = ["ragged_normal"]

#: So many numbers are compared with numpy's before the kernel is trusted; a few hundred of them are not the usual case.
_COMPARED = 20_000


def ragged_normal(
    streams: Streams,
    indices: NDArray[np.int64],
    sizes: NDArray[np.int64],
    attempts: NDArray[np.int64],
) -> NDArray[np.float32]:
    """What ``streams.ragged_normal(indices, sizes, attempts)`` is, through the kernel if it can.

    numpy does not promise its method for normal numbers for ever, so the kernel is used only if a first comparison in this
    process finds the same bits.

    Args:
        streams: of the numbers.
        indices: numbers of the showers, (N,).
        sizes: how many numbers each needs, (N,).
        attempts: how often each was drawn before, (N,).
    """
    if not _same_as_numpy():
        return streams.ragged_normal(indices, sizes, attempts)
    return _compiled(streams, indices, sizes, attempts)


@functools.cache
def _same_as_numpy() -> bool:
    if native_library() is None:
        return False
    streams, one = Streams(0, "nn/normals"), np.ones(1, dtype=np.int64)
    fast, plain = (draw(streams, one, _COMPARED * one, one) for draw in (_compiled, Streams.ragged_normal))
    return bool(np.array_equal(fast.view(np.uint32), plain.view(np.uint32)))


def _compiled(
    streams: Streams, indices: NDArray[np.int64], sizes: NDArray[np.int64], attempts: NDArray[np.int64]
) -> NDArray[np.float32]:
    library = native_library()
    assert library is not None  # the callers have looked
    key, ends = streams.key(), np.cumsum(sizes, dtype=np.int64)
    rows = [np.ascontiguousarray(numbers, dtype=np.int64) for numbers in (indices, attempts)]
    out = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.float32)
    library.caloforge_normals(
        key.ctypes.data, len(ends), *(numbers.ctypes.data for numbers in rows), ends.ctypes.data, out.ctypes.data
    )
    return out
