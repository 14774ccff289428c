"""A double of Geant4's example Par04 (Geant4 11.4.0) with a network of the form of CaloDiT-2.

The host reads as many numbers as its mesh has cells from wherever the output lies, and takes their order on trust. The double
refuses what it can see; a wrong order only shows in where the hits are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caloforge.deployment.hosts.graphs import OnnxGraph, TorchGraph, checked_output
from caloforge.errors import GenerationError

__all__ = ["Hits", "Mesh", "Par04"]

#: Numbers of the input: energy, two angles, and five geometries of which the first is meant.
_INPUTS = 8
#: Cells of no more than this are dropped, MeV.
_LEAST = 5e-4

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mesh:
    """Cells around the flight direction, as the macro sets them.

    Attributes:
        rho: number of rings.
        phi: number of sectors.
        z: number of slices.
        size_rho: thickness of a ring, mm.
        size_z: length of a slice, mm.
    """

    rho: int
    phi: int
    z: int
    size_rho: float
    size_z: float

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.rho * self.phi * self.z


@dataclass(frozen=True)
class Hits:
    """What the host makes of a shower.

    Attributes:
        place: in the world, mm, (H, 3).
        energy: MeV, (H,).
        cell: ring, sector and slice, (H, 3).
    """

    place: Floats
    energy: Floats
    cell: NDArray[np.int64]


class Par04:
    """The host with one network.

    Args:
        graph: ``.pt`` for libtorch, ``.onnx`` for ONNX Runtime.
        mesh: of the inference.
        optimised: see :class:`~caloforge.deployment.hosts.graphs.TorchGraph`.

    Raises:
        GenerationError: if the host would refuse or misuse the file.
    """

    def __init__(self, graph: Path, mesh: Mesh, *, optimised: bool = False) -> None:
        self.mesh = mesh
        self.graph: TorchGraph | OnnxGraph
        if graph.suffix == ".onnx":
            self.graph = OnnxGraph(graph, [(1, _INPUTS)])
        elif graph.suffix == ".pt":
            self.graph = TorchGraph(graph, optimised=optimised)
        else:
            raise GenerationError(
                f"'{graph.name}' ends neither in .onnx nor in .pt, so no library of the host takes it"
            )

    def energies(self, energy: float, direction: Floats) -> Floats:
        """Energies of the cells, MeV, in the order of the host's memory: ring, sector, slice, the last one fastest.

        Args:
            energy: kinetic, MeV.
            direction: of the momentum in the world, whose z is the axis of the cylinder, unit vector (3,).

        Raises:
            GenerationError: if the output is not one number for each cell.
        """
        phi, theta = math.atan2(direction[1], direction[0]), math.acos(direction[2])
        row = np.array([energy / 1000, phi, theta, 1, 0, 0, 0, 0], dtype=np.float32)
        made = checked_output(self.graph.run([row]), self.mesh.cells)
        if (made < 0).any():
            raise GenerationError("the graph gives negative energies, which the host drops")
        return made.astype(np.float64) * 1000

    def hits(self, energies: Floats, direction: Floats, origin: Floats) -> Hits:
        """Hits of a shower: one in the middle of each cell that is kept.

        Args:
            energies: of the cells.
            direction: as for :meth:`energies`.
            origin: where the model was triggered, in the world, mm, (3,).
        """
        mesh = self.mesh
        kept = np.flatnonzero(energies > _LEAST)
        cell = np.stack(np.unravel_index(kept, (mesh.rho, mesh.phi, mesh.z)), axis=1).astype(np.int64)
        rho, depth = (cell[:, 0] + 0.5) * mesh.size_rho, (cell[:, 2] + 0.5) * mesh.size_z
        angle = (cell[:, 1] + 0.5) * (2 * np.pi / mesh.phi) - np.pi
        local = np.stack([rho * np.cos(angle), rho * np.sin(angle), depth], axis=1)
        return Hits(local @ local_axes(direction) + origin, energies[kept], cell)


def local_axes(direction: Floats) -> Floats:
    """The axes of the host's local frame in the world, one in each row: growing theta, growing phi, the momentum."""
    phi, theta = math.atan2(direction[1], direction[0]), math.acos(direction[2])
    return np.array(
        [
            [math.cos(theta) * math.cos(phi), math.cos(theta) * math.sin(phi), -math.sin(theta)],
            [-math.sin(phi), math.cos(phi), 0.0],
            [math.sin(theta) * math.cos(phi), math.sin(theta) * math.sin(phi), math.cos(theta)],
        ]
    )
