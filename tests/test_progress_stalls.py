"""What is said while nothing is finished."""

from __future__ import annotations

import io
import time

import pytest

from caloforge.progress import progress


class Screen(io.StringIO):
    """Standard error, of a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def shows(self, text: str, after: int = 0) -> bool:
        until = time.monotonic() + 20
        while text not in self.getvalue()[after:] and time.monotonic() < until:
            time.sleep(0.01)
        return text in self.getvalue()[after:]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stall_is_told_and_told_again(monkeypatch, terminal):
    # Fails without the thread, or if a unit that is finished does not begin the count anew.
    none = "none" if terminal else "none finished"  # a bar has little room
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stderr", screen := Screen(terminal))
    with progress("simulating", 30, "showers", done=10, patience=0.2) as bar:
        assert screen.shows(f"{none} for 0.2 s")
        assert screen.shows(f"{none} for 0.4 s")
        bar.advance(10)
        told = len(screen.getvalue())
        assert screen.shows(f"{none} for 0.2 s", after=told)
    if not terminal:
        assert "simulating: 10/30 showers, none finished for 0.4 s\n" in screen.getvalue()
        assert "simulating: 20/30 showers, none finished for 0.2 s\n" in screen.getvalue()


def test_nothing_is_said_of_work_that_goes_on_or_may_take_its_time(monkeypatch):
    monkeypatch.setattr("sys.stderr", screen := Screen(terminal=False))
    with progress("simulating", 5, "showers", patience=30.0) as bar:
        bar.advance(5)
    with progress("training", 5, "epochs") as bar:
        time.sleep(0.05)
        bar.advance(5)
    assert "none" not in screen.getvalue()
