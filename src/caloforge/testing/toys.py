"""A small detector, showers for it, and batches and fits for the tests of models."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from caloforge.detectors import Detector, detector_from_toml
from caloforge.models import ShowerModel
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import FitStage, PointBatch, TrainingBatch, TrainingConfig, VoxelBatch

__all__ = ["ToyRows", "fit_stages", "toy_detector", "toy_points", "toy_showers", "training_batch"]

_TOY = """
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
_CELLS = "[[readout.layers]]\nx = {{ bins = {}, range = [-1.0, 1.0] }}\ny = {{ bins = {}, range = [-1.0, 1.0] }}\n"


def toy_detector(*layers: tuple[int, int], threshold: float = 0.010) -> Detector:
    """A small detector.

    Args:
        layers: numbers of (x, y) cells of each layer; three layers of 8, 9 and 4 cells if none is given.
        threshold: of the analysis, MeV.
    """
    if not layers:
        return detector_from_toml(_TOY, where="toy")
    head = _TOY.split("[[readout")[0].replace("0.010", str(threshold))
    return detector_from_toml(head + "\n".join(_CELLS.format(*layer) for layer in layers), where="toy")


def toy_showers(detector: Detector, rows: int, seed: int = 0, *, faint: bool = True) -> Showers:
    """Showers of photons with empty voxels, empty layers, faint and bright deposits, at most 90 % of the incident energy.

    Args:
        detector: with voxels.
        rows: number of showers.
        seed: of everything.
        faint: whether most of them deposit about 1 % of the incident energy; else they deposit 30 to 90 %.
    """
    generator = np.random.default_rng(seed)
    readout = detector.readout
    incident = generator.uniform(1e3, 1e5, rows)
    deposits = np.exp(generator.normal(0, 3, (rows, readout.n_voxels)))
    deposits *= generator.random(deposits.shape) < 0.6
    for where in readout.layer_slices:
        deposits[:, where] *= (generator.random(rows) < 0.9)[:, None] * np.exp(generator.normal(0, 2, rows))[:, None]
    if faint:
        limit = 0.9 * generator.random(rows) * incident / np.maximum(deposits.sum(axis=1), 1e-9)
        deposits *= np.minimum(1, limit)[:, None]
    else:
        share = generator.uniform(0.3, 0.9, rows)
        deposits *= (share * incident / np.maximum(deposits.sum(axis=1), 1e-9))[:, None]
    return Showers(deposits.astype(np.float32), incident, 22, readout, detector=detector)


def toy_points(detector: Detector, rows: int, seed: int = 0) -> ShowerPoints:
    """Showers of photons as a few hundred points each.

    Args:
        detector: whose layers the points are in.
        rows: number of showers.
        seed: of everything.
    """
    generator = np.random.default_rng(seed)
    counts = generator.integers(50, 300, rows)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    points = np.empty((offsets[-1], 4), dtype=np.float32)
    points[:, :2] = generator.normal(0, 15, (offsets[-1], 2))
    points[:, 2] = generator.integers(0, detector.readout.n_layers, offsets[-1])
    points[:, 3] = generator.exponential(0.3, offsets[-1])
    energies = generator.uniform(1e4, 9e4, rows)
    return ShowerPoints(offsets, points, energies, 22, detector.readout, detector=detector)


def training_batch(showers: Showers | ShowerPoints, epoch: int = 0, first_row: int = 0) -> TrainingBatch:
    """The showers as one batch.

    Args:
        showers: the showers.
        epoch: number of the epoch.
        first_row: number of the first one in the training data.
    """
    rows = torch.arange(first_row, first_row + len(showers))
    incident = torch.from_numpy(showers.incident_energy)
    particle = torch.full((len(showers),), showers.particle)
    if isinstance(showers, Showers):
        deposits = torch.from_numpy(showers.deposits)
        return VoxelBatch(deposits=deposits, incident_energy=incident, row=rows, epoch=epoch, particle=particle)
    offsets, points = torch.from_numpy(showers.offsets), torch.from_numpy(showers.points)
    return PointBatch(
        offsets=offsets, points=points, incident_energy=incident, row=rows, epoch=epoch, particle=particle
    )


class ToyRows:
    """Training data for a fit stage, in blocks of ten rows.

    Args:
        showers: the rows.

    Attributes:
        showers: the rows.
        particle: PDG id.
    """

    def __init__(self, showers: Showers | ShowerPoints) -> None:
        self.showers = showers
        self.particle = showers.particle

    def __len__(self) -> int:
        return len(self.showers)

    def __iter__(self) -> Iterator[TrainingBatch]:
        for start in range(0, len(self.showers), 10):
            yield training_batch(self.showers[start : start + 10], first_row=start)


def fit_stages(model: ShowerModel, showers: Showers | ShowerPoints) -> None:
    """Run the fit stages of a model, as the beginning of a training does."""
    for stage in model.training_stages(TrainingConfig()):
        if isinstance(stage, FitStage):
            stage.load_state(stage.fit(ToyRows(showers), Streams(1, stage.name)))
