"""Separation powers of validation rows: by these the weights of a training are chosen whose losses say nothing of quality.

Losses of a game go up and down with the opponent. So after each epoch as many showers are generated as there are validation
rows, with their energies, and compared with them in histograms of simple observables of every layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from caloforge.conditions import Conditions
from caloforge.detectors import Detector
from caloforge.models import ShowerModel
from caloforge.parts.rows import collect_rows
from caloforge.random import Streams
from caloforge.representation import LayerSums
from caloforge.stage import FitStage, TrainingBatch, TrainingData, deposits_of

__all__ = ["Separations", "SeparationsFit", "generated_of"]

#: Bins of equal population, as the CaloGAN authors' comparison of epochs has them.
_BINS = 10
#: About so many training rows say where the bins lie.
_ROWS = 20_000


class Separations(nn.Module):
    """Histograms of layer energies, numbers of lit cells and brightest cells, and the distance between two of them.

    Args:
        detector: a calorimeter with voxels.
    """

    edges: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.sums = LayerSums(detector.readout.layer_sizes)
        self.threshold = detector.analysis_threshold
        self.register_buffer("edges", torch.zeros(3 * detector.readout.n_layers + 1, _BINS - 1))

    def observables(self, deposits: Tensor, incident_energy: Tensor) -> Tensor:
        """Of each shower, (N, 3 L + 1): shares of the incident energy, in all and by layer; lit cells; brightest cell's share.

        Args:
            deposits: (N, V), MeV.
            incident_energy: (N,), MeV.
        """
        clean = torch.where(deposits < self.threshold, 0.0, deposits).double()
        energy = incident_energy.double()[:, None]
        layers = self.sums(clean) / energy
        lit = self.sums((clean > 0).double())
        brightest = torch.cat([block.amax(dim=-1) for block in self.sums.blocks(clean)], dim=1) / energy
        return torch.cat([layers.sum(dim=1, keepdim=True), layers, lit, brightest], dim=1)

    def fit(self, data: TrainingData) -> Tensor:
        """Edges between bins that are equally populated by the training rows, (3 L + 1, bins - 1)."""
        found = collect_rows(data, _ROWS, lambda b: self.observables(deposits_of(b), b.incident_energy)).cpu().numpy()
        edges = np.quantile(found, np.arange(1, _BINS) / _BINS, axis=0).T
        return torch.from_numpy(np.ascontiguousarray(edges)).float()

    def histograms(self, deposits: Tensor, incident_energy: Tensor) -> Tensor:
        """Share of the showers in every bin of every observable, (3 L + 1, bins); a mean over rows."""
        found = self.observables(deposits, incident_energy)
        number = (found[:, :, None] > self.edges.double()).sum(dim=2)
        return nn.functional.one_hot(number, _BINS).double().mean(dim=0)

    @staticmethod
    def distance(one: Tensor, other: Tensor) -> Tensor:
        """Mean separation power, half the sum of (p - q)^2 / (p + q) over bins; 0 for the same, 1 if nothing overlaps."""
        total = (one + other).clamp_min(torch.finfo(one.dtype).tiny)
        return ((one - other).square() / total).sum(dim=-1).mean() / 2

    # ---- of a stage ---------------------------------------------------------------------------------------------------

    def means(self, batch: TrainingBatch, generated: Tensor) -> dict[str, Tensor]:
        """What a stage's ``validate`` answers: histograms of validation rows, and of showers generated with their energies."""
        return {
            "real": self.histograms(deposits_of(batch), batch.incident_energy),
            "generated": self.histograms(generated, batch.incident_energy),
        }

    def conclude(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a stage's ``conclude`` answers: ``separation``, the mean separation power."""
        return {"separation": self.distance(means["real"], means["generated"])}


class SeparationsFit(FitStage):
    """Where the bins of the histograms lie.

    Args:
        path: of the part in its model.
        part: the histograms.
    """

    def __init__(self, path: str, part: Separations) -> None:
        super().__init__(path, {path: part})
        self.path, self.part = path, part

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.FitStage.fit`."""
        return {f"{self.path}.edges": self.part.fit(data)}


@torch.no_grad()
def generated_of(model: ShowerModel, batch: TrainingBatch, streams: Streams) -> Tensor:
    """Showers of a model under the conditions of some rows, (B, V), MeV; a function of row and epoch, whatever the batch is.

    Args:
        model: makes voxels, in eval mode; all that its latents need is in the conditions.
        batch: the rows.
        streams: random streams.
    """
    rows = batch.row.numpy()
    direction = None if batch.direction is None else batch.direction.float().cpu().numpy()
    conditions = Conditions(
        batch.incident_energy.double().cpu().numpy(), 0, rows, np.full_like(rows, batch.epoch), direction
    )
    latents = {name: value.to(model.device) for name, value in model.latents(conditions, streams).items()}
    deposits, _ = model.decode_tensors(conditions.tensors(model.device), latents)
    return deposits["deposits"]
