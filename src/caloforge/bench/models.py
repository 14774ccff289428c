"""Time per shower of a whole model, random numbers included: for every kind that is not one autoregressive inverse.

The rows of ``caloforge bench sampling`` for CaloFlow time its shower flow alone, since that is nearly all of its time
and has peers. Other models spend theirs elsewhere: students sample in one pass, iCaloFlow calls a flow for every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from caloforge.bench.geant4 import geant4_showers
from caloforge.bench.machine import PeakMemory, describe_machine, in_process, time_calls
from caloforge.detectors import Detector, EnergySpectrum, catalogue, load_detector, particle_id
from caloforge.errors import ConfigError, UsageError
from caloforge.models import Conditions, Preset, ShowerModel, load_model, load_preset, preset_names
from caloforge.names import is_builtin
from caloforge.random import Streams

__all__ = ["BenchKind", "ModelRow", "bench_kind", "bench_model", "in_float32", "named_model"]

BenchKind = Literal["flow", "points", "model"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class ModelRow:
    """One measurement.

    Attributes:
        batch: showers in a batch.
        threads: CPU threads.
        ms_per_shower: median over batches, divided by the batch size.
        ms_lowest: fastest batch, likewise.
        ms_highest: slowest batch, likewise.
        random_numbers_ms: share of the random numbers, median, likewise.
        warm_up_ms: first batch, whole.
        repeats: number of batches.
        valid: share of the showers that were not rejected; random weights may make few.
        peak_memory_mb: what the process needed at most beyond what it had before the first batch, MB.
        ratio_geant4: Geant4 over ours; None if not measured.
    """

    batch: int
    threads: int
    ms_per_shower: float
    ms_lowest: float
    ms_highest: float
    random_numbers_ms: float
    warm_up_ms: float
    repeats: int
    valid: float
    peak_memory_mb: float
    ratio_geant4: float | None


def _preset(name: str | Path) -> bool:
    return is_builtin(name, preset_names(), "preset") or Path(name).suffix in (".yaml", ".yml")


def in_float32(overrides: Sequence[str]) -> tuple[str, ...]:
    """Changes to a preset such that it trains in float32, in which speeds are compared, unless they name a precision.

    Presets of published size train in float64 where their publication did.
    """
    named = any(change.partition("=")[0].strip() in ("training", "training.precision") for change in overrides)
    return tuple(overrides) if named else ("training.precision=float32", *overrides)


def named_model(name: str | Path) -> ShowerModel:
    """A model ready for sampling: a preset (its size, random weights), or a trained model by directory or name.

    Raises:
        UsageError: if there is no such preset, or no detector for it.
        ModelFileError: if it is neither a preset nor a model.
    """
    if not _preset(name):
        return load_model(name)
    preset = load_preset(name)
    torch.manual_seed(0)
    return preset.build(detector_for(preset, name)).eval().requires_grad_(False)


def detector_for(preset: Preset, name: str | Path) -> Detector:
    """The preset's detector; if it names none, the built-in one of fewest voxels that suits.

    Raises:
        UsageError: if none does.
    """
    if preset.detector is not None:
        return load_detector(preset.detector)
    known = (load_detector(detector) for detector in catalogue())
    for detector in sorted((d for d in known if d.gun is not None), key=lambda d: d.readout.n_voxels):
        try:
            preset.build(detector)  # only to see whether it can be
        except ConfigError:
            continue
        return detector
    raise UsageError(f"the preset '{name}' names no detector, and no built-in one suits it")


def bench_kind(name: str | Path | None) -> BenchKind:
    """Which measurement suits a model: of its autoregressive ``flow``, of ``points`` against energy, or as a whole."""
    if name is None:
        return "flow"
    model = named_model(name)
    if model.shower_kind == "points":
        return "points"
    return "flow" if model.kind == "caloflow" else "model"


def _asked(model: ShowerModel) -> tuple[int, EnergySpectrum]:
    """Particle and spectrum that suit a model: what it was trained for, or what its detector's gun shoots."""
    gun = model.detector.gun
    particle = particle_id(gun.particles[0]) if gun else 22
    spectrum = gun.spectrum if gun else EnergySpectrum.parse("1:100")
    if model.record is not None and model.record.valid is not None:
        particle = model.record.valid.particle
        low, high = model.record.valid.incident_energy
        spectrum = EnergySpectrum.parse(f"{low / 1000:.9g}:{high / 1000:.9g}") if low < high else spectrum
    return particle, spectrum


def bench_model(
    name: str | Path,
    *,
    batches: Sequence[int] = (1, 100, 10_000),
    threads: Sequence[int] = (1, 2),
    device: str = "cpu",
    geant4: int = 10,
    seconds: float = 2.0,
    say: Say = print,
) -> dict[str, Any]:
    """Measure random numbers and decoding of whole showers.

    Args:
        name: see :func:`named_model`.
        batches: batch sizes.
        threads: CPU threads.
        device: ``cpu`` or a CUDA device.
        geant4: Geant4 showers to time for the same energies, where the detector has a stack; 0 for none.
        seconds: how long each row is repeated.
        say: where progress goes.

    Returns:
        JSON values: ``rows``, ``machine``, ``model``, ``geant4_ms_per_shower`` (median), ``notes``.
    """
    model = named_model(name)
    particle, spectrum = _asked(model)
    slow: float | None = None
    if geant4 and model.detector.stack is not None:
        say(f"Geant4: {geant4} showers of {spectrum.text()} GeV on one core")
        (reference,) = geant4_showers(model.detector, particle, [spectrum.text()], geant4, points=False)
        slow = float(np.mean(reference.milliseconds))
    rows = []
    for count in threads:
        for batch in batches:
            say(f"{name}, batch {batch}, {count} thread(s)")
            row = in_process(_measure, name, batch, count, device, seconds, slow)
            say(f"    {row.ms_per_shower:.4g} ms per shower")
            rows.append(row)
    notes = ["whole showers: random numbers, networks and what follows them; no file is written"]
    if _preset(name):
        notes.append("random weights at the preset's size; rejected showers are counted, not drawn again")
    return {
        "machine": describe_machine(device),
        "model": {"name": str(name), "kind": model.kind, "parameters": _parameters(model)},
        "energy_GeV": spectrum.text(),
        "geant4_ms_per_shower": slow,
        "rows": [asdict(row) for row in rows],
        "notes": notes,
    }


def _parameters(model: ShowerModel) -> int:
    """Number of parameters; a model that only samples calls none of them trainable."""
    return sum(p.numel() for p in model.parameters()) if model.record is None else model.record.parameters


def _measure(name: str | Path, batch: int, threads: int, device: str, seconds: float, geant4: float | None) -> ModelRow:
    torch.set_num_threads(threads)
    model = named_model(name).to(device)
    particle, spectrum = _asked(model)
    streams = Streams(0, "bench")
    energies = spectrum.sample(streams.child("energy"), np.arange(batch))
    conditions = Conditions.first(energies, particle)
    peak = PeakMemory()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    drawn = time_calls(lambda: model.latents(conditions, streams), seconds=seconds / 4)
    valid: list[float] = []
    timing = time_calls(
        lambda: valid.append(float(model.decode(conditions, model.latents(conditions, streams))[1].mean())),
        seconds=seconds,
        device=device,
    )
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.startswith("cuda") else peak.megabytes()
    per_shower = 1000 / batch
    return ModelRow(
        batch=batch,
        threads=threads,
        ms_per_shower=timing.median * per_shower,
        ms_lowest=timing.lowest * per_shower,
        ms_highest=timing.highest * per_shower,
        random_numbers_ms=drawn.median * per_shower,
        warm_up_ms=1000 * timing.warm_up,
        repeats=timing.calls,
        valid=valid[0],
        peak_memory_mb=memory,
        ratio_geant4=None if geant4 is None else geant4 / (timing.median * per_shower),
    )
