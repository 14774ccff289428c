"""Signals of batch systems and shells: an interruption with its sentence and exit code, or nothing where they are ignored."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caloforge.detectors import load_detector
from caloforge.showers import Showers
from caloforge.showers.files import create_showers, open_showers
from caloforge.stopping import STOP_SIGNALS, as_interrupts, held_back, wanted
from caloforge.training.interruption import Interruption

PROGRAM = [sys.executable, "-m", "caloforge"]
DETECTOR = load_detector("calogan")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "a.h5"
    rng = np.random.default_rng(0)
    with create_showers(path, detector=DETECTOR, particle=22) as writer:
        for _ in range(4):
            energies = rng.uniform(1e3, 1e5, 2500)
            deposits = rng.random((2500, 504), np.float32) * (energies[:, None] / 300).astype("f4")
            writer.write(Showers(deposits, energies, 22, DETECTOR.readout))
    return path


def rows(path: Path, more: Path | None = None) -> Callable[[], bool]:
    def there() -> bool:
        try:
            with h5py.File(path) as file:
                return "incident_energies" in file and len(file["incident_energies"]) > 0
        except OSError:
            return False

    return there


#: Long commands, a look whether they are at work, and what they say when they are stopped.
COMMANDS: dict[str, tuple[str, Callable[[Path], Callable[[], bool]], str]] = {
    "simulate": (
        "simulate --detector calogan --energy 2 --events 5000 --jobs 1 -o out.h5",
        lambda folder: rows(folder / "out.h5"),
        "out.h5 holds",
    ),
    "generate with workers": (
        "generate calogan-gamma --energy 1:100 --events 500000 --threads 1 --jobs 2 -o out.h5",
        lambda folder: rows(folder / "out.h5"),
        "out.h5 holds",
    ),
    "train": (
        "train caloflow-tiny --data {data} -o out --set training.epochs=1000",
        lambda folder: lambda: (folder / "out/stages/energies/metrics.jsonl").exists(),
        "everything so far is kept in 'out', go on with --resume",
    ),
    "evaluate": (
        "evaluate {data} calogan-gamma-sample:test -o out --allow-mismatch --retrainings 50 --epochs 500",
        lambda folder: lambda: (folder / "out").exists(),
        "finished retrainings are kept in 'out', --resume uses them again",
    ),
    "likelihood": (
        "likelihood calogan-gamma {data} -o out.csv --threads 1 --noise-draws 50",
        lambda folder: lambda: any(folder.iterdir()),
        "interrupted",
    ),
}  # fmt: skip


def begin(name: str, folder: Path, data: Path, **settings: Any) -> subprocess.Popen[str]:
    """A command that is certainly at work."""
    words, at_work, _ = COMMANDS[name]
    process = subprocess.Popen(
        [*PROGRAM, *words.format(data=data).split()],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **settings,
    )  # fmt: skip
    deadline, there = time.monotonic() + 240, at_work(folder)
    while not there():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"{name} did not get to work: {process.communicate()}")
        time.sleep(0.05)
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"was not stopped: {process.communicate()}")
    return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.geant4 if n == "simulate" else []) for n in COMMANDS]
)
def test_sigterm_ends_every_long_command_with_a_sentence(tmp_path: Path, data: Path, name: str) -> None:
    """Fails (exit code -15, not a word) without ``as_interrupts``; with workers also if these are not ``deaf``.

    The signal goes to every process of the job, as batch systems do it.
    """
    process = begin(name, tmp_path, data)
    os.killpg(process.pid, signal.SIGTERM)
    for child in _children(process.pid):
        os.kill(child, signal.SIGTERM)
    code, err = ended(process)
    assert code == 130, err
    assert "Traceback" not in err
    assert COMMANDS[name][2] in err.splitlines()[-1]
    if name in ("simulate", "generate with workers"):
        with open_showers(tmp_path / "out.h5") as reader:
            assert f"out.h5 holds {len(reader)} of" in err
    if name == "likelihood":
        assert os.listdir(tmp_path) == []


def _children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]


def test_what_the_shell_ignores_stays_ignored(tmp_path: Path, data: Path) -> None:
    """A shell starts background jobs with Ctrl-C ignored. Fails if handlers are installed whatever was there before."""
    script = (
        f"trap '' INT; {shlex.join([*PROGRAM, 'train', 'caloflow-tiny', '--data', str(data), '-o', 'out'])} "
        "--set training.epochs=1000"
    )
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    there = tmp_path / "out/stages/energies/metrics.jsonl"
    deadline = time.monotonic() + 240
    while not there.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    assert process.poll() is None
    lines = len(there.read_text().splitlines())
    while len(there.read_text().splitlines()) == lines and time.monotonic() < deadline:
        time.sleep(0.05)  # it goes on
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert "everything so far is kept" in err


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_ignored_signals_are_left_alone() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    as_interrupts()
    with Interruption() as wish:
        signal.raise_signal(signal.SIGHUP)
        assert not wish.requested
        signal.raise_signal(signal.SIGTERM)
        assert wish.requested
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert wanted() == [signal.SIGINT, signal.SIGTERM]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_other_threads_catch_nothing() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(wanted()))
    thread.start()
    thread.join()
    assert found == [[]]


@pytest.mark.usefixtures("handlers")
def test_signals_are_held_back_while_a_worker_starts() -> None:
    as_interrupts()
    reached = False

    def start() -> None:
        nonlocal reached
        with held_back():
            # To this thread: one that is sent to the process may be taken by a thread that does not hold it back.
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            reached = True

    with pytest.raises(KeyboardInterrupt):
        start()
    assert reached


@pytest.mark.usefixtures("handlers")
def test_a_signal_within_a_finaliser_is_not_lost() -> None:
    """Fails if the handler raises whatever is being run: Python ignores exceptions of finalisers."""

    class Late:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    as_interrupts()
    held = [Late()]

    def work() -> None:
        held.clear()
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.usefixtures("handlers")
def test_a_signal_within_the_callback_of_a_weak_reference_is_not_lost() -> None:
    class Key:
        pass

    class Loud(dict):  # type: ignore[type-arg]
        def __delitem__(self, key: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    as_interrupts()
    key, names = Key(), weakref.WeakKeyDictionary[Key, int]()
    names[key] = 1
    names.data = Loud(names.data)

    def work() -> None:
        nonlocal key
        key = Key()
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        work()
