"""A whole training: data and preset in, model directory out.

The directory holds ``config.yaml`` (the preset as it was used), ``plan.json`` (the same with data, seed and split),
``stages/<name>/`` (``last`` to go on, ``best`` for the result, ``metrics.jsonl``, ``losses.png``), ``metrics.jsonl`` of
all stages, and in the end ``model.safetensors`` and ``model.json``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caloforge import datasets
from caloforge.arguments import argument, switch
from caloforge.containment import check_contained
from caloforge.cores import available_cores
from caloforge.detectors import Detector
from caloforge.errors import Interrupted, ModelFileError, OutputError, TrainingError, UsageError
from caloforge.executor import Executor, on_this_machine
from caloforge.models import (
    CONTENT,
    ConditionRange,
    ModelRecord,
    Preset,
    RunPlan,
    ShowerModel,
    assemble_model,
    load_model,
    load_preset,
    model_class,
    read_plan,
    read_record,
    read_stage,
)
from caloforge.names import printable
from caloforge.options import TrainOptions
from caloforge.progress import progress
from caloforge.random import Streams
from caloforge.scaleout import Rules, check_choice, open_executor
from caloforge.stage import FitStage, GradientStage, Stage, TrainingConfig
from caloforge.training.data import RowOrder, ShowerSource, TrainingSet
from caloforge.training.interruption import Interruption
from caloforge.training.longer import go_on_longer, in_epochs
from caloforge.training.loop import Run, StageResult, run_fit_stage, train_stage
from caloforge.training.memory import memory_kept
from caloforge.training.metrics import collect_metrics
from caloforge.training.processes import Processes
from caloforge.training.rundir import Added, begin, check_free, check_same, clear, locked
from caloforge.training.setting_up import check_layers, check_particles, check_sizes, described, torch_settings
from caloforge.training.side_by_side import in_order_of_need
from caloforge.training.state import read_counters, stage_finished
from caloforge.training.team import Seat, team
from caloforge.version import __version__
from caloforge.workers import WorkerDiedError

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What a call of ``train`` did.

    Attributes:
        directory: the model directory.
        stages: how the stages ended that this call trained or found finished.
        missing: names of the stages that are not finished yet.
        record: what ``model.json`` says; None while stages are missing.
        notes: what the user should know of the training.
    """

    directory: Path
    stages: tuple[StageResult, ...]
    missing: tuple[str, ...]
    record: ModelRecord | None
    notes: tuple[str, ...] = ()


def train(
    preset: str | Path | Preset,
    data: str | Path | Sequence[str | Path] | ShowerSource,
    out: str | Path,
    *,
    detector: Detector | None = None,
    particle: str | int | None = None,
    inputs: Mapping[str, str | Path] | None = None,
    checkpoint_seconds: float = 300.0,
    show: bool = True,
    command: str | None = None,
    options: TrainOptions | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> TrainingResult:
    """Train a model, or some of its stages, and put the model together when all of them are there.

    Under ``torchrun`` every process calls this with the same arguments. Resumed, it goes on with what is there and begins if
    there is nothing; the number of epochs may have grown, where the schedule allows it.

    Args:
        preset: name of a preset, YAML file, or the preset itself.
        data: shower file, a sample of the package (``NAME:SPLIT``), several of these as one, or an open file; for a model of
            several particles files of each.
        out: model directory.
        detector: for files that do not name theirs.
        particle: for files that do not name theirs.
        inputs: directories of other models that the model learns from, by name (``teacher``).
        checkpoint_seconds: longest time between two checkpoints.
        show: whether to show progress.
        command: what the user typed, for the record.
        executor: who trains stages that need nothing of each other, instead of ``stage_jobs`` processes of this machine or a
            ``cluster``; it sees the same disk.
        options: how it is trained; see ``TrainOptions``. The seed fixes initial weights, split, order, noise and dropout.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if something was asked for that makes no sense.
        ConfigError: if the preset is wrong or does not suit the data.
        ShowerFileError: if the data are damaged.
        OutputError: if ``out`` holds another training, is in use, or cannot be written.
        ModelFileError: if a checkpoint or an input is damaged.
        TrainingError: if a loss is no longer a number, or one of several processes dies.
        Interrupted: if the user stopped it; the message says what was kept.
    """
    chosen = TrainOptions.merged(options, settings)
    if chosen.resume and chosen.overwrite:
        raise UsageError(f"{switch('resume')} and {switch('overwrite')} exclude each other")
    if isinstance(preset, Preset) and chosen.overrides:
        raise UsageError("overrides need a preset by name or file")
    call = _Call(
        preset if isinstance(preset, Preset) else load_preset(preset, chosen.overrides), data, Path(out), detector, particle,
        inputs or {}, checkpoint_seconds, show, command, chosen,
    )  # fmt: skip
    shared = chosen.jobs > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1
    if shared and (chosen.stage_jobs > 1 or chosen.cluster is not None or executor is not None):
        raise UsageError(
            f"{argument('jobs')} (or torchrun) shares every batch of one stage after the other, so it goes with neither "
            f"{argument('stage_jobs')} nor {argument('cluster')}"
        )
    check_choice(chosen.stage_jobs, chosen.cluster)
    # Two trainings of a stage in one folder would spoil it: nothing is done again because it takes long.
    with open_executor(executor, chosen.stage_jobs, chosen.cluster, rules=Rules(patience=math.inf)) as who:
        if who is not None:
            return _side_by_side(call, who)
    if chosen.jobs == 1:
        return _train(call)
    with team(chosen.jobs, chosen.device, _train, replace(call, show=False)) as seat:
        return _train(call, seat)


@dataclass(frozen=True)
class _Call:
    """What was asked for; see :func:`train`."""

    preset: Preset
    data: str | Path | Sequence[str | Path] | ShowerSource
    out: Path
    detector: Detector | None
    particle: str | int | None
    inputs: Mapping[str, str | Path]
    checkpoint_seconds: float
    show: bool
    command: str | None
    options: TrainOptions


def _train(call: _Call, seat: Seat | None = None) -> TrainingResult:
    """What one process does."""
    with ExitStack() as on_exit:
        begun = _begin(call, seat, on_exit)
        run, directory = begun.run, call.out
        results = _run_stages(begun.stages, begun.chosen, run)
        missing = tuple(stage.name for stage in begun.stages if not stage_finished(directory, stage.name))
        if run.processes.first and not missing and (results or not (directory / "model.json").is_file()):
            _assemble(run, begun.plan, begun.used)
        run.processes.wait()
        record = None if missing else read_record(directory)
        return TrainingResult(directory, tuple(results), missing, record, _notes(begun.chosen, run.data.detector))


def _side_by_side(call: _Call, executor: Executor) -> TrainingResult:
    """Stages that need nothing of each other at the same time, each in a process that sees the same files."""
    if not isinstance(call.data, str | Path | Sequence):
        raise UsageError(
            "stages are trained side by side by processes that open the data themselves, so data must be files"
        )
    names = [call.data] if isinstance(call.data, str | Path) else call.data
    call = replace(
        call, data=[datasets.from_anywhere(name) for name in names], out=call.out.absolute(),
        inputs={name: Path(path).absolute() for name, path in call.inputs.items()},
    )  # fmt: skip
    with ExitStack() as on_exit:
        begun = _begin(call, None, on_exit)
        needs = {stage.name: stage.needs for stage in begun.chosen if not stage_finished(call.out, stage.name)}
    here = on_this_machine(executor)
    threads = call.options.threads or (max(1, available_cores() // executor.jobs) if here else 1)
    again = replace(call.options, resume=True, overwrite=False, threads=threads)
    shown = progress("training", len(needs), "stages") if call.show and needs else nullcontext()
    try:
        with shown as bar:
            results = in_order_of_need(
                needs, executor, _prepare_stage, replace(call, options=again, show=False),
                lambda name: None if bar is None else bar.advance(1),
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; finished stages and the last checkpoints are kept, {switch('resume')} goes on from there"
        ) from None
    except WorkerDiedError as error:
        raise TrainingError(f"{error}; finished stages and the last checkpoints are kept and can be resumed") from None
    whole = _train(replace(call, options=replace(again, threads=call.options.threads)))
    return replace(whole, stages=tuple(results[name] for name in needs))


def _prepare_stage(call: _Call) -> Callable[[str], StageResult]:
    """What a worker does: trains the stage of a name, and leaves what belongs to all of them to others."""

    def work(name: str) -> StageResult:
        with ExitStack() as on_exit:
            begun = _begin(replace(call, options=replace(call.options, stages=(name,))), None, on_exit)
            if stage_finished(call.out, name):  # by a worker that was thought to be lost
                counters = read_counters(call.out, name)
                return StageResult(name, counters.epoch, counters.best, counters.best_epoch or 0, counters.seconds, 0.0)
            (result,) = _run_stages(begun.stages, begun.chosen, begun.run, alone=False)
            return result

    return work


@dataclass(frozen=True)
class _Begun:
    """A run whose directory is there."""

    run: Run
    stages: list[Stage]
    chosen: list[Stage]
    plan: RunPlan
    used: dict[str, str]


def _begin(call: _Call, seat: Seat | None, on_exit: ExitStack) -> _Begun:
    """Look at everything that can be wrong, and write down what is going to be trained."""
    chosen_preset, directory, chosen_options = call.preset, call.out, call.options
    seed, stages, inputs = chosen_options.seed, chosen_options.stages, call.inputs
    resume, overwrite, data = chosen_options.resume, chosen_options.overwrite, call.data
    where = Processes.local_device(chosen_options.device)
    share = max(1, available_cores() // chosen_options.jobs) if chosen_options.jobs > 1 else None
    on_exit.enter_context(torch_settings(where, chosen_options.threads or share, chosen_options.tf32))
    on_exit.enter_context(memory_kept())
    processes = on_exit.enter_context(Processes.joined(where, seat))
    source = data
    if isinstance(source, str | Path | Sequence):
        names = [source] if isinstance(source, str | Path) else source
        datasets.refuse_references(names)
        mixed = model_class(chosen_preset.kind).takes_particles
        source = on_exit.enter_context(datasets.open_named(names, call.detector, particle=call.particle, mixed=mixed))
    model, used = _new_model(chosen_preset, source, seed, inputs)
    all_stages = model.training_stages(chosen_preset.training)
    chosen = _chosen(all_stages, stages)
    check_contained(directory, CONTENT, OutputError)
    all_anew = overwrite and not stages
    former = read_plan(directory) if (directory / "plan.json").is_file() and not all_anew else None
    kept = (
        chosen_preset.training.validation_fraction
        if chosen_options.val_fraction is None
        else chosen_options.val_fraction
    )
    rows = _read(source, former, processes, seed, kept, _bytes(chosen_options.memory), where, show=call.show)
    check_sizes(rows, chosen, processes)
    check_layers(chosen, processes)
    settings = in_epochs(chosen_preset.training, all_stages, rows)
    plan = _plan(settings, model, all_stages, rows, inputs, used, _story(data, rows, source, call.command))
    anew = list(stages) if overwrite else []
    if former is not None:
        check_same(directory, former, plan, anew=anew, added=Added.to(former, model, anew))
    if not (resume or overwrite):
        check_free(directory, chosen)
    # Before the plan is written again: a kill in between leaves stages that still have to be told so.
    changed = former is not None and go_on_longer(directory, former, all_stages, chosen, anew, writes=processes.first)
    changed |= former is not None and former.aids != plan.aids
    processes.wait()  # nothing is removed before everybody has looked, and everything that can be wrong was asked for
    if overwrite and processes.first:
        clear(directory, stages)
    if (former is None or changed) and processes.first:
        begin(directory, chosen_preset, plan, model)
    processes.wait()
    interruption = on_exit.enter_context(Interruption())
    run = Run(
        directory=directory,
        model=model.to(where),
        data=rows,
        processes=processes,
        interruption=interruption,
        seed=seed,
        checkpoint_seconds=call.checkpoint_seconds,
        tensorboard=chosen_options.tensorboard,
        show=call.show,
    )
    return _Begun(run, all_stages, chosen, plan, used)


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else round(gigabytes * 1e9)


def _notes(stages: Sequence[Stage], detector: Detector) -> tuple[str, ...]:
    """What the training left out although it was asked for."""
    asked = any(isinstance(stage, GradientStage) and stage.training.augmentation == "approximate" for stage in stages)
    if not asked or not detector.broken_symmetries:
        return ()
    names = ", ".join(detector.broken_symmetries)
    return (f"not used: {names}; the magnetic field of '{detector.name}' breaks what is nearly a symmetry without it",)


def _run_stages(stages: Sequence[Stage], chosen: Sequence[Stage], run: Run, *, alone: bool = True) -> list[StageResult]:
    """Train the chosen stages that are not finished; results of finished ones are put into the model.

    Not ``alone``, others train stages of the same run at the same time, and somebody else gathers their metrics.
    """
    results = []
    try:
        for stage in stages:
            if stage in chosen and not stage_finished(run.directory, stage.name):
                for name in stage.needs:
                    if not stage_finished(run.directory, name):
                        raise UsageError(
                            f"the stage '{stage.name}' needs the stage '{name}', which is not finished yet"
                        )
                with locked(run.directory, stage.name) if run.processes.first else nullcontext():
                    results.append(_run_stage(stage, run))
            if stage_finished(run.directory, stage.name):
                read_stage(run.directory, stage)
    finally:
        if run.processes.first and alone:
            collect_metrics(run.directory, [stage.name for stage in stages])
    return results


def _run_stage(stage: Stage, run: Run) -> StageResult:
    match stage:
        case GradientStage():
            return train_stage(stage, run)
        case FitStage():
            return run_fit_stage(stage, run)
        case _:
            raise TypeError(f"the stage '{stage.name}' is neither a gradient stage nor a fit stage")


def _new_model(
    preset: Preset, source: ShowerSource, seed: int, inputs: Mapping[str, str | Path]
) -> tuple[ShowerModel, dict[str, str]]:
    """An untrained model, the same for the same seed, and the hashes of the models that it learns from."""
    detector = described(source)
    wanted = model_class(preset.kind).inputs
    missing = [name for name in wanted if name not in inputs]
    if missing:
        raise UsageError(
            f"the model '{preset.kind}' learns from another model, so it needs {missing[0]}=<model directory>"
        )
    unknown = [name for name in inputs if name not in wanted]
    if unknown:
        raise UsageError(f"the model '{preset.kind}' takes no other model as '{unknown[0]}'")
    others = {name: load_model(path) for name, path in inputs.items()}
    torch.manual_seed(Streams(seed, "training/initial weights").integer(0))
    model = preset.build(detector, inputs=others)
    check_particles(model, source)
    used = {name: other.record.weights_sha256 for name, other in others.items() if other.record is not None}
    return model, used


def _chosen(stages: Sequence[Stage], names: Sequence[str]) -> list[Stage]:
    known = {stage.name: stage for stage in stages}
    for name in names:
        if name not in known:
            raise UsageError(f"the model has no stage '{name}', its stages are: {', '.join(known)}")
    return [stage for stage in stages if not names or stage.name in names]


def _read(
    source: ShowerSource,
    former: RunPlan | None,
    processes: Processes,
    seed: int,
    val_fraction: float,
    memory: int | None,
    device: torch.device,
    *,
    show: bool,
) -> TrainingSet:
    try:
        order = RowOrder.for_source(source, memory) if former is None else RowOrder(**former.details["order"])
        # Every process must shuffle alike, whatever memory it finds.
        agreed = torch.tensor([order.block or 0, order.pool], dtype=torch.int64, device=device)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(f"plan.json is damaged: it does not say in which order rows are read ({error})") from None
    processes.share({"order": agreed})
    order = RowOrder(int(agreed[0]) or None, int(agreed[1]))
    shown = progress("reading", len(source), "showers") if show and processes.first else nullcontext()
    with shown as display:
        return TrainingSet(
            source, seed=seed, val_fraction=val_fraction, order=order, device=device, progress=display
        )  # fmt: skip


def _names(data: object) -> list[str]:
    """What the files are called that the data are from; nothing for data in memory."""
    named = [data] if isinstance(data, str | Path) else data if isinstance(data, list | tuple) else []
    return [printable(Path(name).name) for name in named]


def _story(data: object, rows: TrainingSet, source: ShowerSource, command: str | None) -> dict[str, Any]:
    """Where the data come from and who trained, for the record."""
    return {
        "data": {
            "file": ", ".join(_names(data)),
            "showers": len(rows),
            "fingerprint": rows.fingerprint,
            "training_rows": len(rows.training_rows),
            "validation_rows": len(rows.validation_rows),
            "provenance": getattr(source, "provenance", {}),
        },
        "command": command,
        "versions": {"caloforge": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }


def _plan(
    training: TrainingConfig,
    model: ShowerModel,
    stages: Sequence[Stage],
    rows: TrainingSet,
    inputs: Mapping[str, str | Path],
    used: Mapping[str, str],
    story: Mapping[str, Any],
) -> RunPlan:
    details = {
        "seed": rows.seed,
        "validation_fraction": rows.val_fraction,
        "order": asdict(rows.order),
        "inputs": dict(used),
    }
    particles = model.particles or (rows.particle,)
    return RunPlan(
        kind=model.kind,
        profile=model.profile,
        config=model.config.model_dump(mode="json"),
        aids=[helper.describe() for helper in model.helpers()],
        detector=model.detector.to_toml(),
        particle=particles[0],
        others=list(particles[1:]),
        training=training,
        stages=[stage.name for stage in stages],
        inputs={name: str(path) for name, path in inputs.items()},
        details=details | dict(story),
    )


def _assemble(run: Run, plan: RunPlan, used: Mapping[str, str]) -> None:
    rows = run.data
    trained = rows.training_rows
    assemble_model(
        run.directory,
        ConditionRange.of(
            plan.particle,
            rows.incident_energy[trained],
            None if rows.direction is None else rows.direction[trained],
            others=tuple(plan.others),
        ),
        # Validation rows chose the weights, so they are no test of them either.
        row_hashes=rows.hashes,
        training={
            "device": str(run.device),
            "processes": run.processes.size,
            "seconds": {name: round(read_counters(run.directory, name).seconds, 1) for name in plan.stages},
        },
        inputs=used,
    )
