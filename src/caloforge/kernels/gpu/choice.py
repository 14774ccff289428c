"""Which kernels serve on a GPU, and why. No torch and no Triton here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Literal

from caloforge.errors import UsageError

__all__ = ["GpuChoice", "choose_gpu_kernels"]


@dataclass(frozen=True)
class GpuChoice:
    """What serves on a GPU.

    Attributes:
        kind: ``triton``, ``graphs`` (plain PyTorch, captured once and replayed), or ``plain``.
        why: in words.
        demanded: whether somebody wants the Triton kernel and nothing else.
    """

    kind: Literal["triton", "graphs", "plain"]
    why: str
    demanded: bool = False


def choose_gpu_kernels() -> GpuChoice:
    """What serves, or would serve if there were a GPU.

    Raises:
        UsageError: if ``CALOFORGE_GPU_KERNELS`` asks for what is not there.
    """
    return _choose(os.environ.get("CALOFORGE_GPU_KERNELS") or "auto")


@cache
def _choose(wanted: str) -> GpuChoice:
    if wanted not in ("auto", "triton", "graphs", "plain"):
        raise UsageError(f"CALOFORGE_GPU_KERNELS is '{wanted}', expected triton, graphs or plain")
    if wanted == "graphs":
        return GpuChoice("graphs", "CALOFORGE_GPU_KERNELS is graphs")
    if wanted == "plain":
        return GpuChoice("plain", "CALOFORGE_GPU_KERNELS is plain")
    if find_spec("triton") is None:
        if wanted == "triton":
            raise UsageError(
                "CALOFORGE_GPU_KERNELS is triton, but Triton is not installed; install it with: pip install 'caloforge[gpu]'"
            )
        return GpuChoice("plain", "Triton is not installed")
    try:
        name = f"Triton {metadata.version('triton')}"
    except metadata.PackageNotFoundError:
        name = "Triton"
    if wanted == "triton":
        return GpuChoice("triton", "CALOFORGE_GPU_KERNELS is triton", demanded=True)
    return GpuChoice("triton", f"{name} is installed")
