"""Memory kept between training steps."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from caloforge.training.memory import memory_kept


class _Info(ctypes.Structure):
    """What glibc says of its memory: bytes of the heap, and bytes mapped apart from it."""

    _fields_ = [  # as ctypes wants it
        (name, ctypes.c_size_t)
        for name in ("heap", "free", "fast", "maps", "mapped", "most", "fast_free", "used", "unused", "top")
    ]


def _info() -> _Info:
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        pytest.skip("only glibc tells where its memory comes from")
    library.mallinfo2.restype = _Info
    found: _Info = library.mallinfo2()
    return found


def _check() -> None:
    _info()
    with memory_kept():
        before = _info()
        block = torch.empty(1 << 27, dtype=torch.uint8)
        during = _info()
        assert during.mapped == before.mapped
        del block
        assert _info().heap == during.heap
    block = torch.empty(1 << 28, dtype=torch.uint8)
    assert _info().mapped > before.mapped
    del block


def test_a_large_block_comes_from_the_heap_and_stays_there() -> None:
    """Fails if the C library is not told: it maps a block of this size apart from the heap and unmaps it when it is freed.

    In a process of its own: the heap of this one may have room for it that other tests have left.
    """
    _info()  # skips where nothing is told
    subprocess.run([sys.executable, __file__], check=True)


if __name__ == "__main__":
    _check()
