"""Figures of studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from caloforge.atomic import save_figure
from caloforge.detectors import detector_from_toml
from caloforge.evaluation import EvaluationResult
from caloforge.report.style import FLOOR, GENERATED, REFERENCE, figure_style
from caloforge.showers.pictures import draw_layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_ratios", "draw_variants"]

_COLOURS = (GENERATED, FLOOR, "#009e73", "#cc79a7")


def draw_variants(
    runs: Sequence[tuple[str, Sequence[Mapping[str, Any]], EvaluationResult]], stage: str, path: Path
) -> None:
    """Losses, the average image of the first layer, and its energy ratio, as figure 4 of arXiv:2106.05285.

    Args:
        runs: title, epochs of a stage (rows of ``metrics.jsonl``) and evaluation of each variant.
        stage: name of the stage.
        path: picture to write.
    """
    with figure_style():
        figure = Figure(figsize=(11, 6.4))
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, 2, height_ratios=(1.15, 1), hspace=0.42, wspace=0.28)
        images = grid[1, :].subgridspec(1, len(runs) + 1, wspace=0.3)
        _draw_losses(figure.add_subplot(grid[0, 0]), runs, stage)
        _draw_ratio(figure.add_subplot(grid[0, 1]), runs)
        first = runs[0][2]
        assert first.generated.images is not None  # a study asks for them
        layer = detector_from_toml(first.detector["toml"], where="report").readout.layers[0]
        count = layer.size
        means = [("Geant4", np.asarray(first.generated.images.reference[:count]))]
        for title, _, result in runs:
            assert result.generated.images is not None
            means.append((title, np.asarray(result.generated.images.generated[:count])))
        top = max(float(mean.max()) for _, mean in means)
        norm = LogNorm(max(float(means[0][1].min()), 1e-4 * top), top)
        for place, (title, mean) in enumerate(means):
            axes = figure.add_subplot(images[0, place])
            draw_layer(axes, layer, mean, norm)
            axes.set_title(f"{title}, layer 0")
        save_figure(path, figure, dpi=150)  # here, since text is laid out while saving and needs the style


def _draw_losses(
    axes: Axes, runs: Sequence[tuple[str, Sequence[Mapping[str, Any]], EvaluationResult]], stage: str
) -> None:
    low, high = [], []
    for (title, rows, _), colour in zip(runs, _COLOURS, strict=False):
        epochs = [row["epoch"] for row in rows]
        for part, style in (("training", "--"), ("validation", "-")):
            losses = [row[part]["loss"] for row in rows]
            # A single epoch has no line.
            axes.plot(
                epochs, losses, style, color=colour, label=f"{title}, {part}", marker="o" if len(epochs) == 1 else ""
            )
            # The first epochs would hide the rest.
            low.append(min(losses))
            high.append(float(np.quantile(losses, 0.85)))
    span = max(high) - min(low)
    axes.set(xlabel="epoch", ylabel=f"loss of stage '{stage}' [nats]", ylim=(min(low) - 0.08 * span, max(high)))
    axes.legend()


def _draw_ratio(axes: Axes, runs: Sequence[tuple[str, Sequence[Mapping[str, Any]], EvaluationResult]]) -> None:
    def draw(counts: Sequence[int], edges: Sequence[float], label: str, colour: str, width: float) -> None:
        inside = np.asarray(counts[1:-1], dtype=np.float64)  # under- and overflow are at the ends
        axes.stairs(inside / (sum(counts) * np.diff(edges)), edges, label=label, color=colour, lw=width)

    for place, ((title, _, result), colour) in enumerate(zip(runs, _COLOURS, strict=False)):
        item = next(o for o in result.generated.observables if o.family == "energy-ratio" and o.layer == 0)
        if not place:
            draw(item.reference_counts, item.edges, "Geant4", REFERENCE, 2.2)
        draw(item.counts, item.edges, title, colour, 1.4)
        axes.set_xlabel(item.label)
    axes.set_ylabel("share per unit")
    axes.legend()


def draw_ratios(
    ratios: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]],
    roc: tuple[Any, Any],
    auc: float,
    title: str,
    path: Path,
) -> None:
    """Likelihood ratios of two kinds of showers, and the ROC curve of the test that they make.

    Args:
        ratios: log-likelihood ratios by the name of the particle, nats.
        roc: efficiency for the first particle and misidentification of the second, both (n,).
        auc: area under that curve.
        title: heading.
        path: picture to write.
    """
    with figure_style():
        figure = Figure(figsize=(9.5, 3.8))
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.28})
        both = np.concatenate(list(ratios.values()))
        # A few showers lie far out on the left; they are counted in the outermost bins.
        low, high = np.quantile(both, (0.06, 0.998))
        edges = np.linspace(low, high, 61)
        for (name, values), colour in zip(ratios.items(), _COLOURS, strict=False):
            counts, _ = np.histogram(np.clip(values, low, high), edges)
            left.stairs(counts / len(values), edges, label=name, color=colour, fill=True, alpha=0.25)
            left.stairs(counts / len(values), edges, color=colour)
        first, second = ratios
        left.set(
            xlabel=f"ln p(shower | {first}) - ln p(shower | {second}) [nats]",
            ylabel="share of showers (outer bins: all beyond)",
        )
        left.legend(loc="upper left")
        right.plot(roc[1], roc[0], color=GENERATED, label=f"AUC {auc:.3f}")
        right.plot([0, 1], [0, 1], ":", color=REFERENCE)
        right.set(xlabel=f"{second} taken for {first}", ylabel=f"{first} found", xlim=(0, 1), ylim=(0, 1))
        right.legend(loc="lower right")
        figure.suptitle(title, x=0.125, ha="left", y=0.99)
        save_figure(path, figure, dpi=150)
