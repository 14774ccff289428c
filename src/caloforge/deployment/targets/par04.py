"""Geant4's example Par04 (Geant4 11.4.0): a module in the form of CaloDiT-2, and a macro with the mesh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caloforge.arguments import given
from caloforge.atomic import replace_file
from caloforge.deployment.hosts.par04 import Mesh, Par04, local_axes
from caloforge.deployment.parity import Check, ParityResult
from caloforge.deployment.targets.drawn import MANY_SHOWERS, MOST_PASSES, VoxelGraph, host_energies, reference_deposits
from caloforge.deployment.targets.onnx import check_carried, deposit_checks
from caloforge.deployment.targets.torchscript import save_traced
from caloforge.deployment.vectors import test_conditions
from caloforge.detectors import Detector
from caloforge.detectors.grids import PolarGrid
from caloforge.errors import UsageError
from caloforge.models import ShowerModel
from caloforge.units import format_energy

__all__ = ["mesh_of", "write"]

#: Kinds for which a test has proven it.
_PROVEN = ("caloinn", "caloinn-factorised")
#: Edges are written with few digits, mm.
_TOLERANCE = 1e-3

_README = """\
# {name} for Par04

`model.pt` and `model.mac`: a CaloForge model ({kind}, detector {detector}, {low} to {high}, PDG {particle}) for Geant4's
example Par04 (its contract was read from Geant4 11.4.0), in the form of CaloDiT-2: one input of eight numbers, one output.

    /control/execute model.mac          in PreInit or Idle state, before the first event

The module draws its random numbers from libtorch's generator, which is seeded differently in every process: call
`torch::manual_seed` once for each event to repeat a job. Energies outside the range above are not noticed, and the host's
trigger answers every photon, electron and positron in the region, however soft; set limits there.

{meaning} The readout's mesh (`/Par04/mesh/*`) is set apart from the inference's and has to be the same.
The first two showers take seconds, in which libtorch optimises; a shower that came out wrong (not finite) is empty.
"""

_MACRO = """\
# {name}, detector {detector}: the mesh of the model. The library comes last: it opens the file at once.
/Par04/inference/setSizeLatentVector 0
/Par04/inference/setSizeConditionVector 8
/Par04/inference/setNbOfRhoCells {rho}
/Par04/inference/setNbOfPhiCells {phi}
/Par04/inference/setNbOfZCells {z}
/Par04/inference/setSizeOfRhoCells {size_rho:g} mm
/Par04/inference/setSizeOfZCells {size_z:g} mm
/Par04/inference/setModelType CaloDiT-2
/Par04/inference/setModelPathName model.pt
/Par04/inference/setInferenceLibrary TORCH
/Par04/mesh/setNbOfRhoCells {rho}
/Par04/mesh/setNbOfPhiCells {phi}
/Par04/mesh/setNbOfZCells {z}
/Par04/mesh/setSizeOfRhoCells {size_rho:g} mm
/Par04/mesh/setSizeOfZCells {size_z:g} mm
"""


class _Graph(VoxelGraph):
    """Eight numbers to energies of the cells, GeV, ring, sector, slice."""

    def __init__(self, model: ShowerModel, mesh: Mesh, turn: int) -> None:
        super().__init__(model)
        self.mesh, self.turn = mesh, turn

    def forward(self, numbers: Tensor) -> Tensor:
        """From (8,) or (1, 8), energy in GeV first, to as many numbers as there are cells, flat."""
        layers = self.deposits(numbers.reshape(-1)[:1].double() * 1000).view(self.mesh.z, self.mesh.phi, self.mesh.rho)
        turned = torch.roll(layers, self.turn, 1) if self.turn else layers
        return (turned / 1000).permute(2, 1, 0).contiguous().view(-1)


def mesh_of(detector: Detector) -> Mesh:
    """The host's mesh with the voxels of a detector.

    Raises:
        UsageError: if it can have none: equal rings from the axis on, equal slices from the surface on, all alike.
    """
    readout = detector.readout
    grids = [layer.grid for layer in readout.layers]
    first = grids[0]
    why = "equal rings, sectors and slices from the surface on"
    if not isinstance(first, PolarGrid) or any(grid != first for grid in grids) or not len(readout.depths):
        raise UsageError(
            f"Par04's mesh has {why}, the voxels of '{detector.name}' are others; {given('target', 'onnx')} carries them"
        )
    rings, edges = np.asarray(first.r_edges), np.append(readout.depths[:, 0], readout.depths[-1, 1])
    sizes = float(rings[-1] / (len(rings) - 1)), float(edges[-1] / (len(edges) - 1))
    for found, size in zip((rings, edges), sizes, strict=True):
        if np.abs(found - size * np.arange(len(found))).max() > _TOLERANCE:
            raise UsageError(
                f"Par04's mesh has {why}, the voxels of '{detector.name}' have not; {given('target', 'onnx')} carries them"
            )
    return Mesh(len(rings) - 1, first.n_alpha, len(grids), *sizes)


def _turn(detector: Detector) -> int:
    """Sectors from the detector's x axis to the host's.

    The host's x points along the axis of the cylinder, against it, and its y around it; a detector of cylinders has its x
    axis around them and y along them.
    """
    if detector.stack is None or detector.stack.kind != "cylindrical":
        return 0
    sectors = mesh_of(detector).phi
    if sectors % 4:
        raise UsageError(
            f"Par04's frame is turned by a quarter, which {sectors} sectors of '{detector.name}' do not allow"
        )
    return sectors // 4


def write(
    folder: Path, where: str | Path, model: ShowerModel, showers: int, seed: int, verify: bool
) -> ParityResult | None:
    """Fill the folder of an export; see :func:`caloforge.deployment.targets.onnx.write`."""
    check_carried(model, kinds=_PROVEN, most_features=MOST_PASSES)
    mesh, turn, record = mesh_of(model.detector), _turn(model.detector), model.record
    assert record is not None  # loaded from a directory
    path, low, high = folder / "model.pt", *map(format_energy, record.valid.incident_energy)
    middle = float(np.sqrt(np.prod(record.valid.incident_energy)))
    example = torch.tensor([middle / 1000, 0.0, np.pi / 2, 1, 0, 0, 0, 0], dtype=torch.float32)
    save_traced(path, _Graph(model, mesh, turn), (example,))
    names = {"name": Path(where).name, "detector": model.detector.name}
    fraction = model.detector.sampling_fraction
    meaning = (
        "Energies of cells are those deposited in them."
        if fraction is None
        else f"Energies of cells are what the active plates see over {fraction:g}, as in the training showers."
    )
    text = _README.format(kind=model.kind, low=low, high=high, particle=record.valid.particle, meaning=meaning, **names)
    replace_file(folder / "README.md", text)
    replace_file(folder / "model.mac", _MACRO.format(**vars(mesh), **names))
    return (
        _compared(Par04(path, mesh, optimised=showers >= MANY_SHOWERS), where, model, showers, seed) if verify else None
    )


def _compared(host: Par04, where: str | Path, model: ShowerModel, showers: int, seed: int) -> ParityResult:
    """Showers of the host's double against those of the model, and its hits against the voxels that they come from."""
    record, readout, turn = model.record, model.detector.readout, _turn(model.detector)
    assert record is not None  # loaded from a directory
    energies = host_energies(test_conditions(record.valid, showers, seed).incident_energy)
    reference = reference_deposits(where, energies, record.valid.particle, seed)
    generator, origin = np.random.default_rng(seed), np.array([12.0, -34.0, 56.0])
    found, lost = np.zeros_like(reference, dtype=np.float64), 0.0
    for row, energy in enumerate(energies.tolist()):
        direction = _any_direction(generator)
        torch.manual_seed(seed + row)
        cells = host.energies(energy, direction)
        hits = host.hits(cells, direction, origin)
        # Back from the world: the host's frame, then a quarter turn to the detector's.
        local = (hits.place - origin) @ local_axes(direction).T
        x, y = (local[:, 1], -local[:, 0]) if turn else (local[:, 0], local[:, 1])
        layer = np.searchsorted(readout.depths[:, 0], local[:, 2], side="right") - 1
        voxel = readout.voxel_index(x, y, layer)
        lost += float(hits.energy[voxel < 0].sum())
        np.add.at(found[row], voxel[voxel >= 0], hits.energy[voxel >= 0])
    expected = np.where(reference > 5e-4, reference, 0)  # what the host keeps
    checks = [
        *deposit_checks(found.astype(np.float32), expected.astype(np.float32), energies, model.detector),
        Check.of("energy of hits outside all voxels, MeV", lost, 0.0),
    ]
    return ParityResult(all(check.passed for check in checks), tuple(checks), "")


def _any_direction(generator: np.random.Generator) -> NDArray[np.float64]:
    """A direction away from the axis of the cylinder."""
    phi, z = generator.uniform(-np.pi, np.pi), generator.uniform(-0.8, 0.8)
    side = np.sqrt(1 - z * z)
    return np.array([side * np.cos(phi), side * np.sin(phi), z])
