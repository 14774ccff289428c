"""Features of the profiles of point clouds relative to a smooth trend in the condition.

Without it the flow has to learn that layers grow with the energy; of few showers it does so badly. With b the functions of the
condition in ``condition_functions``, the mean of the features becomes ``mean + b trend`` and their standard deviation
``std sqrt(b variance)``, where of the last b only the first two functions are taken, 1 and the incident energy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from caloforge.models import Aid, ShowerModel, only_module
from caloforge.parts.point_model import LEAST_VARIANCE, PointCloudModel
from caloforge.parts.profile_flow import features_and_conditions
from caloforge.random import Streams
from caloforge.representation import CONDITION_FUNCTIONS, CloudProfiles, Scale
from caloforge.stage import FitStage, Stage, TrainingData
from caloforge.validation import Settings

__all__ = ["Trend", "same_variance", "variance_of"]


def same_variance(features: int) -> Tensor:
    """Coefficients of a variance of one at any energy, (2, F)."""
    return torch.tensor([[1.0], [0.0]], dtype=torch.float64).repeat(1, features)


def variance_of(functions: Tensor, coefficients: Tensor) -> Tensor:
    """Variances (N, F), linear in the energy, of numbers whose variance is around one, from ``condition_functions`` (N, 7)."""
    return (functions[:, :2] @ coefficients.double()).clamp_min(LEAST_VARIANCE)


class Trend(Aid):
    """Scales the features of the profiles by mean and spread under their conditions.

    Attributes:
        trend: coefficients of the mean, (7, F), over the plain standard deviation, behind the plain mean.
        variance: coefficients of the variance, (2, F), over its plain square.
    """

    kind = "trend"
    title: ClassVar[str] = "profiles relative to their trend in energy and direction"
    trend: Tensor
    variance: Tensor

    def __init__(self, config: Settings, model: ShowerModel) -> None:
        super().__init__(config, model)
        profiles = only_module(model, CloudProfiles, self.kind)
        self.register_buffer("trend", torch.zeros(CONDITION_FUNCTIONS, profiles.features, dtype=torch.float64))
        self.register_buffer("variance", same_variance(profiles.features))
        self._functions = profiles.functions
        profiles.put("scale", self.scaled)

    def scaled(self, scale: Scale, conditions: Mapping[str, Tensor]) -> Scale:
        """The scale under these conditions."""
        functions = self._functions(conditions)
        std = scale.std * torch.sqrt(variance_of(functions, self.variance))
        return Scale(scale.mean + functions @ self.trend.double(), std)

    def stages(self, model: ShowerModel) -> list[Stage]:
        """The fit of both, in front of the flow."""
        assert isinstance(model, PointCloudModel)  # it has profiles
        return [_TrendStage(self, model)]

    def constants(self) -> dict[str, Tensor]:
        """See :meth:`caloforge.models.Aid.constants`."""
        return {"trend": self.trend, "variance": self.variance}


class _TrendStage(FitStage):
    needed_by = ("flow",)

    def __init__(self, aid: Trend, model: PointCloudModel) -> None:
        super().__init__("trend", {"aids.trend": aid}, needs=("scales",))
        self.aid, self.model = aid, model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        profiles = self.model.profiles
        pairs = []
        for batch in data:
            features, conditions = features_and_conditions(self.model, batch, streams)
            pairs.append((profiles.functions(conditions).cpu(), features.cpu()))
        functions, features = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        mean, std = profiles.mean.cpu(), profiles.std.cpu()
        # Columns may be equal (all showers along +z), so the shortest of all solutions is taken.
        trend = torch.linalg.pinv(functions, rtol=1e-6) @ (features - mean)
        rest = (features - mean - functions @ trend) / std
        variance = torch.linalg.pinv(functions[:, :2], rtol=1e-6) @ rest.square()
        return {"aids.trend.trend": trend, "aids.trend.variance": variance}
