"""Compiled CPU kernels: C++ sources with a plain C interface, loaded through ctypes.

The first call that can use a kernel looks for a C++ compiler and builds for the processor it runs on (some ten seconds,
once per user and machine type); without a compiler the callers go on in plain PyTorch and one log message says so.

Environment variables: ``CALOFORGE_NATIVE=0`` switches the kernels off; ``CXX`` names the compiler;
``CALOFORGE_CACHE`` names the folder for built files instead of ``$XDG_CACHE_HOME/caloforge`` or ``~/.cache/caloforge``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
from pathlib import Path

import torch

from caloforge.errors import MissingDependencyError
from caloforge.kernels.compiled.build import build_library

__all__ = ["compiled_library"]

_log = logging.getLogger(__name__)

_pointer, _int, _long, _double = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double

#: Result and arguments of each function that exists for float32 and float64.
_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "autoregressive_numbers": (_long, [_pointer, _int]),
    "autoregressive_pack": (None, [_pointer, _int, *[_pointer] * 2]),
    "autoregressive_solve": (_int, [_pointer, _int, *[_double] * 4, _long, _pointer, _long, *[_pointer] * 4, _int]),
    "showerflow_numbers": (_long, [_pointer, _int]),
    "showerflow_pack": (None, [_pointer, _int, *[_pointer] * 2]),
    "showerflow_sample": (_int, [_pointer, _int, *[_double] * 5, _long, _pointer, _long, *[_pointer] * 3, _int]),
    "pointwise_numbers": (_long, [_pointer]),
    "pointwise_pack": (None, [_pointer] * 3),
    "pointwise_move": (_int, [_pointer, _long, _pointer, _long, *[_pointer] * 5, _int]),
    "pointwise_generate": (
        _int,
        [_pointer, _long, _pointer, _long, *[_pointer] * 3, _double, _pointer, *[_double] * 3, _pointer, _int],
    ),
    "clouds_decode": (_long, [_pointer, _long, *[_pointer] * 2, _long, _long, *[_pointer] * 8, _int]),
    "spline_forward": (None, [_long, _int, _int, *[_double] * 4, _int, *[_pointer] * 4]),
    "spline_backward": (None, [_long, _int, _int, *[_double] * 4, _int, *[_pointer] * 6]),
    "spline_layer_tiles": (None, [_long, _pointer]),
    "spline_layer_forward": (None, [*[_pointer] * 3, *[_int] * 3, *[_pointer] * 7]),
    "spline_layer_backward": (None, [*[_pointer] * 3, *[_int] * 3, *[_pointer] * 11]),
    "linear_forward": (None, [*[_pointer] * 2, _double, _pointer, _int, *[_pointer] * 7]),
    "linear_backward": (None, [*[_pointer] * 2, _double, _pointer, _int, *[_pointer] * 12]),
}
#: The others.
_PLAIN_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "allocate": (None, [_long, _int, *[_pointer] * 8, _int]),
    "normals": (None, [_long, _long, _long, _pointer, _pointer]),
    "huge_pages": (None, [_pointer, _long]),
    "fingerprint": (ctypes.c_uint64, [_pointer, _pointer, _int]),
    "use_openmp": (None, [_pointer]),
}


def _open(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    typed = {f"{name}_{suffix}": types for name, types in _FUNCTIONS.items() for suffix in ("f32", "f64")}
    for name, (result, arguments) in {**typed, **_PLAIN_FUNCTIONS}.items():
        function = getattr(library, f"caloforge_{name}")
        function.restype, function.argtypes = result, arguments
    library.caloforge_use_openmp(_openmp_entry())
    return library


def _openmp_entry() -> ctypes.c_void_p:
    """GOMP_parallel of the OpenMP library that PyTorch itself runs on; null where there is none of that interface.

    Threads besides PyTorch's would have to share the cores with them, since those spin for a while after each operation.
    """
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        with contextlib.suppress(OSError, AttributeError):
            # Found in what that library is linked to, whatever other OpenMP libraries are loaded.
            return ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, ctypes.c_void_p)
    return ctypes.c_void_p()


@functools.cache
def compiled_library() -> ctypes.CDLL | None:
    """The loaded kernels, built if necessary; None if they are switched off or cannot be built (logged once)."""
    if os.environ.get("CALOFORGE_NATIVE", "1") == "0":
        return None
    try:
        return _open(str(build_library()))
    except (MissingDependencyError, OSError) as error:
        _log.warning("compiled kernels are not available, continuing in plain PyTorch (much slower): %s", error)
        return None
