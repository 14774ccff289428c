"""How fidelity grows with training showers, and how much of what is missing a classifier sees with more showers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caloforge.atomic import replace_file
from caloforge.errors import UsageError
from caloforge.evaluation import EvaluationResult, Scores
from caloforge.evaluation.files import prepare_evaluation
from caloforge.executor import Executor
from caloforge.generation import conditions_of_file, generate
from caloforge.models import load_preset, model_class
from caloforge.options import StudyLearningOptions
from caloforge.showers import open_showers
from caloforge.studies.extrapolation import Extrapolated, extrapolated, together
from caloforge.studies.learning_curves import Curve, Point
from caloforge.studies.learning_figure import draw_learning
from caloforge.studies.reports import kept_report
from caloforge.studies.together import Say, files_of_study, worked
from caloforge.training import train
from caloforge.training.data import FirstShowers

__all__ = ["LearningResult", "study_learning"]

#: What is measured, by the key in results.
QUANTITIES = {
    "boosted": "AUC, boosted trees",
    "caloflow-dnn-unnormalised": "AUC, CaloFlow's DNN",
    "caloflow-dnn-normalised": "AUC, CaloFlow's DNN, layer-normalised",
    "fpd": "FPD",
    "separation": "mean separation power",
}
MEASURES = ("boosted", "caloflow-dnn-unnormalised", "caloflow-dnn-normalised", "fpd", "caloflow-observables")
#: AUCs of CaloFlow, mean and standard deviation of ten trainings on 100,000 + 100,000 showers (arXiv:2106.05285, table 3).
_PUBLISHED: dict[int, dict[str, tuple[float, float]]] = {
    22: {"caloflow-dnn-unnormalised": (0.660, 0.006), "caloflow-dnn-normalised": (0.794, 0.006)}
}
_AT = 100_000


@dataclass(frozen=True)
class LearningResult:
    """Outcome of the study.

    Attributes:
        curves: one for each preset.
        published: AUC and spread by quantity, for the particle of the showers; empty where nothing is published.
        files: what was written.
    """

    curves: tuple[Curve, ...]
    published: Mapping[str, tuple[float, float]]
    files: tuple[Path, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Titles and rows for people."""
        keys = [key for key in QUANTITIES if any(key in curve.training[0].scores for curve in self.curves)]
        rows = []
        for curve in self.curves:
            for axis, points in (("training", curve.training), ("evaluation", curve.classifier)):
                rows += [
                    [
                        curve.preset,
                        f"{point.showers:,} {axis}",
                        *(_cell(point.scores.get(key), point.floor.get(key)) for key in keys),
                    ]
                    for point in points
                ]
            if curve.beyond:
                found = {key: f"{cell.value:.3f} ± {cell.error:.3f}" for key, cell in curve.beyond.items()}
                rows.append([curve.preset, f"{_AT:,} of both (extrapolated)", *(found.get(key, "") for key in keys)])
        if self.published:
            found = {key: f"{value:.3f} ± {spread:.3f}" for key, (value, spread) in self.published.items()}
            rows.append(["published", f"{_AT:,} of both", *(found.get(key, "") for key in keys)])
        return ["preset", "showers", *(f"{QUANTITIES[key]} (floor)" for key in keys)], rows


def _cell(score: tuple[float, float] | None, floor: tuple[float, float] | None) -> str:
    if score is None:
        return ""
    text = f"{score[0]:.3g} ± {score[1]:.1g}"
    return text if floor is None else f"{text} ({floor[0]:.3g})"


def study_learning(
    presets: Sequence[str],
    data: str | Path,
    reference: str | Path,
    out: Path,
    *,
    floor: str | Path | None = None,
    options: StudyLearningOptions | None = None,
    executor: Executor | None = None,
    say: Say = print,
    **settings: Any,
) -> LearningResult:
    """Train each preset on the first showers of a file, more and more of them, and evaluate each with all test showers.

    The model with the most training showers is then evaluated with fewer showers of each kind, which shows what a classifier
    with few showers misses. Every report is kept: the same call goes on after an interruption.

    Args:
        presets: names of presets or YAML files, of models of voxels that need no teacher.
        data: shower file to train on.
        reference: Geant4 showers that are not trained on; the generated ones have their energies.
        out: directory for everything that is made.
        floor: a second reference.
        options: see ``StudyLearningOptions``.
        executor: who trains and evaluates, instead of ``jobs`` processes of this machine; it sees the same files.
        say: where progress goes.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if there are not so many showers, a preset is named twice, makes points or needs a teacher; nothing is
            trained then.
        TrainingError: if one of several processes dies; what is finished is kept.
        CaloForgeError: whatever training, generation or evaluation has to say.
    """
    asked_for = StudyLearningOptions.merged(options, settings)
    data, reference, floor = files_of_study(data, reference, floor)
    names = _checked(presets, asked_for.overrides)
    if not set(asked_for.only) <= set(MEASURES):
        raise UsageError(f"measures are {', '.join(asked_for.only)}, expected some of {', '.join(MEASURES)}")
    with open_showers(data) as source:
        training = _sizes(
            asked_for.training, len(source), [len(source) >> k for k in range(4, -1, -1)], "training showers"
        )
        particle = source.particle
    with open_showers(reference) as source:
        count = len(source)
        classifier = _sizes(asked_for.classifier, count - 1, [count >> k for k in (3, 2, 1)], "showers for classifiers")
    conditions_of_file(reference, particle=particle or None)
    trainings = [
        _Training(name, preset, size, out / name / f"{size}", data, reference, floor, asked_for)
        for name, preset in zip(names, presets, strict=True)
        for size in training
    ]
    evaluations = [(job, size) for job in trainings if job.size == training[-1] for size in classifier]
    who: dict[str, Any] = {"jobs": asked_for.jobs, "say": say, "executor": executor}
    trained = worked(_train, trainings, name=_Training.title, **who)
    judged = worked(_judge_few, evaluations, name=_few_title, **who)
    curves = []
    for name in names:
        points = [point for job, point in zip(trainings, trained, strict=True) if job.name == name]
        seen = [point for (job, _), point in zip(evaluations, judged, strict=True) if job.name == name]
        seen.append(Point(count, points[-1].scores, points[-1].floor))
        curves.append(Curve(name, tuple(points), tuple(seen), _beyond(points, seen)))
    published = _PUBLISHED.get(particle, {})
    files = (out / "result.json", out / "learning.png")
    replace_file(files[0], json.dumps({"study": "learning", "curves": [asdict(c) for c in curves]}, indent=2) + "\n")
    draw_learning(curves, QUANTITIES, published, _AT, files[1])
    return LearningResult(tuple(curves), published, files)


@dataclass(frozen=True)
class _Training:
    """One training; arguments as for :func:`study_learning`."""

    name: str
    preset: str
    size: int
    folder: Path
    data: str | Path
    reference: str | Path
    floor: str | Path | None
    how: StudyLearningOptions

    def title(self) -> str:
        """What people call it."""
        return f"{self.name}, {self.size:,} training showers"

    def evaluated(self, folder: Path, most: int | None) -> EvaluationResult:
        """The report in a folder, with at most so many showers of each kind."""
        how, model = self.how, self.folder / "model"
        return kept_report(
            folder,
            lambda: prepare_evaluation(
                self.folder / "generated.h5", self.reference, floor=self.floor, model=str(model), suite="calogan",
                only=how.only or MEASURES, seed=how.seed, retrainings=how.retrainings, max_showers=most,
                threads=how.threads or 1, device=how.device, timing=False,
            ),
            asked={
                "only": how.only, "seed": how.seed, "retrainings": how.retrainings, "floor": str(self.floor or ""),
            },
        )  # fmt: skip


def _train(job: _Training, say: Say) -> Point:
    """Train, generate and evaluate with all test showers; what is finished is left as it is."""
    how, command = job.how, "caloforge study learning"
    threads = how.threads or 1
    say(job.title())
    with open_showers(job.data) as source:
        particle = source.particle
        trained = train(
            job.preset, FirstShowers(source, job.size), job.folder / "model", overrides=how.overrides, seed=how.seed,
            threads=threads, device=how.device, resume=True, command=command,
        )  # fmt: skip
    generate(
        job.folder / "model", conditions_of_file(job.reference, particle=particle or None), job.folder / "generated.h5",
        seed=how.seed, threads=threads, device=how.device, resume=True, command=command,
    )  # fmt: skip
    result = job.evaluated(job.folder / "report", None)
    return _point(job.size, result, sum(stage.seconds for stage in trained.stages))


def _few_title(asked: tuple[_Training, int]) -> str:
    return f"{asked[0].name}, {asked[1]:,} showers of each kind for the classifiers"


def _judge_few(asked: tuple[_Training, int], say: Say) -> Point:
    """Evaluate what a training made with fewer showers."""
    job, size = asked
    say(_few_title(asked))
    return _point(size, job.evaluated(job.folder / f"report-{size}", size))


def _checked(presets: Sequence[str], overrides: Sequence[str]) -> list[str]:
    names = [Path(name).stem for name in presets]
    if not names or len(set(names)) < len(names):
        raise UsageError("a preset is named twice, expected different ones" if names else "no preset was named")
    for preset in presets:
        kind = model_class(load_preset(preset, overrides).kind)
        if kind.inputs:
            raise UsageError(
                f"the study 'learning' trains on showers alone, and a '{kind.kind}' learns from another model"
            )
        if kind.shower_kind == "points":
            raise UsageError(f"the study 'learning' compares showers on voxels, and a '{kind.kind}' makes points")
    return names


def _sizes(wanted: Sequence[int], most: int, default: Sequence[int], what: str) -> list[int]:
    sizes = list(wanted or default)
    if sizes != sorted(set(sizes)) or sizes[0] < 100 or sizes[-1] > most:
        raise UsageError(f"numbers of {what} are {sizes}, expected rising ones from 100 to {most:,}")
    return sizes


def _point(showers: int, result: EvaluationResult, seconds: float = 0.0) -> Point:
    floor = {} if result.floor is None else _numbers(result.floor)
    return Point(showers, _numbers(result.generated), floor, seconds)


def _numbers(scores: Scores) -> dict[str, tuple[float, float]]:
    found = {}
    for key, item in scores.classifiers.items():
        if key in QUANTITIES:
            error = item.auc.error if item.auc.error is not None else max(item.auc.std, item.statistical_error)
            found[key] = (item.auc.mean, error)
    if scores.fpd is not None:
        found["fpd"] = (scores.fpd.value, scores.fpd.error)
    powers = [item.separation for item in scores.observables]
    if powers:
        # Observables of the same showers are not independent: the error of the mean is that of one of them.
        value, error = (sum(getattr(power, word) for power in powers) / len(powers) for word in ("value", "error"))
        found["separation"] = value, error
    return found


def _beyond(training: Sequence[Point], classifier: Sequence[Point]) -> dict[str, Extrapolated]:
    """AUCs for 100,000 showers of both kinds; of quantities that at least three points of both curves have."""
    found = {}
    for key in QUANTITIES:
        if not key.startswith(("boosted", "caloflow")):
            continue
        sides = [[(p.showers, *p.scores[key]) for p in points if key in p.scores] for points in (training, classifier)]
        if min(map(len, sides)) < 3:
            continue
        by_training, by_classifier = (extrapolated(side, _AT) for side in sides)
        found[key] = together(by_training, by_classifier, training[-1].scores[key])
    return found
