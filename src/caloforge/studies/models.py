"""Many models on the same showers: trained, sampled, evaluated alike, and put into one table."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from caloforge.arguments import argument
from caloforge.atomic import replace_file
from caloforge.datasets import from_anywhere
from caloforge.errors import TrainingError, UsageError
from caloforge.evaluation import EvaluationResult
from caloforge.evaluation.files import prepare_evaluation
from caloforge.evaluation.timing import BATCHES, measure_timing
from caloforge.executor import Executor
from caloforge.generation import conditions_of_file, generate
from caloforge.models import load_model, load_preset, model_class, read_record
from caloforge.models.preset import Preset
from caloforge.options import StudyModelsOptions
from caloforge.report import Comparison, compare_reports, load_report, write_report
from caloforge.scaleout import Rules, check_choice, open_executor
from caloforge.showers import open_showers
from caloforge.stage import GradientStage, Stage, TrainingConfig
from caloforge.studies.controls import contest, layer_verdict, shuffle_voxels, untrained_copy
from caloforge.studies.reports import kept_report
from caloforge.studies.together import files_of_study
from caloforge.training import train
from caloforge.workers import WorkerDiedError

__all__ = ["Files", "study_models"]

Say = Callable[[str], None]
#: One file for all models, or one for each of them.
Files = str | Path | Sequence[str | Path]


def study_models(
    presets: Sequence[str],
    data: Files,
    reference: Files,
    out: Path,
    *,
    floor: Files | None = None,
    options: StudyModelsOptions | None = None,
    executor: Executor | None = None,
    say: Say = print,
    **settings: Any,
) -> Comparison:
    """Train several presets on one file, generate with the reference's energies, and compare.

    A model that learns from another one gets the model of that kind which comes before it in the list. What is finished
    is kept: the same call goes on after an interruption.

    With ``controls`` every model is also held against two samples that it must beat, an untrained copy of itself and
    training showers whose voxels are shuffled, and the table says where it does not.

    Args:
        presets: names of presets or YAML files.
        data: shower file to train on, or one for each preset, where models want their data prepared differently.
        reference: Geant4 showers that are not trained on, likewise.
        out: directory for everything that is made; each model has a folder with its report.
        floor: a second reference, likewise.
        executor: who works on the models, instead of ``jobs`` processes of this machine; it sees the same disk.
        say: where progress goes.
        options: see ``StudyModelsOptions``.
        settings: single options, instead of or beside ``options``.

    Returns:
        One table of all models, also written to ``table.md`` and ``table.html``.

    Raises:
        UsageError: if a preset occurs twice, or needs another model that is not there; if there are neither one file nor one
            for each preset.
    """
    asked_for = StudyModelsOptions.merged(options, settings)
    # The same whatever else runs beside it, or models would depend on the number of processes.
    asked_for = replace(asked_for, threads=asked_for.threads or 1)
    check_choice(asked_for.jobs, asked_for.cluster)
    chosen = [load_preset(name) for name in presets]
    names = [Path(name).stem for name in presets]
    if len(set(names)) < len(names):
        raise UsageError("a preset is named twice, expected different ones")

    sources = zip(
        _of_each(data, len(names), "data"), _of_each(reference, len(names), "reference"),
        [None] * len(names) if floor is None else _of_each(floor, len(names), "floor"), strict=True,
    )  # fmt: skip
    rows, references, floors = (list(files) for files in zip(*(files_of_study(*each) for each in sources), strict=True))
    seed = asked_for.seed
    todo: list[_Job] = []
    for place, (name, preset) in enumerate(zip(names, chosen, strict=True)):
        inputs = _inputs(preset, dict(zip(names[:place], chosen[:place], strict=True)), out)
        todo.append(_Job(name, preset, out / name, rows[place], references[place], floors[place], inputs, asked_for))
    # Trainings differ in length, and two of them in one folder would spoil it: nothing that takes long is done again.
    with open_executor(executor, asked_for.jobs, asked_for.cluster, rules=Rules(patience=math.inf)) as who:
        if who is None:
            for position, job in enumerate(todo):
                _work(replace(job, judged=tuple(other.folder / "report" for other in todo[:position])), say)
        else:
            _work_elsewhere([_from_anywhere(job) for job in todo], who, say)
        together = 1 if who is None else who.jobs
    reports = [_timed(job, load_report(job.folder / "report"), say) for job in todo]
    judged = [job.folder / "report" for job in todo]

    def untrained(job: _Job) -> EvaluationResult:
        say(f"{job.name}: an untrained copy")
        folder = job.folder / "untrained"
        untrained_copy(job.folder / "model", folder / "model", seed=seed)
        copy = replace(job, folder=folder, how=replace(asked_for, retrainings=1, timing=False), judged=tuple(judged))
        _sample(copy)
        judged.append(folder / "report")
        return _judge(copy, folder / "generated.h5", folder / "model")

    table = compare_reports(reports, names)
    if asked_for.timing and together > 1:
        table.notes.append(f"Speeds were measured while up to {together} models were being worked on.")
    if asked_for.controls:
        say("shuffled voxels: evaluating")
        # Of several files the first ones: models of voxels share their data.
        with open_showers(references[0]) as source:
            count = len(source)
        shuffle_voxels(rows[0], out / "shuffled" / "showers.h5", showers=count, seed=seed)
        first = replace(
            todo[0], folder=out / "shuffled", how=replace(asked_for, retrainings=1, timing=False), judged=tuple(judged)
        )
        shuffled = _judge(first, out / "shuffled" / "showers.h5", None)
        judged.append(out / "shuffled" / "report")
        for job, ours in zip(todo, reports, strict=True):
            name = job.name
            compared = [("shuffled voxels", shuffled)]
            if not any(isinstance(stage, GradientStage) for stage in _stages(out / name / "model")):
                table.notes.append(f"{name}: nothing is trained by gradients, so there is no untrained copy.")
            else:
                compared.append(("an untrained copy", untrained(job)))
            table.notes.append(f"{name}: {layer_verdict(ours)}.")
            for word, control in compared:
                table.notes.append(f"{name} against {word}: {contest(ours, control).sentence()}.")
    replace_file(out / "table.md", table.to_markdown())
    replace_file(out / "table.html", table.to_page())
    return table


@dataclass(frozen=True)
class _Job:
    """One model: what it is, where it lies, and what it is trained on and judged by."""

    name: str
    preset: Preset
    folder: Path
    data: str | Path
    reference: str | Path
    floor: str | Path | None
    inputs: dict[str, Path]
    how: StudyModelsOptions
    judged: tuple[Path, ...] = ()


def _from_anywhere(job: _Job) -> _Job:
    """A job whose files are named as workers in other folders name them."""
    floor = None if job.floor is None else from_anywhere(job.floor)
    inputs = {name: path.absolute() for name, path in job.inputs.items()}
    data, reference = from_anywhere(job.data), from_anywhere(job.reference)
    return replace(job, folder=job.folder.absolute(), data=data, reference=reference, floor=floor, inputs=inputs)


def _work(job: _Job, say: Say) -> None:
    """Train one model, generate with it, and evaluate; what is finished is left as it is."""
    how = job.how
    say(f"{job.name}: training")
    train(
        job.preset, job.data, job.folder / "model", inputs=job.inputs, seed=how.seed, threads=how.threads, device=how.device,
        resume=True, command="caloforge study models",
    )  # fmt: skip
    say(f"{job.name}: generating")
    _sample(job)
    say(f"{job.name}: evaluating")
    _judge(job, job.folder / "generated.h5", job.folder / "model")


def _work_elsewhere(todo: Sequence[_Job], executor: Executor, say: Say) -> None:
    """Hand the models out, those first that others learn from."""
    finished: list[Path] = []
    left = list(todo)
    try:
        while left:
            made = {path.parent for path in finished}
            ready = [job for job in left if all(path.parent in made for path in job.inputs.values())]
            tasks = [replace(job, judged=tuple(finished)) for job in ready]
            say(f"{', '.join(job.name for job in tasks)}: training, generating and evaluating")
            with closing(executor.run(_prepare, None, tasks)) as answers:
                for job, _ in answers:
                    say(f"{job.name}: finished")
            finished += [job.folder / "report" for job in ready]
            left = [job for job in left if job not in ready]
    except WorkerDiedError as error:
        raise TrainingError(f"{error}; what is finished is kept") from None


def _prepare(settings: None) -> Callable[[_Job], None]:
    """See ``caloforge.executor``; results are on the disk."""
    return lambda job: _work(job, lambda text: None)


def _sample(job: _Job) -> None:
    model, how = job.folder / "model", job.how
    asked = conditions_of_file(job.reference, particle=read_record(model).valid.particle)
    generate(
        model, asked, job.folder / "generated.h5", seed=how.seed, threads=how.threads, device=how.device, resume=True,
        command="caloforge study models",
    )  # fmt: skip


def _judge(job: _Job, made: Path, model: Path | None) -> EvaluationResult:
    how = job.how
    return kept_report(
        job.folder / "report",
        lambda: prepare_evaluation(
            made, job.reference, floor=job.floor, model=None if model is None else str(model), suite=how.suite,
            only=how.only, seed=how.seed, retrainings=how.retrainings, threads=how.threads, device=how.device,
            timing=how.timing,
        ),
        asked={
            "suite": how.suite, "only": how.only, "seed": how.seed, "retrainings": how.retrainings,
            "floor": str(job.floor or ""),
        },
        before=lambda keep: _share_floor(job.judged, keep),
    )  # fmt: skip


def _timed(job: _Job, report: EvaluationResult, say: Say) -> EvaluationResult:
    """The report with speed and size of the model, where they are wanted and an earlier call left them out."""
    if not job.how.timing or report.timing is not None:
        return report
    say(f"{job.name}: measuring the speed")
    with open_showers(job.reference) as source:
        reference = source.read(0, min(len(source), max(BATCHES)))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(job.how.threads or 1)
        timing = measure_timing(load_model(job.folder / "model"), reference, seed=job.how.seed)
    finally:
        torch.set_num_threads(threads)
    timed = report.model_copy(update={"timing": timing})
    write_report(timed, job.folder / "report")
    return timed


def _stages(directory: Path) -> list[Stage]:
    """The stages of a trained model."""
    return load_model(directory).training_stages(TrainingConfig())


def _of_each(files: Files, count: int, what: str) -> list[str | Path]:
    """One file for each model."""
    given = [files] if isinstance(files, str | Path) else list(files)
    if len(given) not in (1, count):
        raise UsageError(
            f"{len(given)} files were given for {argument(what)}, expected one, or one for each of the {count} presets"
        )
    return given * count if len(given) == 1 else given


def _share_floor(reports: Sequence[Path], keep: Path) -> None:
    """Copy the kept retrainings of finished reports on the floor, which is the same for all models.

    Each of them says which showers and settings it belongs to, so none is used wrongly.
    """
    for report in reports:
        floor = report / "retrainings" / "floor"
        if floor.is_dir():
            shutil.copytree(floor, keep / "floor", dirs_exist_ok=True)


def _inputs(preset: Preset, before: dict[str, Preset], out: Path) -> dict[str, Path]:
    """The models that a preset learns from, among those that were trained before it."""
    found: dict[str, Path] = {}
    for word in model_class(preset.kind).inputs:
        kind = preset.kind.removesuffix("-student")
        teachers = [name for name, other in before.items() if other.kind == kind]
        if not teachers:
            raise UsageError(
                f"a '{preset.kind}' learns from a '{kind}' ({word}), and no preset of that kind stands before it"
            )
        found[word] = out / teachers[-1] / "model"
    return found
