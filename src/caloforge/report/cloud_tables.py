"""The numbers of the suite ``caloclouds`` as rows of a summary."""

from __future__ import annotations

from caloforge.evaluation.results import Scores, Value
from caloforge.units import format_energy

__all__ = ["cloud_rows"]

ScoreRow = tuple[str, str, tuple[float, float | None] | None]


def _pair(value: Value) -> tuple[float, float | None]:
    return value.value, value.error


def cloud_rows(scores: Scores) -> dict[str, ScoreRow]:
    """Key -> title, best value, value with error.

    Jensen-Shannon divergence and distance (in bits) of the ten observables, distances of the angular errors, and the
    largest differences of the di-photon curves.
    """
    rows: dict[str, ScoreRow] = {}
    for result in scores.clouds:
        name = result.key.replace("-", " ")
        rows[f"js-divergence {result.key}"] = (f"JS divergence, {name}", "0", _pair(result.js.divergence))
        rows[f"js-distance {result.key}"] = (f"JS distance, {name}", "0", _pair(result.js.distance))
    if scores.angles is not None:
        for error in scores.angles.errors:
            angle, share = error.key.removeprefix("angle/").split("/")
            hits = "all hits" if share == "100" else f"{share} % of the hits"
            rows[f"js-distance angle-{angle}-{share}"] = (
                f"JS distance, error of the internal angle ({angle}, {hits})", "0", _pair(error.js_distance)
            )  # fmt: skip
    if scores.diphotons is not None:
        for curve in scores.diphotons.curves:
            energy = format_energy(curve.energy)
            rows[f"di-photon {energy.replace(' ', '')}"] = (
                f"di-photon separation at {energy}: mean difference of the photons found", "0",
                _pair(curve.mean_difference),
            )  # fmt: skip
    return rows
