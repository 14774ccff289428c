"""Figures of point clouds: the ten observables, scores against energy, internal angle, di-photon separation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from caloforge.evaluation.results import (
    AngleBias,
    AngleResult,
    CloudObservable,
    DiphotonResult,
    ObservableResult,
    Value,
)
from caloforge.report.style import FLOOR, GENERATED, REFERENCE
from caloforge.units import GeV, deg, format_energy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "cloud_groups",
    "draw_angle_bias",
    "draw_angle_errors",
    "draw_angle_scan",
    "draw_cloud_models",
    "draw_clouds",
    "draw_js_by_energy",
    "draw_separation",
]

Float64 = NDArray[np.float64]

_GROUPS = {
    "energy": ("cell-energy", "ring-energy", "layer-energy"),
    "occupancy": ("occupancy", "ring-occupancy", "layer-occupancy"),
    "centre of gravity": ("gravity-x", "gravity-y", "gravity-z"),
    "total energy": ("total-energy",),
}
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c564b", "#000000", "#999933", "#882255",
)  # fmt: skip
_SECOND = "Geant4, second sample"
#: Of generated samples in the same panel.
_GENERATED = (GENERATED, "#cc79a7", "#009e73")


@dataclass(frozen=True)
class _Curve:
    """Content of bins and its error."""

    edges: Float64
    content: Float64
    error: Float64


def _panels(columns: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Columns of a panel with a narrow one below it, sharing the horizontal axis."""
    from matplotlib.figure import Figure

    width, height = (4.3, 3.9) if columns == 1 else (3.7 * columns, 3.7)
    figure = Figure(figsize=(width, height))
    # Fixed margins (inches): an automatic layout would take most of the time.
    margins = {
        "left": 0.7 / width, "right": 1 - 0.12 / width, "bottom": 0.52 / height, "top": 1 - 0.3 / height,
        "wspace": 0.24, "hspace": 0.07,
    }  # fmt: skip
    axes = figure.subplots(2, columns, sharex="col", squeeze=False, gridspec_kw={"height_ratios": (3, 1), **margins})
    return figure, [(axes[0, k], axes[1, k]) for k in range(columns)]


def _draw(
    pair: tuple[Axes, Axes],
    reference: _Curve,
    generated: Sequence[tuple[str, _Curve]],
    floor: _Curve | None,
    *,
    log: bool = False,
) -> None:
    """Histograms of all samples with errors, and the ratio to the reference below."""
    top, bottom = pair
    edges, want = reference.edges, reference.content
    top.stairs(want, edges, fill=True, color=REFERENCE, alpha=0.22)
    top.stairs(want, edges, color=REFERENCE, linewidth=1, label="Geant4")
    if floor is not None:
        top.stairs(floor.content, floor.edges, color=FLOOR, linewidth=1, linestyle=(0, (3, 2)), label=_SECOND)
    for (name, curve), colour in zip(generated, _GENERATED, strict=False):
        top.stairs(curve.content, curve.edges, color=colour, linewidth=1.5, label=name)
    positive = want[want > 0]
    if len(positive) and positive.max() / np.quantile(positive, 0.1) > 100:
        top.set_yscale("log")
        top.set_ylim(positive.min() / 2, positive.max() * 30)
    else:
        most = max(curve.content.max(initial=0) for _, curve in generated)
        top.set_ylim(0, 1.45 * max(want.max(initial=0), most, 1e-300))
    if log:
        top.set_xscale("log")
    used = want > 0
    safe = np.where(used, want, 1)
    band = np.where(used, reference.error / safe, 0)
    bottom.stairs(1 + band, edges, baseline=1 - band, fill=True, color=REFERENCE, alpha=0.3)
    bottom.axhline(1, color=REFERENCE, linewidth=0.8)
    centres = np.sqrt(edges[1:] * edges[:-1]) if log else (edges[1:] + edges[:-1]) / 2
    # Bins of large error say nothing that a ratio could show.
    shown = used & (band < 0.45)
    for (_, curve), colour in zip(generated, _GENERATED, strict=False):
        # Rings may reach further in one sample than in another; what both have is the same.
        n = min(len(want), len(curve.content))
        here = shown[:n] & (edges[1 : n + 1] == curve.edges[1 : n + 1])
        bottom.errorbar(
            centres[:n][here], (curve.content[:n] / safe[:n])[here], yerr=(curve.error[:n] / safe[:n])[here], fmt=".",
            color=colour, markersize=3, linewidth=0.8,
        )  # fmt: skip
    bottom.set_ylim(0.4, 1.6)
    bottom.set_yticks([0.5, 1.0, 1.5])
    top.set_xlim(edges[0], edges[-1])


def _curve(result: CloudObservable, *, reference: bool) -> _Curve:
    content = np.asarray(result.reference if reference else result.generated)
    error = np.asarray(result.reference_error if reference else result.generated_error)
    return _Curve(np.asarray(result.edges), content[1:-1], error[1:-1])


def _js(value: float, expected: float) -> str:
    return f"{value:.2g} ({expected:.2g})"


def cloud_groups(results: Sequence[CloudObservable]) -> Iterator[tuple[str, list[CloudObservable]]]:
    """The observables in the groups of the published figures 4 to 6."""
    by_key = {r.key: r for r in results}
    for title, keys in _GROUPS.items():
        found = [by_key[k] for k in keys if k in by_key]
        if found:
            yield title, found


def draw_clouds(results: Sequence[CloudObservable], floor: Sequence[CloudObservable], *, generated: str) -> Figure:
    """Observables side by side with the ratio to Geant4 (arXiv:2511.01460, figures 4 to 6).

    Bands and bars are bootstrap errors. The Jensen-Shannon divergence stands in each panel with, in brackets, what
    statistics alone give.

    Args:
        results: generated against reference.
        floor: the same of the second reference; empty if there is none.
        generated: name of the generated sample.
    """
    others = {r.key: r for r in floor}
    figure, panels = _panels(len(results))
    for number, (result, pair) in enumerate(zip(results, panels, strict=True)):
        second = others.get(result.key)
        _draw(
            pair, _curve(result, reference=True), [(generated, _curve(result, reference=False))],
            None if second is None else _curve(second, reference=False), log=result.log,
        )  # fmt: skip
        _name_axes(pair, result)
        text = "JS divergence " + _js(result.js.divergence.value, result.js.expected_divergence)
        pair[0].set_title(text, fontsize=8.5)
        if number == 0:
            pair[1].set_ylabel("ratio")
            pair[0].legend(loc="best", fontsize=8)
    return figure


def _name_axes(pair: tuple[Axes, Axes], result: CloudObservable) -> None:
    unit = f" [{result.unit}]" if result.unit and result.unit != result.label else ""
    pair[1].set_xlabel(f"{result.label}{unit}")
    pair[0].set_ylabel("share of showers" if result.content == "showers" else result.content)


def draw_cloud_models(
    models: Mapping[str, Sequence[CloudObservable]], floor: Sequence[CloudObservable], *, keys: Sequence[str]
) -> Figure:
    """Some observables of several models against the same Geant4 showers (arXiv:2511.01460, figures 4 to 6).

    Args:
        models: names of at most three models, and their observables; the bins are those of the first one.
        floor: the same of the second reference; empty if there is none.
        keys: of the observables, at most as many as fit side by side.
    """
    by_model = {name: {result.key: result for result in results} for name, results in models.items()}
    second = {result.key: result for result in floor}
    first = next(iter(by_model.values()))
    figure, panels = _panels(len(keys))
    for number, (key, pair) in enumerate(zip(keys, panels, strict=True)):
        curves = [(name, _curve(results[key], reference=False)) for name, results in by_model.items()]
        other = None if key not in second else _curve(second[key], reference=False)
        _draw(pair, _curve(first[key], reference=True), curves, other, log=first[key].log)
        _name_axes(pair, first[key])
        scores = " / ".join(f"{results[key].js.divergence.value:.2g}" for results in by_model.values())
        pair[0].set_title(f"JS divergence {scores}", fontsize=8.5)
        if number == 0:
            pair[1].set_ylabel("ratio")
            pair[0].legend(loc="best", fontsize=8)
    return figure


def draw_js_by_energy(results: Sequence[CloudObservable], floor: Sequence[CloudObservable]) -> Figure:
    """Jensen-Shannon distance of each observable against the incident energy (arXiv:2511.01460, figure 9).

    Args:
        results: generated against reference.
        floor: of the second reference; drawn as dotted lines. Without it these are what statistics alone give.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.2), layout="constrained")
    axes = figure.subplots()
    others = {r.key: r for r in floor}
    for colour, result in zip(np.resize(_COLOURS, len(results)), results, strict=True):
        energy = [s.energy / GeV for s in result.slices]
        axes.errorbar(
            energy, [s.js.distance.value for s in result.slices], yerr=[s.js.distance.error for s in result.slices],
            color=colour, marker="o", markersize=3.5, linewidth=1.2, label=result.key.replace("-", " "),
        )  # fmt: skip
        second = others.get(result.key)
        if second is not None:
            energy = [s.energy / GeV for s in second.slices]
            low = [s.js.distance.value for s in second.slices]
        else:
            low = [s.js.expected_distance for s in result.slices]
        axes.plot(energy, low, color=colour, linestyle=":", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("incident energy [GeV]")
    axes.set_ylabel("Jensen-Shannon distance")
    axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8,
        title="dotted: " + ("floor" if others else "statistics alone"), title_fontsize=8,
    )  # fmt: skip
    return figure


def _counts(result: ObservableResult, *, reference: bool) -> _Curve:
    """Share of showers in each bin, edges in degrees."""
    n = np.asarray(result.reference_counts if reference else result.counts, dtype=np.float64)
    total = max(n.sum(), 1)
    return _Curve(np.asarray(result.edges) / deg, n[1:-1] / total, np.sqrt(n[1:-1]) / total)


def draw_angle_errors(
    results: Sequence[ObservableResult], floor: Sequence[ObservableResult], *, generated: str
) -> Figure:
    """Errors of the internal angle: total, theta and phi (arXiv:2511.01460, figure 11), for one share of the hits."""
    others = {r.key: r for r in floor}
    figure, panels = _panels(len(results))
    for number, (result, pair) in enumerate(zip(results, panels, strict=True)):
        second = others.get(result.key)
        # The floor's bins are adapted to the same reference, so they are the same.
        _draw(
            pair, _counts(result, reference=True), [(generated, _counts(result, reference=False))],
            None if second is None else _counts(second, reference=False),
        )  # fmt: skip
        pair[1].set_xlabel(f"{result.label} [degrees]")
        pair[0].set_ylabel("share of showers")
        pair[0].set_title(f"JS distance {result.js_distance.value:.2g} ± {result.js_distance.error:.1g}", fontsize=8.5)
        if number == 0:
            pair[1].set_ylabel("ratio")
            pair[0].legend(loc="best", fontsize=8)
    return figure


def _points(axes: Axes, x: Float64, values: Sequence[Value], scale: float, colour: str, style: str, label: str) -> None:
    axes.errorbar(
        x, [v.value / scale for v in values], yerr=[v.error / scale for v in values], color=colour, linestyle=style,
        marker="o", markersize=3.5, linewidth=1.2, label=label,
    )  # fmt: skip


def draw_angle_scan(result: AngleResult, floor: AngleResult | None, *, generated: str) -> Figure:
    """Mean and spread of the angular error against the share of hits that is used (arXiv:2511.01460, figure 10)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    share = np.asarray([100 * p.fraction for p in result.scan])
    for axes, suffix, title in ((panels[0], "", "mean"), (panels[1], "_spread", "standard deviation")):
        _points(axes, share, [getattr(p, f"reference{suffix}") for p in result.scan], deg, REFERENCE, "-", "Geant4")
        if floor is not None:
            second = [getattr(p, f"generated{suffix}") for p in floor.scan]
            _points(axes, share, second, deg, FLOOR, "--", _SECOND)
        _points(axes, share, [getattr(p, f"generated{suffix}") for p in result.scan], deg, GENERATED, "-", generated)
        axes.set_xscale("log")
        axes.set_xlabel("hits used, highest energies first [%]")
        axes.set_ylabel(rf"{title} of $\Delta\alpha$ [degrees]")
        axes.set_ylim(bottom=0)
    panels[0].legend(loc="best", fontsize=8)
    return figure


def draw_angle_bias(bias: Sequence[AngleBias], *, generated: str) -> Figure:
    """Mean error of theta and phi against their true values (arXiv:2511.01460, figure 18); one panel for each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.1 * ((len(bias) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(bias) + 1) // 2, 2, squeeze=False).ravel()
    for axes in panels[len(bias) :]:
        axes.set_visible(False)
    for number, (axes, item) in enumerate(zip(panels, bias, strict=False)):
        edges = np.asarray(item.edges) / deg
        centres = (edges[1:] + edges[:-1]) / 2
        for word, colour, label in (("reference", REFERENCE, "Geant4"), ("generated", GENERATED, generated)):
            means = np.asarray(getattr(item, word), dtype=np.float64) / deg
            errors = np.asarray(getattr(item, f"{word}_error"), dtype=np.float64) / deg
            known = np.isfinite(means)
            axes.errorbar(
                centres[known], means[known], yerr=errors[known], color=colour, marker="o", markersize=3.5, linewidth=1.2,
                label=label,
            )  # fmt: skip
        axes.axhline(0, color=REFERENCE, linewidth=0.8, linestyle=":")
        axes.set_xlabel(rf"true $\{item.angle}$ [degrees]")
        axes.set_ylabel(rf"mean $\Delta\{item.angle}$ [degrees]")
        axes.set_title("all hits" if item.fraction == 1 else f"highest {100 * item.fraction:g} % of hits", fontsize=9)
        if number == 0:
            axes.legend(loc="best", fontsize=8)
    return figure


def draw_separation(result: DiphotonResult, floor: DiphotonResult | None, *, generated: str) -> Figure:
    """Mean number of photons found of two, against their distance (arXiv:2511.01460, figure 13), at each energy."""
    second = {} if floor is None else {c.energy: c for c in floor.curves}
    figure, panels = _panels(len(result.curves))
    for number, (curve, (top, bottom)) in enumerate(zip(result.curves, panels, strict=True)):
        edges = np.asarray(curve.edges)
        centres = (edges[1:] + edges[:-1]) / 2
        _points(top, centres, curve.reference, 1, REFERENCE, "-", "Geant4")
        if curve.energy in second:
            _points(top, centres, second[curve.energy].generated, 1, FLOOR, "--", _SECOND)
        _points(top, centres, curve.generated, 1, GENERATED, "-", generated)
        top.set_ylim(0.9, 2.2)
        one = curve.energy_min == curve.energy_max
        around = format_energy(curve.energy) if one else (
            f"{format_energy(curve.energy_min)} to {format_energy(curve.energy_max)}"
        )  # fmt: skip
        top.set_title(f"two photons of {around}", fontsize=9)
        want, have = (np.asarray([v.value for v in values]) for values in (curve.reference, curve.generated))
        spread = [np.asarray([v.error for v in values]) for values in (curve.reference, curve.generated)]
        error = np.hypot(spread[0], spread[1])
        bottom.axhline(1, color=REFERENCE, linewidth=0.8)
        bottom.errorbar(centres, have / want, yerr=error / want, fmt=".", color=GENERATED, markersize=4, linewidth=0.8)
        bottom.set_ylim(0.85, 1.15)
        bottom.set_xlabel("distance [mm]")
        if number == 0:
            top.set_ylabel("mean number of photons found")
            bottom.set_ylabel("ratio")
            top.legend(loc="lower right", fontsize=8)
    return figure
