"""The figure of the study of learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from caloforge.atomic import save_figure
from caloforge.report.style import FLOOR, GENERATED, REFERENCE, figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from caloforge.studies.learning_curves import Curve

__all__ = ["draw_learning"]

_COLOURS = (GENERATED, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def draw_learning(
    curves: Sequence[Curve],
    quantities: Mapping[str, str],
    published: Mapping[str, tuple[float, float]],
    at: int,
    path: Path,
) -> None:
    """Every quantity against training showers (above) and against showers of the evaluation (below).

    Args:
        curves: of all presets.
        quantities: titles by key; those that nothing has are left out.
        published: value and spread by key, drawn at ``at``.
        at: number of showers of the extrapolation.
        path: picture to write.
    """
    keys = [key for key in quantities if any(key in p.scores for c in curves for p in (*c.training, *c.classifier))]
    with figure_style():
        figure = Figure(figsize=(3.6 * len(keys), 6.4), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(2, len(keys), squeeze=False)
        for column, key in enumerate(keys):
            for row, axis in enumerate(("training", "classifier")):
                axes = grid[row, column]
                _draw(axes, curves, key, axis)
                if row and key in published:
                    value, spread = published[key]
                    axes.errorbar([at], [value], [spread], fmt="*", ms=9, color=REFERENCE, label="published")
                for curve, colour in zip(curves, _COLOURS, strict=False):
                    if row and key in curve.beyond:
                        found = curve.beyond[key]
                        axes.errorbar([at], [found.value], [found.error], fmt="o", mfc="none", color=colour)
                axes.set(
                    xscale="log",
                    xlabel="showers of each kind in the evaluation" if row else "training showers of the generator",
                    ylabel=quantities[key],
                )
                axes.xaxis.set_minor_formatter(NullFormatter())
                if not key.startswith("fpd"):
                    # Errors of an extrapolation may reach beyond what there can be.
                    low, high = axes.get_ylim()
                    axes.set_ylim(max(low, 0.4 if quantities[key].startswith("AUC") else 0.0), min(high, 1.02))
        grid[0, 0].legend()
        if any(key in published for key in keys):
            grid[1, min(1, len(keys) - 1)].legend()
        save_figure(path, figure, dpi=130)


def _draw(axes: Axes, curves: Sequence[Curve], key: str, axis: str) -> None:
    for curve, colour in zip(curves, _COLOURS, strict=False):
        points = [p for p in getattr(curve, axis) if key in p.scores]
        values = [p.scores[key] for p in points]
        axes.errorbar(
            [p.showers for p in points], [v for v, _ in values], [e for _, e in values], fmt="o-", ms=4, color=colour,
            label=curve.preset,
        )  # fmt: skip
    points = [p for p in getattr(curves[0], axis) if key in p.floor]
    if points:
        floors = [p.floor[key] for p in points]
        axes.errorbar(
            [p.showers for p in points], [v for v, _ in floors], [e for _, e in floors], fmt="s--", ms=3, color=FLOOR,
            label="floor (Geant4)",
        )  # fmt: skip
