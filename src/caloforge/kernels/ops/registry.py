"""Operators of PyTorch with a plain default implementation, a compiled one for the CPU, and sometimes one for GPUs."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.kernels.compiled import Choice, compiled_library, use_choice
from caloforge.kernels.gpu.choice import choose_gpu_kernels

__all__ = [
    "SUFFIXES",
    "Choice",
    "check_status",
    "eager",
    "gpu_kernels",
    "kernel_library",
    "operator",
    "ordinary",
    "plain_only",
    "served",
    "use_choice",
]

#: Ends of the names of the kernels for each type of numbers.
SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}

_LIBRARY: Any = torch.library.Library("caloforge", "DEF")  # type: ignore[no-untyped-call]
_KINDS = (Tensor, nn.Parameter)
_plain = False
_joined: ctypes.CDLL | None = None


def kernel_library() -> ctypes.CDLL | None:
    """The compiled kernels, or None if there are none or :func:`plain_only` is in force."""
    if _plain:
        return None
    library = compiled_library()
    if library is not None and library is not _joined:
        _join(library)
    return library


def gpu_kernels() -> str:
    """What serves on a GPU: ``triton``, ``graphs`` or ``plain``, which it also is if :func:`plain_only` is in force."""
    return "plain" if _plain else choose_gpu_kernels().kind


def _join(library: ctypes.CDLL) -> None:
    """Let kernels work on the threads of PyTorch's own OpenMP library, where it has one of that interface.

    Threads besides PyTorch's would have to share the cores with them, since those spin for a while after each operation.
    """
    global _joined
    entry = ctypes.c_void_p()
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        with contextlib.suppress(OSError, AttributeError):
            # Found in what that library is linked to, whatever other OpenMP libraries are loaded.
            entry = ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, ctypes.c_void_p)
    library.caloforge_use_openmp(entry)
    _joined = library


@contextlib.contextmanager
def plain_only() -> Iterator[None]:
    """Within this, operators are plain PyTorch, as if there were no compiled kernels: for tests and comparisons."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def operator(
    schema: str, plain: Callable[..., Any], compiled: Callable[..., Any], gpu: Callable[..., Any] | None = None
) -> Any:
    """Register an operator ``torch.ops.caloforge.<name>``.

    Args:
        schema: name, arguments and results, in PyTorch's notation.
        plain: the default implementation, for all devices.
        compiled: takes the loaded kernels and then the same arguments, all tensors in CPU memory; ``NotImplemented`` hands the
            work to the plain one.
        gpu: takes the same arguments as the plain one, in the memory of a GPU; ``NotImplemented`` as above. None where the
            plain one is all there is.

    Returns:
        What calls it.
    """
    name = schema.partition("(")[0]

    def on_cpu(*arguments: Any) -> Any:
        library = kernel_library()
        result = NotImplemented if library is None else compiled(library, *arguments)
        return plain(*arguments) if result is NotImplemented else result

    def on_gpu(*arguments: Any) -> Any:
        result = NotImplemented if gpu is None else gpu(*arguments)
        return plain(*arguments) if result is NotImplemented else result

    _LIBRARY.define(schema)
    _LIBRARY.impl(name, plain, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, on_cpu, "CPU")
    if gpu is not None:
        _LIBRARY.impl(name, on_gpu, "CUDA")
    return getattr(torch.ops.caloforge, name).default


def eager(*tensors: Tensor) -> bool:
    """Whether tensors are ordinary ones in CPU memory and nobody is tracing, so that operators serve best.

    Elsewhere networks do the same in operations that PyTorch can see through.
    """
    for t in tensors:
        if not t.is_cpu:
            return False
    return ordinary(*tensors)


def served(*tensors: Tensor) -> bool:
    """As :func:`eager`, or on a GPU where operators with kernels for it have more than their plain twins."""
    if all(t.is_cuda for t in tensors):
        return ordinary(*tensors) and gpu_kernels() != "plain"
    return eager(*tensors)


def ordinary(*tensors: Tensor) -> bool:
    """As :func:`eager`, on any device."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    try:
        for t in tensors:
            if type(t) not in _KINDS:
                return False
            t.data_ptr()
    except RuntimeError:  # a function transform is at work, whose tensors have no memory
        return False
    return True


def check_status(status: int) -> bool:
    """Whether a kernel did its work; False if it does not know such a case.

    Raises:
        ValueError: if the packed weights are not those of the plan.
    """
    if status in (2, -2):
        raise ValueError("the packed weights do not fit their plan: they were packed by another kernel")
    return status != 1
