"""What runs on a Dask worker: it hands tasks to child processes of its own, and looks after them.

A child for each slot, since models, random generators, numbers of threads and Geant4 belong to a process, not to a thread;
since what aborts or hangs then takes nothing else with it; and since the Dask worker itself stays small. Nothing here imports
Dask: these are functions of a module that Dask calls.

A run is known by a name and is sent once to a worker (:func:`begin`), tasks name it (:func:`work`). What it holds is let go of
when the coordinator says so (:func:`end`), or when it was not heard of for a quarter of an hour, since it may have been killed.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from caloforge.cores import processor_name
from caloforge.errors import CaloForgeError
from caloforge.executor import UnsuitedWorkerError, owning
from caloforge.version import __version__
from caloforge.workers import Line, Worker, WorkerDiedError, packed, unpacked

__all__ = ["Answer", "Kind", "abandon", "begin", "end", "versions", "work"]

#: What must be the same everywhere, or showers would differ by more than rounding.
_PACKAGES = ("torch", "numpy", "calzone", "geant4_pybind")
#: One thread for each child, until its settings say otherwise: slots are the parallelism. Dask lets its workers give memory
#: back to the system with every array that they free, which costs networks a quarter of their time in page faults.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": None}
#: Seconds after which a run that nobody asks for is forgotten.
_FORGET = 900.0
#: Errors of a disk rather than of the work.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Kind:
    """What an answer is."""

    DONE = "done"  # the result
    FAILED = "failed"  # a CaloForgeError of the work
    CRASHED = "crashed"  # the traceback of another error
    DIED = "died"  # a WorkerDiedError, which says how the child ended
    DISK = "disk"  # what the disk of the worker refused
    LACKS = "lacks"  # a module that is not there
    UNSUITED = "unsuited"  # why this worker cannot do the work
    UNKNOWN = "unknown"  # the run is to be begun (again) on this worker


#: Kind, seconds that it took, and content: pickled, or a text in UTF-8.
Answer = tuple[str, float, bytes]


def versions() -> dict[str, str]:
    """Versions of what decides how showers look, of packages that are installed; without their builds."""
    found = {"caloforge": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name).split("+")[0]
        except PackageNotFoundError:
            continue
    return found


def begin(run: str, wanted: dict[str, str], work_order: bytes, isolated: bool) -> dict[str, Any]:
    """Get ready for the tasks of a run.

    Args:
        run: its name.
        wanted: versions that are needed.
        work_order: how children prepare themselves, and their settings, pickled.
        isolated: whether tasks run in child processes; otherwise in the threads of this one.

    Returns:
        Facts of the worker, JSON values: ``host``, ``processor``, ``pid`` and ``refused``, which says why it cannot take part and
        is empty if it can.
    """
    mine = versions()
    wrong = [
        f"{name} {mine.get(name, 'is missing')}, expected {v}" for name, v in wanted.items() if mine.get(name) != v
    ]
    if not wrong:
        with _lock:
            if run not in _runs:
                _runs[run] = _Run(run, work_order, isolated)
    return {
        "host": socket.gethostname(),
        "processor": processor_name(),
        "pid": os.getpid(),
        "refused": "; ".join(wrong),
    }


def work(run: str, number: int, task: bytes) -> Answer:
    """Do one task.

    Args:
        run: name of a run that was begun here.
        number: of the task.
        task: pickled.
    """
    began = time.monotonic()
    with _lock:
        mine = _runs.get(run)
    kind, content = (Kind.UNKNOWN, b"") if mine is None else mine.do(number, task)
    return kind, time.monotonic() - began, content


def abandon(run: str, number: int) -> None:
    """Kill the child that works on a task."""
    with _lock:
        mine = _runs.get(run)
    if mine is not None:
        mine.abandon(number)


def end(run: str) -> None:
    """Let go of a run."""
    with _lock:
        mine = _runs.pop(run, None)
    if mine is not None:
        mine.close()


class _Run:
    """A run on this worker.

    Args:
        name: of the run.
        work_order: what children are to do, pickled.
        isolated: whether there are children at all.
    """

    def __init__(self, name: str, work_order: bytes, isolated: bool) -> None:
        self._order, self._isolated = work_order, isolated
        self._idle: list[Worker] = []
        self._busy: dict[int, Worker] = {}
        self._lock = threading.Lock()
        self._heard = time.monotonic()
        self._over = threading.Event()
        self._here: Callable[[Any], Any] | None = None
        threading.Thread(target=self._watch, args=(name,), daemon=True).start()

    def do(self, number: int, task: bytes) -> tuple[str, bytes]:
        """Kind and content of the answer to a task."""
        self._heard = time.monotonic()
        if not self._isolated:
            return self._do_here(task)
        try:
            child = self._child(number)
            try:
                child.send(task)
                kind, content = child.receive()
            except BaseException:
                with self._lock:
                    self._busy.pop(number, None)
                child.stop()
                raise
            with self._lock:
                self._busy.pop(number, None)
                if not self._over.is_set():
                    self._idle.append(child)
                    return kind, content
            child.stop()
        except WorkerDiedError as error:
            return Kind.DIED, packed(error)
        except OSError as error:
            return _trouble(error)
        return kind, content

    def abandon(self, number: int) -> None:
        """Kill the child that works on a task."""
        with self._lock:
            if number in self._busy:
                self._busy[number].kill()

    def close(self) -> None:
        """End all children."""
        with self._lock:
            self._over.set()
            idle, self._idle = self._idle, []
            for child in self._busy.values():
                child.kill()  # stopped by the thread that waits for it
        for child in idle:
            child.stop()

    def _child(self, number: int) -> Worker:
        with self._lock:
            child = self._idle.pop() if self._idle else None
            if child is not None:
                self._busy[number] = child
                return child
        child = Worker(serve, _ENVIRONMENT)
        try:
            child.send(self._order)
        except BaseException:
            child.stop()
            raise
        with self._lock:
            self._busy[number] = child
            if self._over.is_set():
                child.kill()
        return child

    def _do_here(self, task: bytes) -> tuple[str, bytes]:
        with self._lock:
            if self._here is None:
                prepare, settings = unpacked(self._order)
                self._here = prepare(settings)
        return _answered(lambda: self._here, task)

    def _watch(self, name: str) -> None:
        while not self._over.wait(60):
            if not self._busy and time.monotonic() - self._heard > _FORGET:
                end(name)


_runs: dict[str, _Run] = {}
_lock = threading.Lock()


def serve(line: Line) -> None:
    """A child's life: its order first, then tasks, each answered by its kind and content."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    order = line.receive()
    ready: list[Callable[[Any], Any]] = []

    def worker() -> Callable[[Any], Any]:
        if not ready:
            prepare, settings = unpacked(order)
            with owning():
                ready.append(prepare(settings))
        return ready[0]

    while True:
        line.send(_answered(worker, line.receive()))


def _end_with(parent: int) -> None:
    """End with the Dask worker at once: its task is somebody else's by then, who may write the same files."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _answered(worker: Callable[[], Callable[[Any], Any] | None], task: bytes) -> tuple[str, bytes]:
    try:
        try:
            do = worker()
        except ModuleNotFoundError as error:
            return Kind.LACKS, str(error.name).encode()
        assert do is not None  # prepared before
        return Kind.DONE, packed(do(unpacked(task)))
    except UnsuitedWorkerError as error:
        return Kind.UNSUITED, str(error).encode()
    except CaloForgeError as error:
        return Kind.FAILED, packed(error)
    except OSError as error:
        return _trouble(error)
    except Exception:
        return Kind.CRASHED, traceback.format_exc().encode()


def _trouble(error: OSError) -> tuple[str, bytes]:
    if error.errno in _DISK:
        return Kind.DISK, (error.strerror or str(error)).lower().encode()
    return Kind.CRASHED, traceback.format_exc().encode()
