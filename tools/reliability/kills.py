"""SIGKILL at random moments: nothing finished is lost, going on gives the same bits, and no half-written file looks whole."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

from caloforge.errors import CaloForgeError
from caloforge.showers.files import open_any
from reliability.children import Done, command, preload
from reliability.jobs import Job, cases
from reliability.results import Results

__all__ = ["reference", "run"]


def run(out: Path, results: Results, count: int, seed: int, *, only: str, small: bool) -> None:
    """``count`` kills of every command, a fifth of that of every kind of training stage."""
    preload()
    for job in cases(out, small=small, only=only):
        _kill(job, out, results, max(1, count // 5) if job.name.startswith("train") else count, seed)


def reference(job: Job, out: Path) -> tuple[Path, float]:
    """What the command makes if nobody disturbs it, and how long that takes."""
    size = hashlib.sha256(repr(job.words).encode()).hexdigest()[:8]  # short jobs are others than long ones
    folder = out / "references" / f"{job.name.replace(' ', '-').replace(':', '')}-{size}"
    if not (folder / "seconds").exists():
        done = command(job.words, job.begin(folder))
        assert done.code == 0, (job.name, done.err)
        (folder / "seconds").write_text(str(done.seconds))
    return folder / job.output, float((folder / "seconds").read_text())


def _kill(job: Job, out: Path, results: Results, count: int, seed: int) -> None:
    whole, seconds = reference(job, out)
    folder = out / "trial"
    while results.want(count, "kills", job.name, "killed"):
        trials = results.count("kills", job.name)
        generator = random.Random(f"{seed} {job.name} {trials}")
        job.begin(folder)
        old = b""
        if not job.resumes and trials % 2:  # with an old file that must survive, and without one
            shutil.copy(whole, folder / job.output)
            with (folder / job.output).open("ab") as file:
                file.write(b"old")
            old = (folder / job.output).read_bytes()
        finished = 0
        for _ in range(20):
            words = (*job.words, "--resume") if job.resumes and (folder / job.output).exists() else job.words
            words = (*words, *job.again) if old else words
            after = generator.uniform(0, 1.1 * seconds)
            done = command(words, folder, kill_after=after)
            if done.code == 0:
                break
            if done.code != -9:
                results.add(
                    "kills",
                    job.name,
                    "killed, went on",
                    f"ended with {done.code}: {done.sentence}",
                    after=after,
                    seed=seed,
                )
                break
            problem, finished = _look(job, folder, whole, old, finished)
            results.add(
                "kills",
                job.name,
                "killed" + (", went on" if job.resumes else ", repeated"),
                problem,
                after=after,
                seed=seed,
            )
            if problem or not results.want(count, "kills", job.name, "killed"):
                break
        last = _finish(job, folder, old)
        problem = f"ended with {last.code}: {last.sentence}" if last.code else job.same(folder / job.output, whole)
        results.add("kills", job.name, "whole again", problem, seed=seed)


def _finish(job: Job, folder: Path, old: bytes) -> Done:
    there = (folder / job.output).exists()
    more = ("--resume",) if job.resumes and there else job.again if there or old else ()
    return command((*job.words, *more), folder)


def _look(job: Job, folder: Path, whole: Path, old: bytes, finished: int) -> tuple[str, int]:
    """Whether what is there after a kill is what is promised, and how many showers are."""
    path = folder / job.output
    if job.resumes and path.suffix == ".h5":
        if not path.exists():
            return ("the file is gone" if finished else ""), 0
        try:
            with open_any(path, None, None) as reader:
                here = len(reader)
                if here:
                    reader.read()
        except CaloForgeError as error:
            return f"cannot be read: {error}", 0
        return ("" if here >= finished else f"{here} showers, there were {finished}"), here
    if not job.resumes and path.exists():
        content = path.read_bytes()
        if content not in (old, whole.read_bytes()):
            return "half a file, or another one", 0
    if not job.resumes and old and not path.exists():
        return "the old file is gone", 0
    return "", 0
