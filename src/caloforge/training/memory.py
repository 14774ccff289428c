"""Memory that a training step frees is kept for the next one.

Every step asks for the same large blocks of memory. The C library hands blocks of that size back to the system at once, so
that each step would have to fetch them anew, page by page.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["memory_kept"]

#: Of glibc's mallopt(3): how much may be free at the end of the heap, and how many blocks may be mapped apart from it.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_USUAL_TRIM, _USUAL_MAPPED = 128 * 1024, 65536


@contextmanager
def memory_kept() -> Iterator[None]:
    """Within, freed memory stays with this process; afterwards it goes back. Without glibc nothing happens."""
    try:
        library = ctypes.CDLL(None)
        choose, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):
        yield
        return
    choose(_TRIM_THRESHOLD, -1)
    choose(_MMAP_MAX, 0)
    try:
        yield
    finally:
        choose(_TRIM_THRESHOLD, _USUAL_TRIM)
        choose(_MMAP_MAX, _USUAL_MAPPED)
        trim(ctypes.c_size_t(0))
