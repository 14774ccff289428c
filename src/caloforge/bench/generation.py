"""Where the time of ``caloforge generate`` goes, and how it scales with the number of workers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from caloforge.datasets import path as dataset_path
from caloforge.detectors import EnergySpectrum
from caloforge.errors import UsageError
from caloforge.generation import SpectrumConditions, generate
from caloforge.models import ConditionRange, ShowerModel, load_model, load_preset, save_model
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.random import Streams
from caloforge.showers import open_showers
from caloforge.stage import GradientStage
from caloforge.training.data import RowOrder, TrainingSet

__all__ = ["GenerationRow", "bench_generation", "starting_model"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class GenerationRow:
    """One run of ``generate``; times in milliseconds per shower, summed over all workers where not said otherwise.

    Attributes:
        workers: processes.
        threads: CPU threads of each.
        showers: showers made.
        wall: wall time, start-up apart (model, workers and the first block).
        flows: autoregressive inverses; None where other processes did them.
        latents: random numbers.
        decode: model, the flows in it.
        assembly: showers put in order.
        writing: file.
        loading: model, workers and what else precedes the first shower, seconds for the whole run.
    """

    workers: int
    threads: int
    showers: int
    wall: float
    flows: float | None
    latents: float
    decode: float
    assembly: float
    writing: float
    loading: float


def starting_model(preset: str = "caloflow-calogan-gamma", overrides: tuple[str, ...] = ()) -> ShowerModel:
    """A CaloFlow as its training starts: at its size, with weights that follow the packaged showers voxel by voxel.

    It costs as much to sample as a trained one, and its showers are valid.

    Args:
        preset: a preset of the kind ``caloflow`` whose energy scale is given, not fitted.
        overrides: changes to it.

    Raises:
        ConfigError: if there is no such preset.
    """
    chosen = load_preset(preset, overrides)
    torch.manual_seed(0)
    with open_showers(dataset_path("calogan-gamma-sample")) as source:
        if source.detector is None:
            raise UsageError("the packaged showers do not name their detector")
        model = chosen.build(source.detector)
        rows = TrainingSet(source, seed=0, val_fraction=0.0, order=RowOrder(None), device=torch.device("cpu"))
        for stage in model.training_stages(chosen.training):
            if isinstance(stage, GradientStage):
                stage.begin(rows.for_fit(), Streams(0, "bench"))
    return model.eval()


def bench_generation(
    *,
    model: str | Path | None = None,
    showers: int = 20_000,
    workers: Sequence[int] = (1, 2),
    threads: int = 1,
    batch_size: int = 1000,
    energy: str = "1:100",
    say: Say = print,
) -> list[GenerationRow]:
    """Generate into a file that is thrown away, and see what took how long.

    Args:
        model: a trained model; None takes CaloFlow for photons at its published size, as its training starts.
        showers: how many, for each number of workers.
        workers: numbers of processes.
        threads: CPU threads of each.
        batch_size: showers in a batch.
        energy: spectrum of the incident energy, GeV.
        say: where progress goes.
    """
    rows: list[GenerationRow] = []
    with tempfile.TemporaryDirectory() as folder:
        where: str | Path = Path(folder) / "model"
        if model is None:
            starter = starting_model()
            save_model(Path(where), starter, ConditionRange(particle=22, incident_energy=(1e3, 1e5)))
        else:
            where = model
        for count in workers:
            say(f"generating {showers} showers with {count} worker(s)")
            rows.append(_run(where, Path(folder) / f"{count}.h5", showers, count, threads, batch_size, energy))
    return rows


def _run(
    model: str | Path, out: Path, showers: int, workers: int, threads: int, batch_size: int, energy: str
) -> GenerationRow:
    loaded = load_model(model)
    with _watched(loaded) as seconds:
        result = generate(
            loaded if workers == 1 else model,
            SpectrumConditions(EnergySpectrum.parse(energy), showers, 0, 22),
            out,
            batch_size=batch_size,
            jobs=workers,
            threads=threads,
            show=False,
        )
    scale = 1000 / showers
    timing = result.timing
    first = timing["loading"]
    return GenerationRow(
        workers=workers,
        threads=threads,
        showers=showers,
        wall=(result.seconds - first) * scale,
        flows=seconds[0] * scale if workers == 1 else None,
        latents=timing["latents"] * scale,
        decode=timing["decode"] * scale,
        assembly=timing["assembly"] * scale,
        writing=(timing["writing"] + timing["packing"]) * scale,
        loading=first,
    )


@contextmanager
def _watched(model: ShowerModel) -> Iterator[list[float]]:
    """Count the seconds that a model spends in inverting its autoregressive flows."""
    seconds = [0.0]
    flows = [module for module in model.modules() if isinstance(module, MaskedAutoregressiveFlow)]

    def timed(inverse: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return inverse(*arguments, **options)
            finally:
                seconds[0] += time.perf_counter() - began

        return call

    for flow in flows:
        flow.inverse = timed(flow.inverse)  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        for flow in flows:
            del flow.inverse
