"""Clocks that go backwards, and files from the future: nothing depends on them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from caloforge.cli.main import main
from reliability.children import call, command, preload
from reliability.jobs import Job, cases
from reliability.kills import reference
from reliability.results import Results

__all__ = ["run"]

_YEAR = 365.25 * 86400


def run(out: Path, results: Results, count: int, seed: int, *, only: str, small: bool) -> None:
    """Every command once under a clock that runs backwards, and once going on with files from the future."""
    preload()
    for job in cases(out, small=True, only=only):
        if results.want(1, "clocks", job.name, "backwards"):
            _backwards(job, out, results)
        if results.want(1, "clocks", job.name, "files"):
            _future(job, out, results)


def _backwards(job: Job, out: Path, results: Results) -> None:
    whole, _ = reference(job, out)
    folder = job.begin(out / "clock")

    def work() -> int:
        import warnings

        warnings.simplefilter("ignore")
        start, true = time.time(), time.time
        time.time = lambda: start - 1000 * (true() - start)  # a thousand seconds back in every one
        return main(list(job.words))

    done = call(work, folder)
    problem = f"ended with {done.code}: {done.sentence}" if done.code else job.same(folder / job.output, whole)
    results.add("clocks", job.name, "backwards", problem)


def _future(job: Job, out: Path, results: Results) -> None:
    whole, seconds = reference(job, out)
    folder = job.begin(out / "clock")
    done = command(job.words, folder, kill_after=0.6 * seconds)
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() + _YEAR,) * 2, follow_symlinks=False)
    there = (folder / job.output).exists()
    more = ("--resume",) if job.resumes and there else job.again if there else ()
    done = command((*job.words, *more), folder)
    problem = f"ended with {done.code}: {done.sentence}" if done.code else job.same(folder / job.output, whole)
    results.add("clocks", job.name, "files from the future", problem)
