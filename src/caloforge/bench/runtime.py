"""The C++ runtime against Python, shower by shower: the same showers, one thread, one after the other, in turns.

All times are CPU times, so other work on the machine adds only what it takes from the caches. Python's is that of
``sample_showers`` for a single shower: random numbers, model, rejected showers drawn again. The runtime's has placing into spots
on top.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caloforge.bench.clouds import fit_scales
from caloforge.bench.models import named_model
from caloforge.conditions import ConditionRange, Conditions
from caloforge.datasets import load as load_sample
from caloforge.deployment import export_model
from caloforge.deployment.build import built_runtime
from caloforge.deployment.targets.onnx import check_carried
from caloforge.errors import GenerationError, UsageError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import ShowerModel, save_model
from caloforge.parts.point_model import PointCloudModel
from caloforge.representation import EnergyScale
from caloforge.showers import ShowerPoints
from caloforge.units import GeV

__all__ = ["DEFAULT_MODELS", "RuntimeRow", "bench_runtime"]

Say = Callable[[str], None]

#: What is measured if nothing is named: the packaged model, point clouds of the published size, and a model that graphs carry.
DEFAULT_MODELS = ("calogan-gamma", "caloclouds3", "caloinn-tiny")
#: Rounds in which both are timed by turns.
_ROUNDS = 5
_WARM_UP = 3
#: Spread of what begins as zero.
_SMALL = 0.01
_PHOTON = 22


@dataclass(frozen=True)
class RuntimeRow:
    """One model at one energy.

    Attributes:
        model: its name.
        energy: incident energy, GeV.
        spots: lit voxels or points of a shower, on average.
        ms: CPU time of a shower in C++, placing included; median over rounds of the median of a round.
        placing_ms: of it placing.
        python_ms: CPU time of a shower in Python, likewise.
        ratio: median over rounds of C++ over Python.
        ratio_lowest: lowest of these.
        ratio_highest: highest of these.
        open_s: wall time of opening the model, shortest.
        first_s: wall time from opening the files to the end of the first shower, shortest.
        first_cpu_s: CPU time from the start of the program until then, shortest.
        memory_mb: memory that the open model and its showers need, MB (10^6 bytes).
        weights_mb: size of its weights file, MB; zeros that masks keep are in it, and 16-bit numbers have half the room that they
            need in memory.
        onnx_ms: CPU time of a shower in ONNX Runtime, without random numbers and placing, likewise; 0 if no graph carries it.
        torchscript_ms: likewise in TorchScript.
    """

    model: str
    energy: float
    spots: float
    ms: float
    placing_ms: float
    python_ms: float
    ratio: float
    ratio_lowest: float
    ratio_highest: float
    open_s: float
    first_s: float
    first_cpu_s: float
    memory_mb: float
    weights_mb: float
    onnx_ms: float = 0.0
    torchscript_ms: float = 0.0


def bench_runtime(
    models: Sequence[str | Path] = DEFAULT_MODELS, *, energy: float = 20.0, showers: int = 300, say: Say = print
) -> list[RuntimeRow]:
    """Export models, verified with a few showers, and time them in C++ and in Python.

    Args:
        models: trained models, or presets: of their size, with random weights; those of point clouds get the scales of the
            packaged showers.
        energy: incident energy, GeV.
        showers: of each model in each round.
        say: where progress goes.

    Raises:
        UsageError: if the runtime does not know a model, or it was not trained for this energy.
        MissingDependencyError: if the runtime cannot be built.
        GenerationError: if it makes other showers.
    """
    if showers < 1:
        raise UsageError(f"{showers} showers were asked for, expected 1 or more")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(models):
            say(f"exporting {name}")
            rows.append(_row(name, energy, showers, Path(folder) / str(number), say))
    return rows


def _row(name: str | Path, energy: float, showers: int, folder: Path, say: Say) -> RuntimeRow:
    folder.mkdir()
    model = named_model(name)
    where: str | Path = name
    if model.record is None:
        where = _saved(model, folder / "model")
    exported = export_model(where, "cpp", folder / "export", showers=10).path / "model"
    program = built_runtime() / "timing"
    graphs = _graphs(where, model, energy, folder, say)
    others: dict[str, list[float]] = {target: [] for target in graphs}
    _python(model, energy, _WARM_UP)
    made: list[dict[str, float]] = []
    times = []
    for turn in range(_ROUNDS):
        say(f"timing {name}, round {turn + 1} of {_ROUNDS}")
        made.append(_native(program, exported, energy, showers))
        times.append(_python(model, energy, showers))
        for target, once in graphs.items():
            others[target].append(_timed(once, showers))
    ratios = [(one["ms"] + one["placing_ms"]) / other for one, other in zip(made, times, strict=True)]
    return RuntimeRow(
        model=str(name),
        energy=energy,
        spots=made[0]["spots"],
        ms=statistics.median(one["ms"] + one["placing_ms"] for one in made),
        placing_ms=statistics.median(one["placing_ms"] for one in made),
        python_ms=statistics.median(times),
        ratio=statistics.median(ratios),
        ratio_lowest=min(ratios),
        ratio_highest=max(ratios),
        open_s=min(one["open_s"] for one in made),
        first_s=min(one["first_s"] for one in made),
        first_cpu_s=min(one["first_cpu_s"] for one in made),
        memory_mb=1.024e-3 * statistics.median(one["memory_kb"] for one in made),
        weights_mb=1e-6 * (exported / "runtime.safetensors").stat().st_size,
        **{f"{target}_ms": statistics.median(found) for target, found in others.items()},
    )


def _graphs(
    where: str | Path, model: ShowerModel, energy: float, folder: Path, say: Say
) -> dict[str, Callable[[], object]]:
    """What makes one shower of a model in ONNX Runtime and in TorchScript, on one thread; nothing if no graph carries it."""
    try:
        check_carried(model)
    except UsageError:
        return {}
    import onnxruntime

    for target in ("onnx", "torchscript"):
        say(f"exporting {where} as {target}")
        export_model(where, target, folder / target, verify=False)
    particle = _PHOTON if model.record is None else model.record.valid.particle
    conditions = Conditions.first(np.array([energy * GeV]), particle)
    latents = model.latents(conditions, generation_streams(1))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    path = str(folder / "onnx" / "model.onnx")
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    feed = {"incident_energy": conditions.incident_energy} | {name: value.numpy() for name, value in latents.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Any = torch.jit.load(str(folder / "torchscript" / "model.pt"))  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def scripted() -> object:
        return module(conditions.tensors()["incident_energy"], *latents.values())

    for _ in range(_WARM_UP):  # TorchScript optimises in the first two
        scripted()
    return {"onnx": lambda: session.run(None, feed), "torchscript": scripted}


def _timed(once: Callable[[], object], showers: int) -> float:
    """Median CPU time of a shower, ms, on one thread."""
    former, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(showers):
            began = time.thread_time()
            once()
            times.append(time.thread_time() - began)
    finally:
        torch.set_num_threads(former)
    return 1000 * statistics.median(times)


def _saved(model: ShowerModel, folder: Path) -> Path:
    """A model with random weights as a directory; its range is that of its detector's gun.

    Flows begin as the identity, with outputs of zero, which a file would store in half the room that they need in memory: here
    they are random, too, as after a training.
    """
    if isinstance(model, PointCloudModel):
        real = load_sample("ild-gamma-clouds", split="test")
        assert isinstance(real, ShowerPoints)
        fit_scales(model, [real])
    else:
        with torch.no_grad():
            for parameter in model.parameters():
                if bool((parameter == 0).all()):
                    parameter.normal_(0, _SMALL)
    for scale in (module for module in model.modules() if isinstance(module, EnergyScale)):
        if not bool(torch.isfinite(scale.value)):  # a training would have found it
            scale.value.fill_(1.0)
    gun = model.detector.gun
    if gun is None:
        raise UsageError(f"the detector '{model.detector.name}' has no gun, so a preset has no range of energies")
    energies = (gun.spectrum.minimum, gun.spectrum.maximum)
    save_model(folder, model, ConditionRange(particle=_PHOTON, incident_energy=energies))
    return folder


def _native(program: Path, model: Path, energy: float, showers: int) -> dict[str, float]:
    done = subprocess.run([program, model, str(energy), str(showers)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GenerationError(done.stderr.strip() or "the C++ runtime ended without a word")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _python(model: ShowerModel, energy: float, showers: int) -> float:
    """Median CPU time of a shower, ms."""
    particle = _PHOTON if model.record is None else model.record.valid.particle
    streams, times = generation_streams(1), []
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(showers):
            conditions: Any = Conditions.first(np.array([energy * GeV]), particle, start=number)
            began = time.thread_time()
            sample_showers(model, conditions, streams)
            times.append(time.thread_time() - began)
    finally:
        torch.set_num_threads(former)
    return 1000 * statistics.median(times)
