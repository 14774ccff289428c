"""The sentences that say honestly how good the showers are, on the console and at the head of the page."""

from __future__ import annotations

from collections.abc import Sequence

from caloforge.arguments import argument
from caloforge.evaluation.results import EvaluationResult, SharedRows, observable_name
from caloforge.report.tables import FAINTEST, auc_pair, far_showers, number, summary_rows, verdict, worst_observables

__all__ = ["shared_line", "summary_lines"]

_VERDICTS = {
    "good": "the showers cannot be told from the reference",
    "open": "it is not decided whether the showers can be told from the reference",
    "near": "the showers can be told from the reference, though not well",
    "far": "the showers can be told from the reference",
    "": "no verdict, as the samples are not independent",
}
_RANKS = {"": 0, "good": 0, "open": 1, "near": 2, "far": 3}


def shared_line(shared: Sequence[SharedRows]) -> str:
    """Which samples share showers, and what follows."""
    follows = (
        "Scores between them have no meaning, so there is no verdict"
        if any(s.spoils for s in shared)
        else "They are too few to change a score"
    )
    return f"Samples: NOT INDEPENDENT: {'; '.join(s.text for s in shared)}. {follows}."


def summary_lines(result: EvaluationResult) -> list[str]:
    """Three sentences that say honestly how good the showers are: classifiers, distributions, and what was not seen.

    If samples share showers, another one says so before them.
    """
    first = [shared_line(result.shared)] if result.shared else []
    return [*first, _classifier_line(result), _distribution_line(result), _limits_line(result)]


def _classifier_line(result: EvaluationResult) -> str:
    rows = {r.key: r for r in summary_rows(result, ())}
    found = [(rows[name], c) for name, c in result.generated.classifiers.items()]
    if not found:
        return "Classifiers: none was trained, so nothing is known of differences that no single distribution shows."
    row, worst = max(found, key=lambda item: (_RANKS[verdict(item[0])], item[1].auc.mean))
    floor = "no floor" if row.floor is None else f"floor {number(*row.floor)}"
    score = f"AUC {number(*auc_pair(worst))} ({floor}; {worst.title.split(' (')[0]})"
    best = "the only one" if len(found) == 1 else f"the best of {len(found)}"
    text = f"Classifiers: {_VERDICTS[verdict(row)]}; {best} reaches {score}."
    below = [c for _, c in found if (0.5 - c.auc.mean) > FAINTEST * auc_pair(c)[1]]
    if below and not result.spoiled:
        lowest = f"{number(*auc_pair(below[0]))}; {below[0].title.split(' (')[0]}"
        text += (
            f" An AUC far below 0.5 ({lowest}) is a sign of showers that are in both samples in another form, such as rounded "
            "or scaled."
        )
    return text


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
            text += f"; {number(few.fpd.value, few.fpd.error)} without {far_showers(few.showers)}"
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
    errors = [auc_pair(c)[1] for c in result.generated.classifiers.values()]
    if errors:
        parts.append(f"an AUC within {FAINTEST * max(errors):.2g} of 0.5 could not be seen")
    if result.floor is None:
        parts.append(
            f"without a second reference ({argument('floor')}) nobody knows what a perfect generator would score here"
        )
    failed = [c.name for c in result.checks if not c.passed]
    if failed:
        parts.append(f"compared in spite of a mismatch of {' and '.join(failed)}")
    return "Limits: " + "; ".join(parts) + "."
