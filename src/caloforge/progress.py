"""Progress of long work: a bar on a terminal, a plain line now and then everywhere else.

Both go to standard error, so that standard output stays clean for results.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["PATIENCE", "Progress", "counted", "progress"]

#: Seconds without progress after which work whose units should take less says that it is still at it.
PATIENCE = 60.0

#: Seconds between two plain lines.
_INTERVAL = 10.0


class Progress(Protocol):
    """What the code that does the work sees of its progress display."""

    def advance(self, amount: int, note: str = "") -> None:
        """Report more work done.

        Args:
            amount: units finished since the last call.
            note: something to show beside the bar, for example a loss.
        """


def counted(bar: Progress) -> Callable[[int, int], None]:
    """What tells a display how far work has come, for work that counts from its beginning: units done, and units in all."""
    before = 0

    def advance(now: int, _: int) -> None:
        nonlocal before
        bar.advance(now - before)
        before = now

    return advance


@contextmanager
def progress(title: str, total: int, unit: str, *, done: int = 0, patience: float | None = None) -> Iterator[Progress]:
    """Show the progress of ``total`` units of work.

    Args:
        title: what is being done.
        total: number of units.
        unit: what they are, in the plural.
        done: how many of them were finished before (resumed work); they do not count for the rate.
        patience: seconds after which it is said that nothing was finished, and again each time they have doubled; None for never.
    """
    if sys.stderr.isatty():
        with _bar(title, total, unit, done) as (bar, wait), _watched(bar, wait, patience) as watched:
            yield watched
    else:
        lines = _Lines(title, total, unit, done)
        try:
            with _watched(lines, lines.wait, patience) as watched:
                yield watched
        finally:
            lines.close()


@contextmanager
def _watched(inner: Progress, wait: Callable[[float], None], patience: float | None) -> Iterator[Progress]:
    """A display that is told, by a thread, when nothing was finished for a while."""
    if patience is None:
        yield inner
        return
    ended, last = threading.Event(), time.monotonic()

    class Watched:
        def advance(self, amount: int, note: str = "") -> None:
            nonlocal last
            last = time.monotonic()
            inner.advance(amount, note)

    def watch() -> None:
        seen, limit = last, patience
        while not ended.wait(max(seen + limit - time.monotonic(), 0.0)):
            if last != seen:
                seen, limit = last, patience
            else:
                wait(limit)
                limit *= 2

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield Watched()
    finally:
        ended.set()
        thread.join()


@contextmanager
def _bar(title: str, total: int, unit: str, done: int) -> Iterator[tuple[Progress, Callable[[float], None]]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Display(*columns, console=Console(stderr=True)) as display:
        task = display.add_task(title, total=total, completed=done, rate="", note="")
        started = time.monotonic()
        finished = 0

        class Bar:
            def advance(self, amount: int, note: str = "") -> None:
                nonlocal finished
                finished += amount
                rate = finished / max(time.monotonic() - started, 1e-9)
                display.update(task, advance=amount, rate=f"{rate:.3g}/s", note=note)

        yield Bar(), lambda seconds: display.update(task, note=f"none for {seconds:g} s", refresh=True)


class _Lines:
    """Plain lines for log files and pipes."""

    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._before = self._now = done
        self._started = self._last = time.monotonic()
        self._note = ""
        self._printed = -1

    def advance(self, amount: int, note: str = "") -> None:
        self._now += amount
        self._note = note or self._note
        if time.monotonic() - self._last >= _INTERVAL:
            self._last = time.monotonic()
            self._print()

    def wait(self, seconds: float) -> None:
        text = f"{self._title}: {self._now}/{self._total} {self._unit}, none finished for {seconds:g} s"
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._printed != self._now:
            self._print()

    def _print(self) -> None:
        self._printed = self._now
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (self._now - self._before) / elapsed
        left = f", {(self._total - self._now) / rate:.0f} s left" if rate > 0 and self._now < self._total else ""
        note = f", {self._note}" if self._note else ""
        text = f"{self._title}: {self._now}/{self._total} {self._unit} ({rate:.3g}/s, {elapsed:.0f} s{left}{note})"
        print(text, file=sys.stderr, flush=True)
