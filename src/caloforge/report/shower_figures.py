"""Pictures of showers: average images, nearest neighbours, an event in three dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Readout
from caloforge.evaluation.results import Images, NeighbourGroup, VoxelResult
from caloforge.showers.pictures import draw_layer
from caloforge.units import format_energy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D  # type: ignore[import-untyped]

__all__ = ["chosen_layers", "draw_event_display", "draw_images", "draw_neighbours"]

Float64 = NDArray[np.float64]


def chosen_layers(energies: Float64, most: int) -> list[int]:
    """All layers if they are few, else ``most`` of them that share the energy about equally."""
    if len(energies) <= most:
        return list(range(len(energies)))
    cumulative = np.cumsum(energies) / max(energies.sum(), 1e-300)
    found = np.searchsorted(cumulative, (np.arange(most) + 0.5) / most).clip(0, len(energies) - 1)
    return sorted(set(found.tolist()))


def _log_norm(*images: Float64) -> Normalize:
    from matplotlib.colors import LogNorm

    lit = np.concatenate([i[i > 0] for i in images])
    high = float(lit.max()) if len(lit) else 1.0
    # Six decades show the halo without drowning the core in one colour.
    return LogNorm(max(float(lit.min()) if len(lit) else high / 10, high * 1e-6, high * 1e-12), high * 1.001)


def draw_images(
    images: Images,
    readout: Readout,
    layer: int,
    voxels: VoxelResult | None,
    *,
    generated: str,
    reference: str = "Geant4",
) -> Figure:
    """Mean energy in the voxels of one layer, in both samples, and their ratio.

    Args:
        images: mean energies.
        readout: the voxels.
        layer: number of the layer.
        voxels: suspicious voxels, marked by circles, if they were looked for.
        generated: name of the generated sample.
        reference: name of the reference.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    where = readout.layer_slices[layer]
    one, two = np.asarray(images.generated)[where], np.asarray(images.reference)[where]
    figure = Figure(figsize=(9.3, 3.1))
    # Columns: two images, their colours, room for the label, the ratio, its colours.
    grid = figure.add_gridspec(
        1, 6, width_ratios=(1, 1, 0.05, 0.22, 1, 0.05), left=0.065, right=0.945, top=0.91, bottom=0.15, wspace=0.07
    )
    first = figure.add_subplot(grid[0, 0])
    panels = [first, *(figure.add_subplot(grid[0, k], sharey=first) for k in (1, 4))]
    norm = _log_norm(one, two)
    for axes, image, title in ((panels[0], two, reference), (panels[1], one, generated)):
        draw_layer(axes, readout.layers[layer], image, norm)
        axes.set_title(title)
    figure.colorbar(ScalarMappable(norm, "viridis"), cax=figure.add_subplot(grid[0, 2]), label="mean energy [MeV]")
    ratio = np.where(two > 0, one / np.where(two > 0, two, 1), 0)
    tint = TwoSlopeNorm(1, 0.5, 1.5)
    _draw_ratio(panels[2], readout, layer, ratio, two > 0, tint)
    panels[2].set_title("ratio to " + reference)
    figure.colorbar(ScalarMappable(tint, "RdBu_r"), cax=figure.add_subplot(grid[0, 5]), extend="max")
    for axes in panels:
        axes.minorticks_off()
        if axes is not first:
            axes.set_ylabel("")
            axes.tick_params(labelleft=False)
    if voxels is not None:
        _mark(panels[2], readout, layer, voxels)
    return figure


def _draw_ratio(
    axes: Axes, readout: Readout, layer: int, ratio: Float64, known: NDArray[np.bool_], tint: Normalize
) -> None:
    # draw_layer leaves zeros white, which is what an undefined ratio shall be; a ratio of 0 is not undefined.
    shown = np.where(known, np.maximum(ratio, 1e-9), 0)
    draw_layer(axes, readout.layers[layer], shown, tint)
    axes.collections[-1].set_cmap("RdBu_r")


def _mark(axes: Axes, readout: Readout, layer: int, voxels: VoxelResult) -> None:
    where = readout.layer_slices[layer]
    centres = readout.centres()
    for rows, colour in ((voxels.never_lit, "black"), (voxels.under_lit, "#0b3c6f"), (voxels.over_lit, "#7a0c0c")):
        inside = [v for v in rows if where.start <= v < where.stop]
        if inside:
            axes.scatter(
                centres[inside, 0], centres[inside, 1], s=26, facecolors="none", edgecolors=colour, linewidths=1.1
            )


def draw_neighbours(group: NeighbourGroup, readout: Readout, *, generated: str, reference: str = "Geant4") -> Figure:
    """A reference shower above the generated shower that is nearest to it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    one, two = np.asarray(group.example.deposits), np.asarray(group.example.neighbour_deposits)
    energies = np.asarray([one[w].sum() for w in readout.layer_slices])
    layers = chosen_layers(energies, 4)
    width = 1.9 + 2.5 * len(layers)
    figure = Figure(figsize=(width, 5.5))
    grid = figure.add_gridspec(
        2, len(layers) + 1, width_ratios=(*[1] * len(layers), 0.05), left=0.8 / width, right=1 - 0.8 / width, top=0.94,
        bottom=0.085, wspace=0.06, hspace=0.07,
    )  # fmt: skip
    panels = [[figure.add_subplot(grid[row, column]) for column in range(len(layers))] for row in range(2)]
    norm = _log_norm(one, two)
    rows = (
        (reference, one, group.example.energy),
        (generated, two, group.example.neighbour_energy),
    )
    for number, (name, image, energy) in enumerate(rows):
        for column, layer in enumerate(layers):
            axes = panels[number][column]
            draw_layer(axes, readout.layers[layer], image[readout.layer_slices[layer]], norm)
            axes.minorticks_off()
            if number == 0:
                axes.set_title(f"layer {readout.layers[layer].label}")
                axes.set_xlabel("")
                axes.tick_params(labelbottom=False)
            if column:
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
        panels[number][0].set_ylabel(f"{name}, {format_energy(energy)}\ny [mm]", fontsize=9)
    figure.colorbar(ScalarMappable(norm, "viridis"), cax=figure.add_subplot(grid[:, -1]), label="energy [MeV]")
    return figure


def draw_event_display(group: NeighbourGroup, readout: Readout, *, generated: str, reference: str = "Geant4") -> Figure:
    """A reference shower and its generated neighbour in three dimensions; the area of a point is its voxel's energy."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    one, two = np.asarray(group.example.deposits), np.asarray(group.example.neighbour_deposits)
    centres = readout.centres().copy()
    known = len(readout.depths) > 0
    if not known:
        centres[:, 2] = readout.voxel_layers
    norm = _log_norm(one, two)
    peak = max(one.max(), two.max())
    figure = Figure(figsize=(9.3, 3.9))
    for number, (name, image, energy) in enumerate(
        ((reference, one, group.example.energy), (generated, two, group.example.neighbour_energy))
    ):
        axes = cast("Axes3D", figure.add_axes((0.44 * number, 0.02, 0.43, 0.92), projection="3d"))
        axes.minorticks_off()
        # The background of the second panel must not cover what is written beside the first.
        axes.patch.set_visible(False)
        lit = np.flatnonzero(image > 1e-5 * peak)
        lit = lit[np.argsort(image[lit])]
        size = 4 + 130 * np.sqrt(image[lit] / peak)
        # Depth runs to the right, as the particle flies.
        axes.scatter(
            centres[lit, 2], centres[lit, 0], centres[lit, 1], s=size, c=image[lit], norm=norm, cmap="viridis",
            alpha=0.75, linewidths=0, depthshade=False,
        )  # fmt: skip
        axes.set_title(f"{name}, {format_energy(energy)}")
        axes.set_xlabel("depth [mm]" if known else "layer", fontsize=8)
        axes.set_ylabel("x [mm]", fontsize=8)
        axes.set_zlabel("y [mm]", fontsize=8, labelpad=-4)
        axes.tick_params(labelsize=7, pad=0)
        axes.set_box_aspect((1.5, 1, 1), zoom=1.05)
        axes.view_init(elev=18, azim=-62)
    bar = figure.add_axes((0.935, 0.14, 0.012, 0.68))
    figure.colorbar(ScalarMappable(norm, "viridis"), cax=bar, label="energy [MeV]")
    return figure
