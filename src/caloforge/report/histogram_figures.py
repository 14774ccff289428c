"""Histograms with ratio panels, and an overview of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from caloforge.evaluation.results import ObservableResult
from caloforge.report.style import FLOOR, GENERATED, REFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_histogram", "draw_overview", "excess"]

Float64 = NDArray[np.float64]


def _axis(result: ObservableResult) -> tuple[Float64, str]:
    """Edges and axis label; energies in GeV where MeV would be clumsy."""
    edges = np.asarray(result.edges)
    unit = result.unit
    if unit == "MeV" and edges[-1] >= 5000:
        edges, unit = edges / 1000, "GeV"
    return edges, f"{result.label} [{unit}]" if unit else result.label


def _density(counts: Sequence[int], edges: Float64, log: bool) -> tuple[Float64, Float64]:
    """Share of all showers per unit of the axis, and its Poisson error; per e-fold on a logarithmic axis."""
    n = np.asarray(counts, dtype=np.float64)
    width = np.diff(np.log(edges)) if log else np.diff(edges)
    scale = 1 / (max(n.sum(), 1) * width)
    return n[1:-1] * scale, np.sqrt(n[1:-1]) * scale


def _visible(result: ObservableResult, floor: ObservableResult | None) -> tuple[int, int]:
    """First and one past the last bin with entries in any sample, one more on either side."""
    total = np.asarray(result.counts) + np.asarray(result.reference_counts)
    if floor is not None:
        total = total + np.asarray(floor.counts)
    filled = np.flatnonzero(total[1:-1])
    if not len(filled):
        return 0, len(total) - 2
    return max(int(filled[0]) - 1, 0), min(int(filled[-1]) + 2, len(total) - 2)


def draw_histogram(
    result: ObservableResult, floor: ObservableResult | None, *, generated: str, reference: str = "Geant4"
) -> Figure:
    """One observable in all samples, with the ratio to the reference below.

    Bands and bars are statistical errors (one standard deviation). Entries outside the axis count in the measures and
    are stated where there are any.

    Args:
        result: generated against reference.
        floor: the same observable between the two references.
        generated: name of the generated sample.
        reference: name of the reference.
    """
    from matplotlib.figure import Figure

    edges, label = _axis(result)
    first, last = _visible(result, floor)
    # Fixed margins: there are dozens of these, and an automatic layout takes most of the time of a report.
    figure = Figure(figsize=(4.3, 3.9))
    margins = {"left": 0.16, "right": 0.965, "top": 0.975, "bottom": 0.13, "hspace": 0.05}
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1), **margins})
    want, want_error = _density(result.reference_counts, edges, result.log)
    have, have_error = _density(result.counts, edges, result.log)
    top.stairs(want, edges, fill=True, color=REFERENCE, alpha=0.22)
    top.stairs(want, edges, color=REFERENCE, linewidth=1, label=reference)
    top.stairs(want + want_error, edges, baseline=want - want_error, fill=True, color=REFERENCE, alpha=0.3)
    if floor is not None:
        other, _ = _density(floor.counts, edges, result.log)
        top.stairs(other, edges, color=FLOOR, linewidth=1, linestyle=(0, (3, 2)), label=f"{reference}, second sample")
    top.stairs(have, edges, color=GENERATED, linewidth=1.5, label=generated)
    top.stairs(
        have + have_error, edges, baseline=np.maximum(have - have_error, 0), fill=True, color=GENERATED, alpha=0.25
    )
    if result.log:
        top.set_xscale("log")
    positive = want[want > 0]
    if len(positive) and positive.max() / np.quantile(positive, 0.1) > 300:
        top.set_yscale("log")
        low, high = positive.min() / 2, max(positive.max(), have.max(initial=0))
        # The data keep the lower part of the axis, the legend has the upper one.
        top.set_ylim(low, high * (high / low) ** 0.62)
    else:
        top.set_ylim(0, 1.65 * max(want.max(initial=0), have.max(initial=0), 1e-300))
    top.set_xlim(edges[first], edges[last])
    per = "e-fold" if result.log else "unit"
    top.set_ylabel(f"share of showers per {per}" if result.chi2_ndf is not None else f"share of voxels per {per}")
    top.legend(loc="upper left", title=_measures(result, floor), title_fontsize=8, alignment="left")
    _ratio(bottom, result, edges, (want, want_error), (have, have_error))
    bottom.set_xlabel(label)
    return figure


def _measures(result: ObservableResult, floor: ObservableResult | None) -> str:
    text = f"separation {result.separation.value:.2g} ± {result.separation.error:.1g}"
    if floor is not None:
        text += f" (floor {floor.separation.value:.2g})"
    elif result.separation_expected:
        text += f" (statistics {result.separation_expected:.2g})"
    outside = [(c[0] + c[-1]) / max(sum(c), 1) for c in (result.counts, result.reference_counts)]
    if max(outside) >= 0.001:
        text += f"\noutside the axis: {outside[0]:.1%}, reference {outside[1]:.1%}"
    return text


def _ratio(
    axes: Axes, result: ObservableResult, edges: Float64, want: tuple[Float64, Float64], have: tuple[Float64, Float64]
) -> None:
    used = want[0] > 0
    safe = np.where(used, want[0], 1)
    band = np.where(used, want[1] / safe, 0)
    axes.stairs(1 + band, edges, baseline=1 - band, fill=True, color=REFERENCE, alpha=0.3)
    axes.axhline(1, color=REFERENCE, linewidth=0.8)
    centres = np.sqrt(edges[1:] * edges[:-1]) if result.log else (edges[1:] + edges[:-1]) / 2
    ratio = have[0] / safe
    # A bin with a handful of entries says nothing that a ratio could show.
    shown = used & (np.asarray(result.reference_counts[1:-1]) >= 5)
    axes.errorbar(
        centres[shown], ratio[shown], yerr=(have[1] / safe)[shown], fmt=".", color=GENERATED, markersize=3,
        linewidth=0.8,
    )  # fmt: skip
    low, high = 0.4, 1.6
    # What lies beyond the panel is marked at its edge, or a bad ratio would look like none.
    for beyond, where, marker in ((ratio > high, high - 0.07, "^"), (ratio < low, low + 0.07, "v")):
        at = centres[shown & beyond]
        axes.plot(at, np.full(len(at), where), marker, color=GENERATED, markersize=3.2, linestyle="none")
    axes.set_ylim(low, high)
    axes.set_yticks([0.5, 1.0, 1.5])
    axes.set_ylabel("ratio")


def excess(result: ObservableResult, floor: ObservableResult | None) -> float:
    """Separation power in units of what statistics alone give: that of the floor if there is one, else the expectation.

    The floor's own value scatters, so the larger of the two is the unit.
    """
    unit = max(result.separation_expected, 0.0 if floor is None else floor.separation.value, 1e-6)
    return result.separation.value / unit


def draw_overview(results: Sequence[ObservableResult], floor: Sequence[ObservableResult]) -> Figure:
    """Separation power of every observable by family and layer, in units of the statistical floor."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    by_key = {r.key: r for r in floor}
    families = list(dict.fromkeys(r.family for r in results))
    layered = sorted({r.layer for r in results if r.layer is not None})
    columns: list[int | None] = [None, *layered]
    matrix = np.full((len(families), len(columns)), np.nan)
    for r in results:
        row, column = families.index(r.family), columns.index(r.layer)
        # Several entries of a family without layers (pairs, energies): the worst of them.
        matrix[row, column] = np.fmax(matrix[row, column], excess(r, by_key.get(r.key)))
    figure = Figure(figsize=(2.9 + 0.42 * min(len(columns), 24), 0.9 + 0.27 * len(families)), layout="constrained")
    axes = figure.subplots()
    highest = max(100.0, float(np.nanmax(matrix)))
    image = axes.imshow(np.ma.masked_invalid(matrix), norm=LogNorm(1, highest), cmap="YlOrRd", aspect="auto")
    axes.set_yticks(range(len(families)), [f.replace("-", " ") for f in families])
    axes.set_xticks(range(len(columns)), ["shower", *(str(k) for k in layered)])
    axes.tick_params(which="both", length=0)
    axes.minorticks_off()
    axes.set_xlabel("layer")
    if len(columns) <= 8:
        for (row, column), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                text = f"{value:.2g}" if value < 10 else f"{value:.0f}"
                shade = "white" if value > highest**0.6 else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=shade)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("separation / floor")
    return figure
