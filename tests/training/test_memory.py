"""Memory kept between training steps."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from caloforge.training.memory import memory_kept


def _faults() -> int:
    """Pages that a block of 64 MB costs."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept by glibc only")
def test_further_blocks_of_a_size_cost_no_pages() -> None:
    """Fails if the C library is not told; outside every block is fetched anew. What a small neighbour spoils counts not."""
    with memory_kept():
        assert min(_faults() for _ in range(8)) < 1000
    assert min(_faults() for _ in range(8)) > 1000
