"""The stages in which CaloClouds2 and CaloClouds3 are trained.

``scales`` looks at the data; ``flow`` and ``diffusion`` are trained behind it, independently of each other; ``layers``
corrects the flow's moments; ``distillation`` turns the diffusion into one step; ``calibration`` compares cells of generated
and of training showers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caloforge.errors import ShowerFileError
from caloforge.models.cloud_calibration import CalibrationStage, LayerStage
from caloforge.models.cloud_parts import mean_basis
from caloforge.models.cloud_points import DiffusionStage, DistillationStage
from caloforge.models.pointclouds import PointCloudModel, conditions_of, directions_of
from caloforge.random import Streams
from caloforge.stage import FitStage, GradientStage, Stage, StageTraining, TrainingBatch, TrainingConfig, TrainingData

__all__ = ["cloud_stages"]


def cloud_stages(model: PointCloudModel, training: TrainingConfig) -> list[Stage]:
    """The six stages of a model."""
    return [
        _ScaleStage(model),
        _FlowStage(model, training.for_stage("flow")),
        LayerStage(model),
        DiffusionStage(model, training.for_stage("diffusion")),
        DistillationStage(model, training.for_stage("distillation")),
        CalibrationStage(model),
    ]


class _ScaleStage(FitStage):
    """Means, standard deviations and limits of the training data."""

    def __init__(self, model: PointCloudModel) -> None:
        super().__init__("scales", {"scales": model.scales, "points": model.points})
        self.model = model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        model = self.model
        features, totals, incident, conditions = [], [], [], []
        widths = [self._distances(batch) for batch in data]
        distances = torch.cat(widths)
        rank = max(1, round(model.config.core_share * len(distances)))
        core = distances.kthvalue(rank).values if len(distances) else torch.ones((), dtype=torch.float64)
        model.points.core.copy_(core.clamp_min(1e-6))
        count, total, squares = 0, torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        least = torch.tensor(torch.inf, dtype=torch.float64)
        seen, all_of = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        for batch in data:
            cloud = model.cloud(batch)
            assert batch.points is not None  # ``cloud`` has looked
            deposits = batch.points[:, 3].double().clamp_min(0)
            all_of += torch.stack([(deposits > 0).sum().double(), deposits.sum()]).cpu()
            seen += torch.stack([cloud.counts.sum(), cloud.energies.sum()]).cpu()
            uniform = torch.from_numpy(streams.uniform(batch.row.numpy(), model.layers)).to(cloud.counts.device)
            features.append(model.profile_features(cloud, uniform).cpu())
            totals.append(cloud.counts.sum(dim=1).cpu())
            incident.append(batch.incident_energy.double().cpu())
            conditions.append(directions_of(batch).double().cpu())
            plain = model.points.plain(cloud.place.double(), cloud.layer.double() + 0.5, cloud.energy.double()).cpu()
            count += len(plain)
            total += plain.sum(dim=0)
            squares += plain.square().sum(dim=0) + torch.tensor([0, 0, 1 / 12, 0]) * len(plain)
            if len(plain):
                least = torch.minimum(least, cloud.energy.double().min().cpu())
        if not count:
            raise ShowerFileError("no training row has a point within the box, so there is nothing to learn")
        found = torch.cat(features)
        energies, points = torch.cat(incident), torch.cat(totals)
        basis = mean_basis(energies / energies.max(), torch.cat(conditions))
        # Columns may be equal (all showers along +z), so the shortest of all solutions is taken.
        mean = torch.linalg.pinv(basis, rtol=1e-6) @ found
        rest = found - basis @ mean
        std = rest.std(dim=0)
        std = torch.where(std > 0, std, torch.ones_like(std))
        # The steepest line through the origin's side that has all showers below it.
        slope = _slope(energies, points)
        constant = (points - slope * energies).max().clamp_min(1.0)
        scales = {
            "incident": energies.max(),
            "mean": mean,
            "std": std,
            "variance": torch.linalg.pinv(basis[:, :2], rtol=1e-6) @ (rest / std).square(),
            "most_points": torch.stack([constant, slope]),
            "outside": 1 - seen / all_of,
        }
        normalisation = model.points.fitted(torch.tensor(count), total, squares, least) | {"core": model.points.core}
        return {f"scales.{name}": value for name, value in scales.items()} | {
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


class _FlowStage(GradientStage):
    """Minus log-likelihood of the standardised counts and energies, nats."""

    def __init__(self, model: PointCloudModel, training: StageTraining) -> None:
        super().__init__("flow", {"flow": model.flow}, training, needs=("scales",))
        self.model = model

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        model = self.model
        cloud = model.cloud(batch)
        device, rows = cloud.counts.device, batch.row.numpy()
        uniform = torch.from_numpy(streams.child("counts").uniform(rows, model.layers, batch.epoch)).to(device)
        noise = torch.from_numpy(streams.child("noise").normal(rows, model.flow.features, batch.epoch)).to(device)
        conditions = conditions_of(batch)
        features = model.scales.standardised(model.profile_features(cloud, uniform), conditions)
        features = (features + model.config.profile_noise * noise).to(model.dtype)
        context = model.flow_condition(conditions).to(model.dtype)
        return {"loss": -model.flow.log_prob(features, context).mean()}
