"""What the machine is, and how fast it multiplies matrices: the yardstick of every other number."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from caloforge.workers import call_elsewhere

__all__ = ["PeakMemory", "Timing", "describe_machine", "in_process", "matrix_rate", "read_rate", "time_calls"]


@dataclass(frozen=True)
class Timing:
    """Wall-clock times of equal calls, s.

    Attributes:
        warm_up: time of the first call, apart from the others.
        median: of the others.
        lowest: of the others.
        highest: of the others.
        calls: how many the others were.
    """

    warm_up: float
    median: float
    lowest: float
    highest: float
    calls: int


def time_calls(
    work: Callable[[], object], *, seconds: float = 2.0, least: int = 3, most: int = 200, device: str = "cpu"
) -> Timing:
    """Time a call again and again.

    Args:
        work: what to time.
        seconds: how long to go on, warm-up apart.
        least: smallest number of counted calls.
        most: largest number of counted calls.
        device: a CUDA device is waited for before the clock is read.
    """

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    warm_up = once()
    times: list[float] = []
    while len(times) < least or (sum(times) < seconds and len(times) < most):
        times.append(once())
    return Timing(warm_up, statistics.median(times), min(times), max(times), len(times))


def matrix_rate(threads: int, device: str = "cpu") -> float:
    """Best rate of a large float32 matrix product, multiply-adds counted as two operations, GFLOP/s.

    Args:
        threads: CPU threads; the setting of this process is changed.
        device: where.
    """
    torch.set_num_threads(threads)
    n = 8192 if device.startswith("cuda") else 1536
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    return 2e-9 * n**3 / time_calls(lambda: a @ b, seconds=1.0, device=device).lowest


def read_rate(megabytes: float) -> float:
    """Best rate at which one CPU thread reads as many bytes again and again, GB/s.

    Args:
        megabytes: how many (10^6 bytes); what fits into a cache comes from there.
    """
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        block = torch.ones(max(1, round(megabytes * 1e6 / 4)))
        return 1e-9 * block.nbytes / time_calls(block.sum, seconds=0.5, least=5, most=2000).lowest
    finally:
        torch.set_num_threads(former)


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns in a new process of its own."""
    return call_elsewhere(work, *arguments)


class PeakMemory:
    """How much memory this process needed at most beyond what it had when this object was made.

    Linux tells the highest resident size of a program since it was last asked to forget it. Elsewhere the highest size
    of the whole process is all there is, and a need that stays below an earlier peak shows as zero.
    """

    def __init__(self) -> None:
        self._status = Path("/proc/self/status")
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._status = Path("/nowhere")
        self._before = self._read("VmRSS:")

    def megabytes(self) -> float:
        """The need so far, MB (2^20 bytes)."""
        return max(self._read("VmHWM:") - self._before, 0.0)

    def _read(self, name: str) -> float:
        # getrusage would do, but a child made by fork and exec inherits its parent's peak there.
        try:
            lines = self._status.read_text().splitlines()
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, accelerator, system, versions and date."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    if device.startswith("cuda"):
        facts["accelerator"] = torch.cuda.get_device_name(device)
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0]} ({len(names)} logical cores)" if names else platform.processor()
