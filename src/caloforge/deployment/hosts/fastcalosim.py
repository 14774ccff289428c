"""A double of FastCaloSim's voxel simulation with an ONNX network (``TFCSBinnedShowerONNX``, July 2026).

What the host does silently wrong, the double refuses: it writes random numbers beyond inputs that are too small, finds no voxels
in a graph with two outputs, and uses numbers that are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.errors import GenerationError

__all__ = ["FastCaloSim", "Hits"]

#: Names that the host knows, and what it hands over under them.
_INPUTS = ("inn_eta_in", "inn_einc_in", "cfm_z_shape", "inn_z_energy")
_KEYS = ("binstart_radius", "binsize_radius", "binstart_alpha", "binsize_alpha")
#: The host makes one hit for so many MeV of a voxel, between one and a hundred.
_HIT_ENERGY, _MOST_HITS = 4.0, 100
#: How often it asks again for a shower with numbers that are none.
_RETRIES = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Hits:
    """What the host makes of a shower.

    Attributes:
        place: distance from the shower axis along eta and phi, mm, (H, 2).
        layer: number of the layer, (H,).
        voxel: number of the voxel, (H,).
        energy: MeV, (H,).
    """

    place: Floats
    layer: NDArray[np.int64]
    voxel: NDArray[np.int64]
    energy: Floats


class FastCaloSim:
    """The host with one network.

    Args:
        graph: the network; its name must end in ``.onnx``.
        metadata: HDF5 file with the voxels.
        boundaries: first voxel of each layer, and the number of all: ``setInputShapes``.
        layers: the host's numbers of the layers: likewise.

    Raises:
        GenerationError: if the host would refuse or misuse the files.
    """

    def __init__(self, graph: Path, metadata: Path, boundaries: Sequence[int], layers: Sequence[int]) -> None:
        import onnxruntime

        if graph.suffix != ".onnx":
            raise GenerationError(
                f"'{graph.name}' does not end in .onnx, so the host takes it for another library's file"
            )
        self.boundaries, self.layers = tuple(boundaries), tuple(layers)
        if len(self.boundaries) != len(self.layers) + 1 or any(np.diff(self.boundaries) < 1):
            raise GenerationError("there has to be one boundary more than layers, in growing order")
        self.voxels = self.boundaries[-1]
        self.session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self._check_graph()
        self.cells = self._read(metadata)

    def _check_graph(self) -> None:
        sizes = dict(zip(_INPUTS, (1, 1, self.voxels, len(self.layers)), strict=True))
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        for entry in inputs:
            if entry.name not in sizes:
                raise GenerationError(f"the host knows no input '{entry.name}'")
            # A symbolic axis counts as one; what does not fit is written behind the input's memory.
            size = int(np.prod([axis if isinstance(axis, int) else 1 for axis in entry.shape]))
            if size != sizes[entry.name]:
                raise GenerationError(f"'{entry.name}' has {size} numbers, the host writes {sizes[entry.name]}")
        if len(outputs) != 1:
            raise GenerationError(f"the graph has {len(outputs)} outputs; the host finds voxels in a single one only")
        for entries, kind in ((inputs, "inputs"), (outputs, "outputs")):
            types = {entry.type for entry in entries}
            if len(types) > 1 or not types <= {"tensor(float)", "tensor(double)"}:
                raise GenerationError(
                    f"the {kind} are {', '.join(sorted(types))}; the host knows one type of floating point"
                )
        self.names = [entry.name for entry in inputs]
        self.dtype = np.float32 if inputs[0].type == "tensor(float)" else np.float64

    def _read(self, path: Path) -> Floats:
        """Start and size in radius and alpha of each voxel, (V, 4)."""
        found = []
        with h5py.File(path) as file:
            for number, size in zip(self.layers, np.diff(self.boundaries).tolist(), strict=True):
                columns = []
                for key in _KEYS:
                    name = f"{key}_layer_{number}"
                    if name not in file:
                        raise GenerationError(f"the metadata have no '{name}', so the layer would have no voxels")
                    values = np.asarray(file[name][...], dtype=np.float64)
                    if values.shape != (size,):
                        raise GenerationError(f"'{name}' has the shape {values.shape}, the layer has {size} voxels")
                    columns.append(values)
                found.append(np.stack(columns, axis=1))
        return np.concatenate(found)

    def voxel_energies(self, energy: float, eta: float, normal: NDArray[Any]) -> Floats:
        """Energies of the voxels, MeV, (V,).

        Args:
            energy: kinetic, MeV.
            eta: of the particle at the calorimeter.
            normal: standard normal numbers in the order in which the host draws them: those of the voxels, then those of the
                layers, (V + L,); more rows are for further attempts.

        Raises:
            GenerationError: if the output is not one number for each voxel, or is none five times.
        """
        for row in np.atleast_2d(normal)[:_RETRIES]:
            values = (
                np.array([10 * abs(eta)]), np.array([energy]), row[: self.voxels], row[self.voxels :][: len(self.layers)],
            )  # fmt: skip
            handed = {name: value.astype(self.dtype) for name, value in zip(_INPUTS, values, strict=True)}
            shapes = {
                entry.name: [a if isinstance(a, int) else 1 for a in entry.shape] for entry in self.session.get_inputs()
            }
            (out,) = self.session.run(None, {name: handed[name].reshape(shapes[name]) for name in self.names})
            if out.size != self.voxels:
                raise GenerationError(f"the graph gives {out.size} numbers for {self.voxels} voxels")
            if np.isfinite(out).all():
                energies: Floats = out.reshape(-1).astype(np.float64)
                return energies
        raise GenerationError("the graph gives what is no number, which the host would use in the end")

    def hits(self, energies: Floats, generator: np.random.Generator) -> Hits:
        """Hits of a shower whose voxels (V,) have these energies, MeV; a voxel of no energy has none."""
        lit = np.flatnonzero(energies > 0)
        numbers = np.clip((energies[lit] / _HIT_ENERGY).astype(np.int64), 1, _MOST_HITS)
        voxel = np.repeat(lit, numbers)
        cell = self.cells[voxel]
        radius = cell[:, 0] + generator.random(len(voxel)) * cell[:, 1]
        alpha = cell[:, 2] + generator.random(len(voxel)) * cell[:, 3]
        layer = np.asarray(self.layers)[np.searchsorted(self.boundaries, voxel, side="right") - 1]
        place = np.stack([radius * np.cos(alpha), radius * np.sin(alpha)], axis=1)
        return Hits(place, layer, voxel, np.repeat(energies[lit] / numbers, numbers))
