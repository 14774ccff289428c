"""The C interface of the compiled kernels."""

from __future__ import annotations

import ctypes
from pathlib import Path

__all__ = ["open_library"]

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


def open_library(path: Path) -> ctypes.CDLL:
    """Load kernels and say what their functions take.

    Raises:
        OSError: if the file is no library for this machine.
        AttributeError: if a function is missing.
    """
    library = ctypes.CDLL(str(path))
    typed = {f"{name}_{suffix}": types for name, types in _FUNCTIONS.items() for suffix in ("f32", "f64")}
    for name, (result, arguments) in {**typed, **_PLAIN_FUNCTIONS}.items():
        function = getattr(library, f"caloforge_{name}")
        function.restype, function.argtypes = result, arguments
    return library
