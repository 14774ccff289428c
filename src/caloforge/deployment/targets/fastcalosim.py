"""FastCaloSim: an ONNX graph with the host's names and types, and the voxels as HDF5 (contract of July 2026)."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from caloforge.arguments import given
from caloforge.atomic import replace_file
from caloforge.deployment.hosts.fastcalosim import FastCaloSim
from caloforge.deployment.parity import Check, ParityResult
from caloforge.deployment.targets.onnx import check_carried, deposit_checks, export_graph, need_packages, one_shower
from caloforge.deployment.vectors import reference_showers, test_conditions
from caloforge.detectors import Detector
from caloforge.detectors.grids import PolarGrid
from caloforge.errors import UsageError
from caloforge.generation import generation_streams
from caloforge.models import ShowerModel
from caloforge.units import format_energy

__all__ = ["write"]

_README = """\
# {name} for FastCaloSim

`model.onnx` and `voxels.h5`: a CaloForge model ({kind}, detector {detector}, {low} to {high}, PDG {particle}) for
`TFCSBinnedShowerONNX` over `TFCSMLCalorimeterSimulator`, as read in July 2026.

    setInputShapes boundaries   {boundaries}
    setInputShapes layers       {layers}
    load_meta_data              voxels.h5

The shapes have to be set: the host's own are of another detector, and what does not fit it writes beyond the memory of the
inputs. The graph has the inputs `inn_einc_in` (MeV), `cfm_z_shape` and `inn_z_energy`, all float32, and one output, MeV for each
voxel. It does not use `inn_eta_in`: the model was trained at the one place of its detector, so bind it to the range of eta
of its training showers. Energies outside the range above are not noticed.
"""


class _Graph(nn.Module):
    """Inputs as the host hands them over; energies of the voxels alone come out."""

    def __init__(self, model: ShowerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, incident: Tensor, voxels: Tensor, layers: Tensor) -> Tensor:
        energy = incident.double()
        conditions = {"incident_energy": energy, "direction": energy.new_tensor([[0.0, 0.0, 1.0]]).float()}
        output, _ = self.model.decode_tensors(conditions, {"flow": torch.cat([voxels, layers], dim=1)})
        return output["deposits"]


def _layer_numbers(detector: Detector) -> list[int]:
    """The host's numbers of the layers.

    Raises:
        UsageError: if it cannot have such a detector.
    """
    layers = detector.readout.layers
    if not all(isinstance(layer.grid, PolarGrid) for layer in layers):
        raise UsageError(
            f"FastCaloSim's voxels are polar, those of '{detector.name}' are not; {given('target', 'onnx')} carries them"
        )
    if not all(layer.label.isdecimal() for layer in layers):
        raise UsageError(f"FastCaloSim's layers have numbers, those of '{detector.name}' have other labels")
    return [int(layer.label) for layer in layers]


def write(
    folder: Path, where: str | Path, model: ShowerModel, showers: int, seed: int, verify: bool
) -> ParityResult | None:
    """Fill the folder of an export; see :func:`caloforge.deployment.targets.onnx.write`."""
    check_carried(model)
    numbers, readout, record = _layer_numbers(model.detector), model.detector.readout, model.record
    assert record is not None  # loaded from a directory
    conditions, latents = one_shower(model)
    voxels = readout.n_voxels
    if list(latents) != ["flow"] or latents["flow"].shape[1] != voxels + len(numbers):
        left_out = getattr(model.config, "drop_voxel", False)
        instead = ", and one trained with 'drop_voxel' false takes as many as the host draws" if left_out else ""
        raise UsageError(
            f"FastCaloSim draws a random number for each voxel and each layer, {voxels + len(numbers)}, this model takes "
            f"{sum(value.shape[1] for value in latents.values())}; {given('target', 'onnx')} carries it{instead}"
        )
    need_packages()
    normal = latents["flow"]
    arguments = {
        "inn_einc_in": conditions.tensors()["incident_energy"].float(),
        "cfm_z_shape": normal[:, :voxels],
        "inn_z_energy": normal[:, voxels:],
    }
    export_graph(folder / "model.onnx", model, _Graph(model), arguments, ["voxels"])
    replace_file(folder / "voxels.h5", _metadata(model.detector, numbers))
    boundaries = [0, *np.cumsum(readout.layer_sizes).tolist()]
    low, high = map(format_energy, record.valid.incident_energy)
    text = _README.format(
        name=Path(where).name, kind=model.kind, detector=model.detector.name, low=low, high=high,
        particle=record.valid.particle, boundaries=", ".join(map(str, boundaries)), layers=", ".join(map(str, numbers)),
    )  # fmt: skip
    replace_file(folder / "README.md", text)
    if not verify:
        return None
    host = FastCaloSim(folder / "model.onnx", folder / "voxels.h5", boundaries, numbers)
    return _compared(host, where, model, showers, seed)


def _metadata(detector: Detector, numbers: list[int]) -> bytes:
    """Start and size of each voxel in radius (mm) and alpha (radians), by the host's names."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for number, layer in zip(numbers, detector.readout.layers, strict=True):
            assert isinstance(layer.grid, PolarGrid)  # looked at before
            alpha, radius = (np.asarray(edges) for edges in layer.grid.edges)
            for name, values in (
                ("binstart_radius", np.tile(radius[:-1], len(alpha) - 1)),
                ("binsize_radius", np.tile(np.diff(radius), len(alpha) - 1)),
                ("binstart_alpha", np.repeat(alpha[:-1], len(radius) - 1)),
                ("binsize_alpha", np.repeat(np.diff(alpha), len(radius) - 1)),
            ):
                file[f"{name}_layer_{number}"] = values.astype(np.float32)
    return content.getvalue()


def _compared(host: FastCaloSim, where: str | Path, model: ShowerModel, showers: int, seed: int) -> ParityResult:
    """Showers of the host's double against those of the model, and its hits against the voxels that they come from."""
    record, readout = model.record, model.detector.readout
    assert record is not None  # loaded from a directory
    conditions = test_conditions(record.valid, showers, seed)
    reference, latents, _ = reference_showers(where, conditions, generation_streams(seed))
    energies = conditions.incident_energy
    rows = zip(energies.tolist(), latents["flow"].numpy(), strict=True)
    made = np.stack([host.voxel_energies(energy, 0.2, normal) for energy, normal in rows])
    generator, places = np.random.default_rng(seed), {number: k for k, number in enumerate(host.layers)}
    lost = astray = 0.0
    for row in made:
        hits = host.hits(row, generator)
        lost = max(lost, abs(hits.energy.sum() - row.sum()) / max(row.sum(), 1e-9))
        layers = np.array([places[number] for number in hits.layer.tolist()], dtype=np.int64)
        # Edges are stored in 32 bits, so a hit on one may lie in the neighbour.
        astray += float((readout.voxel_index(hits.place[:, 0], hits.place[:, 1], layers) != hits.voxel).sum()) / max(
            len(layers), 1
        )
    checks = [
        *deposit_checks(made.astype(np.float32), reference["deposits"].numpy(), energies, model.detector),
        Check.of("energy lost between voxels and hits", lost, 1e-9),
        Check.of("hits outside their voxel", astray / showers, 1e-3),
    ]
    return ParityResult(all(check.passed for check in checks), tuple(checks), "")
