"""DDML's CaloClouds with two angles: a module that gives exactly the 35,000 floats that the host copies."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caloforge.arguments import given
from caloforge.atomic import replace_file
from caloforge.deployment.hosts.ddml import CAPACITY, FLOATS, LAYERS, Barrel, CaloClouds
from caloforge.deployment.parity import Check, ParityResult
from caloforge.deployment.targets.ddml import write_steering
from caloforge.deployment.targets.drawn import MANY_SHOWERS, host_energies
from caloforge.deployment.targets.torchscript import save_traced
from caloforge.deployment.vectors import decoded_plainly, test_conditions
from caloforge.errors import UsageError
from caloforge.models import Conditions, ShowerModel, load_model
from caloforge.parts.point_model import PointCloudModel
from caloforge.parts.point_settings import SAMPLERS
from caloforge.units import format_energy

__all__ = ["write"]

#: So often a rejected shower is drawn anew; all attempts are drawn at once.
_TRIES = 4
#: Share of points that may lie elsewhere: a depth that is rounded otherwise exchanges two of them.
_CHANGED = 1e-2

_README = """\
# {name} for DDML

`model.pt`: a CaloForge model ({kind}, detector {detector}, {low} to {high}, PDG {particle}) for the model class CaloClouds
with two angles of key4hep's DDML (its contract was read from commit a908dfb039fa, June 2025), for libtorch. `steering.py`
has the properties.

It always gives {floats} floats: {layers} counts and room for {capacity} points; of a shower with more points the faintest are
left out and the others scaled to its energy. Layers are shifted along the direction by the model, so `CorrectForAngles` is
False. A shower that is rejected {tries} times is empty. Energies (above) and directions ({directions})
outside the trained range are not noticed: set the limits in the trigger. The model was trained in the barrel, where the field
lies along the host's -x; in the endcap it lies elsewhere.

The module draws its random numbers from libtorch's generator, which is seeded differently in every process: call
`torch::manual_seed` once for each event to repeat a job.
"""


class _Graph(nn.Module):
    """Energy (GeV), theta and phi (degrees) to the host's floats."""

    def __init__(self, model: PointCloudModel, room: int) -> None:
        super().__init__()
        self.model, self.room = model, room

    def forward(self, energy: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
        """From three tensors (1, 1) to (35000,)."""
        model = self.model
        incident = energy.reshape(1).double() * 1000
        theta, phi = (angle.reshape(1).double() * (math.pi / 180) for angle in (theta, phi))
        across = torch.sin(theta)
        direction = torch.stack([across * torch.cos(phi), across * torch.sin(phi), torch.cos(theta)], dim=1).float()
        profile, normal = torch.randn(_TRIES, model.flow.features), torch.randn(self.room, 4)

        tries = {"incident_energy": incident.expand(_TRIES), "direction": direction.expand(_TRIES, 3)}
        profiles = model.profiles_from(model.flow_outputs(tries, profile), tries)
        counts = model.calibration.calibrated(profiles.counts, "consistency")
        good = (profiles.valid & (counts.sum(dim=1) <= self.room)).long()
        first = torch.argmax(good)[None]
        # No attempt was good: no points.
        counts = counts.index_select(0, first) * good.amax()
        chosen = replace(
            profiles,
            counts=profiles.counts.index_select(0, first),
            energies=profiles.energies.index_select(0, first),
            gravity=None if profiles.gravity is None else profiles.gravity.index_select(0, first),
            valid=profiles.valid.index_select(0, first),
        )
        energies = chosen.energies * model.calibration.energy[SAMPLERS.index("consistency")]
        own = normal[torch.arange(self.room) < counts.sum()]
        conditions = {"incident_energy": incident, "direction": direction}
        points, _ = model.points_from(conditions, chosen, counts, energies, own)
        return packed(points)


def packed(points: Tensor) -> Tensor:
    """Points (M, 4) as the host copies them, (35000,); the faintest of too many are left out, and the energy stays.

    If a number is none, there are no points.
    """
    energy = points[:, 3]
    rank = torch.argsort(torch.argsort(energy, descending=True, stable=True))
    kept = points[(rank < CAPACITY) & torch.isfinite(points).all()]
    factor = energy.double().sum() / kept[:, 3].double().sum().clamp_min(1e-300)
    scaled = torch.cat([kept[:, :3], (kept[:, 3:].double() * factor).float()], dim=1)
    layers = torch.arange(LAYERS, dtype=torch.float32)
    counts = (kept[:, 2:3] == layers).float().sum(dim=0)
    # As many slots as there are points, found without a size that would become a constant.
    slots = torch.arange(CAPACITY)[torch.arange(CAPACITY) < counts.sum()]
    table = torch.zeros(CAPACITY, 4).index_copy(0, slots, scaled)
    rest = torch.zeros(FLOATS - LAYERS - 4 * CAPACITY)
    return torch.cat([counts, table.flatten(), rest])


def write(
    folder: Path, where: str | Path, model: ShowerModel, showers: int, seed: int, verify: bool
) -> ParityResult | None:
    """Fill the folder of an export; see :func:`caloforge.deployment.targets.onnx.write`."""
    if not isinstance(model, PointCloudModel):
        raise UsageError(
            f"'{model.kind}' makes no points; {given('target', 'ddml-l2lflows')} carries 'l2lflows-conv' on 'ild-ecal/90x90'"
        )
    if model.config.sampler != "consistency":
        raise UsageError(
            f"only the one-step sampler ('consistency') can be exported, this model has '{model.config.sampler}'"
        )
    detector, record = model.detector, model.record
    assert record is not None  # loaded from a directory
    if detector.readout.n_layers != LAYERS:
        raise UsageError(
            f"DDML's CaloClouds has {LAYERS} layers, '{detector.name}' has {detector.readout.n_layers}; "
            f"{given('target', 'cpp')} carries it"
        )
    path, (low, high) = folder / "model.pt", record.valid.incident_energy
    room = int(model.point_room(np.array([high]))[0])
    save_traced(path, _Graph(model, room), tuple(torch.tensor([[value]]) for value in (low / 1000, 10.0, 45.0)))
    directions = "along z alone"
    if record.valid.direction is not None:
        pairs = zip("xyz", *record.valid.direction, strict=True)
        directions = ", ".join(f"{axis} {start:.2f} to {end:.2f}" for axis, start, end in pairs)
    text = _README.format(
        name=Path(where).name, kind=model.kind, detector=detector.name, low=format_energy(low), high=format_energy(high),
        particle=record.valid.particle, floats=FLOATS, layers=LAYERS, capacity=CAPACITY, tries=_TRIES, directions=directions,
    )  # fmt: skip
    replace_file(folder / "README.md", text)
    write_steering(folder, record, "CaloClouds", correct_for_angles=False)
    if not verify:
        return None
    barrel = Barrel(tuple(detector.readout.depths.mean(axis=1).tolist()))
    return _compared(CaloClouds(path, barrel, optimised=showers >= MANY_SHOWERS), where, model, showers, seed, room)


def _compared(
    host: CaloClouds, where: str | Path, model: PointCloudModel, showers: int, seed: int, room: int
) -> ParityResult:
    """Showers of the host's double against those of the model in plain PyTorch and 64-bit numbers."""
    assert model.record is not None  # loaded from a directory
    conditions, plain = test_conditions(model.record.valid, showers, seed), load_model(where).double()
    given = conditions.tensors()["direction"].double().numpy()
    energies = host_energies(conditions.incident_energy)
    counts = layers = astray = placed = 0.0
    points = 0
    for row, energy in enumerate(energies.tolist()):
        # The model's frame is the host's, turned by half a turn around z.
        torch.manual_seed(seed + row)
        made = host.points(energy, given[row] * [-1, -1, 1])
        expected = _reference(plain, energy, given[row : row + 1], seed + row, room)
        mine, theirs = (np.bincount(p[:, 2].astype(int), minlength=LAYERS) for p in (made, expected))
        counts += float(np.abs(mine - theirs).sum())
        points += len(expected)
        sums = [np.bincount(p[:, 2].astype(int), p[:, 3], LAYERS) for p in (made, expected)]
        layers = max(layers, float(np.abs(sums[0] - sums[1]).max()) / energy)
        if len(made) == len(expected) and (mine == theirs).all():
            astray += float((np.abs(made[:, :2] - expected[:, :2]) > 0.01).any(axis=1).sum())
        spots = host.spots(made)
        model_place = spots.place * [-1, -1, 1]
        wrong = np.abs(model_place[:, :2] - made[:, :2]).sum() + abs(spots.energy.sum() - made[:, 3].sum())
        placed = max(placed, float(wrong))
    checks = [
        Check.of("numbers of points that differ", counts, max(2.0, 1e-3 * points)),
        Check.of("energy of a layer: difference / energy", layers, 1e-4),
        Check.of("points elsewhere by 0.01 mm", astray, max(2.0, _CHANGED * points)),
        Check.of("points placed elsewhere by the host", placed, 1e-6),
    ]
    return ParityResult(all(check.passed for check in checks), tuple(checks), "")


def _reference(
    plain: PointCloudModel | ShowerModel, energy: float, direction: NDArray[np.float64], seed: int, room: int
) -> NDArray[np.float64]:
    """Points (M, 4) of a shower from the numbers that the graph draws, by the model's own way."""
    assert isinstance(plain, PointCloudModel)
    torch.manual_seed(seed)
    profile, normal = torch.randn(_TRIES, plain.flow.features), torch.randn(room, 4)
    for attempt in range(_TRIES):
        conditions = Conditions.first(np.array([energy]), 22, direction=direction.astype(np.float32))
        latents = {
            "profile": profile[attempt : attempt + 1], "points": normal, "starts": torch.tensor([0, room])
        }  # fmt: skip
        output, valid = decoded_plainly(plain, conditions, latents)
        if bool(valid[0]) and len(output["points"]) <= room:
            points = output["points"].double().numpy()
            bright = np.sort(np.argsort(-points[:, 3], kind="stable")[:CAPACITY])
            kept: NDArray[np.float64] = points[bright]
            kept[:, 3] *= points[:, 3].sum() / max(kept[:, 3].sum(), 1e-300)
            return kept
    return np.zeros((0, 4))
