"""Tables of a report: what is shown is decided here once, for the page, for ``compare`` and for plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caloforge.evaluation.layers import largest_deviation
from caloforge.evaluation.results import ClassifierResult, EvaluationResult, ObservableResult, Scores, Spread, Value
from caloforge.report.cloud_tables import cloud_rows
from caloforge.report.histogram_figures import excess
from caloforge.report.published import PublishedNumber, PublishedTable

__all__ = [
    "FAINTEST",
    "Pair",
    "Row",
    "auc_pair",
    "far_showers",
    "number",
    "score_rows",
    "separation_means",
    "significance",
    "summary_rows",
    "summary_table",
    "verdict",
    "worst_observables",
]


#: A value and its error, if that is known.
Pair = tuple[float, float | None]
#: How the keys of numbers begin that measures of any unit give.
_MEASURED = "measured/"
#: An AUC that lies fewer statistical errors than this above what is possible is not called told apart.
FAINTEST = 3.0


@dataclass(frozen=True)
class Row:
    """One line of the summary.

    Attributes:
        key: name of the measure, as in the published tables.
        title: for people.
        best: what the best possible value is.
        ours: value and spread, or None if it was not measured.
        floor: likewise for the second reference.
        published: published models and their numbers, the best first.
        remark: difference in set-up, or another thing to know.
        spoiled: whether samples share showers, so that the value has no meaning.
        typical: value that a verdict is made from, if a few showers alone would decide otherwise.
    """

    key: str
    title: str
    best: str
    ours: Pair | None
    floor: Pair | None
    published: tuple[tuple[str, PublishedNumber], ...] = ()
    remark: str = ""
    typical: float | None = None
    spoiled: bool = False


def number(value: float, std: float | None = None) -> str:
    """A number with its spread, to the digits that the spread leaves meaningful."""
    if std is None:
        if 1e3 <= abs(value) < 1e6:
            return f"{value:,.0f}"
        return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.2e}"
    if std <= 0:  # published with three digits, none of which moved
        return f"{value:.3f} ± 0.000"
    digits = max(0, 1 - int(np.floor(np.log10(std))))
    if digits > 5:
        power = int(np.floor(np.log10(max(abs(value), std))))
        scale = 10.0**power
        shown = max(0, 1 - int(np.floor(np.log10(std / scale))))
        return f"({value / scale:.{shown}f} ± {std / scale:.{shown}f})e{power:+d}"
    return f"{value:.{digits}f} ± {std:.{digits}f}"


def _pair(item: Spread | Value | float | None) -> Pair | None:
    if item is None:
        return None
    if isinstance(item, Spread):
        return item.mean, item.error if item.error is not None else item.std if len(item.values) > 1 else None
    if isinstance(item, Value):
        return item.value, item.error
    return float(item), None


def auc_pair(result: ClassifierResult) -> tuple[float, float]:
    """A classifier's AUC and its statistical error, also from reports of versions that knew it of one retraining only."""
    error = result.auc.error
    return result.auc.mean, math.hypot(result.auc.std, result.statistical_error) if error is None else error


def separation_means(scores: Scores) -> dict[str, float]:
    """Mean separation power of each family of observables, inside the plotted ranges as published."""
    families: dict[str, list[float]] = {}
    for result in scores.observables:
        if result.key.startswith(("calochallenge/", "shower/voxel-energy")):
            families.setdefault(result.family, []).append(result.separation_in_range)
    return {family: float(np.mean(values)) for family, values in families.items() if family != "response-at"}


def score_rows(scores: Scores) -> dict[str, tuple[str, str, Pair | None]]:
    """Every single number of one set of scores: key -> title, best value, value with spread."""
    rows: dict[str, tuple[str, str, Pair | None]] = {}
    for name, result in scores.classifiers.items():
        rows[name] = (f"AUC, {result.title}", "0.5", auc_pair(result))
        rows[f"{name} jsd"] = (f"JSD, {result.title}", "0", _pair(result.jsd))
    if scores.log_posterior is not None:
        rows["log-posterior"] = ("log-posterior", "0", _pair(scores.log_posterior.on_reference["generated"]))
    rows["fpd"] = ("Fréchet physics distance", "0", _pair(scores.fpd))
    rows["kpd"] = ("kernel physics distance", "0", _pair(scores.kpd))
    if scores.prdc is not None:
        for name in ("precision", "recall", "density", "coverage"):
            rows[name] = (name, "floor", (getattr(scores.prdc, name), None))
    if scores.layers is not None:
        for name, what in (("energy", "mean energy"), ("lit", "number of lit cells")):
            worst = _pair(largest_deviation(scores.layers, getattr(scores.layers, name)))
            rows[f"layers {name}"] = (
                f"largest deviation of a layer's {what}, layers above 1 % of the energy",
                "0",
                worst,
            )
    if scores.correlations is not None:
        rows["correlations"] = (
            "largest difference of layer correlations", "0", _pair(scores.correlations.largest_difference)
        )  # fmt: skip
    for family, mean in separation_means(scores).items():
        rows[f"separation {family}"] = (f"separation power, {family.replace('-', ' ')} (mean)", "0", (mean, None))
    ours = [r for r in scores.observables if r.chi2_ndf is not None]
    if ours:
        rows["mean separation"] = (
            f"mean separation power of {len(ours)} observables", "0",
            (float(np.mean([r.separation.value for r in ours])), None),
        )  # fmt: skip
    if scores.voxels is not None:
        for name, title in (("never_lit", "never lit"), ("under_lit", "lit too rarely"), ("over_lit", "lit too often")):
            rows[f"voxels {name}"] = (f"voxels {title}", "0", (float(len(getattr(scores.voxels, name))), None))
    if scores.neighbours:
        matched = [g for g in scores.neighbours if g.reference_distance and g.matched_distance is not None]
        if matched:
            ratio = [g.matched_distance / g.reference_distance for g in matched]  # type: ignore[operator]
            rows["neighbours"] = ("distance to nearest neighbours / Geant4's own", "1", (float(np.median(ratio)), None))
    rows |= cloud_rows(scores)
    for name, numbers in scores.measured.items():
        for k, one in enumerate(numbers):
            key = f"{_MEASURED}{name}" if len(numbers) == 1 else f"{_MEASURED}{name} {k}"
            rows[key] = (one.title, one.best, (one.value, one.error))
    return {key: row for key, row in rows.items() if row[2] is not None}


def _published(tables: Sequence[PublishedTable], key: str) -> tuple[tuple[str, PublishedNumber], ...]:
    found = [(model.name, value) for table in tables for model, value in table.column(key)]
    if key in ("precision", "recall", "density", "coverage"):
        # No order: neither more nor less is better than the floor's value.
        return tuple(found)
    descending = key == "log-posterior"
    return tuple(sorted(found, key=lambda item: -item[1].value if descending else item[1].value))


def summary_rows(result: EvaluationResult, tables: Sequence[PublishedTable]) -> list[Row]:
    """The summary: every number beside its floor and the published ones.

    Args:
        result: of the evaluation.
        tables: published tables on the same detector and particle.
    """
    floor = {} if result.floor is None else score_rows(result.floor)
    rows = []
    for key, (title, best, value) in score_rows(result.generated).items():
        other = floor.get(key)
        rows.append(
            Row(
                key=key,
                title=title,
                best=best,
                ours=value,
                floor=None if other is None else other[2],
                published=_published(tables, key),
                remark=_remark(result, key),
                spoiled=result.spoiled,
                typical=None if key != "fpd" else _typical_fpd(result.generated),
            )
        )
    return rows


def summary_table(result: EvaluationResult) -> list[tuple[str, str, str, str]]:
    """The summary as texts: title, value, floor, best value."""

    def shown(pair: Pair | None) -> str:
        return "–" if pair is None else number(*pair)

    return [(row.title, shown(row.ours), shown(row.floor), row.best) for row in summary_rows(result, ())]


def _typical_fpd(scores: Scores) -> float | None:
    return None if scores.far_showers is None else scores.far_showers.fpd.value


def _remark(result: EvaluationResult, key: str) -> str:
    classifier = result.generated.classifiers.get(key.removesuffix(" jsd"))
    if classifier is not None:
        settings = classifier.settings
        if "folds" in settings:
            return (
                f"{settings['folds']} folds over {settings['showers of each class']} + {settings['showers of each class']} "
                f"showers, {settings['features']} features; ± is the statistical error"
            )
        patience = settings["patience"]
        stop = "" if patience == "none" else f", stopped after {patience} epochs without gain"
        return (
            f"{settings['retrainings']} trainings with {settings['training showers of each class']} + "
            f"{settings['training showers of each class']} showers, batch {settings['batch size']}, at most "
            f"{settings['epochs']} epochs{stop}; {_scatter(classifier, key)}"
        )
    if key in ("fpd", "kpd"):
        text = f"of {min(s.showers for s in result.samples.values())} showers"
        far = result.generated.far_showers
        if key == "kpd" or far is None:
            return text
        return f"{text}; {number(far.fpd.value, far.fpd.error)} without {far_showers(far.showers)}"
    if key in ("precision", "recall", "density", "coverage"):
        return "compare with the floor; more density is not better"
    return ""


def _scatter(classifier: ClassifierResult, key: str) -> str:
    score = classifier.jsd if key.endswith(" jsd") else classifier.auc
    if len(score.values) < 2:
        return "± is the statistical error"
    return f"± is the statistical error, the trainings scatter by {number(score.std)}"


def far_showers(showers: int) -> str:
    """A number of generated showers far outside the reference's range, in words."""
    return f"{showers} generated shower{'' if showers == 1 else 's'} far outside the reference's range"


def significance(value: Pair, floor: Pair | None) -> float:
    """How many statistical errors an AUC lies above what a perfect generator gets; the smaller of two numbers.

    They are the distances from 0.5 and, where there is one, from the floor. Below 0.5 nothing was told apart.
    """
    mean, error = value[0], value[1] or 0.0
    found = _in_errors(mean - 0.5, error)
    if floor is not None:
        found = min(found, _in_errors(mean - floor[0], math.hypot(error, floor[1] or 0.0)))
    return found


def _in_errors(distance: float, error: float) -> float:
    if distance <= 0:
        return min(0.0, distance / error) if error else 0.0
    return distance / error if error else math.inf


def verdict(row: Row) -> str:
    """How far a score is from what is possible: ``good``, ``open``, ``near`` or ``far``; empty if nobody can say.

    ``good`` is within the statistical error, ``open`` between two and three of them, where chance is a likely explanation.
    """
    if row.ours is None or row.spoiled:
        return ""
    value, error = row.ours
    if row.typical is not None:
        value = row.typical
    if row.key.startswith(_MEASURED):
        return _by_errors(row)
    if row.best == "floor":
        if row.floor is None:
            return ""
        away = abs(value - row.floor[0])
        return "good" if away < 0.05 else "near" if away < 0.2 else "far"
    if row.best == "0.5":
        errors = significance(row.ours, row.floor)
        if errors < FAINTEST:
            return "good" if errors < 2 else "open"
        return "near" if value - max(0.5, 0.0 if row.floor is None else row.floor[0]) < 0.15 else "far"
    target = {"0": 0.0, "1": 1.0}[row.best]
    unknown = ("fpd", "mean sep", "separation", "corr", "layers", "js-", "di-photon")
    if row.key == "log-posterior" or (row.key.startswith(unknown) and not row.floor):
        # Without a floor nobody knows what value of these is good.
        return ""
    reach = row.floor[0] if row.floor is not None else target
    scatter = math.hypot(error or 0.0, (row.floor[1] or 0.0) if row.floor is not None else 0.0)
    distance = abs(value - target) - abs(reach - target)
    if row.key.startswith("voxels"):
        # A dead voxel is no matter of degree.
        dead = row.key.endswith("never_lit")
        return "good" if distance <= 0 else "near" if distance <= 3 and not dead else "far"
    unit = max(abs(reach - target), 3 * scatter, 1e-9)
    return "good" if distance < unit else "near" if distance < 4 * unit else "far"


def _by_errors(row: Row) -> str:
    """The verdict on a number of any unit: by statistical errors above what a second reference gets."""
    if row.ours is None or row.floor is None or not row.ours[1] or not row.floor[1]:
        return ""
    best = row.floor[0] if row.best == "floor" else float(row.best)
    beyond = abs(row.ours[0] - best) - abs(row.floor[0] - best)
    errors = beyond / math.hypot(row.ours[1], row.floor[1])
    return "good" if errors < 2 else "open" if errors < 3 else "near" if errors < 10 else "far"


def worst_observables(
    scores: Scores, floor: Scores | None, most: int = 10
) -> list[tuple[ObservableResult, ObservableResult | None, float]]:
    """The observables farthest from the reference, in units of the statistical floor."""
    by_key = {} if floor is None else {r.key: r for r in floor.observables}
    ranked = [
        (r, by_key.get(r.key), excess(r, by_key.get(r.key))) for r in scores.observables if r.chi2_ndf is not None
    ]
    return sorted(ranked, key=lambda item: -item[2])[:most]
