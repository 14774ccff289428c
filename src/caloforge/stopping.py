"""Wishes to stop: Ctrl-C, the SIGTERM of a batch system, the SIGHUP of a connection that is gone.

All three mean the same: keep what is finished, say so, and end with the exit code of an interruption. A signal that whoever
started this process has set to be ignored (nohup, a shell's background job) stays ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["STOP_SIGNALS", "as_interrupts", "deaf", "held_back", "wanted"]

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def wanted() -> list[signal.Signals]:
    """The signals that are not to be ignored; none outside the main thread, where Python cannot catch any."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def as_interrupts() -> None:
    """From now on every wish to stop is a KeyboardInterrupt in the main thread."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _in_finaliser(frame):
            # Python ignores what is raised there: the same signal once more, a moment later.
            again = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, number))
            again.daemon = True
            again.start()
            return
        raise KeyboardInterrupt

    for number in wanted():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, interrupt)


def _in_finaliser(frame: FrameType | None) -> bool:
    """Whether a ``__del__`` or a callback of a weak reference is being run."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_globals.get("__name__") in ("weakref", "_weakrefset"):
            return True
        frame = frame.f_back
    return False


def deaf() -> None:
    """In a worker: stopping is the business of the process that it works for, which ends it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def held_back() -> Iterator[None]:
    """While a worker is being started: it begins with the signals blocked, and is ``deaf`` before one can end it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
