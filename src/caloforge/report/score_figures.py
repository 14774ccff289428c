"""Figures of scores: ROC curves, scores by energy, correlation matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from caloforge.evaluation.layers import SIGNIFICANT_SHARE
from caloforge.evaluation.results import ClassifierResult, CorrelationResult, LayerMeans
from caloforge.report.style import FLOOR, GENERATED, REFERENCE
from caloforge.report.tables import auc_pair, number
from caloforge.units import GeV

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_correlations", "draw_importance", "draw_layers", "draw_roc", "draw_slices", "feature_name"]

#: Ratios beyond this are drawn at its edge.
_LAYER_RANGE = (0.7, 1.3)
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c564b", "#000000")


def draw_roc(classifiers: Mapping[str, ClassifierResult]) -> Figure:
    """ROC curves of all classifiers (first retraining); the diagonal is a perfect generator."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.3, 4.3))
    axes = figure.add_axes((0.14, 0.12, 0.83, 0.83))
    axes.plot([0, 1], [0, 1], color=REFERENCE, linewidth=0.8, linestyle=":")
    for colour, result in zip(np.resize(_COLOURS, len(classifiers)), classifiers.values(), strict=True):
        text = f"{result.title.split(' (')[0]}: {number(*auc_pair(result))}"
        axes.plot(result.roc.generated, result.roc.reference, color=colour, label=text)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel("generated showers taken for Geant4")
    axes.set_ylabel("Geant4 showers taken for Geant4")
    axes.legend(loc="lower right", title="AUC", fontsize=7.5, title_fontsize=8)
    return figure


def draw_slices(classifiers: Mapping[str, ClassifierResult], floor: Mapping[str, ClassifierResult]) -> Figure:
    """AUC in parts of the energy range; bars are statistical errors, open points the floor."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(4.3, 4.3))
    axes = figure.add_axes((0.14, 0.12, 0.83, 0.83))
    axes.axhline(0.5, color=REFERENCE, linewidth=0.8, linestyle=":")
    every = [s for r in classifiers.values() for s in r.slices]
    for place, (name, result) in enumerate(classifiers.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        shift = 1 + 0.015 * (place - (len(classifiers) - 1) / 2)
        for source, filled in ((result, True), (floor.get(name), False)):
            if source is None or not source.slices:
                continue
            low = np.asarray([s.energy_min for s in source.slices]) / GeV
            high = np.asarray([s.energy_max for s in source.slices]) / GeV
            axes.errorbar(
                np.sqrt(low * high) * shift,
                [s.auc.mean for s in source.slices],
                yerr=[s.auc.std if s.auc.error is None else s.auc.error for s in source.slices],
                fmt="o" if filled else "s",
                markersize=4.5,
                color=colour,
                markerfacecolor=colour if filled else "white",
                linewidth=1,
                label=result.title.split(" (")[0] if filled else None,
            )
    if every and max(s.energy_max for s in every) > 10 * min(s.energy_min for s in every):
        # Below a decade the labels of a logarithmic axis run into each other.
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    highest = max((s.auc.mean for s in every), default=0.5)
    # Room above the points for the legend.
    axes.set_ylim(min(0.4, *(s.auc.mean - 0.03 for s in every), 0.4), 0.42 + 1.3 * (highest - 0.4) + 0.05)
    # No AUC is larger than 1, so no tick says so.
    axes.set_yticks([tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= min(1.0, axes.get_ylim()[1])])
    axes.set_xlabel("incident energy [GeV]")
    axes.set_ylabel("AUC" + (" (open: floor)" if floor else ""))
    axes.legend(loc="upper left", fontsize=7.5)
    return figure


def feature_name(name: str) -> str:
    """A feature's name for people: ``x-width/0`` is "x width, layer 0"."""
    family, _, layer = name.partition("/")
    return family.replace("-", " ") + (f", layer {layer}" if layer else "")


def draw_importance(result: ClassifierResult, floor: ClassifierResult | None, most: int = 15) -> Figure:
    """Fall of the AUC without a feature, and without all features of a family, the most important ones on top.

    Args:
        result: of a classifier of named features.
        floor: the same between the two references, drawn as open points, or None.
        most: number of features and of families.
    """
    from matplotlib.figure import Figure

    known = {} if floor is None else {i.name: i.drop for i in (*floor.importance, *floor.families)}
    figure = Figure(figsize=(9.3, 0.6 + 0.24 * max(len(result.importance[:most]), len(result.families[:most]), 4)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 2)
    for axes, items, title in (
        (panels[0], result.importance[:most], "single features"),
        (panels[1], result.families[:most], "all layers of a family"),
    ):
        places = np.arange(len(items))
        axes.axvline(0, color=REFERENCE, linewidth=0.8)
        axes.barh(
            places, [i.drop.value for i in items], xerr=[i.drop.error for i in items], color=GENERATED, alpha=0.75,
            error_kw={"linewidth": 0.9}, height=0.65,
        )  # fmt: skip
        there = [(place, known[i.name]) for place, i in enumerate(items) if i.name in known]
        if there:
            axes.errorbar(
                [drop.value for _, drop in there], [place for place, _ in there], xerr=[drop.error for _, drop in there],
                fmt="s", markersize=3.5, color=FLOOR, markerfacecolor="white", linewidth=0.9, label="floor",
            )  # fmt: skip
        axes.set_yticks(places, [feature_name(i.name) for i in items])
        axes.set_ylim(len(items) - 0.4, -0.6)
        axes.yaxis.set_tick_params(which="minor", left=False, right=False)
        axes.set_xlabel("fall of the AUC")
        axes.set_title(title)
    # Of a floor only the features that matter most are kept, and none of them need be here.
    labelled = [axes for axes in panels if axes.get_legend_handles_labels()[0]]
    if labelled:
        labelled[0].legend(loc="lower right", fontsize=7.5)
    return figure


def draw_correlations(result: CorrelationResult, *, generated: str, reference: str = "Geant4") -> Figure:
    """Pearson correlations of the layer energies in both samples, and their difference."""
    from matplotlib.figure import Figure

    one, two = np.asarray(result.matrix), np.asarray(result.reference_matrix)
    difference = one - two
    figure = Figure(figsize=(9.3, 3.1), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    limit = max(float(np.abs(difference).max()), 0.02)
    few = len(result.layers) <= 8
    for axes, matrix, title, bound in (
        (panels[0], two, reference, 1.0),
        (panels[1], one, generated, 1.0),
        (panels[2], difference, "difference", limit),
    ):
        image = axes.imshow(matrix, vmin=-bound, vmax=bound, cmap="RdBu_r")
        axes.set_title(title)
        axes.set_xlabel("layer")
        axes.minorticks_off()
        if few:
            axes.set_xticks(range(len(result.layers)), result.layers)
            axes.set_yticks(range(len(result.layers)), result.layers)
            for (row, column), value in np.ndenumerate(matrix):
                shade = "white" if abs(value) > 0.6 * bound else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=shade)
        figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02)
    panels[0].set_ylabel("layer")
    return figure


def draw_layers(result: LayerMeans, floor: LayerMeans | None, *, reference: str = "Geant4") -> Figure:
    """Energy and number of lit cells of every layer over the reference's; bars are statistical errors.

    The shaded profile is each layer's share of the reference's energy; layers with less than 1 % are drawn pale.

    Args:
        result: generated against reference.
        floor: the second reference against the reference, drawn as open points, or None.
        reference: name of the reference.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.3, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(result.layers))
    share = np.asarray(result.share)
    for axes, name, title in ((panels[0], "energy", "mean energy"), (panels[1], "lit", "number of lit cells")):
        profile = axes.twinx()
        profile.bar(places, share, width=1, color=REFERENCE, alpha=0.15, linewidth=0)
        profile.set_ylim(0, 1.05 * max(float(share.max()), 1e-12))
        profile.set_yticks([])
        profile.minorticks_off()
        axes.axhline(1, color=REFERENCE, linewidth=0.8)
        axes.axhspan(0.95, 1.05, color=GENERATED, alpha=0.08, linewidth=0)
        for source, colour, face, shift in ((floor, FLOOR, "white", 0.2), (result, GENERATED, GENERATED, 0.0)):
            if source is None:
                continue
            for layer, ratio in enumerate(getattr(source, name)):
                if ratio is not None:
                    pale = 1.0 if share[layer] > SIGNIFICANT_SHARE else 0.3
                    axes.errorbar(
                        layer + shift, np.clip(ratio.value, *_LAYER_RANGE), yerr=ratio.error, fmt="o", markersize=3.2,
                        color=colour, markerfacecolor=face, linewidth=0.9, alpha=pale,
                    )  # fmt: skip
        axes.set_ylim(*_LAYER_RANGE)
        axes.set_title(title)
        axes.set_xlabel("layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.minorticks_off()
    panels[0].set_ylabel(f"ratio to {reference}" + (" (open: floor)" if floor is not None else ""))
    return figure
