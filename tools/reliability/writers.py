"""Two processes that write the same output at the same time: one of them does, or both write the same; never a mixture."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from reliability.children import command, preload
from reliability.jobs import Job, cases
from reliability.kills import reference
from reliability.results import Results

__all__ = ["run"]


def run(out: Path, results: Results, count: int, seed: int, *, only: str, small: bool) -> None:
    """``count`` pairs of every command, the second a random moment after the first."""
    preload()
    for job in cases(out, small=True, only=only):
        _race(job, out, results, count, seed)


def _race(job: Job, out: Path, results: Results, count: int, seed: int) -> None:
    whole, seconds = reference(job, out)
    while results.want(count, "two writers", job.name):
        trial = results.count("two writers", job.name)
        generator = random.Random(f"{seed} {job.name} {trial}")
        folder = job.begin(out / "race")
        wait = generator.uniform(0, seconds) * generator.choice([0, 0.1, 1])
        first = os.fork()
        if not first:
            done = command(job.words, folder)
            (out / "race-first").write_text(f"{done.code} {done.is_told} {done.sentence}")
            os._exit(0)
        time.sleep(wait)
        more = ("--resume",) if trial % 2 and job.resumes and (folder / job.output).exists() else ()
        second = command((*job.words, *more), folder)
        os.waitpid(first, 0)
        code, told, sentence = (out / "race-first").read_text().split(" ", 2)
        problem = ""
        if 0 not in (int(code), second.code):
            problem = f"neither: {sentence} / {second.sentence}"
        for one_code, one_told, words in (
            (int(code), told == "True", sentence),
            (second.code, second.is_told, second.sentence),
        ):
            if one_code and not one_told:
                problem = problem or f"ended with {one_code}: {words}"
        if not problem and job.name != "evaluate":
            problem = job.same(folder / job.output, whole)
        both = int(code) == 0 and second.code == 0
        results.add(
            "two writers",
            job.name,
            "both, one after the other" if both else "one, the other told",
            problem,
            wait=wait,
            seed=seed,
        )
