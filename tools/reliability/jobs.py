"""The commands of the campaign: what they make, how the result is compared, what may be left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from caloforge import datasets
from caloforge.detectors import load_detector
from caloforge.models import load_preset
from caloforge.showers import create_showers, open_showers
from caloforge.stage import Stage
from reliability.children import command

__all__ = ["Job", "cases", "prepare"]


@dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
        name: of the case.
        words: the command; its output is called ``out...``.
        output: what it makes.
        resumes: whether the same command with ``--resume`` goes on after a kill; else the old file or none is there.
        same: compares two outputs, and says how they differ.
        start: a folder with what has to be there before.
    """

    name: str
    words: tuple[str, ...]
    output: str
    resumes: bool
    same: Callable[[Path, Path], str]
    start: Path | None = None
    again: tuple[str, ...] = field(default=("--overwrite",))

    def begin(self, folder: Path) -> Path:
        """A fresh folder for a trial."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.start is None:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(self.start, folder)
        return folder


def same_showers(one: Path, two: Path) -> str:
    """Datasets and attributes, bit by bit."""
    with h5py.File(one) as a, h5py.File(two) as b:
        if not a.attrs.get("complete", False):
            return "is not complete"
        names = {name for file in (a, b) for name in file}
        for name in sorted(names):
            if name not in a or name not in b:
                return f"'{name}' is in one of them only"
            if isinstance(a[name], h5py.Group):
                continue
            x, y = a[name][:], b[name][:]
            equal = (
                all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))
                if x.dtype == object
                else x.tobytes() == y.tobytes()
            )
            if x.shape != y.shape or not equal:
                return f"'{name}' differs"
        for name in a.attrs:
            if name != "provenance" and not np.array_equal(a.attrs[name], b.attrs[name]):
                return f"the attribute '{name}' differs"
    return ""


def same_bytes(one: Path, two: Path) -> str:
    return "" if one.read_bytes() == two.read_bytes() else "differs"


def same_model(one: Path, two: Path) -> str:
    """The weights of all stages and, if it is finished, of the model."""
    names = [path.relative_to(two) for path in sorted(two.rglob("*.safetensors")) if "last" not in path.parts]
    for name in names:
        if not (one / name).is_file():
            return f"'{name}' is missing"
        if _tensors(one / name) != _tensors(two / name):
            return f"'{name}' differs"
    return ""


def _tensors(path: Path) -> dict[str, bytes]:
    from safetensors.torch import load_file

    return {name: value.contiguous().numpy().tobytes() for name, value in load_file(path).items()}


def same_report(one: Path, two: Path) -> str:
    """All numbers but times."""
    first, second = (_timeless(json.loads((path / "report.json").read_text())) for path in (one, two))
    return "" if first == second else "report.json differs"


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        timed = ("second", "time", "date", "created", "duration", "command", "measured")
        return {key: _timeless(v) for key, v in value.items() if not any(word in key for word in timed)}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def prepare(out: Path) -> Path:
    """Inputs of all jobs, made once."""
    folder = out / "inputs"
    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, split, file, rows in (
        ("calogan-gamma-sample", "train", "voxels.h5", 600),
        ("calogan-gamma-sample", "test", "test.h5", 600),
        ("calogan-gamma-sample", "train", "many.h5", 6000),
        ("ild-gamma-clouds", "train", "points.h5", 120),
    ):
        with open_showers(datasets.path(name, split=split)) as reader:
            block = reader.read(0, rows)
            with create_showers(
                folder / file, detector=reader.detector, particle=reader.particle, kind=reader.kind, overwrite=True
            ) as writer:
                writer.write(block)
    made = command(
        ("generate", "calogan-gamma", "--energy", "1:100", "--events", "600", "-o", "generated.h5", "--overwrite"),
        folder,
    )
    assert made.code == 0, made.err
    for report in ("one", "two"):
        words = (
            "evaluate",
            "generated.h5",
            "test.h5",
            "-o",
            report,
            "--only",
            "response,layers",
            "--overwrite",
            "--format",
            "json",
        )
        assert command(words, folder).code == 0
    (folder / "done").touch()
    return folder


def jobs(out: Path, *, small: bool) -> list[Job]:
    """The commands, in sizes that take 5 to 10 seconds (small: about two)."""
    inputs = prepare(out)
    size = 1 if small else 4
    generate = ("generate", "calogan-gamma", "--energy", "1:100", "--threads", "1", "--batch-size", "500")
    return [
        Job(
            "simulate",
            ("simulate", "--detector", "calogan", "--energy", "1:2", "--events", f"{40 * size}", "--jobs", "1", "-o", "out.h5"),
            "out.h5", True, same_showers,
        ),
        Job("generate", (*generate, "--events", f"{4000 * size}", "-o", "out.h5"), "out.h5", True, same_showers),
        Job(
            "generate, 2 jobs", (*generate, "--jobs", "2", "--events", f"{4000 * size}", "-o", "out.h5"), "out.h5", True,
            same_showers,
        ),
        Job("convert", ("convert", f"{inputs}/many.h5", "out.h5", "--to", "calogan"), "out.h5", True, same_showers),
        Job(
            "convert to points", ("convert", f"{inputs}/points.h5", "out.h5", "--to", "showerdata"), "out.h5", True, same_showers,
        ),
        Job(
            "join", ("join", "calogan-gamma-sample:train", "calogan-gamma-sample:test", "-o", "out.h5"), "out.h5", True,
            same_showers,
        ),
        Job(
            "likelihood",
            ("likelihood", "calogan-gamma", f"{inputs}/many.h5" if size > 1 else f"{inputs}/voxels.h5", "-o", "out.csv"),
            "out.csv", False, same_bytes,
        ),
        Job(
            "evaluate",
            ("evaluate", f"{inputs}/generated.h5", f"{inputs}/test.h5", "-o", "out", "--only",
             "response,caloflow-dnn-unnormalised", "--epochs", f"{2 * size}", "--retrainings", "2", "--format", "json"),
            "out", True, same_report,
        ),
        Job("compare", ("compare", f"{inputs}/one", f"{inputs}/two", "-o", "out.html"), "out.html", False, same_bytes),
        Job("info --drawing", ("info", f"{inputs}/many.h5", "--drawing", "out.png"), "out.png", False, same_bytes, again=()),
    ]  # fmt: skip


#: Presets whose stages are of all kinds that there are, their data, their other inputs, epochs for some seconds.
_PRESETS = (
    ("caloflow-tiny", "voxels.h5", None, 12),
    ("caloflow-student-tiny", "voxels.h5", "caloflow-tiny", 12),
    ("caloclouds3-tiny", "points.h5", None, 10),
)


def cases(out: Path, *, small: bool, only: str) -> list[Job]:
    """All jobs whose names begin so."""
    found = [job for job in jobs(out, small=small) if job.name.startswith(only)]
    if only.startswith("train") or "train".startswith(only):  # to list the others takes whole trainings
        found += [job for job in training_jobs(out, small=small) if job.name.startswith(only)]
    return found


def training_jobs(out: Path, *, small: bool) -> list[Job]:
    """A training of one stage for each kind of stage; what it needs is finished."""
    inputs = prepare(out)
    found: dict[str, Job] = {}
    for preset, data, teacher, epochs in _PRESETS[: 1 if small else None]:
        more = () if teacher is None else ("--input", f"teacher={_whole(out, teacher, 'voxels.h5', (), 12)}")
        model = _whole(out, preset, data, more, epochs)
        for stage in _stages(preset, more):
            kind = type(stage).__name__.strip("_")
            if kind in found:
                continue
            start = out / "starts" / f"{preset}-{stage.name}"
            if not start.exists():
                shutil.copytree(model, start / "out")
                for gone in ("model.json", "model.safetensors"):
                    (start / "out" / gone).unlink(missing_ok=True)
                shutil.rmtree(start / "out" / "stages" / stage.name)
            words = (
                "train",
                preset,
                "--data",
                f"{inputs}/{data}",
                "-o",
                "out",
                "--stage",
                stage.name,
                *more,
                *_settings(epochs),
            )
            found[kind] = Job(f"train: {kind}", words, "out", True, same_model, start)
    return list(found.values())


def _settings(epochs: int) -> tuple[str, ...]:
    return ("--threads", "1", "--set", f"training.epochs={epochs}")


def _whole(out: Path, preset: str, data: str, more: tuple[str, ...], epochs: int) -> Path:
    """A whole training, made once."""
    folder = out / "models" / preset
    if not (folder / "model.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        words = (
            "train",
            preset,
            "--data",
            f"{prepare(out)}/{data}",
            "-o",
            folder,
            *more,
            *_settings(epochs),
            "--resume",
        )
        done = command(words, out)
        assert done.code == 0, done.err
    return folder


def _stages(preset: str, more: tuple[str, ...]) -> list[Stage]:
    chosen = load_preset(preset)
    model = chosen.build(load_detector("ild-ecal" if "clouds" in preset else "calogan"))
    if more:
        from caloforge.models import load_model

        model.attach("teacher", load_model(more[1].removeprefix("teacher=")))
    return list(model.training_stages(chosen.training))
