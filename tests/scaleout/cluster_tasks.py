"""Tasks that workers of a test do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from caloforge.errors import SimulationError


def prepare_block(settings):
    """Blocks of numbers after some sleep."""
    seconds, size = settings

    def work(task):
        time.sleep(seconds)
        return np.full(size, task, dtype=np.float32)

    return work


def prepare_fault(settings):
    """A task that goes wrong, as often as the settings say; which is counted by files in a folder."""
    folder, what, number, times = settings

    def work(task):
        if task == number and len(list(Path(folder).iterdir())) < times:
            (Path(folder) / f"{time.monotonic_ns()}-{os.getpid()}").touch()
            if what == "hang":
                time.sleep(1000)
            if what == "abort":
                os.write(2, b"*** G4Exception: GeomNav0003\nStuck in a wall\n")
                os.kill(os.getpid(), signal.SIGABRT)
            if what == "disk":
                raise OSError(28, "No space left on device")
            if what == "fail":
                raise SimulationError("the shower left the world")
            if what == "bug":
                raise ZeroDivisionError("one by none")
        time.sleep(0.01)
        return task, os.getpid()

    return work


def prepare_where(settings):
    """The process that does the work."""

    def work(task):
        return os.getpid()

    return work
