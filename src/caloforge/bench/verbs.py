"""What ``caloforge bench`` can do, for Python: each verb takes its options, looks whether they make sense, and measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from caloforge.arguments import argument, given
from caloforge.bench.clouds import ENERGIES, bench_clouds, with_companion
from caloforge.bench.generation import GenerationRow, bench_generation
from caloforge.bench.models import BenchKind, bench_kind, bench_model
from caloforge.bench.options import (
    GenerationBenchOptions,
    RuntimeBenchOptions,
    SamplingBenchOptions,
    SimulationBenchOptions,
    TrainingBenchOptions,
)
from caloforge.bench.runtime import DEFAULT_MODELS, RuntimeRow, bench_runtime
from caloforge.bench.sampling import bench_sampling
from caloforge.bench.simulation import DEFAULT_CASES, SimulationRow, bench_simulation
from caloforge.bench.stages import KINDS, StageTime, bench_stages
from caloforge.bench.training import TrainingSpeed, measure_training
from caloforge.errors import UsageError
from caloforge.showers import open_showers

__all__ = ["time_generation", "time_runtime", "time_sampling", "time_simulation", "time_stages", "time_training"]

Say = Callable[[str], None]

#: The preset whose training is measured if none is named.
_TRAINED = "caloflow-calogan-gamma"


def time_sampling(
    models: Sequence[str | Path] = (),
    *,
    options: SamplingBenchOptions | None = None,
    say: Say = print,
    **settings: Any,
) -> tuple[BenchKind, dict[str, Any]]:
    """Time sampling: CaloFlow's exact inverse, point clouds against the energy, or any other model as a whole.

    Args:
        models: presets (their size, random weights) or trained models; several only if all of them make points. None at all
            stands for the published CaloFlow; of the presets caloclouds2 and caloclouds3, one brings the other along.
        options: see ``SamplingBenchOptions``.
        say: where progress goes.
        settings: single options, instead of or beside ``options``.

    Returns:
        What was timed (``flow``, ``points`` or ``model``), and JSON values: those of :func:`bench_sampling`,
        :func:`bench_clouds` or :func:`bench_model`.

    Raises:
        UsageError: if the models, or models and options, do not go together.
        MissingDependencyError: if the peer is not installed.
    """
    asked = SamplingBenchOptions.merged(options, settings)
    kinds = {bench_kind(name) for name in models or (None,)}
    if len(models) > 1 and kinds != {"points"}:
        raise UsageError("several models can be timed together only if all of them make point clouds")
    (kind,) = kinds
    if kind != "flow" and asked.against:
        peer = given("against", asked.against)
        raise UsageError(f"{peer} goes with CaloFlow's exact inverse, not with '{models[0]}'")
    if kind == "points":
        if {*asked.batches, *asked.threads} - {1} or asked.device != "cpu":
            batch, threads = argument("batches", "--batch"), argument("threads")
            raise UsageError(
                f"point clouds are timed one shower at a time on one CPU thread: leave {batch} and {threads} at 1"
            )
        return kind, bench_clouds(
            with_companion(list(map(str, models))), energies=asked.energies or ENERGIES,
            geant4=3 if asked.geant4 is None else asked.geant4, showers=asked.showers, say=say,
        )  # fmt: skip
    sizes, threads_of_rows = asked.batches or (1, 100, 10_000), asked.threads or (1, 2)
    geant4 = 10 if asked.geant4 is None else asked.geant4
    if kind == "model":
        return kind, bench_model(
            models[0], batches=sizes, threads=threads_of_rows, device=asked.device, geant4=geant4, seconds=asked.seconds,
            say=say,
        )  # fmt: skip
    return kind, bench_sampling(
        model=models[0] if models else None, batches=sizes, threads=threads_of_rows, device=asked.device,
        against_nflows=asked.against is not None, nflows_passes=asked.passes, geant4_showers=geant4, seconds=asked.seconds,
        say=say,
    )  # fmt: skip


def time_generation(
    model: str | Path | None = None,
    *,
    options: GenerationBenchOptions | None = None,
    say: Say = print,
    **settings: Any,
) -> list[GenerationRow]:
    """See where the time of generating into a file goes, and what more processes bring.

    Args:
        model: a trained model; None takes CaloFlow for photons at its published size, as its training starts.
        options: see ``GenerationBenchOptions``.
        say: where progress goes.
        settings: single options, instead of or beside ``options``.
    """
    asked = GenerationBenchOptions.merged(options, settings)
    return bench_generation(
        model=model, showers=asked.events, workers=asked.jobs, threads=asked.threads, batch_size=asked.batch_size,
        energy=asked.energy, say=say,
    )  # fmt: skip


def time_runtime(
    models: Sequence[str | Path] = (),
    *,
    options: RuntimeBenchOptions | None = None,
    say: Say = print,
    **settings: Any,
) -> list[RuntimeRow]:
    """Time the C++ runtime against Python; see :func:`bench_runtime`.

    Args:
        models: trained models, or presets; none at all stands for calogan-gamma, caloclouds3 and caloinn-tiny.
        options: see ``RuntimeBenchOptions``.
        say: where progress goes.
        settings: single options, instead of or beside ``options``.
    """
    asked = RuntimeBenchOptions.merged(options, settings)
    return bench_runtime(models or DEFAULT_MODELS, energy=asked.energy, showers=asked.events, say=say)


def time_training(
    preset: str | None = None,
    data: str | Path | None = None,
    *,
    options: TrainingBenchOptions | None = None,
    say: Say = print,
    **settings: Any,
) -> TrainingSpeed:
    """Time training steps of CaloFlow's shower flow: our whole loop, the flow alone, and a peer's bare step.

    Args:
        preset: of a CaloFlow; None takes the published one for photons.
        data: shower file; None takes the packaged photons.
        options: see ``TrainingBenchOptions``.
        say: where progress goes.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if stages are named, which :func:`time_stages` is for, or the data do not suffice for a batch.
    """
    asked = TrainingBenchOptions.merged(options, settings)
    if asked.stages:
        raise UsageError(f"{argument('stages', '--stage')} needs {argument('kind')}")
    rounds, steps = asked.rounds or 5, asked.steps or 3
    say(f"{rounds + 1} rounds of {steps} steps each; the first one warms up")
    return measure_training(
        preset or _TRAINED, data, against=asked.against, overrides=asked.overrides, threads=asked.threads,
        device=asked.device, rounds=rounds, steps=steps, bfloat16=asked.bfloat16,
    )  # fmt: skip


def time_stages(
    kind: str,
    preset: str | None = None,
    data: str | Path | None = None,
    *,
    options: TrainingBenchOptions | None = None,
    say: Say = print,
    **settings: Any,
) -> list[StageTime]:
    """Time the stages of a kind of model at its published size, or of all kinds.

    Args:
        kind: of model, or ``all``.
        preset: of this kind; None takes the one of published size.
        data: shower file; None takes made-up showers, or packaged ones.
        options: see ``TrainingBenchOptions``.
        say: where progress goes.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if there is no such kind or stage, or an option is for CaloFlow's shower flow alone.
    """
    asked = TrainingBenchOptions.merged(options, settings)
    if asked.against is not None or not asked.bfloat16:
        names = f"{argument('against')} and {argument('bfloat16', '--no-bfloat16')}"
        raise UsageError(f"{names} are for CaloFlow's shower flow, without {argument('kind')}")
    if kind not in (*KINDS, "all"):
        raise UsageError(f"the kind '{kind}' is not known, expected all or one of {', '.join(KINDS)}")
    if kind == "all" and (preset or asked.stages):
        raise UsageError(f"{argument('preset')} and {argument('stages', '--stage')} need a single kind")
    showers = None
    if data is not None:
        with open_showers(data) as reader:
            showers = reader.read()
    return [
        time
        for name in ([preset] if preset else KINDS.values() if kind == "all" else [KINDS[kind]])
        for time in bench_stages(
            name, stages=asked.stages, overrides=asked.overrides, showers=showers, threads=asked.threads,
            device=asked.device, rounds=asked.rounds or 2, steps=(asked.steps or 1) + 1, say=say,
        )
    ]  # fmt: skip


def time_simulation(
    *, options: SimulationBenchOptions | None = None, say: Say = print, **settings: Any
) -> list[SimulationRow]:
    """Measure what scoring and writing add to Geant4 itself, with each engine.

    Args:
        options: see ``SimulationBenchOptions``.
        say: where progress goes.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if there is no case of this detector and engine.
    """
    asked = SimulationBenchOptions.merged(options, settings)
    detectors = list(dict.fromkeys(case.detector for case in DEFAULT_CASES))
    if asked.detector is not None and asked.detector not in detectors:
        raise UsageError(f"{argument('detector')} is '{asked.detector}', expected one of {', '.join(detectors)}")
    cases = [
        case if asked.events is None else replace(case, events=asked.events)
        for case in DEFAULT_CASES
        if asked.detector in (None, case.detector) and asked.engine in (None, case.engine)
    ]
    if not cases:
        raise UsageError(f"nothing of '{asked.detector}' is measured with {asked.engine}")
    return bench_simulation(cases, tables=asked.geant4_data, say=say)
