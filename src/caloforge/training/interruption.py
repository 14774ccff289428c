"""Ctrl-C, a batch system's SIGTERM and a lost connection's SIGHUP are wishes to stop, granted where the work can be resumed."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Self

from caloforge.stopping import wanted

__all__ = ["Interruption"]


class Interruption:
    """While it is entered, the first signal only sets ``requested``; the second one interrupts at once.

    Outside the main thread signals cannot be caught, and nothing is changed.

    Attributes:
        requested: whether somebody wants the work to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._former: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> Self:
        self._former = {number: signal.signal(number, self._note) for number in wanted()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
