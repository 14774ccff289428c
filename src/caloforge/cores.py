"""How many cores this process may use, and of which kind."""

from __future__ import annotations

import os
import platform

__all__ = ["available_cores", "processor_name"]


def available_cores() -> int:
    """Number of cores that this process may use, which batch systems and containers may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """What the processor calls itself, or its architecture where a virtual machine hides the name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    known = [name for name in names if name.lower() not in ("", "unknown")]
    return known[0] if known else platform.processor() or platform.machine()
