"""Commands in forked children: a tenth of a second instead of three, as the parent has imported everything already.

A child is a process of its own in every respect that matters here: it can be killed, limited and watched.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from caloforge.cli import streams
from caloforge.cli.main import main
from caloforge.stopping import as_interrupts

__all__ = ["Done", "call", "command", "preload"]

#: Exit code of a child whose exception nobody caught.
BUG = 70


@dataclass(frozen=True)
class Done:
    """How a child ended.

    Attributes:
        code: its exit code; minus the number of the signal that ended it.
        out: what it wrote to standard output.
        err: likewise to standard error.
        seconds: how long it ran.
    """

    code: int
    out: str
    err: str
    seconds: float

    @property
    def sentence(self) -> str:
        """Its last line, which is where an error is told."""
        return (self.err.strip().splitlines() or [""])[-1]

    @property
    def is_told(self) -> bool:
        """Whether a failure is one sentence with the exit code that goes with it."""
        return self.code in (1, 2) and self.sentence.startswith("caloforge: ") and "Traceback" not in self.err


def preload() -> None:
    """Import what the children will need."""
    # What torch imports late: with the first optimiser and the first step.
    weight = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([weight])
    weight.sum().backward()
    optimiser.step()


def command(words: Sequence[str | Path], folder: Path, **settings: object) -> Done:
    """Run a command of the command line in a folder; see :func:`call`."""

    def work() -> int:
        sys.argv = ["caloforge", *map(str, words)]
        streams.install()
        as_interrupts()
        code = main([str(word) for word in words])
        lost = streams.lost_output()
        return 1 if lost and not code else code

    return call(work, folder, **settings)  # type: ignore[arg-type]


def call(
    work: Callable[[], int],
    folder: Path,
    *,
    kill_after: float | None = None,
    memory: int | None = None,
    cpu_seconds: int | None = None,
    timeout: float = 600.0,
) -> Done:
    """Run something in a child.

    Args:
        work: what; its answer is the exit code.
        folder: working directory.
        kill_after: kill it (SIGKILL) after so many seconds, with everything that belongs to it.
        memory: how much more address space than now it may have, bytes.
        cpu_seconds: how much CPU time it may need.
        timeout: after so many seconds it counts as hanging (code -SIGALRM).
    """
    logs = [Path(tempfile.gettempdir(), f"reliability-{os.getpid()}-{name}") for name in ("out", "err")]
    began = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _live(work, folder, logs, memory, cpu_seconds)
    deadline = began + (timeout if kill_after is None else kill_after)
    status = None
    while status is None:
        ended, found = os.waitpid(child, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(found)
        elif time.monotonic() >= deadline:
            try:
                os.killpg(child, signal.SIGKILL)
            except ProcessLookupError:  # so early that it has no session of its own yet
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = -signal.SIGKILL if kill_after is not None else -signal.SIGALRM
        else:
            time.sleep(0.002)
    seconds = time.monotonic() - began
    out, err = (log.read_text(errors="replace") if log.exists() else "" for log in logs)
    for log in logs:
        log.unlink(missing_ok=True)
    return Done(status, out, err, seconds)


def _live(
    work: Callable[[], int], folder: Path, logs: Sequence[Path], memory: int | None, cpu_seconds: int | None
) -> None:
    code = BUG
    try:
        os.setsid()
        for number, log in zip((1, 2), logs, strict=True):
            opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        os.chdir(folder)
        if memory is not None:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        if cpu_seconds is not None:
            spent = int(time.process_time())
            resource.setrlimit(resource.RLIMIT_CPU, (spent + cpu_seconds, spent + cpu_seconds + 5))
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else BUG
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
