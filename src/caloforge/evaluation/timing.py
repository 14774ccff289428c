"""How fast a model is and how large: the time of one shower at several batch sizes, parameters, training time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from caloforge.cores import processor_name
from caloforge.errors import UsageError
from caloforge.evaluation.checks import AnyShowers
from caloforge.evaluation.results import TimingResult, TimingRow
from caloforge.generation import borrowed, generation_streams, sample_showers
from caloforge.models import Conditions, ShowerModel
from caloforge.random import Streams

__all__ = ["BATCHES", "measure_timing", "timing_devices", "timing_units"]

#: Batch sizes of the measurement, those of CaloFlow's table 4 (arXiv:2106.05285) and a single shower.
BATCHES = (1, 10, 100, 1000, 10_000)
#: Calls at one batch size go on for so long, warm-up apart, and are at least and at most so many.
_SECONDS, _LEAST, _MOST = 2.0, 3, 50
#: A batch that is expected to take longer than this for a single call is left out.
_LONGEST = 120.0


def timing_devices() -> tuple[str, ...]:
    """The processor, and the GPU if there is one."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def timing_units() -> int:
    """Progress units of :func:`measure_timing`: one for each batch size and device."""
    return len(BATCHES) * len(timing_devices())


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"CPU {processor_name()}, {threads} thread{'' if threads == 1 else 's'}"


def _timed(work: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure_timing(
    model: ShowerModel,
    reference: AnyShowers,
    *,
    seed: int = 0,
    batches: Sequence[int] | None = None,
    devices: Sequence[str] | None = None,
    advance: Callable[[int, str], None] = lambda amount, note: None,
) -> TimingResult:
    """Time the generation of showers in memory, at the conditions of a reference.

    The time is that of everything between conditions and showers in memory (random numbers, networks, inverse
    transforms, thresholds, redraws, the way back from the GPU), without files and without loading the model. The first
    call at each batch size warms up and does not count. Every call generates other showers.

    Args:
        model: a trained model; it is moved between devices and left in its mode and where it was.
        reference: showers whose energies and directions are asked for again and again.
        seed: of the generated showers.
        batches: numbers of showers that are generated at a time; None for ``BATCHES``.
        devices: torch devices; by default the processor and, if there is one, the GPU.
        advance: told of each batch size on each device (1).

    Raises:
        UsageError: if a batch size is below 1.
    """
    sizes = BATCHES if batches is None else batches
    if not sizes or min(sizes) < 1:
        raise UsageError("batch sizes of a timing are 1 or more")
    streams = generation_streams(seed)
    rows, left_out = [], []
    with borrowed(model):
        for device in devices or timing_devices():
            model.to(device)
            per_shower = 0.0
            for batch in sorted(sizes):
                # The time of a shower hardly ever grows with the batch, so this is an upper limit.
                if per_shower * batch > _LONGEST:
                    left_out.append(f"batch {batch:,} on {device}")
                else:
                    times = _calls(model, reference, streams, batch, device)
                    per_shower = float(np.median(times)) / batch
                    rows.append(
                        TimingRow(
                            program=f"this model ({model.kind})",
                            device=_device_name(device),
                            batch=batch,
                            milliseconds=1000 * per_shower,
                            std=1000 * float(np.std(times, ddof=1)) / batch,
                        )
                    )
                advance(1, f"speed, batch {batch:,} on {device}")
    record = model.record
    seconds = {} if record is None else record.training.get("seconds", {})
    return TimingResult(
        rows=tuple(rows),
        parameters=model.parameter_count() if record is None else record.parameters,
        megabytes=_size(model),
        training_seconds=float(sum(seconds.values())) if isinstance(seconds, dict) and seconds else None,
        training_device="" if record is None else _trained_on(record.training),
        left_out=tuple(left_out),
    )


def _size(model: ShowerModel) -> float | None:
    """Megabytes of the weights, or of whatever else the model keeps; None for a model that is on no disk."""
    file = None if model.directory is None else model.directory / "model.safetensors"
    return file.stat().st_size / 1e6 if file is not None and file.is_file() else None


def _trained_on(training: dict[str, object]) -> str:
    device, processes = str(training.get("device", "")), training.get("processes", 1)
    return device if processes == 1 or not device else f"{device}, {processes} processes"


def _calls(model: ShowerModel, reference: AnyShowers, streams: Streams, batch: int, device: str) -> list[float]:
    """Seconds of equal calls, warm-up apart."""
    direction = reference.direction
    first = 0

    def work() -> None:
        nonlocal first
        chosen = np.arange(first, first + batch) % len(reference)
        conditions = Conditions.first(
            reference.incident_energy[chosen],
            reference.particle,
            direction=None if direction is None else direction[chosen],
            start=first,
        )
        sample_showers(model, conditions, streams, batch_size=batch, extrapolate=True)
        first += batch

    once = _timed(work, device)
    wanted = min(_MOST, max(_LEAST, int(_SECONDS / max(once, 1e-9))))
    if once > _LONGEST / _LEAST:
        # A single call of a slow model says enough; it has warmed up at smaller batches.
        return [once, _timed(work, device)]
    return [_timed(work, device) for _ in range(wanted)]
