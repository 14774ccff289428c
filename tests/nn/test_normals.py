"""Normal numbers: the compiled kernel draws numpy's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from caloforge.nn import normals
from caloforge.nn.native import native_library
from caloforge.nn.normals import ragged_normal
from caloforge.random import Streams

STREAMS = Streams(11, "normals")


def drawn(sizes: list[int], start: int = 5) -> tuple[np.ndarray, np.ndarray]:
    indices = np.arange(start, start + len(sizes))
    attempts = indices % 3
    wanted = np.array(sizes, dtype=np.int64)
    return ragged_normal(STREAMS, indices, wanted, attempts), STREAMS.ragged_normal(indices, wanted, attempts)


@pytest.mark.parametrize("sizes", [[], [0], [1], [15, 16, 17, 0, 31, 33], [1000, 60, 20_000], [2_000_000]])
def test_numbers_are_those_of_numpy(sizes: list[int]) -> None:
    if native_library() is not None:
        assert normals._same_as_numpy()
    fast, plain = drawn(sizes)
    assert fast.dtype == np.float32
    assert np.array_equal(fast.view(np.uint32), plain.view(np.uint32))


def test_tails_and_large_addresses_are_those_of_numpy() -> None:
    sizes = [3_000_000]
    fast, plain = drawn(sizes, start=2**40)
    assert np.abs(plain).max() > 4  # the ziggurat's tail begins at 3.65
    assert np.array_equal(fast.view(np.uint32), plain.view(np.uint32))


def test_numpy_draws_them_where_the_kernel_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normals, "_same_as_numpy", lambda: False)
    monkeypatch.setattr(normals, "_compiled", lambda *arguments: pytest.fail("the kernel was asked"))
    fast, plain = drawn([3, 40])
    assert np.array_equal(fast, plain)
    monkeypatch.undo()
    monkeypatch.setattr(normals, "native_library", lambda: None)
    normals._same_as_numpy.cache_clear()
    try:
        assert not normals._same_as_numpy()
    finally:
        normals._same_as_numpy.cache_clear()


def test_a_kernel_with_other_numbers_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    if native_library() is None:
        pytest.skip("no C++ compiler here")
    monkeypatch.setattr(normals, "_compiled", lambda *arguments: Streams.ragged_normal(*arguments) + np.float32(1e-6))
    normals._same_as_numpy.cache_clear()
    try:
        assert not normals._same_as_numpy()
    finally:
        normals._same_as_numpy.cache_clear()
