"""Small detectors and showers for the tests of models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from caloforge.detectors import Detector, detector_from_toml, load_detector
from caloforge.models import ShowerModel
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import FitStage, PointBatch, TrainingBatch, TrainingConfig, VoxelBatch

TOY = """
name = "toy"
analysis_threshold = 0.010
symmetries = ["reflect-x", "reflect-y"]

[gun]
particles = ["gamma"]
energy = "1:100"

[[readout.layers]]
x = { bins = 2, range = [-10.0, 10.0] }
y = { bins = 4, range = [-10.0, 10.0] }

[[readout.layers]]
x = { bins = 3, range = [-10.0, 10.0] }
y = { bins = 3, range = [-10.0, 10.0] }

[[readout.layers]]
x = { bins = 2, range = [-10.0, 10.0] }
y = { bins = 2, range = [-10.0, 10.0] }
"""


def toy_detector(*layers: tuple[int, int], threshold: float = 0.010) -> Detector:
    """A detector with the given numbers of (x, y) cells in its layers; three layers of 8, 9 and 4 if none is given."""
    if not layers:
        return detector_from_toml(TOY, where="toy")
    head = TOY.split("[[readout")[0].replace("0.010", str(threshold))
    cells = "[[readout.layers]]\nx = {{ bins = {}, range = [-1.0, 1.0] }}\ny = {{ bins = {}, range = [-1.0, 1.0] }}\n"
    return detector_from_toml(head + "\n".join(cells.format(*layer) for layer in layers), where="toy")


def lead_argon() -> Detector:
    """A small sampling calorimeter with a stack: ten plates of lead and argon each, in three layers of 12, 9 and 4 cells."""
    plates = '[{ material = "G4_Pb", thickness = 4.0 }, { material = "G4_lAr", thickness = 4.0, active = true }]'
    stack = (
        'kind = "planar"\nlateral = [200.0, 200.0]\nworld = [300.0, 300.0, 400.0]\ndeposits = "active"\n'
        f"groups = [{{ repeat = 30, plates = {plates} }}]\n"
    )
    cells = "".join(
        f"[[readout.layers]]\ndepth = [{80.0 * k}, {80.0 * (k + 1)}]\n"
        f"x = {{ bins = {x}, range = [-60.0, 60.0] }}\ny = {{ bins = {y}, range = [-60.0, 60.0] }}\n"
        for k, (x, y) in enumerate(((4, 3), (3, 3), (2, 2)))
    )
    text = (
        'name = "lead-argon"\nreadout_threshold = 0.001\nanalysis_threshold = 0.01\nsampling_fraction = 0.1\n'
        f'symmetries = ["reflect-x"]\n[gun]\nparticles = ["gamma"]\nenergy = "1:100"\n[stack]\n{stack}{cells}'
    )
    return detector_from_toml(text, where="lead-argon")


def sparse_showers(detector: Detector, rows: int, seed: int = 0) -> Showers:
    """Showers with empty voxels, empty layers, faint and bright deposits; they deposit at most 90 % of their energy."""
    generator = np.random.default_rng(seed)
    readout = detector.readout
    incident = generator.uniform(1e3, 1e5, rows)
    deposits = np.exp(generator.normal(0, 3, (rows, readout.n_voxels)))
    deposits *= generator.random(deposits.shape) < 0.6
    for where in readout.layer_slices:
        deposits[:, where] *= (generator.random(rows) < 0.9)[:, None] * np.exp(generator.normal(0, 2, rows))[:, None]
    limit = 0.9 * generator.random(rows) * incident / np.maximum(deposits.sum(axis=1), 1e-9)
    deposits *= np.minimum(1, limit)[:, None]
    return Showers(deposits.astype(np.float32), incident, 22, readout)


def point_showers(detector: Detector, rows: int, seed: int = 0) -> ShowerPoints:
    """Showers of a few hundred points."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(50, 300, rows)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    points = np.empty((offsets[-1], 4), dtype=np.float32)
    points[:, :2] = generator.normal(0, 15, (offsets[-1], 2))
    points[:, 2] = generator.integers(0, detector.readout.n_layers, offsets[-1])
    points[:, 3] = generator.exponential(0.3, offsets[-1])
    return ShowerPoints(offsets, points, generator.uniform(1e4, 9e4, rows), 22, detector.readout)


def training_batch(showers: Showers | ShowerPoints, epoch: int = 0, first_row: int = 0) -> TrainingBatch:
    """The showers as one batch."""
    rows = torch.arange(first_row, first_row + len(showers))
    incident = torch.from_numpy(showers.incident_energy)
    if isinstance(showers, Showers):
        deposits = torch.from_numpy(showers.deposits)
        return VoxelBatch(deposits=deposits, incident_energy=incident, row=rows, epoch=epoch)
    offsets, points = torch.from_numpy(showers.offsets), torch.from_numpy(showers.points)
    return PointBatch(offsets=offsets, points=points, incident_energy=incident, row=rows, epoch=epoch)


class Rows:
    """Training data for a fit stage, in blocks of ten rows."""

    def __init__(self, showers: Showers | ShowerPoints) -> None:
        self.showers = showers
        self.particle = showers.particle

    def __len__(self) -> int:
        return len(self.showers)

    def __iter__(self) -> Iterator[TrainingBatch]:
        for start in range(0, len(self.showers), 10):
            yield training_batch(self.showers[start : start + 10], first_row=start)


def fit(model: ShowerModel, showers: Showers | ShowerPoints) -> None:
    """Run the fit stages."""
    for stage in model.training_stages(TrainingConfig()):
        if isinstance(stage, FitStage):
            stage.load_state(stage.fit(Rows(showers), Streams(1, stage.name)))


def geant4_showers(particle: int) -> Showers:
    """Real Geant4 showers in the CaloGAN calorimeter: ordinary ones, and those with an empty or almost empty layer."""
    with np.load(Path(__file__).with_name("geant4_calogan.npz")) as data:
        rows = data["particle"] == particle
        deposits, incident = data["deposits"][rows], data["incident_energy"][rows]
    return Showers(deposits, incident, particle, load_detector("calogan").readout)
