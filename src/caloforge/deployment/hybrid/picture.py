"""One event as a picture: tracks in front of the calorimeter, answered showers, and what Geant4 tracked behind the face."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from caloforge.deployment.hybrid.merging import events_of
from caloforge.deployment.hybrid.work import Answers, HybridWork
from caloforge.detectors import CartesianGrid, particle_name
from caloforge.errors import UsageError
from caloforge.report.style import figure_style
from caloforge.showers import ShowerPoints, Showers
from caloforge.simulation import BLOCK_SIZE, Removed
from caloforge.simulation.engines import Track, make_engine
from caloforge.units import MeV, format_energy
from caloforge.workers import call_elsewhere

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["EventPicture", "check_picture", "draw_picture", "picture_of"]

#: Tracks that begin with less are left out; photons behind the face, of which there are most, below the second one.
_LEAST, _LEAST_PHOTON = 1.0 * MeV, 10.0 * MeV
#: Half of what is shown across, mm, and cells of points and of polar voxels in it.
_ACROSS, _CELLS = 60.0, 24
_COLOURS = {22: "#e69f00", 11: "#0072b2", -11: "#d55e00"}
_OTHERS = "#4d4d4d"


@dataclass(frozen=True)
class EventPicture:
    """What is drawn.

    Attributes:
        event: its number.
        tracks: of Geant4, in the frame of the calorimeter.
        seen: particles at the face.
        showers: the answers alone, one event.
    """

    event: int
    tracks: list[Track]
    seen: Removed
    showers: Showers | ShowerPoints


def check_picture(work: HybridWork, event: int) -> None:
    """Refuse, before work goes into it, what cannot be drawn.

    Raises:
        UsageError: if there is no such event, or the engine does not tell tracks.
    """
    if not 0 <= event < work.plan.events:
        raise UsageError(f"event {event} cannot be drawn, the events are 0 to {work.plan.events - 1}")
    if work.plan.engine_name != "calzone":
        raise UsageError(
            "a picture needs the tracks, which only the engine calzone tells (and it knows no magnetic field)"
        )


def picture_of(work: HybridWork, event: int) -> EventPicture:
    """Simulate the block of an event once more, with its tracks told.

    Args:
        work: of the production.
        event: number of the event.

    Raises:
        UsageError: if there is no such event, or the engine does not tell tracks.
    """
    check_picture(work, event)
    told: tuple[list[Track], Removed] = call_elsewhere(_traced, work, event)
    tracks, seen = told
    removal = work.plan.removal
    assert removal is not None  # of a hybrid simulation
    down = np.array([0.0, 0.0, removal.depth])
    moved = [Track(track.particle, track.energy, track.points - down, track.behind) for track in tracks]
    readout, zero = work.detector.readout, np.zeros(1)
    nothing: Showers | ShowerPoints
    if work.plan.points:
        none = np.zeros((0, 4), np.float32)
        nothing = ShowerPoints(np.zeros(2, np.int64), none, zero, work.plan.particle, readout)
    else:
        voxels, beside = np.zeros((1, readout.n_voxels), np.float32), np.zeros((1, readout.n_layers), np.float32)
        nothing = Showers(voxels, zero, work.plan.particle, readout, None, beside)
    events = events_of(nothing, work.detector)
    Answers(work).add(seen, event, events)
    return EventPicture(event, moved, seen, events.finished())


def _traced(work: HybridWork, event: int) -> tuple[list[Track], Removed]:
    # Geant4 writes to the terminal.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    plan = work.plan
    engine = make_engine(plan.engine_name, plan.detector, plan.particle, plan.tables, plan.removal)
    number, row = divmod(event, BLOCK_SIZE)
    engine.seed(plan.geant4_seed(number))
    tracks, seen = engine.trace(*plan.conditions(number), row, _LEAST)
    return tracks, seen.shifted(-row)


def draw_picture(picture: EventPicture, work: HybridWork) -> Figure:
    """Draw an event from the side.

    Args:
        picture: what is drawn.
        work: of the production.
    """
    from matplotlib.figure import Figure

    with figure_style():
        figure = Figure(figsize=(8.4, 3.9), layout="constrained")
        axes = figure.add_subplot()
        _draw_matter(axes, work)
        axis = _draw_showers(figure, axes, picture, work)
        _draw_tracks(axes, picture, axis)
        answered, energy = int(picture.seen.stopped.sum()), float(picture.seen.energy[picture.seen.stopped].sum())
        title = f"event {picture.event}: {answered} particle{'s' * (answered != 1)} answered"
        axes.set_title(title + (f" ({format_energy(energy)})" if answered else ""))
        axes.set_xlabel("depth [mm]")
        axes.set_ylabel(f"{'xy'[axis]} [mm]")
        axes.set_ylim(-_ACROSS, _ACROSS)
        axes.legend(loc="upper left", frameon=True, framealpha=0.9)
    return figure


def _draw_matter(axes: Axes, work: HybridWork) -> None:
    stack, removal, gun = work.plan.detector.stack, work.plan.removal, work.plan.detector.gun
    assert stack is not None
    assert removal is not None
    assert gun is not None
    for plate in stack.plates:
        if plate.end <= removal.depth + 1e-6 and plate.material not in ("G4_Galactic", "G4_AIR"):
            axes.axvspan(plate.start - removal.depth, plate.end - removal.depth, color="#999999", alpha=0.6, lw=0)
    axes.axvline(0.0, color="black", lw=0.8, ls=":")
    for start, end in work.detector.readout.depths if len(work.detector.readout.depths) <= 10 else ():
        axes.axvspan(start, end, facecolor="#f4f4f4", edgecolor="#cccccc", lw=0.6, zorder=-2)
    last = float(work.detector.readout.depths[-1, 1]) if len(work.detector.readout.depths) else 100.0
    axes.set_xlim(gun.position[2] - removal.depth, last)


def _draw_showers(figure: Figure, axes: Axes, picture: EventPicture, work: HybridWork) -> int:
    """Draw what models answered, summed along one axis, and return the other one: that of the narrower cells."""
    from matplotlib.colors import LogNorm

    readout = work.detector.readout
    grid = readout.layers[0].grid
    axis = int(isinstance(grid, CartesianGrid) and grid.shape[1] > grid.shape[0])
    images = []
    for number, layer in enumerate(readout.layers):
        edges = np.linspace(-_ACROSS, _ACROSS, _CELLS + 1)
        if isinstance(picture.showers, ShowerPoints):
            points = picture.showers.points[picture.showers.points[:, 2] == number]
            place, energy = points[:, axis], points[:, 3]
        else:
            assert layer.grid is not None  # of voxels
            if isinstance(layer.grid, CartesianGrid):
                edges = np.asarray(layer.grid.edges[axis])
            place = layer.grid.centres[:, axis]
            energy = picture.showers.deposits[0, readout.layer_slices[number]]
        image: NDArray[np.float64] = np.histogram(place, edges, weights=energy.astype(np.float64))[0]
        images.append((edges, np.where(image > 0, image, np.nan)))
    brightest = max((float(np.nanmax(image)) for _, image in images if np.isfinite(image).any()), default=1.0)
    norm, drawn = LogNorm(brightest * 1e-4, brightest), None
    for (edges, image), ends in zip(images, _bands(readout.depths), strict=False):
        drawn = axes.pcolormesh(ends, edges, image[:, None], norm=norm, cmap="Greens", alpha=0.8, zorder=-1)
    if drawn is not None:
        figure.colorbar(drawn, ax=axes, label="answered energy [MeV]", pad=0.01)
    return axis


def _bands(depths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Depths from which to which each layer is drawn, (layers, 2): thin ones reach half-way to their neighbours."""
    if not len(depths):
        return depths
    between = (depths[:-1, 1] + depths[1:, 0]) / 2
    return np.stack([np.concatenate([depths[:1, 0], between]), np.concatenate([between, depths[-1:, 1]])], axis=1)


def _draw_tracks(axes: Axes, picture: EventPicture, axis: int) -> None:
    from matplotlib.collections import LineCollection

    named: set[str] = set()
    for kind in sorted({track.particle for track in picture.tracks}, key=lambda pdg: (pdg not in _COLOURS, pdg)):
        for behind in (False, True):
            least = _LEAST_PHOTON if behind and kind == 22 else _LEAST
            chosen = [t for t in picture.tracks if t.particle == kind and t.behind == behind and t.energy >= least]
            if not chosen:
                continue
            colour = _COLOURS.get(kind, _OTHERS)
            label = particle_name(kind) if kind in _COLOURS else "others"
            lines = [t.points[:, [2, axis]] for t in chosen]
            style = (0, (3, 2)) if kind == 22 else "solid"
            # Thousands of tracks behind the face are a texture, a handful in front are lines.
            width, alpha = ((0.3, 0.4) if kind == 22 else (0.6, 0.9)) if behind else (1.1, 1.0)
            drawn = LineCollection(lines, colors=colour, linewidths=width, linestyles=[style], alpha=alpha)
            drawn.set_zorder(2 if kind == 22 else 3)
            axes.add_collection(drawn)
            if label not in named:
                axes.plot([], [], color=colour, lw=1.1, ls="--" if kind == 22 else "-", label=label)
                named.add(label)
    stopped = picture.seen.position[picture.seen.stopped]
    if len(stopped):
        axes.plot(0 * stopped[:, axis], stopped[:, axis], "o", color="#009e73", ms=5, label="answered here", zorder=5)
