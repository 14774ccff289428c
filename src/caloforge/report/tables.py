"""Tables of a report: what is shown is decided here once, for the page, for ``compare`` and for plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caloforge.evaluation.layers import largest_deviation
from caloforge.evaluation.results import EvaluationResult, ObservableResult, Scores, Spread, Value, observable_name
from caloforge.report.cloud_tables import cloud_rows
from caloforge.report.histogram_figures import excess
from caloforge.report.published import PublishedNumber, PublishedTable

__all__ = [
    "Row",
    "number",
    "score_rows",
    "separation_means",
    "summary_lines",
    "summary_rows",
    "verdict",
    "worst_observables",
]


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
        typical: value that a verdict is made from, if a few showers alone would decide otherwise.
    """

    key: str
    title: str
    best: str
    ours: tuple[float, float | None] | None
    floor: tuple[float, float | None] | None
    published: tuple[tuple[str, PublishedNumber], ...] = ()
    remark: str = ""
    typical: float | None = None


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


def _pair(item: Spread | Value | float | None) -> tuple[float, float | None] | None:
    if item is None:
        return None
    if isinstance(item, Spread):
        return item.mean, item.std if len(item.values) > 1 else None
    if isinstance(item, Value):
        return item.value, item.error
    return float(item), None


def separation_means(scores: Scores) -> dict[str, float]:
    """Mean separation power of each family of observables, inside the plotted ranges as published."""
    families: dict[str, list[float]] = {}
    for result in scores.observables:
        if result.key.startswith(("calochallenge/", "shower/voxel-energy")):
            families.setdefault(result.family, []).append(result.separation_in_range)
    return {family: float(np.mean(values)) for family, values in families.items() if family != "response-at"}


def score_rows(scores: Scores) -> dict[str, tuple[str, str, tuple[float, float | None] | None]]:
    """Every single number of one set of scores: key -> title, best value, value with spread."""
    rows: dict[str, tuple[str, str, tuple[float, float | None] | None]] = {}
    for name, result in scores.classifiers.items():
        rows[name] = (f"AUC, {result.title}", "0.5", _pair(result.auc))
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
                typical=None if key != "fpd" else _typical_fpd(result.generated),
            )
        )
    return rows


def _typical_fpd(scores: Scores) -> float | None:
    return None if scores.far_showers is None else scores.far_showers.fpd.value


def _remark(result: EvaluationResult, key: str) -> str:
    classifier = result.generated.classifiers.get(key.removesuffix(" jsd"))
    if classifier is not None:
        settings = classifier.settings
        patience = settings["patience"]
        stop = "" if patience == "none" else f", stopped after {patience} epochs without gain"
        return (
            f"{settings['retrainings']} trainings with {settings['training showers of each class']} + "
            f"{settings['training showers of each class']} showers, batch {settings['batch size']}, at most "
            f"{settings['epochs']} epochs{stop}"
        )
    if key in ("fpd", "kpd"):
        text = f"of {min(s.showers for s in result.samples.values())} showers"
        far = result.generated.far_showers
        if key == "kpd" or far is None:
            return text
        return f"{text}; {number(far.fpd.value, far.fpd.error)} without {_far(far.showers)}"
    if key in ("precision", "recall", "density", "coverage"):
        return "compare with the floor; more density is not better"
    return ""


def verdict(row: Row) -> str:
    """How far a score is from what is possible: ``good``, ``near`` or ``far``; empty if nobody can say."""
    if row.ours is None:
        return ""
    value, spread = row.ours
    if row.typical is not None:
        value = row.typical
    if row.best == "floor":
        if row.floor is None:
            return ""
        away = abs(value - row.floor[0])
        return "good" if away < 0.05 else "near" if away < 0.2 else "far"
    target = {"0": 0.0, "0.5": 0.5, "1": 1.0}[row.best]
    unknown = ("fpd", "mean sep", "separation", "corr", "layers", "js-", "di-photon")
    if row.key == "log-posterior" or (row.key.startswith(unknown) and not row.floor):
        # Without a floor nobody knows what value of these is good.
        return ""
    reach = row.floor[0] if row.floor is not None else target
    scatter = max(spread or 0.0, (row.floor[1] or 0.0) if row.floor is not None else 0.0)
    distance = abs(value - target) - abs(reach - target)
    if row.best == "0.5":
        return "good" if distance < max(2 * scatter, 0.02) else "near" if distance < 0.15 else "far"
    if row.key.startswith("voxels"):
        # A dead voxel is no matter of degree.
        dead = row.key.endswith("never_lit")
        return "good" if distance <= 0 else "near" if distance <= 3 and not dead else "far"
    unit = max(abs(reach - target), 3 * scatter, 1e-9)
    return "good" if distance < unit else "near" if distance < 4 * unit else "far"


def _far(showers: int) -> str:
    return f"{showers} generated shower{'' if showers == 1 else 's'} far outside the reference's range"


def worst_observables(
    scores: Scores, floor: Scores | None, most: int = 10
) -> list[tuple[ObservableResult, ObservableResult | None, float]]:
    """The observables farthest from the reference, in units of the statistical floor."""
    by_key = {} if floor is None else {r.key: r for r in floor.observables}
    ranked = [
        (r, by_key.get(r.key), excess(r, by_key.get(r.key))) for r in scores.observables if r.chi2_ndf is not None
    ]
    return sorted(ranked, key=lambda item: -item[2])[:most]


def summary_lines(result: EvaluationResult) -> list[str]:
    """Three sentences that say honestly how good the showers are: classifiers, distributions, and what was not seen."""
    return [_classifier_line(result), _distribution_line(result), _limits_line(result)]


def _classifier_line(result: EvaluationResult) -> str:
    rows = {r.key: r for r in summary_rows(result, ())}
    found = [(rows[name], c) for name, c in result.generated.classifiers.items()]
    if not found:
        return "Classifiers: none was trained, so nothing is known of differences that no single distribution shows."
    row, worst = max(found, key=lambda item: item[1].auc.mean)
    floor = "no floor" if row.floor is None else f"floor {number(*row.floor)}"
    score = f"AUC {number(worst.auc.mean, worst.auc.std)} ({floor}; {worst.title.split(' (')[0]})"
    told = {
        "good": "cannot be told from the reference",
        "near": "can be told from the reference, though not well",
        "far": "can be told from the reference",
    }[verdict(row)]
    best = "the only one" if len(found) == 1 else f"the best of {len(found)}"
    return f"Classifiers: the showers {told}; {best} reaches {score}."


def _distribution_line(result: EvaluationResult) -> str:
    ranked = worst_observables(result.generated, result.floor, most=len(result.generated.observables))
    parts = []
    if ranked:
        worst, other, factor = ranked[0]
        far = sum(f > 3 for _, _, f in ranked)
        name = observable_name(worst.key)
        floor = worst.separation_expected if other is None else other.separation.value
        word = "statistics alone" if other is None else "floor"
        parts.append(
            f"{far} of {len(ranked)} observables {'differs' if far == 1 else 'differ'} by more than three times what "
            f"statistics give; the farthest is "
            f"{name} (separation {number(worst.separation.value)}, {word} {number(floor)}, factor {factor:.3g})"
        )
    clouds = result.generated.clouds
    if clouds:
        farthest = max(clouds, key=lambda c: c.js.divergence.value / max(c.js.expected_divergence, 1e-12))
        parts.append(
            f"of {len(clouds)} point-cloud observables the farthest is {farthest.key.split('/')[-1].replace('-', ' ')} "
            f"(JS divergence {number(farthest.js.divergence.value, farthest.js.divergence.error)} bits, statistics alone "
            f"{number(farthest.js.expected_divergence)})"
        )
    ours = result.generated.fpd
    if ours is not None:
        second = None if result.floor is None else result.floor.fpd
        text = "no floor" if second is None else f"floor {number(second.value, second.error)}"
        few = result.generated.far_showers
        if few is not None:
            text += f"; {number(few.fpd.value, few.fpd.error)} without {_far(few.showers)}"
        parts.append(f"FPD {number(ours.value, ours.error)} ({text})")
    voxels = result.generated.voxels
    if voxels is not None and (voxels.never_lit or voxels.under_lit or voxels.over_lit):
        parts.append(
            f"voxels never lit {len(voxels.never_lit)}, too rarely {len(voxels.under_lit)}, too often {len(voxels.over_lit)}"
        )
    return "Distributions: " + ("; ".join(parts) if parts else "none was compared") + "."


def _limits_line(result: EvaluationResult) -> str:
    showers = min(s.showers for s in result.samples.values())
    parts = [f"seen with {showers:,} showers of each kind"]
    errors = [c.statistical_error for c in result.generated.classifiers.values()]
    if errors:
        parts.append(f"an AUC within {2 * max(errors):.2g} of 0.5 could not be seen")
    if result.floor is None:
        parts.append("without a second reference (--floor) nobody knows what a perfect generator would score here")
    failed = [c.name for c in result.checks if not c.passed]
    if failed:
        parts.append(f"compared in spite of a mismatch of {' and '.join(failed)}")
    return "Limits: " + "; ".join(parts) + "."
