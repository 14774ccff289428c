"""Compiled CPU kernels, built from the C++ sources beside this file on first use and loaded through ctypes.

Nothing is needed at installation. The first call that can use a kernel looks for a C++ compiler and builds for the
processor it runs on (some ten seconds, once per user and machine type); without a compiler the callers go on in plain
PyTorch and one log message says so.

Environment variables: ``CALOFORGE_NATIVE=0`` switches the kernels off; ``CXX`` names the compiler;
``CALOFORGE_CACHE`` names the folder for built files instead of ``$XDG_CACHE_HOME/caloforge`` or ``~/.cache/caloforge``.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os

from caloforge.errors import MissingDependencyError
from caloforge.nn.native.build import build_library

__all__ = ["native_library"]

_log = logging.getLogger(__name__)

_pointer, _int, _long, _double = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "caloforge_flow_new": (_pointer, [*[_int] * 6, *[_double] * 4, _int]),
    "caloforge_flow_free": (None, [_pointer]),
    "caloforge_flow_pack": (None, [_pointer, _int, *[_pointer] * 8]),
    "caloforge_flow_invert": (None, [_pointer, _long, *[_pointer] * 4, _int]),
    "caloforge_points_new": (_pointer, [*[_int] * 4, *[_pointer] * 8]),
    "caloforge_points_free": (None, [_pointer]),
    "caloforge_points_move": (None, [_pointer, _long, *[_pointer] * 5, _int]),
    "caloforge_points_generate": (
        None,
        [_pointer, _long, *[_pointer] * 3, _double, _pointer, *[_double] * 3, _pointer, _int],
    ),
    "caloforge_cloud_decode": (_long, [_pointer, _pointer, _long, *[_pointer] * 8, _int]),
    "caloforge_showerflow_new": (_pointer, [*[_int] * 3, _pointer, *[_int] * 2, *[_double] * 5]),
    "caloforge_showerflow_free": (None, [_pointer]),
    "caloforge_showerflow_pack": (None, [_pointer, *[_int] * 2, _pointer, _int, *[_pointer] * 2]),
    "caloforge_showerflow_sample": (None, [_pointer, _long, *[_pointer] * 3, _int]),
    "caloforge_spline_forward": (None, [_long, _int, _int, *[_double] * 4, _int, *[_pointer] * 4]),
    "caloforge_spline_backward": (None, [_long, _int, _int, *[_double] * 4, _int, *[_pointer] * 6]),
}


@functools.cache
def native_library() -> ctypes.CDLL | None:
    """The loaded kernels, built if necessary; None if they are switched off or cannot be built (logged once)."""
    if os.environ.get("CALOFORGE_NATIVE", "1") == "0":
        return None
    try:
        library = ctypes.CDLL(str(build_library()))
    except (MissingDependencyError, OSError) as error:
        _log.warning("compiled kernels are not available, continuing in plain PyTorch (much slower): %s", error)
        return None
    for name, (result, arguments) in _SIGNATURES.items():
        for suffix in ("f32", "f64"):
            function = getattr(library, f"{name}_{suffix}")
            function.restype, function.argtypes = result, arguments
    library.caloforge_allocate.restype = None
    library.caloforge_allocate.argtypes = [_long, _int, *[_pointer] * 8, _int]
    library.caloforge_normals.restype = None
    library.caloforge_normals.argtypes = [_pointer, _long, *[_pointer] * 4]
    library.caloforge_fingerprint.restype = ctypes.c_uint64
    library.caloforge_fingerprint.argtypes = [_pointer, _pointer, _int]
    return library
