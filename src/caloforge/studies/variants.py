"""The same model trained in several ways, each several times: losses, average images and distributions side by side."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from caloforge.atomic import replace_file
from caloforge.detectors import detector_from_toml
from caloforge.errors import UsageError
from caloforge.evaluation import EvaluationResult
from caloforge.evaluation.files import prepare_evaluation
from caloforge.executor import Executor
from caloforge.generation import conditions_of_file, generate
from caloforge.models import load_preset, model_class
from caloforge.options import StudyVariantsOptions
from caloforge.showers import Reader, open_showers
from caloforge.stage import GradientStage
from caloforge.studies.figures import draw_variants
from caloforge.studies.together import Say, files_of_study, worked
from caloforge.training import train
from caloforge.training.data import FirstShowers
from caloforge.training.metrics import read_metrics

__all__ = ["STUDIES", "Study", "StudyResult", "Variant", "VariantScores", "check_study", "image_deviation", "run_study"]


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        name: short name, also of its directory.
        title: what to call it in figures.
        overrides: changes to the preset.
    """

    name: str
    title: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A question about training.

    Attributes:
        name: short name.
        question: the question.
        variants: the ways to train that answer it.
        rows: number of training showers, if it matters; None takes all.
        preset: what is trained if nothing else is named.
        about: what the variants differ in, the ``preprocessing`` of the model or the ``augmentation`` of the data; they are
            not trained if they do not. None looks for no difference.
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    rows: int | None = None
    about: Literal["preprocessing", "augmentation"] | None = None
    preset: str = "caloflow-small"


STUDIES = {
    study.name: study
    for study in (
        Study(
            "noise",
            "What does noise regularisation buy? (arXiv:2106.05285, figure 4)",
            (
                Variant("with-noise", "with noise", ()),
                Variant("without-noise", "without noise", ("model.noise=0.0", "model.energy_noise=0.0")),
            ),
            about="preprocessing",
        ),
        Study(
            "symmetries",
            "What do the detector's exact symmetries buy as augmentation, on few showers?",
            (
                Variant("augmented", "augmented", ("training.augmentation=exact",)),
                Variant("plain", "not augmented", ("training.augmentation=none",)),
            ),
            rows=1000,
            about="augmentation",
            preset="caloflow-tiny",
        ),
    )
}


@dataclass(frozen=True)
class VariantScores:
    """What one variant scored, one value for each repetition.

    Attributes:
        name: of the variant.
        title: of the variant.
        stage: the stage of most parameters, whose losses are shown.
        validation_loss: its best validation loss, nats; comparable only at equal noise.
        training_seconds: time of training, all stages.
        separation: separation power by observable.
        floor: of Geant4 against Geant4, by observable; empty without a floor.
        image_deviation: root mean square deviation of the average image from Geant4's by layer, as a share of the layer's
            mean voxel energy.
        auc: mean AUC of the classifier that was asked for; empty without one.
    """

    name: str
    title: str
    stage: str
    validation_loss: list[float]
    training_seconds: list[float]
    separation: dict[str, list[float]]
    floor: dict[str, float]
    image_deviation: list[list[float]]
    auc: list[float]


@dataclass(frozen=True)
class StudyResult:
    """The outcome of a study.

    Attributes:
        study: its name.
        scores: one entry for each variant.
        files: what was written.
    """

    study: str
    scores: list[VariantScores]
    files: list[Path]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Titles and rows: what was measured, and mean and spread for each variant."""
        first = self.scores[0]
        rows = [
            [
                f"best validation loss of stage '{first.stage}' [nats]",
                *(_mean(s.validation_loss, 2) for s in self.scores),
            ],
            ["training [s]", *(_mean(s.training_seconds, 0) for s in self.scores)],
        ]
        for key, floor in _worst(self.scores):
            text = f" (floor {floor:.2g})" if floor is not None else ""
            rows.append([f"separation of {key}{text}", *(_mean(s.separation[key], 4) for s in self.scores)])
        for layer in range(len(first.image_deviation[0])):
            values = [[run[layer] for run in s.image_deviation] for s in self.scores]
            rows.append([f"rms deviation of the average image, layer {layer}", *(_mean(v, 3) for v in values)])
        if first.auc:
            rows.append(["AUC of the classifier", *(_mean(s.auc, 3) for s in self.scores)])
        return ["", *(s.title for s in self.scores)], rows


def run_study(
    study: Study,
    data: str | Path,
    reference: str | Path,
    out: Path,
    *,
    floor: str | Path | None = None,
    options: StudyVariantsOptions | None = None,
    executor: Executor | None = None,
    say: Say = print,
    **settings: Any,
) -> StudyResult:
    """Train every variant, generate as many showers as the reference holds, and compare.

    What is finished is kept: the same call goes on after an interruption.

    Args:
        study: an entry of ``STUDIES``, or another one.
        data: shower file to train on.
        reference: Geant4 showers that are not trained on; the generated ones have their energies.
        out: directory for everything that is made.
        floor: a second reference.
        options: see ``StudyVariantsOptions``.
        executor: who trains and evaluates, instead of ``jobs`` processes of this machine; it sees the same files.
        say: where progress goes.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if the data do not suffice, or the preset is not one that the study can vary; nothing is trained then.
        TrainingError: if one of several processes dies; what is finished is kept.
        CaloForgeError: whatever training, generation or evaluation has to say.
    """
    asked_for = StudyVariantsOptions.merged(options, settings)
    data, reference, floor = files_of_study(data, reference, floor)
    preset = asked_for.preset or study.preset
    main = check_study(study, data, preset, asked_for.overrides)
    with open_showers(data) as reader:
        conditions_of_file(reference, showers=asked_for.showers, particle=reader.particle or None)
    if floor is not None:
        with open_showers(floor):
            pass
    jobs = [
        _Job(study, variant, seed, out / f"{variant.name}-{seed}", data, reference, floor, preset, asked_for)
        for variant in study.variants
        for seed in range(asked_for.seed, asked_for.seed + asked_for.repetitions)
    ]
    done = worked(_work, jobs, jobs=asked_for.jobs, name=_Job.title, say=say, executor=executor)
    scores: list[VariantScores] = []
    drawn: list[tuple[str, list[dict[str, Any]], EvaluationResult]] = []
    for variant in study.variants:
        own = [(job, *found) for job, found in zip(jobs, done, strict=True) if job.variant is variant]
        histories = [
            [row for row in read_metrics(job.folder / "model" / "metrics.jsonl") if row["stage"] == main]
            for job, _, _ in own
        ]
        losses = [min(row["validation"]["loss"] for row in history) for history in histories]
        results = [result for _, _, result in own]
        scores.append(_scores(variant, main, losses, [seconds for _, seconds, _ in own], results))
        drawn.append((variant.title, histories[0], results[0]))
    files = [out / "result.json", out / f"{study.name}.png"]
    replace_file(files[0], json.dumps({"study": study.name, "scores": [asdict(s) for s in scores]}, indent=2) + "\n")
    draw_variants(drawn, main, files[1])
    return StudyResult(study.name, scores, files)


@dataclass(frozen=True)
class _Job:
    """One training and its evaluation; arguments as for :func:`run_study`."""

    study: Study
    variant: Variant
    seed: int
    folder: Path
    data: str | Path
    reference: str | Path
    floor: str | Path | None
    preset: str
    how: StudyVariantsOptions

    def title(self) -> str:
        """What people call it."""
        return f"{self.variant.title}, seed {self.seed}"


def _work(job: _Job, say: Say) -> tuple[float, EvaluationResult]:
    """Train, generate and evaluate; seconds of the training, and the result. What is finished is left as it is."""
    how, command = job.how, f"caloforge study {job.study.name}"
    threads = how.threads or 1
    say(f"{job.title()}: {job.folder}")
    with open_showers(job.data) as source:
        particle = source.particle
        trained = train(
            job.preset, FirstShowers(source, how.rows or job.study.rows), job.folder / "model",
            overrides=(*how.overrides, *job.variant.overrides), seed=job.seed, threads=threads, device=how.device,
            resume=True, command=command,
        )  # fmt: skip
    asked = conditions_of_file(job.reference, showers=how.showers, particle=particle or None)
    sample = job.folder / "generated.h5"
    generate(
        job.folder / "model", asked, sample, seed=job.seed, threads=threads, device=how.device, resume=True, command=command,
    )  # fmt: skip
    only = ("caloflow-observables", "images", *((how.classifier,) if how.classifier else ()))
    evaluation = prepare_evaluation(
        sample, job.reference, floor=job.floor, model=str(job.folder / "model"), suite="calogan", only=only, retrainings=1,
        max_showers=how.showers, threads=threads, device=how.device,
    )  # fmt: skip
    return sum(stage.seconds for stage in trained.stages), evaluation.run(keep=job.folder / "evaluation")


def check_study(study: Study, data: str | Path, preset: str, overrides: Sequence[str] = ()) -> str:
    """Look whether a study can be done with a preset at all, before anything is trained.

    Args:
        study: the study.
        data: shower file to train on.
        preset: what to train.
        overrides: changes to it that all variants share.

    Returns:
        Name of the stage whose losses are shown, the one of most parameters.

    Raises:
        UsageError: if the model learns from another one, makes points, or has no stage with a loss; if the variants are the
            same for it.
        ConfigError: if the preset has not the settings that the variants change.
    """
    kind = model_class(load_preset(preset, overrides).kind)
    if kind.inputs:
        raise UsageError(
            f"the study '{study.name}' trains models on showers alone, and a '{kind.kind}' learns from another"
        )
    if kind.shower_kind == "points":
        raise UsageError(f"the study '{study.name}' compares showers on voxels, and a '{kind.kind}' makes points")
    seen: list[Any] = []
    with open_showers(data) as source:
        if source.detector is None:
            raise UsageError(f"{data}: does not say which detector it belongs to, and a study needs to know")
        symmetries = len(source.detector.symmetry_group()) > 1 and _straight(source)
        for variant in study.variants:
            chosen = load_preset(preset, (*overrides, *variant.overrides))
            model = chosen.build(source.detector)
            stages = [stage for stage in model.training_stages(chosen.training) if isinstance(stage, GradientStage)]
            if not stages:
                raise UsageError(f"the study '{study.name}' compares losses, and no stage of a '{kind.kind}' has one")
            turned = [symmetries and stage.training.augmentation != "none" for stage in stages]
            seen.append(
                {"preprocessing": model.describe_representation(), "augmentation": turned, None: variant.name}[
                    study.about
                ]
            )
        if any(other == seen[0] for other in seen[1:]):
            raise UsageError(
                f"the study '{study.name}' has nothing to compare: all its variants have the same {study.about} for the "
                f"preset '{preset}' and showers of '{source.detector.name}'"
            )
    return max(stages, key=_size).name


def _straight(source: Reader) -> bool:
    """Whether the showers fly along the axis, as far as the first thousand tell."""
    direction = source.read(0, 1000).direction
    return direction is None or bool((direction[:, 2] > 1 - 1e-6).all())


def _size(stage: GradientStage) -> int:
    return sum(parameter.numel() for player in stage.players for parameter in player.parameters)


def _scores(
    variant: Variant, stage: str, losses: list[float], seconds: list[float], results: Sequence[EvaluationResult]
) -> VariantScores:
    separation: dict[str, list[float]] = {}
    floor: dict[str, float] = {}
    deviation: list[list[float]] = []
    auc: list[float] = []
    for result in results:
        for item in result.generated.observables:
            separation.setdefault(item.key, []).append(item.separation.value)
        for item in result.floor.observables if result.floor else ():
            floor[item.key] = item.separation.value
        deviation.append(image_deviation(result))
        auc += [score.auc.mean for score in result.generated.classifiers.values()]
    return VariantScores(variant.name, variant.title, stage, losses, seconds, separation, floor, deviation, auc)


def image_deviation(result: EvaluationResult) -> list[float]:
    """Root mean square deviation of the generated average image in each layer, over the layer's mean voxel energy."""
    images = result.generated.images
    assert images is not None  # the study asked for them
    readout = detector_from_toml(result.detector["toml"], where="report").readout
    sample, expected = np.asarray(images.generated), np.asarray(images.reference)
    cuts = np.cumsum(readout.layer_sizes)[:-1]
    return [
        float(np.sqrt(((a - b) ** 2).mean()) / b.mean())
        for a, b in zip(np.split(sample, cuts), np.split(expected, cuts), strict=True)
    ]


def _worst(scores: Sequence[VariantScores], most: int = 8) -> list[tuple[str, float | None]]:
    """The observables that any variant gets most wrong, and their floors."""
    keys = scores[0].separation
    ranked = sorted(keys, key=lambda key: -max(statistics.fmean(s.separation[key]) for s in scores))
    return [(key, scores[0].floor.get(key)) for key in ranked[:most]]


def _mean(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
