"""CaloClouds2: photons at normal incidence as points, from one-step diffusion (arXiv:2309.05704)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
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

__all__ = ["CaloClouds2", "CaloClouds2Config"]

#: Total number of points, visible energy, and centre of gravity in x, y and depth.
_GLOBAL = 5


class CaloClouds2Config(PointCloudConfig):
    """Configuration of CaloClouds2: the keys of :class:`~caloforge.parts.point_settings.PointCloudConfig`, and this.

    The default sizes are the published ones.

    Attributes:
        points_told: which number of points the point network is told: that of the ``flow``, or the ``calibrated`` one.
    """

    flow: ShowerFlowSize = ShowerFlowSize(blocks=10)
    widths: Annotated[tuple[int, ...], Field(min_length=1)] = (128, 256, 512, 256, 128)
    box: Annotated[float, Field(gt=0)] = 400.0
    positions: Literal["asinh", "standard", "box"] = "box"
    point_energy: Literal["log", "linear"] = "log"
    points_told: Literal["flow", "calibrated"] = "flow"


class CaloClouds2(PointCloudModel):
    """The flow also gives totals and centre of gravity; the points are conditioned on energy and number of points.

    Args:
        config: sizes and constants.
        detector: with the depths of its layers.
    """

    kind = "caloclouds2"
    Config = CaloClouds2Config
    differences = (
        *POINT_DIFFERENCES,
        Difference(
            "number of points",
            "calibrated by cubic polynomials",
            "calibrated by one factor",
            "a factor needs no generated showers of other sizes",
            "occupancy",
            ("polynomial", "factor"),
        ),
        Difference(
            "number of points as a condition",
            "after the calibration",
            "before it",
            "that is what the network was trained with",
            "points_told",
            ("calibrated", "flow"),
        ),
        Difference(
            "energies of points",
            "MeV as they are; negative ones are set to 0",
            "standardised logarithms",
            "positive, and alike over decades",
            "point_energy",
            ("linear", "log"),
        ),
        Difference(
            "steps of the diffusion",
            "13 noise levels",
            "18",
            "the levels between which it is distilled",
            "edm_steps",
            (13, 18),
        ),
        Difference(
            "limits on totals",
            "1 to 6,000 points, 40 MeV at least, shares between 0 and 1",
            "unphysical showers are drawn again (in both profiles)",
            "a limit makes spikes",
        ),
    )
    config: CaloClouds2Config
    moves_gravity = True
    compiled_totals = _GLOBAL
    published_units = (1e5, 6000.0)

    @property
    def tells_calibrated(self) -> bool:  # type: ignore[override]
        """See :class:`~caloforge.parts.point_model.PointCloudModel`."""
        return self.config.points_told == "calibrated"

    def __init__(self, config: CaloClouds2Config, detector: Detector) -> None:
        layers = detector.readout.n_layers
        super().__init__(
            config, detector, features=_GLOBAL + 2 * layers, flow_context=1, point_context=2, order="caloclouds2"
        )

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
        """Totals, centre of gravity, and each layer's share of points and energy (or square roots of the shares)."""
        points, energy = cloud.counts.sum(dim=1), cloud.energies.sum(dim=1)
        shares = torch.cat(
            [
                (cloud.counts + uniform) / (points + self.layers / 2).clamp_min(1)[:, None],
                cloud.energies / energy.clamp_min(1e-300)[:, None],
            ],
            dim=1,
        )
        weights = cloud.energy.double()[:, None]
        moments = torch.zeros(len(points), 3, dtype=torch.float64, device=points.device)
        depth = cloud.layer.double()[:, None]
        moments.index_add_(0, cloud.shower, torch.cat([cloud.place.double(), depth], dim=1) * weights)
        gravity = moments / energy.clamp_min(1e-300)[:, None]
        if self.config.profiles == "sqrt":
            shares = torch.sqrt(shares)
        return torch.cat([points[:, None], energy[:, None], gravity, shares], dim=1)

    def profiles_of(self, features: Tensor) -> Profiles:
        """Shares scaled to the totals; not valid without points or energy, or with too many negative shares of energy."""
        points, energy = features[:, 0], features[:, 1]
        negative = (features[:, _GLOBAL + self.layers :] < 0).sum(dim=1)
        shares = features[:, _GLOBAL:].clamp_min(0)
        if self.config.profiles == "sqrt":
            shares = shares.square()
        of_points, of_energy = shares[:, : self.layers], shares[:, self.layers :]
        # The noise of half a point per layer is taken off again by rounding down.
        whole = (points.clamp_min(0) + self.layers / 2)[:, None]
        counts = torch.floor(whole * of_points / of_points.sum(dim=1, keepdim=True).clamp_min(1e-300))
        energies = energy.clamp_min(0)[:, None] * of_energy / of_energy.sum(dim=1, keepdim=True).clamp_min(1e-300)
        valid = (points >= 1) & (energy > 0) & (negative <= self.config.max_negative)
        return Profiles(counts, energies, features[:, 2:4], valid)

    def flow_condition(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """Incident energy over its unit, (N, 1)."""
        return self.profiles.relative(conditions["incident_energy"])[:, None]

    def point_condition(self, conditions: Mapping[str, Tensor], counts: Tensor) -> Tensor:
        """Incident energy and number of points, both mapped to [-1, 1], (N, 2)."""
        energy = self.profiles.relative(conditions["incident_energy"])
        points = counts.sum(dim=1) / self.points_unit
        return torch.stack([2 * energy - 1, 2 * points - 1], dim=1)
