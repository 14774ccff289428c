"""Many models on the same showers: trained, sampled, evaluated alike, and put into one table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from caloforge.atomic import replace_file
from caloforge.errors import UsageError
from caloforge.evaluation import EvaluationResult
from caloforge.evaluation.files import prepare_evaluation
from caloforge.generation import conditions_of_file, generate
from caloforge.models import load_model, load_preset, model_class, read_record
from caloforge.models.preset import Preset
from caloforge.report import Comparison, compare_reports
from caloforge.showers import open_showers
from caloforge.stage import GradientStage, Stage, TrainingConfig
from caloforge.studies.controls import contest, layer_verdict, shuffle_voxels, untrained_copy
from caloforge.studies.reports import kept_report
from caloforge.training import train

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
    suite: str = "quick",
    only: Sequence[str] = (),
    retrainings: int | None = None,
    timing: bool = True,
    controls: bool = False,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    say: Say = print,
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
        suite: suite of the evaluation.
        only: only these of its measures.
        retrainings: of every classifier; None takes the suite's.
        timing: also measure how fast the models are.
        controls: also compare with untrained copies and with shuffled voxels.
        seed: of everything.
        threads: CPU threads of training and generation.
        device: ``cpu`` or a CUDA device.
        say: where progress goes.

    Returns:
        One table of all models, also written to ``table.md`` and ``table.html``.

    Raises:
        UsageError: if a preset occurs twice, or needs another model that is not there; if there are neither one file nor one
            for each preset.
    """
    chosen = [load_preset(name) for name in presets]
    names = [Path(name).stem for name in presets]
    if len(set(names)) < len(names):
        raise UsageError("a preset is named twice, expected different ones")

    rows, references = _of_each(data, len(names), "data"), _of_each(reference, len(names), "reference")
    floors = [None] * len(names) if floor is None else _of_each(floor, len(names), "floor")
    judged: list[Path] = []

    def judge(
        made: Path, folder: Path, model: Path | None, times: int | None, *, timed: bool, place: int
    ) -> EvaluationResult:
        found = kept_report(
            folder,
            lambda: prepare_evaluation(
                made, references[place], floor=floors[place], model=None if model is None else str(model),
                suite=suite, only=only, seed=seed, retrainings=times, device=device, timing=timed,
            ),
            before=lambda keep: _share_floor(judged, keep),
        )  # fmt: skip
        judged.append(folder)
        return found

    def sample(model: Path, made: Path, place: int) -> None:
        asked = conditions_of_file(references[place], particle=read_record(model).valid.particle)
        generate(
            model, asked, made, seed=seed, threads=threads, device=device, resume=True,
            command="caloforge study models",
        )  # fmt: skip

    def untrained(name: str, place: int) -> EvaluationResult:
        say(f"{name}: an untrained copy")
        folder = out / name / "untrained"
        untrained_copy(out / name / "model", folder / "model", seed=seed)
        sample(folder / "model", folder / "generated.h5", place)
        return judge(folder / "generated.h5", folder / "report", folder / "model", 1, timed=False, place=place)

    reports: list[EvaluationResult] = []
    for place, (name, preset) in enumerate(zip(names, chosen, strict=True)):
        folder = out / name
        inputs = _inputs(preset, dict(zip(names[:place], chosen[:place], strict=True)), out)
        say(f"{name}: training")
        train(
            preset, rows[place], folder / "model", inputs=inputs, seed=seed, threads=threads, device=device, resume=True,
            command="caloforge study models",
        )  # fmt: skip
        say(f"{name}: generating")
        sample(folder / "model", folder / "generated.h5", place)
        say(f"{name}: evaluating")
        made, report = folder / "generated.h5", folder / "report"
        reports.append(judge(made, report, folder / "model", retrainings, timed=timing, place=place))
    table = compare_reports(reports, names)
    if controls:
        say("shuffled voxels: evaluating")
        # Of several files the first ones: models of voxels share their data.
        with open_showers(references[0]) as source:
            count = len(source)
        shuffle_voxels(rows[0], out / "shuffled" / "showers.h5", showers=count, seed=seed)
        shuffled = judge(out / "shuffled" / "showers.h5", out / "shuffled" / "report", None, 1, timed=False, place=0)
        for place, (name, ours) in enumerate(zip(names, reports, strict=True)):
            compared = [("shuffled voxels", shuffled)]
            if not any(isinstance(stage, GradientStage) for stage in _stages(out / name / "model")):
                table.notes.append(f"{name}: nothing is trained by gradients, so there is no untrained copy.")
            else:
                compared.append(("an untrained copy", untrained(name, place)))
            table.notes.append(f"{name}: {layer_verdict(ours)}.")
            for word, control in compared:
                table.notes.append(f"{name} against {word}: {contest(ours, control).sentence()}.")
    replace_file(out / "table.md", table.to_markdown())
    replace_file(out / "table.html", table.to_page())
    return table


def _stages(directory: Path) -> list[Stage]:
    """The stages of a trained model."""
    return load_model(directory).training_stages(TrainingConfig())


def _of_each(files: Files, count: int, what: str) -> list[str | Path]:
    """One file for each model."""
    given = [files] if isinstance(files, str | Path) else list(files)
    if len(given) not in (1, count):
        raise UsageError(
            f"{len(given)} files were given for --{what}, expected one, or one for each of the {count} presets"
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
