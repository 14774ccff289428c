"""High-level features of showers on voxels as tensors: what a classifier reads that judges showers while they are made."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.random import Streams
from caloforge.representation import LayerSums, conditions_of
from caloforge.stage import FitStage, TrainingData, deposits_of

__all__ = ["COUNTS", "RANKS", "FeatureFit", "ShowerFeatures", "feature_count"]

#: So many of the brightest voxels of a layer are looked at one by one.
RANKS = 5
#: Voxels are counted above the threshold, and above so many steps of a factor of four over it.
COUNTS = 7
#: Features that count for the whole shower: incident energy, response, direction.
_WHOLE = 5
#: Features of a layer: energy, two centroids, two widths, and the above.
_OF_LAYER = 5 + RANKS + COUNTS
#: Smallest variance of positions, mm^2, and smallest share of a bright voxel, whose logarithms are taken.
_LEAST_VARIANCE, _LEAST_SHARE = 1e-2, 1e-4
#: Quartiles of a normal variable are so many standard deviations apart.
_QUARTILES = 1.349


def feature_count(layers: int) -> int:
    """Number of features F of a detector with so many layers."""
    return _WHOLE + _OF_LAYER * layers


class ShowerFeatures(nn.Module):
    """Features of showers, standardised.

    They are: the logarithm of the incident energy and of the deposited one over it, the direction; and of every layer the
    logarithm of its energy, the energy-weighted means of x and y (mm, from the axis of the readout) and the logarithms of their
    variances, the logarithms of the shares of the ``RANKS`` brightest voxels, and those of one plus the numbers of voxels above
    the threshold times 1, 4, 16, ... An empty layer has all its energy in the middle.

    Each feature f then becomes ``asinh((f - centre) / scale)``: long tails of centroids would drown the rest.

    Args:
        detector: a calorimeter with voxels.

    Attributes:
        centre: medians of the features of the training showers, float64 (F,).
        scale: their spreads, float64 (F,).
        particle: PDG id of the training showers, int64.
    """

    particle: Tensor
    x: Tensor
    y: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        readout = detector.readout
        self.cut = max(detector.analysis_threshold, 0.0)
        #: Energies above which voxels are counted; without a threshold from 1 keV on.
        self.steps = tuple((self.cut or 1e-3) * 4.0**k for k in range(COUNTS))
        self.sums = LayerSums(readout.layer_sizes)
        for name, values in zip("xy", readout.centres()[:, :2].T, strict=True):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)
        features = feature_count(readout.n_layers)
        self.register_buffer("centre", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(features, dtype=torch.float64))
        self.register_buffer("particle", torch.zeros((), dtype=torch.int64))

    @property
    def features(self) -> int:
        """Number of features F."""
        return len(self.centre)

    def raw(self, deposits: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Features before they are standardised, float64 (N, F).

        Args:
            deposits: (N, V), MeV.
            conditions: as from :meth:`caloforge.conditions.Conditions.tensors`: ``incident_energy`` (N,), MeV, and
                ``direction`` (N, 3).
        """
        energy = deposits.double()
        energy = torch.where(energy >= self.cut, energy, torch.zeros_like(energy))
        incident = conditions["incident_energy"].double()
        layers = self.sums(energy)
        known = torch.where(layers > 0, layers, torch.ones_like(layers))
        least = self.steps[0]
        columns = [torch.log(layers + least)]
        for position in (self.x, self.y):
            mean, variance = self.sums.moments(energy, position.double(), known)
            columns += [mean, torch.log(variance + _LEAST_VARIANCE)]
        bright = self.sums.brightest(energy, RANKS) / known[:, :, None]
        counts = torch.stack([self.sums((energy >= step).double()) for step in self.steps], dim=2)
        of_layers = torch.cat(
            [
                torch.stack(columns, dim=2),
                torch.log(bright + _LEAST_SHARE),
                torch.log1p(counts),
            ],
            dim=2,
        )
        response = torch.log((layers.sum(dim=1) + least) / incident)
        whole = torch.stack([torch.log(incident), response], dim=1)
        return torch.cat([whole, conditions["direction"].double(), of_layers.flatten(1)], dim=1)

    def forward(self, deposits: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Standardised features, float64 (N, F); arguments as for :meth:`raw`."""
        return torch.asinh((self.raw(deposits, conditions) - self.centre.double()) / self.scale.double())


class FeatureFit(FitStage):
    """Medians and spreads of the features of the training showers.

    Args:
        name: of the stage.
        path: of the features in their model.
        features: the features.
    """

    def __init__(self, name: str, path: str, features: ShowerFeatures) -> None:
        super().__init__(name, {path: features})
        self.path, self.part = path, features

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.FitStage.fit`."""
        found = torch.cat([self.part.raw(deposits_of(b), conditions_of(b)).cpu() for b in data]).numpy()
        low, centre, high = np.quantile(found, [0.25, 0.5, 0.75], axis=0)
        # A number that mostly is the same, as how many voxels of a dark layer are bright, has no quartiles.
        scale = np.maximum((high - low) / _QUARTILES, 0.1 * found.std(axis=0))
        scale = np.where(scale > 0, scale, 1.0)
        return {
            f"{self.path}.centre": torch.from_numpy(centre.copy()),
            f"{self.path}.scale": torch.from_numpy(scale.copy()),
            f"{self.path}.particle": torch.tensor(data.particle),
        }
