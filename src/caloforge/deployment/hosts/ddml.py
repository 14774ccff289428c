"""Doubles of key4hep's DDML (commit a908dfb039fa, June 2025) with the models CaloClouds (two angles) and L2LFlows, via libtorch.

The host copies a fixed number of floats from wherever the output lies. With more points than fit it reads behind its own
memory, and a layer that is none makes it write there; the double refuses all that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caloforge.deployment.hosts.graphs import TorchGraph, checked_output
from caloforge.errors import GenerationError

__all__ = ["CAPACITY", "FLOATS", "LAYERS", "Barrel", "CaloClouds", "L2LFlows", "Spots"]

#: What the host copies of a shower of points: counts of the layers, then x, y, layer and energy of each point.
FLOATS, LAYERS = 35_000, 30
#: Points that fit.
CAPACITY = (FLOATS - LAYERS) // 4
#: Cells of a layer along x and y, and what of them the host keeps, GeV.
_CELLS, _LEAST = 90, 1e-5
#: Three of them are a cell of the calorimeter, mm; where the middle of the grid lies in it, mm.
_PITCH, _MIDDLE = 5.088333 / 3, (1.48446, 0.67168)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spots:
    """What the host places.

    Attributes:
        place: in the host's local frame or in the world, mm, (H, 3).
        layer: number of the layer, (H,).
        energy: MeV, (H,).
    """

    place: Floats
    layer: NDArray[np.int64]
    energy: Floats


@dataclass(frozen=True)
class Barrel:
    """A barrel of flat modules around the world's z axis.

    Attributes:
        depths: of the middle of each sensitive layer behind the entry plane, mm.
        symmetry: number of modules.
    """

    depths: tuple[float, ...]
    symmetry: int = 8

    def _turn(self, position: Floats) -> Floats:
        """Rotation that brings a position into the sector around the world's x axis."""
        step = 2 * math.pi / self.symmetry
        angle = -round(math.atan2(position[1], position[0]) / step) * step
        return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])

    def local(self, vector: Floats, position: Floats) -> Floats:
        """A direction in the world (3,) in the local frame at a position: (-z, y, x) of the turned one."""
        turned = self._turn(position) @ vector
        return np.array([-turned[2], turned[1], turned[0]])

    def world(self, spots: Spots, position: Floats) -> Spots:
        """Spots in the local frame whose origin is a position in the world (3,), in the world."""
        x, y, z = spots.place.T
        return Spots(np.stack([z, y, -x], axis=1) @ self._turn(position) + position, spots.layer, spots.energy)

    def placed(self, x: Floats, y: Floats, layer: NDArray[np.int64], energy: Floats, slope: Floats | None) -> Spots:
        """Spots in the local frame; with a slope (2,) each layer is moved along the direction (CorrectForAngles)."""
        depth = np.asarray(self.depths)[layer]
        moved = np.zeros(2) if slope is None else slope
        return Spots(np.stack([x + depth * moved[0], y + depth * moved[1], depth], axis=1), layer, energy)


class _Module:
    """What the host does with any module.

    Args:
        graph: the module.
        barrel: where its layers are.
        optimised: see :class:`~caloforge.deployment.hosts.graphs.TorchGraph`.

    Raises:
        GenerationError: if the host would refuse the file, or the detector has another number of layers.
    """

    def __init__(self, graph: Path, barrel: Barrel, *, optimised: bool = False) -> None:
        if len(barrel.depths) != LAYERS:
            raise GenerationError(f"the host knows {LAYERS} layers, the detector has {len(barrel.depths)}")
        self.graph, self.barrel = TorchGraph(graph, optimised=optimised), barrel


class CaloClouds(_Module):
    """The host with a model of points that knows two angles; ``CorrectForAngles = False``."""

    def points(self, energy: float, direction: Floats) -> Floats:
        """Points of a shower, (M, 4): x, y as the model means them (mm), layer, energy (MeV).

        Args:
            energy: kinetic, MeV.
            direction: of the momentum in the local frame, (3,).

        Raises:
            GenerationError: if the output is not what the host can read.
        """
        theta = math.degrees(math.acos(direction[2]))
        phi = math.degrees(math.atan2(-direction[1], -direction[0]))
        inputs = [np.array([[value]], dtype=np.float32) for value in (energy / 1000, theta, phi)]
        made = checked_output(self.graph.run(inputs), FLOATS).astype(np.float64)
        counts = made[:LAYERS]
        if (counts < 0).any():
            raise GenerationError("a layer has less than no points")
        total = int(np.trunc(counts).sum())
        if total > CAPACITY:
            raise GenerationError(f"{total} points, of which {CAPACITY} fit; the host would read on behind its memory")
        rows = made[LAYERS:][: 4 * CAPACITY].reshape(-1, 4)[:total]
        layer = np.trunc(rows[:, 2])
        if ((layer < 0) | (layer >= LAYERS)).any():
            raise GenerationError(f"a point lies in a layer outside 0 to {LAYERS - 1}; the host would write elsewhere")
        if (np.bincount(layer.astype(np.int64), minlength=LAYERS) != np.trunc(counts)).any():
            raise GenerationError("the points of the layers are not as many as the counts say")
        if (rows[:, 3] < 0).any():
            raise GenerationError("a point has a negative energy")
        return rows

    def spots(self, points: Floats) -> Spots:
        """Points as the host places them in its local frame: x and y change their sign."""
        return self.barrel.placed(-points[:, 0], -points[:, 1], points[:, 2].astype(np.int64), points[:, 3], None)


class L2LFlows(_Module):
    """The host with a model of 90 x 90 cells a layer; ``CorrectForAngles = True``."""

    def cells(self, energy: float, direction: Floats) -> Floats:
        """Energies of the cells, MeV, (layers, 90, 90).

        Args:
            energy: kinetic, MeV.
            direction: of the momentum in the local frame, (3,).

        Raises:
            GenerationError: if the output is not what the host can read.
        """
        row = np.array([[energy / 1000, -direction[0], -direction[1], direction[2]]], dtype=np.float32)
        made = checked_output(self.graph.run([row]), LAYERS * _CELLS * _CELLS)
        return made.astype(np.float64).reshape(LAYERS, _CELLS, _CELLS) * 1000

    def spots(self, cells: Floats, direction: Floats, generator: np.random.Generator) -> Spots:
        """Cells as the host places them in its local frame, each at a place drawn in it."""
        layer, i, j = np.nonzero(cells > _LEAST * 1000)
        x, y = (
            -(index - _CELLS / 2 + generator.random(len(layer))) * _PITCH + middle
            for index, middle in zip((i, j), _MIDDLE, strict=True)
        )
        return self.barrel.placed(x, y, layer, cells[layer, i, j], direction[:2] / direction[2])
