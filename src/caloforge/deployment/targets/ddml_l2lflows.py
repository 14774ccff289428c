"""DDML's L2LFlows: a module that gives the energies of 90 x 90 cells in 30 layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from caloforge.arguments import given
from caloforge.atomic import replace_file
from caloforge.deployment.hosts.ddml import Barrel, L2LFlows
from caloforge.deployment.parity import Check, ParityResult
from caloforge.deployment.targets.ddml import write_steering
from caloforge.deployment.targets.drawn import MANY_SHOWERS, MOST_PASSES, VoxelGraph, host_energies, reference_deposits
from caloforge.deployment.targets.onnx import check_carried, deposit_checks
from caloforge.deployment.targets.torchscript import save_traced
from caloforge.deployment.vectors import test_conditions
from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.models import ShowerModel
from caloforge.units import format_energy

__all__ = ["write"]

#: The cells that the host has.
_DETECTOR = "ild-ecal/90x90"
#: Edges are written with few digits, mm.
_TOLERANCE = 1e-3
#: Kinds for which a test has proven it.
_PROVEN = ("l2lflows-conv",)

_README = """\
# {name} for DDML

`model.pt`: a CaloForge model ({kind}, detector {detector}, {low} to {high}, PDG {particle}) for the model class L2LFlows of
key4hep's DDML (its contract was read from commit a908dfb039fa, June 2025), for libtorch. `steering.py` has the properties.

It always gives 243,000 floats, the energies of 30 x 90 x 90 cells in GeV. The model was trained for particles that enter at a
right angle, and does not look at the direction; the host moves the layers along it (`CorrectForAngles` is True). How far from a
right angle that is good enough has to be tried: set the limits in the trigger, those of the energy (above) too.

The module draws its random numbers from libtorch's generator, which is seeded differently in every process: call
`torch::manual_seed` once for each event to repeat a job. The host draws places within cells from C's `rand()`.
"""


class _Graph(VoxelGraph):
    """Energy (GeV) and direction to energies of the cells, GeV, layer, x, y."""

    def forward(self, numbers: Tensor) -> Tensor:
        """From (1, 4) to (243000,)."""
        return (self.deposits(numbers.reshape(-1)[:1].double() * 1000) / 1000).contiguous().view(-1)


def _check_cells(model: ShowerModel) -> None:
    """See whether a model has the host's cells."""
    cells, found = load_detector(_DETECTOR).readout, model.detector.readout
    same = found.layer_shapes == cells.layer_shapes and all(
        np.allclose(mine, theirs, rtol=0, atol=_TOLERANCE)
        for one, other in zip(found.layers, cells.layers, strict=True)
        if one.grid is not None and other.grid is not None
        for mine, theirs in zip(one.grid.edges, other.grid.edges, strict=True)
    )
    if not same or not len(found.depths):
        raise UsageError(
            f"DDML's L2LFlows has the cells of '{_DETECTOR}', and this model those of '{model.detector.name}'; "
            f"{given('target', 'ddml-caloclouds')} carries models of points"
        )


def write(
    folder: Path, where: str | Path, model: ShowerModel, showers: int, seed: int, verify: bool
) -> ParityResult | None:
    """Fill the folder of an export; see :func:`caloforge.deployment.targets.onnx.write`."""
    if model.shower_kind == "points":
        raise UsageError(f"'{model.kind}' makes points; {given('target', 'ddml-caloclouds')} carries it")
    check_carried(model, kinds=_PROVEN, most_features=MOST_PASSES)
    _check_cells(model)
    detector, record = model.detector, model.record
    assert record is not None  # loaded from a directory
    path, (low, high) = folder / "model.pt", record.valid.incident_energy
    save_traced(path, _Graph(model), (torch.tensor([[np.sqrt(low * high) / 1000, 0.0, 0.0, 1.0]]).float(),))
    text = _README.format(
        name=Path(where).name, kind=model.kind, detector=detector.name, low=format_energy(low), high=format_energy(high),
        particle=record.valid.particle,
    )  # fmt: skip
    replace_file(folder / "README.md", text)
    write_steering(folder, record, "L2LFlows", correct_for_angles=True)
    barrel = Barrel(tuple(detector.readout.depths.mean(axis=1).tolist()))
    return (
        _compared(L2LFlows(path, barrel, optimised=showers >= MANY_SHOWERS), where, model, showers, seed)
        if verify
        else None
    )


def _compared(host: L2LFlows, where: str | Path, model: ShowerModel, showers: int, seed: int) -> ParityResult:
    """Showers of the host's double against those of the model, and its hits against the cells that they come from."""
    record, readout = model.record, model.detector.readout
    assert record is not None  # loaded from a directory
    energies = host_energies(test_conditions(record.valid, showers, seed).incident_energy)
    reference = reference_deposits(where, energies, record.valid.particle, seed)
    generator, inwards = np.random.default_rng(seed), np.array([0.0, 0.0, 1.0])
    found, lost = np.zeros_like(reference, dtype=np.float64), 0.0
    for row, energy in enumerate(energies.tolist()):
        torch.manual_seed(seed + row)
        spots = host.spots(host.cells(energy, inwards), inwards, generator)
        # The model's frame is the host's, turned by half a turn around z.
        voxel = readout.voxel_index(-spots.place[:, 0], -spots.place[:, 1], spots.layer)
        lost += float(spots.energy[voxel < 0].sum())
        np.add.at(found[row], voxel[voxel >= 0], spots.energy[voxel >= 0])
    expected = np.where(reference > 1e-2, reference, 0)  # what the host keeps
    # Edges are stored with few digits, so a hit on one may lie in the neighbour, or beside all cells.
    total = max(float(found.sum()), 1e-9)
    checks = [
        *deposit_checks(found.astype(np.float32), expected.astype(np.float32), energies, model.detector),
        Check.of("share of energy outside all cells", lost / total, 1e-6),
    ]
    return ParityResult(all(check.passed for check in checks), tuple(checks), "")
