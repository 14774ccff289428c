"""Normal numbers: the compiled kernel draws numpy's, bit for bit."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from caloforge.kernels.ops import normals
from caloforge.kernels.ops.normals import ragged_normal
from caloforge.kernels.ops.registry import plain_only
from caloforge.random import Streams

STREAMS = Streams(11, "normals")


def drawn(sizes: list[int], start: int = 5) -> tuple[np.ndarray, np.ndarray]:
    indices = np.arange(start, start + len(sizes))
    counters = indices % 3
    wanted = np.array(sizes, dtype=np.int64)
    return ragged_normal(STREAMS, indices, wanted, counters), STREAMS.ragged_normal(indices, wanted, counters)


@pytest.mark.parametrize("sizes", [[], [0], [1], [15, 16, 17, 0, 31, 33], [1000, 60, 20_000], [2_000_000]])
def test_numbers_are_those_of_numpy(kernels: ctypes.CDLL, sizes: list[int]) -> None:
    assert normals._same_as_numpy(kernels)
    fast, plain = drawn(sizes)
    assert fast.dtype == np.float32
    assert np.array_equal(fast.view(np.uint32), plain.view(np.uint32))


def test_tails_and_large_addresses_are_those_of_numpy() -> None:
    sizes = [3_000_000]
    fast, plain = drawn(sizes, start=2**40)
    assert np.abs(plain).max() > 4  # the ziggurat's tail begins at 3.65
    assert np.array_equal(fast.view(np.uint32), plain.view(np.uint32))


def test_numpy_draws_them_where_the_kernel_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normals, "_kernel", lambda *arguments: pytest.fail("the kernel was asked"))
    with plain_only():
        fast, plain = drawn([3, 40])
    assert np.array_equal(fast, plain)
    monkeypatch.setattr(normals, "_same_as_numpy", lambda library: False)
    assert np.array_equal(*drawn([3, 40]))


def test_a_kernel_with_other_numbers_is_not_trusted(kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normals, "_kernel", lambda library, *case: normals._plain(*case) + 1e-6)
    normals._same_as_numpy.cache_clear()
    try:
        assert not normals._same_as_numpy(kernels)
    finally:
        normals._same_as_numpy.cache_clear()
