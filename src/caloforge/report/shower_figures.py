"""Pictures of showers: average images, nearest neighbours, an event in three dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    figure = Figure(figsize=(9.3, 3.1), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    norm = _log_norm(one, two)
    for axes, image, title in ((panels[0], two, reference), (panels[1], one, generated)):
        draw_layer(axes, readout.layers[layer], image, norm)
        axes.set_title(title)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=panels[:2], label="mean energy [MeV]", pad=0.01)
    ratio = np.where(two > 0, one / np.where(two > 0, two, 1), 0)
    tint = TwoSlopeNorm(1, 0.5, 1.5)
    _draw_ratio(panels[2], readout, layer, ratio, two > 0, tint)
    panels[2].set_title("ratio to " + reference)
    figure.colorbar(ScalarMappable(tint, "RdBu_r"), ax=panels[2], extend="max", pad=0.02)
    for axes in panels[1:]:
        axes.set_ylabel("")
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
    figure = Figure(figsize=(0.9 + 2.7 * len(layers), 5.6), layout="constrained")
    panels = figure.subplots(2, len(layers), squeeze=False, sharex="col", sharey="row")
    norm = _log_norm(one, two)
    rows = (
        (reference, one, group.example.energy),
        (generated, two, group.example.neighbour_energy),
    )
    for number, (name, image, energy) in enumerate(rows):
        for column, layer in enumerate(layers):
            axes = panels[number][column]
            draw_layer(axes, readout.layers[layer], image[readout.layer_slices[layer]], norm)
            if number == 0:
                axes.set_title(f"layer {readout.layers[layer].label}")
                axes.set_xlabel("")
            if column:
                axes.set_ylabel("")
        panels[number][0].set_ylabel(f"{name}, {format_energy(energy)}\ny [mm]", fontsize=9)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=panels, label="energy [MeV]", pad=0.01)
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
    figure = Figure(figsize=(9.3, 4.3), layout="constrained")
    panels = []
    for number, (name, image, energy) in enumerate(
        ((reference, one, group.example.energy), (generated, two, group.example.neighbour_energy))
    ):
        axes = figure.add_subplot(1, 2, number + 1, projection="3d")
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
        axes.set_zlabel("y [mm]", fontsize=8)
        axes.tick_params(labelsize=7, pad=0)
        axes.set_box_aspect((1.5, 1, 1), zoom=0.95)
        axes.view_init(elev=18, azim=-62)
        panels.append(axes)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=panels, label="energy [MeV]", shrink=0.7, pad=0.06)
    return figure
