"""How fidelity grows with training showers, and how much of what is missing a classifier sees with more showers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caloforge.atomic import replace_file
from caloforge.errors import UsageError
from caloforge.evaluation import EvaluationResult, Scores
from caloforge.evaluation.files import prepare_evaluation
from caloforge.generation import conditions_of_file, generate
from caloforge.models import load_preset, model_class
from caloforge.options import StudyLearningOptions
from caloforge.showers import open_showers
from caloforge.studies.extrapolation import Extrapolated, extrapolated, together
from caloforge.studies.learning_curves import Curve, Point
from caloforge.studies.learning_figure import draw_learning
from caloforge.studies.reports import kept_report
from caloforge.training import train
from caloforge.training.data import FirstShowers

__all__ = ["LearningResult", "study_learning"]

Say = Callable[[str], None]

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
        say: where progress goes.
        options: see ``StudyLearningOptions``.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if there are not so many showers, a preset is named twice, makes points or needs a teacher; nothing is
            trained then.
        CaloForgeError: whatever training, generation or evaluation has to say.
    """
    asked_for = StudyLearningOptions.merged(options, settings)
    only, overrides, retrainings = asked_for.only, asked_for.overrides, asked_for.retrainings
    seed, threads, device = asked_for.seed, asked_for.threads, asked_for.device
    names = _checked(presets, overrides)
    if not set(only) <= set(MEASURES):
        raise UsageError(f"measures are {', '.join(only)}, expected some of {', '.join(MEASURES)}")
    with open_showers(data) as source:
        training = _sizes(
            asked_for.training, len(source), [len(source) >> k for k in range(4, -1, -1)], "training showers"
        )
        particle = source.particle
    with open_showers(reference) as source:
        count = len(source)
        classifier = _sizes(asked_for.classifier, count - 1, [count >> k for k in (3, 2, 1)], "showers for classifiers")
    asked = conditions_of_file(reference, particle=particle or None)

    def evaluated(sample: Path, model: Path, folder: Path, most: int | None) -> EvaluationResult:
        return kept_report(
            folder,
            lambda: prepare_evaluation(
                sample, reference, floor=floor, model=str(model), suite="calogan", only=only or MEASURES, seed=seed,
                retrainings=retrainings, max_showers=most, device=device, timing=False,
            ),
        )  # fmt: skip

    curves = []
    for name, preset in zip(names, presets, strict=True):
        points = []
        for size in training:
            folder = out / name / f"{size}"
            say(f"{name}, {size:,} training showers")
            with open_showers(data) as source:
                trained = train(
                    preset, FirstShowers(source, size), folder / "model", overrides=overrides, seed=seed, threads=threads,
                    device=device, resume=True, command="caloforge study learning",
                )  # fmt: skip
            generate(
                folder / "model", asked, folder / "generated.h5", seed=seed, threads=threads, device=device, resume=True,
                command="caloforge study learning",
            )  # fmt: skip
            result = evaluated(folder / "generated.h5", folder / "model", folder / "report", None)
            points.append(_point(size, result, sum(stage.seconds for stage in trained.stages)))
        seen = []
        for size in classifier:
            say(f"{name}, {size:,} showers of each kind for the classifiers")
            folder = out / name / f"{training[-1]}"
            result = evaluated(folder / "generated.h5", folder / "model", folder / f"report-{size}", size)
            seen.append(_point(size, result))
        seen.append(Point(count, points[-1].scores, points[-1].floor))
        curves.append(Curve(name, tuple(points), tuple(seen), _beyond(points, seen)))
    published = _PUBLISHED.get(particle, {})
    files = (out / "result.json", out / "learning.png")
    replace_file(files[0], json.dumps({"study": "learning", "curves": [asdict(c) for c in curves]}, indent=2) + "\n")
    draw_learning(curves, QUANTITIES, published, _AT, files[1])
    return LearningResult(tuple(curves), published, files)


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
