"""A full disk at every write: a small tmpfs, in every trial of another size.

Whatever a command says then is one sentence, an old file is still there or a finished part can be read, and with more room the
same command ends with the same bits.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from caloforge.errors import CaloForgeError
from caloforge.showers.files import open_any
from reliability.children import call, command, preload
from reliability.jobs import Job, cases
from reliability.kills import reference
from reliability.results import Results

__all__ = ["run"]

_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000


def run(out: Path, results: Results, count: int, seed: int, *, only: str, small: bool) -> None:
    """``count`` sizes of the disk for every command that writes."""
    preload()
    if call(lambda: _in_tmpfs(out / "disk", 4096, lambda: 0), out).code != 0:
        print("disk: no tmpfs can be mounted here, this part is left out")
        return
    for job in cases(out, small=True, only=only):
        _fill(job, out, results, count, seed)


def _in_tmpfs(place: Path, size: int, work: Callable[[], int]) -> int:
    """Mount a tmpfs that nobody else sees, in a namespace of this process."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    place.mkdir(exist_ok=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        return 77
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, f"size={size}".encode()):
        return 77
    return work()


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())


def _fill(job: Job, out: Path, results: Results, count: int, seed: int) -> None:
    whole, _ = reference(job, out)
    start = 0 if job.start is None else _size(job.start)
    # While a file becomes one, its parts are there too; a checkpoint is written beside the one before.
    need = 3 * (_size(whole) - start)
    while results.want(count, "disk", job.name):
        trial = results.count("disk", job.name)
        size = start + int(need * random.Random(f"{seed} {job.name} {trial}").uniform(0, 1))
        problem: list[str] = []
        log = out / "disk.log"
        log.unlink(missing_ok=True)
        try_it = partial(_trial, job, out / "disk", whole, log)
        done = call(partial(_in_tmpfs, out / "disk", size + 8192, try_it), out, timeout=900)
        told = log.read_text().splitlines() if log.exists() else []
        outcome = told[0] if told else "nothing"
        if done.code:
            problem = told[1:] or [f"ended with {done.code}: {done.sentence}"]
        results.add("disk", job.name, outcome, "; ".join(problem), size=size)


def _trial(job: Job, disk: Path, whole: Path, log: Path) -> int:
    """In the child that has the disk to itself: once with too little room, once with enough."""
    job.begin(disk / "x")
    done = command(job.words, disk / "x")
    if done.code == 0:
        outcome, problem = "enough room", job.same(disk / "x" / job.output, whole)
        log.write_text(f"{outcome}\n{problem}\n" if problem else f"{outcome}\n")
        return 1 if problem else 0
    problem = "" if done.is_told else f"ended with {done.code}: {done.err[-2000:]}"
    path = disk / "x" / job.output
    if not problem and path.exists() and path.suffix == ".h5":
        try:
            with open_any(path, None, None) as reader:
                if len(reader):
                    reader.read()
        except CaloForgeError as error:
            problem = f"cannot be read: {error}"
    if not problem and not job.resumes and path.exists():
        problem = "a file that is not whole has the name of one that is"
    import ctypes

    if ctypes.CDLL(None).mount(b"tmpfs", os.fsencode(disk), b"tmpfs", 32, b"size=1g"):  # MS_REMOUNT
        problem = problem or "the test could not make room"
    if not problem:
        more = ("--resume",) if job.resumes and path.exists() else ()
        again = command((*job.words, *more), disk / "x")
        problem = f"afterwards: {again.code}, {again.sentence}" if again.code else job.same(path, whole)
    log.write_text(f"told, then whole\n{problem}\n" if problem else "told, then whole\n")
    return 1 if problem else 0
