"""How the flow of points and energies of the layers is trained: the scales of its outputs, and its likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from caloforge.errors import ShowerFileError
from caloforge.parts.point_model import PointCloudModel
from caloforge.random import Streams
from caloforge.representation import conditions_of
from caloforge.stage import FitStage, GradientStage, PointBatch, StageTraining, TrainingBatch, TrainingData

__all__ = ["ProfileFlowStage", "ProfileScaleStage", "features_and_conditions"]


def features_and_conditions(
    model: PointCloudModel, batch: TrainingBatch, streams: Streams
) -> tuple[Tensor, dict[str, Tensor]]:
    """Features of the profiles of a batch, float64 (N, F), counts made continuous by uniform numbers, and its conditions."""
    cloud = model.cloud(batch)
    drawn = streams.child("counts").uniform(batch.row.numpy(), model.layers, batch.epoch)
    uniform = torch.from_numpy(drawn).to(cloud.counts.device)
    return model.profile_features(cloud, uniform), conditions_of(batch)


class ProfileScaleStage(FitStage):
    """Means, standard deviations and limits of the training data.

    Args:
        model: the model.
        own_units: whether the features of the profiles have the model's own units, if it has any (``profile_units``). A flow
            with random weights makes no sensible shower in those.
    """

    def __init__(self, model: PointCloudModel, *, own_units: bool = True) -> None:
        super().__init__("scales", {"profiles": model.profiles, "points": model.points})
        self.model, self.own_units = model, own_units

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.FitStage.fit`."""
        model = self.model
        features, totals, incident = [], [], []
        distances = torch.cat([self._distances(batch) for batch in data])
        rank = max(1, round(model.config.core_share * len(distances)))
        core = distances.kthvalue(rank).values if len(distances) else torch.ones((), dtype=torch.float64)
        model.points.core.copy_(core.clamp_min(1e-6))
        count, total, squares = 0, torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        least = torch.tensor(torch.inf, dtype=torch.float64)
        inside, whole = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        for batch in data:
            cloud = model.cloud(batch)
            assert isinstance(batch, PointBatch)  # ``cloud`` has looked
            deposits = batch.points[:, 3].double().clamp_min(0)
            whole += torch.stack([(deposits > 0).sum().double(), deposits.sum()]).cpu()
            inside += torch.stack([cloud.counts.sum(), cloud.energies.sum()]).cpu()
            features.append(features_and_conditions(model, batch, streams)[0].cpu())
            totals.append(cloud.counts.sum(dim=1).cpu())
            incident.append(batch.incident_energy.double().cpu())
            plain = model.points.plain(cloud.place.double(), cloud.layer.double() + 0.5, cloud.energy.double()).cpu()
            count += len(plain)
            total += plain.sum(dim=0)
            squares += plain.square().sum(dim=0) + torch.tensor([0, 0, 1 / 12, 0]) * len(plain)
            if len(plain):
                least = torch.minimum(least, cloud.energy.double().min().cpu())
        if not count:
            raise ShowerFileError("no training row has a point within the box, so there is nothing to learn")
        found, energies, points = torch.cat(features), torch.cat(incident), torch.cat(totals)
        std = found.std(dim=0, correction=0)
        # The steepest line through the origin's side that has all showers below it.
        slope = _slope(energies, points)
        constant = (points - slope * energies).max().clamp_min(1.0)
        unit = model.published_units[0]
        units = model.profile_units() if self.own_units else None
        scales = {
            "incident": energies.max() if model.config.condition_units == "data" else energies.new_tensor(unit),
            "mean": found.mean(dim=0) if units is None else torch.zeros_like(std),
            "std": torch.where(std > 0, std, torch.ones_like(std)) if units is None else units.to(std),
            "most_points": torch.stack([constant, slope]),
            "outside": 1 - inside / whole,
        }
        normalisation = model.points.fitted(torch.tensor(count), total, squares, least) | {"core": model.points.core}
        return {f"profiles.{name}": value for name, value in scales.items()} | {
            f"points.{name}": value for name, value in normalisation.items()
        }

    def _distances(self, batch: TrainingBatch) -> Tensor:
        """Distances of points from the axis along x and y, mm, of as many points as a quantile needs."""
        place = self.model.cloud(batch).place
        return place[:: max(1, len(place) // 20_000)].abs().flatten().double().cpu()


def _slope(energies: Tensor, points: Tensor) -> Tensor:
    """Slope of the least-squares line, not negative; 0 if all energies are equal."""
    spread = energies - energies.mean()
    variance = spread.square().sum()
    slope = (spread * points).sum() / variance.clamp_min(1e-300)
    return torch.where(variance > 0, slope.clamp_min(0), torch.zeros_like(slope))


class ProfileFlowStage(GradientStage):
    """Minus log-likelihood of the scaled counts and energies, nats.

    Args:
        model: the model.
        training: epochs, batch size and so on.
    """

    def __init__(self, model: PointCloudModel, training: StageTraining) -> None:
        super().__init__("flow", {"flow": model.flow}, training, needs=("scales",))
        self.model = model

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.loss`."""
        model = self.model
        features, conditions = features_and_conditions(model, batch, streams)
        drawn = streams.child("noise").normal(batch.row.numpy(), model.flow.features, batch.epoch)
        noise = torch.from_numpy(drawn).to(features.device)
        y = (model.profiles.encode(features, conditions) + model.config.profile_noise * noise).to(model.dtype)
        return {"loss": -model.flow.log_prob(y, model.flow_condition(conditions).to(model.dtype)).mean()}
