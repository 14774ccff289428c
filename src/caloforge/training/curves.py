"""Loss curves: one picture for each stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from caloforge.atomic import save_figure

__all__ = ["draw_curves"]

_COLOURS = {"training": "#2a6f97", "validation": "#d1495b"}

Series = tuple[NDArray[np.float64], NDArray[np.float64]]


def draw_curves(
    rows: Sequence[Mapping[str, Any]], path: Path, *, title: str, selection: str | None, lower: bool = True
) -> None:
    """Draw what a stage logged at the end of each epoch: every loss, and the learning rates.

    Args:
        rows: the stage's epochs, as in ``metrics.jsonl``: ``epoch``; ``training`` and ``validation`` (name: value);
            ``learning_rate`` (player: value).
        path: PNG to write.
        title: heading.
        selection: name of the validation value whose best point chooses the weights, if there is one.
        lower: whether lower values of it are better.

    Raises:
        OutputError: if the picture cannot be written.
    """
    names = list(dict.fromkeys(name for row in rows for part in _COLOURS for name in row.get(part, {})))
    panels = len(names) + 1
    height = 2.7 * len(names) + 1.8
    figure = Figure(figsize=(7.5, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.55 / height, top=1 - 0.4 / height, hspace=0.12)
    grid = figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=[*[2.0] * len(names), 1.0])
    axes: list[Axes] = list(grid[:, 0])
    for axis, name in zip(axes, names, strict=False):
        best = None if name != selection else np.nanargmin if lower else np.nanargmax
        _draw_losses(axis, rows, name, best)
    for player in dict.fromkeys(name for row in rows for name in row.get("learning_rate", {})):
        axes[-1].plot(*_series(rows, "learning_rate", player), drawstyle="steps-mid", lw=1.4, label=player)
    axes[-1].set(xlabel="epoch", ylabel="learning rate")
    if any(rate > 0 for row in rows for rate in row.get("learning_rate", {}).values()):
        axes[-1].set_yscale("log")  # a schedule that ends at zero after one epoch has nothing to show on it
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_title(title, loc="left", fontweight="bold")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    save_figure(path, figure, dpi=130)


def _draw_losses(
    axis: Axes, rows: Sequence[Mapping[str, Any]], name: str, best: Callable[[NDArray[np.float64]], Any] | None
) -> None:
    shown: list[float] = []
    for part, colour in _COLOURS.items():
        epochs, values = _series(rows, part, name)
        if not len(epochs):
            continue
        axis.plot(epochs, values, color=colour, lw=1.6, marker="." if len(epochs) < 40 else None, label=part)
        # The first epochs tower over all that follows; the curves are read for their ends.
        settled = values[np.isfinite(values)]
        shown += settled[len(settled) // 10 :].tolist()
        if best is not None and part == "validation" and np.isfinite(values).any():
            at = int(best(values))
            label = f"best {values[at]:.5g} (epoch {epochs[at]:.0f})"
            axis.plot(epochs[at], values[at], "o", ms=8, mfc="none", mec="#222222", ls="none", label=label)
    if len(shown) > 1 and max(shown) > min(shown):
        margin = 0.06 * (max(shown) - min(shown))
        axis.set_ylim(min(shown) - margin, max(shown) + margin)
    axis.set_ylabel(name.replace("_", " "))


def _series(rows: Sequence[Mapping[str, Any]], part: str, name: str) -> Series:
    points = [(row["epoch"], row[part][name]) for row in rows if name in row.get(part, {})]
    table = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
