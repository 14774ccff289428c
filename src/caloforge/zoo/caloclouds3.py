"""CaloClouds3: photons of any direction as points, from one-step diffusion (arXiv:2511.01460)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from caloforge.detectors import Detector
from caloforge.models import Difference
from caloforge.parts.differences import POINT_DIFFERENCES
from caloforge.parts.point_calibration import CalibrationStage
from caloforge.parts.point_diffusion import ConsistencyStage, DiffusionStage
from caloforge.parts.point_model import PointCloudModel
from caloforge.parts.point_settings import PointCloudConfig, ShowerFlowSize
from caloforge.parts.profile_flow import ProfileFlowStage, ProfileScaleStage
from caloforge.representation import Cloud, Profiles
from caloforge.stage import Stage, TrainingConfig

__all__ = ["CaloClouds3", "CaloClouds3Config"]

#: Published units of points and energy (MeV) of a layer.
_POINTS, _ENERGY = 7864 / 30, 3400 / 30


class CaloClouds3Config(PointCloudConfig):
    """Configuration of CaloClouds3: the keys of :class:`~caloforge.parts.point_settings.PointCloudConfig`, and this.

    The default sizes are the published ones.

    Attributes:
        profile_scale: units of the flow's features: mean and standard deviation of the training data (``standard``), or the
            published ``constants``.
    """

    flow: ShowerFlowSize = ShowerFlowSize(blocks=2)
    widths: Annotated[tuple[int, ...], Field(min_length=1)] = (32, 64, 128, 64, 32)
    box: Annotated[float, Field(gt=0)] = 500.0
    positions: Literal["asinh", "standard", "box"] = "standard"
    point_energy: Literal["log", "linear"] = "log"
    profile_scale: Literal["standard", "constants"] = "standard"

    @model_validator(mode="after")
    def _units_fit(self) -> Self:
        if self.profile_scale == "constants" and self.profiles == "sqrt":
            raise ValueError(
                "the 'profile_scale' constants is of counts and energies, so it needs the 'profiles' linear"
            )
        return self


class CaloClouds3(PointCloudModel):
    """The flow gives counts and energies of the layers; everything is conditioned on energy and direction.

    Args:
        config: sizes and constants.
        detector: with the depths of its layers.
    """

    kind = "caloclouds3"
    Config = CaloClouds3Config
    differences = (
        *POINT_DIFFERENCES,
        Difference(
            "scale of the features",
            "7,864 / 30 points, 3,400 / 30 MeV, no shift",
            "mean and standard deviation of the data",
            "constants belong to data",
            "profile_scale",
            ("constants", "standard"),
        ),
    )
    config: CaloClouds3Config
    moves_gravity = False
    compiled_totals = 0
    published_units = (1.27e5, 1.0)  # it is told no number of points

    def __init__(self, config: CaloClouds3Config, detector: Detector) -> None:
        layers = detector.readout.n_layers
        super().__init__(config, detector, features=2 * layers, flow_context=4, point_context=4, order="caloclouds3")

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """Scales, the flow and the diffusion behind them, the diffusion's distillation, and the calibration."""
        return [
            ProfileScaleStage(self),
            ProfileFlowStage(self, training.for_stage("flow")),
            DiffusionStage(self, training.for_stage("diffusion")),
            ConsistencyStage(self, training.for_stage("distillation")),
            CalibrationStage(self),
        ]

    def profile_features(self, cloud: Cloud, uniform: Tensor) -> Tensor:
        """Counts, made continuous by the uniform numbers, and energies of all layers, or their square roots."""
        features = torch.cat([cloud.counts + uniform, cloud.energies], dim=1)
        return torch.sqrt(features) if self.config.profiles == "sqrt" else features

    def profiles_of(self, features: Tensor) -> Profiles:
        """Counts rounded down; not valid with more negative energies than ``max_negative``."""
        negative = (features[:, self.layers :] < 0).sum(dim=1)
        values = features.clamp_min(0)
        if self.config.profiles == "sqrt":
            values = values.square()
        counts, energies = torch.floor(values[:, : self.layers]), values[:, self.layers :]
        return Profiles(counts, energies, None, negative <= self.config.max_negative)

    def profile_units(self) -> Tensor | None:
        """See :meth:`caloforge.parts.point_model.PointCloudModel.profile_units`."""
        if self.config.profile_scale == "standard":
            return None
        units = [_POINTS] * self.layers + [_ENERGY] * self.layers
        return torch.tensor(units, dtype=torch.float64)

    def flow_condition(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """Incident energy over its unit, and direction, (N, 4)."""
        energy = self.profiles.relative(conditions["incident_energy"])
        return torch.cat([energy[:, None], conditions["direction"].double()], dim=1)

    def point_condition(self, conditions: Mapping[str, Tensor], counts: Tensor) -> Tensor:
        """The same as for the flow; the number of points was found to have no effect (arXiv:2511.01460, section 3.2)."""
        return self.flow_condition(conditions)
