"""Worker processes: the user's script is never run again, whatever is wrong is said, and nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caloforge.errors import SimulationError, UsageError
from caloforge.workers import Line, Worker, WorkerDiedError, call_elsewhere

GENERATE = """
print("script", flush=True)
from caloforge.detectors import EnergySpectrum
from caloforge.generation import SpectrumConditions, generate
def make():
    conditions = SpectrumConditions(EnergySpectrum.parse("1:10"), 1001, 1, 22)
    print(generate("calogan-gamma", conditions, "g.h5", jobs=2, overwrite=True, show=False).showers)
"""
EVENT_LOOP = "import asyncio\nasync def main():\n    make()\nasyncio.run(main())\n"


@pytest.mark.parametrize("way", ["script without a guard", "event loop in python -c"])
def test_generation_works_from_anywhere(tmp_path: Path, way: str) -> None:
    """Fails ("script" is printed three times, then a worker dies) with ``multiprocessing`` and its spawned processes."""
    text = GENERATE + (EVENT_LOOP if "event loop" in way else "make()\n")
    (tmp_path / "script.py").write_text(text)
    command = ["-c", text] if "-c" in way else ["script.py"]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["script", "1001"], done.stderr


MINE = """
from caloforge.workers import call_elsewhere
class Mine: pass
try:
    call_elsewhere(print, Mine())
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("command", [["-c", MINE], ["-"]])
def test_what_the_script_defines_is_named(tmp_path: Path, command: list[str]) -> None:
    """Fails with a traceback of the worker if that simply unpickles."""
    done = subprocess.run(
        [sys.executable, *command], input=MINE, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith(
        "UsageError a worker process does not know 'Mine', which the script or notebook itself defines"
    ), done.stderr


def echo(line: Line) -> None:
    while True:
        line.send(line.receive())


def test_anything_goes_over_the_line() -> None:
    worker = Worker(echo)
    for what in ({"a": [1, 2]}, b"x" * 10_000_000, None):
        worker.send(what)
        assert worker.receive() == what
    with pytest.raises(UsageError, match="cannot be sent to another process"):
        worker.send(lambda: None)
    worker.stop()


def fail(kind: str) -> object:
    if kind == "ours":
        raise SimulationError("it is too hot")
    if kind == "bug":
        raise ZeroDivisionError("by zero")
    if kind == "words":
        print("last words.", flush=True)
        os._exit(3)
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return (
        os.getpid(),
        [signal.getsignal(s) is signal.SIG_IGN for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
    )


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("ours", SimulationError, "^it is too hot$"),
        ("bug", RuntimeError, r"(?s)a worker process failed:\nTraceback.*by zero"),
        ("words", WorkerDiedError, r"^a worker process died \(exit code 3\): last words$"),
        ("killed", WorkerDiedError, r"^a worker process died \(killed by hand, or by the system for want of memory\)$"),
    ],
)
def test_failures_come_back(kind: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call_elsewhere(fail, kind)


def test_a_worker_is_another_process_and_deaf_to_signals() -> None:
    """A batch system signals every process of a job; what happens then is for the one in charge to decide."""
    number, deaf = call_elsewhere(fail, "")
    assert number != os.getpid()
    assert deaf == [True, True, True]
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


ORPHAN = """
import os, sys, time
from caloforge.workers import Worker
import test_workers
worker = Worker(test_workers.echo)
worker.send(1); worker.receive()
print(worker._process.pid, flush=True)
time.sleep(100)
"""


def test_a_worker_dies_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and _state(child) != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists() or _state(child) == "Z"


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
