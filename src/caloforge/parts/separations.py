"""Separation powers of validation rows: by these the weights of a training are chosen whose losses say nothing of quality.

Losses of a game go up and down with the opponent. So after each epoch as many showers are generated as there are validation
rows, with their energies, and compared with them in histograms of simple observables of every layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from caloforge.detectors import Detector
from caloforge.models import ShowerModel
from caloforge.parts.rows import collect_rows, conditions_of_rows, generated_rows
from caloforge.random import Streams
from caloforge.representation import LayerSums
from caloforge.stage import FitStage, TrainingBatch, TrainingData, deposits_of

__all__ = ["Separations", "SeparationsFit", "generated_of"]

#: Bins of equal population, as the CaloGAN authors' comparison of epochs has them.
_BINS = 10
#: Deposits have logarithms from here on where a detector has no threshold, MeV; least squared width of a layer, mm^2.
_FAINT, _LEAST_VARIANCE = 1e-3, 1e-6
#: About so many training rows say where the bins lie.
_ROWS = 20_000


class Separations(nn.Module):
    """Histograms of layer energies, numbers of lit cells and brightest cells, and the distance between two of them.

    Args:
        detector: a calorimeter with voxels.
        shapes: whether centroids and widths of the layers and their second-brightest cells are observables, too.
    """

    edges: Tensor
    places: Tensor

    def __init__(self, detector: Detector, *, shapes: bool = False) -> None:
        super().__init__()
        self.sums = LayerSums(detector.readout.layer_sizes)
        self.threshold, self.shapes = detector.analysis_threshold, shapes
        centres = torch.from_numpy(detector.readout.centres()[:, :2].copy()).double()
        self.register_buffer("places", centres.T, persistent=False)
        self.register_buffer("edges", torch.zeros((8 if shapes else 3) * detector.readout.n_layers + 1, _BINS - 1))

    def observables(self, deposits: Tensor, incident_energy: Tensor) -> Tensor:
        """Of each shower, (N, 3 L + 1): shares of the incident energy, in all and by layer; lit cells; brightest cell's share.

        With ``shapes`` (N, 8 L + 1): then energy-weighted means and standard deviations of x and of y, mm, 0 in an empty layer,
        and the share of the second-brightest cell. They have gradients: those of lit cells as if a cell lit up gradually, those
        of cells below the threshold as if there were none.

        Args:
            deposits: (N, V), MeV.
            incident_energy: (N,), MeV.
        """
        dark = deposits < self.threshold
        clean = (deposits - torch.where(dark, deposits, 0.0).detach()).double()
        energy = incident_energy.double()[:, None]
        sums = self.sums(clean)
        layers = sums / energy
        least = max(self.threshold, _FAINT)
        gradual = torch.sigmoid(2 * (deposits.double() / least).clamp_min(1e-30).log())
        lit = self.sums(gradual - gradual.detach() + (clean > 0).double())
        bright = self.sums.brightest(clean, 2) / energy[..., None]
        found = [layers.sum(dim=1, keepdim=True), layers, lit, bright[..., 0]]
        for place in self.places if self.shapes else ():
            # Less the clean part of dark cells, a layer may hold nothing.
            mean, square = self.sums.moments(clean, place, sums.clamp_min(least))
            found += [mean, (square + _LEAST_VARIANCE).sqrt()]
        found += [bright[..., 1]] if self.shapes else []
        return torch.cat(found, dim=1)

    def scaled(self, deposits: Tensor, incident_energy: Tensor) -> Tensor:
        """The observables with gradients and without units: arsinh of the distance from the median over that of the outer edges.

        What is the same in at least eight tenths of the training rows is 0.

        Args:
            deposits: (N, V), MeV.
            incident_energy: (N,), MeV.
        """
        edges = self.edges.double()
        width = edges[:, -1] - edges[:, 0]
        away = self.observables(deposits, incident_energy) - edges[:, edges.shape[1] // 2]
        return torch.where(width > 0, away / torch.where(width > 0, width, 1.0), 0.0).asinh()

    def fit(self, data: TrainingData) -> Tensor:
        """Edges between bins that are equally populated by the training rows, (3 L + 1, bins - 1)."""
        found = collect_rows(data, _ROWS, lambda b: self.observables(deposits_of(b), b.incident_energy)).cpu().numpy()
        edges = np.quantile(found, np.arange(1, _BINS) / _BINS, axis=0).T
        return torch.from_numpy(np.ascontiguousarray(edges)).float()

    def histograms(self, deposits: Tensor, incident_energy: Tensor, types: Tensor | None = None) -> Tensor:
        """Share of the showers in every bin of every observable, (3 L + 1, bins); a mean over rows.

        With types of showers, one-hot (N, types), every type has bins of its own: (3 L + 1, types * bins). The mean separation
        power is then a mean over the types, too, and does not take the showers of one for those of another.
        """
        found = self.observables(deposits, incident_energy)
        number = (found[:, :, None] > self.edges.double()).sum(dim=2)
        each = functional.one_hot(number, _BINS).double()
        if types is not None:
            each = (types.double()[:, None, :, None] * each[:, :, None]).flatten(2)
        return each.mean(dim=0)

    @staticmethod
    def distance(one: Tensor, other: Tensor) -> Tensor:
        """Mean separation power, half the sum of (p - q)^2 / (p + q) over bins; 0 for the same, 1 if nothing overlaps."""
        total = (one + other).clamp_min(torch.finfo(one.dtype).tiny)
        return ((one - other).square() / total).sum(dim=-1).mean() / 2

    # ---- of a stage ---------------------------------------------------------------------------------------------------

    def means(self, batch: TrainingBatch, generated: Tensor, types: Tensor | None = None) -> dict[str, Tensor]:
        """What a stage's ``validate`` answers: histograms of validation rows, and of showers generated with their energies."""
        return {
            "real": self.histograms(deposits_of(batch), batch.incident_energy, types),
            "generated": self.histograms(generated, batch.incident_energy, types),
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
    return generated_rows(model, conditions_of_rows(batch, attempt=batch.epoch), streams, batch.particle)[0]
