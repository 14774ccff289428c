"""A picture of a detector: its plates and layers in depth, and the cells of every kind of layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from caloforge.detectors.detector import Detector
from caloforge.detectors.grids import CartesianGrid, Grid, PolarGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_detector"]

_CELL_COLOUR = "#2b5c8a"
_AXIS_COLOUR = "#c0392b"
# Absorbers dark, sensitive materials light blue, anything else in between, so that the eye finds the sampling.
_MATERIAL_COLOURS = {
    "G4_Pb": "#4d4d4d", "G4_W": "#595959", "G4_Fe": "#737373", "G4_Cu": "#b87333", "G4_Al": "#b8bcc2",
    "G4_lAr": "#9fd3e8", "G4_Si": "#5aa9d6", "G4_PLASTIC_SC_VINYLTOLUENE": "#a8d8b0", "G4_AIR": "#f2f2f2",
    "G4_Galactic": "#ffffff",
}  # fmt: skip
_OTHER_COLOURS = ("#d9b38c", "#c9a0c9", "#b5c99a", "#e3c878", "#a3b1cc", "#cfa59a")


def draw_detector(detector: Detector) -> Figure:
    """Draw a detector.

    Returns:
        A figure: depth view on top (if depths or plates are known), below it one panel for each kind of layer.
    """
    from matplotlib.figure import Figure

    kinds = _kinds_of_layers(detector)
    has_depth = detector.stack is not None or len(detector.readout.depths) > 0
    rows = -(-len(kinds) // 4) if kinds else 0
    columns = min(4, len(kinds)) or 1
    heights = ([1.0] if has_depth else []) + [1.5] * rows
    figure = Figure(figsize=(max(9.0, 3.1 * columns), 0.7 + 2.3 * sum(heights)), layout="constrained")
    figure.suptitle(detector.title or detector.name)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    if has_depth:
        _draw_depth(figure.add_subplot(grid[0, :]), detector)
    first = int(has_depth)
    for number, (cells, label) in enumerate(kinds):
        axes = figure.add_subplot(grid[first + number // columns, number % columns])
        _draw_cells(axes, cells)
        axes.set_title(label, fontsize=9)
    return figure


def _kinds_of_layers(detector: Detector) -> list[tuple[Grid, str]]:
    found: list[tuple[Grid, list[str]]] = []
    for layer in detector.readout.layers:
        for cells, labels in found:
            if cells == layer.grid:
                labels.append(layer.label)
                break
        else:
            if layer.grid is not None:
                found.append((layer.grid, [layer.label]))
    kinds = []
    for cells, labels in found:
        which = f"layer {labels[0]}" if len(labels) == 1 else f"layers {labels[0]}–{labels[-1]}"
        names = "x × y" if isinstance(cells, CartesianGrid) else "α × r"
        kinds.append((cells, f"{which}: {cells.shape[0]} × {cells.shape[1]} ({names})"))
    return kinds


def _draw_depth(axes: Axes, detector: Detector) -> None:
    from matplotlib.patches import Patch

    legend: dict[str, str] = {}
    if detector.stack is not None:
        spare = iter(_OTHER_COLOURS * 4)
        for plate in detector.stack.plates:
            if plate.material not in legend:
                legend[plate.material] = _MATERIAL_COLOURS.get(plate.material) or next(spare)
            axes.axvspan(plate.start, plate.end, ymin=0.04, ymax=0.74, color=legend[plate.material], lw=0)
    for number, (start, end) in enumerate(detector.readout.depths):
        shade = (0.75, 0.9) if number % 2 else (0.84, 0.99)
        axes.axvspan(start, end, ymin=shade[0], ymax=shade[1], facecolor=_CELL_COLOUR, alpha=0.75, lw=0)
    depths = [*detector.readout.depths.ravel(), *([detector.stack.thickness] if detector.stack else [])]
    back = float(max(depths))
    axes.annotate(
        "", xy=(0, 0.39), xytext=(-0.05 * back, 0.39), xycoords=axes.get_xaxis_transform(),
        arrowprops={"arrowstyle": "-|>", "color": _AXIS_COLOUR, "lw": 1.6, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    patches = [Patch(color=colour, label=name.removeprefix("G4_")) for name, colour in legend.items()]
    patches.append(Patch(color=_CELL_COLOUR, alpha=0.75, label="readout layers"))
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    axes.set_xlim(-0.06 * back, 1.01 * back)
    axes.set_yticks([])
    axes.set_xlabel("depth [mm]")


def _draw_cells(axes: Axes, cells: Grid) -> None:
    if isinstance(cells, PolarGrid):
        # Radii of such readouts span decades, so the square root keeps the inner cells visible.
        wide = cells.r_edges[-1] / np.diff(cells.r_edges).min() > 20
        scale = np.sqrt if wide else np.asarray
        angles = np.linspace(0, 2 * np.pi, 181)
        for edge in scale(np.asarray(cells.r_edges)):
            axes.plot(edge * np.cos(angles), edge * np.sin(angles), color=_CELL_COLOUR, lw=0.6)
        inner, outer = scale(np.asarray([cells.r_edges[0], cells.r_edges[-1]]))
        for alpha in cells.edges[0][:-1] if cells.n_alpha > 1 else ():
            axes.plot(np.cos(alpha) * np.array([inner, outer]), np.sin(alpha) * np.array([inner, outer]),
                      color=_CELL_COLOUR, lw=0.6)  # fmt: skip
        axes.set_xlabel(
            f"r {cells.r_edges[0]:g} to {cells.r_edges[-1]:g} mm" + (", drawn as √r" if wide else ""), fontsize=8
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(False)
    else:
        axes.vlines(cells.x_edges, cells.y_edges[0], cells.y_edges[-1], color=_CELL_COLOUR, lw=0.6)
        axes.hlines(cells.y_edges, cells.x_edges[0], cells.x_edges[-1], color=_CELL_COLOUR, lw=0.6)
        axes.set_xlabel("x [mm]", fontsize=8)
        axes.set_ylabel("y [mm]", fontsize=8)
        axes.tick_params(labelsize=7)
    axes.plot(0, 0, marker="+", color=_AXIS_COLOUR, ms=6, mew=1.2)
    axes.set_aspect("equal")
