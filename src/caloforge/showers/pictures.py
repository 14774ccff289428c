"""Pictures of showers: the average image of each layer, and single events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Layer, PolarGrid, particle_name
from caloforge.showers.showers import ShowerPoints, Showers
from caloforge.units import GeV, format_energy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

__all__ = ["draw_average", "draw_event", "draw_layer", "draw_points", "draw_spectra"]

#: More layers than this are shown as a profile and a selection.
_MOST_PANELS = 6
_COLOURS = "viridis"


def draw_average(showers: Showers, *, title: str = "") -> Figure:
    """Draw the mean energy in every voxel, one panel for each layer (or a selection of many layers).

    Args:
        showers: at least one.
        title: heading; by default what the showers are.
    """
    mean = showers.deposits.mean(axis=0, dtype=np.float64)
    low, high = showers.incident_energy.min(), showers.incident_energy.max()
    energies = format_energy(low) if low == high else f"{format_energy(low)} to {format_energy(high)}"
    text = title or f"Average of {len(showers)} {particle_name(showers.particle)} showers, {energies}"
    return _draw(showers, mean, text, "mean energy [MeV]")


def draw_event(showers: Showers, row: int = 0, *, title: str = "") -> Figure:
    """Draw one shower, one panel for each layer (or a selection of many layers); empty voxels stay white."""
    energy = format_energy(float(showers.incident_energy[row]))
    text = title or f"One {energy} {particle_name(showers.particle)} shower"
    return _draw(showers, showers.deposits[row].astype(np.float64), text, "energy [MeV]")


def draw_spectra(showers: Showers | ShowerPoints) -> Figure:
    """Draw the distributions of the incident energy and of the share of it that was deposited; at least one shower."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    energy = showers.incident_energy / GeV
    left.hist(energy, bins=_bins(energy), color="#2b5c8a")
    left.set_xlabel("incident energy [GeV]")
    left.set_ylabel("showers")
    share = showers.total_energy() / showers.incident_energy
    right.hist(share, bins=_bins(share), color="#2b5c8a")
    right.set_xlabel("deposited / incident energy")
    right.locator_params(axis="x", nbins=6)
    return figure


def _bins(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    wide = max(high - low, 1e-3 * abs(high), 1e-12)
    number = int(np.clip(2 * len(values) ** 0.5, 8, 60))
    return np.linspace(low - 0.02 * wide, high + 0.02 * wide, number + 1)


def draw_points(showers: ShowerPoints, row: int = 0, *, title: str = "") -> Figure:
    """Draw the points of one shower from the side and along the axis; darker is more energy."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    points = showers.points[showers.offsets[row] : showers.offsets[row + 1]]
    energy = format_energy(float(showers.incident_energy[row]))
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    figure.suptitle(title or f"One {energy} {particle_name(showers.particle)} shower, {len(points)} points")
    side, front = figure.subplots(1, 2)
    lit = points[:, 3][points[:, 3] > 0]
    top = float(lit.max()) if len(lit) else 1.0
    norm = LogNorm(max(float(lit.min()) if len(lit) else top / 10, top * 1e-4), top)
    order = np.argsort(points[:, 3])  # the bright ones on top
    x, y, layer, deposit = points[order, :4].T
    for axes, horizontal, label in ((side, layer, "layer"), (front, y, "y [mm]")):
        drawn = axes.scatter(horizontal, x, c=deposit, s=4, norm=norm, cmap="viridis_r", linewidths=0)
        axes.set_xlabel(label)
        axes.set_ylabel("x [mm]")
    figure.colorbar(drawn, ax=(side, front), label="energy [MeV]")
    return figure


def _draw(showers: Showers, image: NDArray[np.float64], title: str, label: str) -> Figure:
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    readout = showers.readout
    energies = [float(image[where].sum()) for where in readout.layer_slices]
    chosen = _selection(energies)
    profile = len(chosen) < readout.n_layers
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns) + profile
    figure = Figure(figsize=(4.3 * columns, 0.6 + 3.5 * rows), layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(rows, columns)
    lit = image[image > 0]
    top = float(lit.max()) if len(lit) else 1.0
    # Six decades show a shower's halo without drowning its core in one colour.
    norm = LogNorm(max(float(lit.min()) if len(lit) else top / 10, top * 1e-6), top)
    if profile:
        _draw_profile(figure.add_subplot(grid[0, :]), showers, energies, chosen)
    panels = []
    for number, layer in enumerate(chosen):
        axes = figure.add_subplot(grid[profile + number // columns, number % columns])
        where = readout.layer_slices[layer]
        draw_layer(axes, readout.layers[layer], image[where], norm)
        axes.set_title(f"layer {readout.layers[layer].label}: {energies[layer] / GeV:.3g} GeV", fontsize=10)
        panels.append(axes)
    from matplotlib.cm import ScalarMappable

    figure.colorbar(ScalarMappable(norm, _COLOURS), ax=panels, label=label, shrink=0.9)
    return figure


def _selection(energies: list[float]) -> list[int]:
    """All layers if they are few, else six that share the energy about equally."""
    if len(energies) <= _MOST_PANELS:
        return list(range(len(energies)))
    cumulative = np.cumsum(energies) / max(sum(energies), 1e-300)
    quantiles = (np.arange(_MOST_PANELS) + 0.5) / _MOST_PANELS
    chosen = {int(np.searchsorted(cumulative, q).clip(0, len(energies) - 1)) for q in quantiles}
    return sorted(chosen)


def _draw_profile(axes: Axes, showers: Showers, energies: list[float], chosen: list[int]) -> None:
    positions = np.arange(len(energies))
    colours = ["#2b5c8a" if k in chosen else "#b9cbdd" for k in positions]
    axes.bar(positions, np.asarray(energies) / GeV, color=colours, width=0.9)
    axes.set_xlabel("layer (dark: drawn below)")
    axes.set_ylabel("energy [GeV]")
    axes.set_xlim(-0.6, len(energies) - 0.4)


def draw_layer(axes: Axes, layer: Layer, energies: NDArray[np.floating], norm: Normalize) -> None:
    """Draw the voxels of one layer in their true shape.

    Args:
        axes: where to draw.
        layer: a layer with cells.
        energies: energy of each of its voxels, shape (cells,), MeV; zeros stay white.
        norm: colour scale.
    """
    if layer.grid is None:
        raise ValueError("a layer of points has no cells to draw")
    values = np.ma.masked_less_equal(np.asarray(energies).reshape(layer.grid.shape), 0)
    outer, inner = (np.asarray(edges) for edges in layer.grid.edges)
    if isinstance(layer.grid, PolarGrid):
        # A sector is drawn in enough straight pieces to look round.
        pieces = max(1, 120 // layer.grid.n_alpha)
        alpha = np.linspace(-np.pi, np.pi, layer.grid.n_alpha * pieces + 1)
        x, y = np.outer(np.cos(alpha), inner), np.outer(np.sin(alpha), inner)
        axes.pcolormesh(x, y, np.ma.repeat(values, pieces, axis=0), norm=norm, cmap=_COLOURS, rasterized=True)
        axes.set_aspect("equal")
    else:
        axes.pcolormesh(outer, inner, values.T, norm=norm, cmap=_COLOURS, rasterized=True)
        axes.set_aspect("equal")
    axes.set_xlabel("x [mm]", fontsize=9)
    axes.set_ylabel("y [mm]", fontsize=9)
    axes.tick_params(labelsize=8)
