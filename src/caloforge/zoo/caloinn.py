"""CaloINN: one coupling flow for the voxels of all layers and the energies of the layers (arXiv:2312.09290).

The variables are each voxel's share of its layer and the recursive energy fractions, all in one flow that is as fast in sampling
as in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from caloforge.conditions import Conditions
from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.models import Difference, Latents
from caloforge.parts.checks import check_margin
from caloforge.parts.coupling import CouplingSize
from caloforge.parts.flows import FlowStage, normal_latents
from caloforge.parts.layer_energies import ScaleStage
from caloforge.parts.voxel_model import VoxelModel
from caloforge.random import Streams
from caloforge.representation import JointSettings, JointShares, LogShares, check_noise, check_share_noise
from caloforge.stage import Stage, TrainingBatch, TrainingConfig, deposits_of

__all__ = ["CaloINN", "CaloINNConfig"]


class CaloINNConfig(JointSettings):
    """Configuration of CaloINN: the keys of :class:`~caloforge.representation.JointSettings`, and these.

    Attributes:
        flow: size of the coupling flow; the default is the published one for CaloChallenge data set 1.
        variables: ``logits`` of shares and fractions, with noise on the deposits; ``logarithms`` of both, with relative noise on
            both and without regard to the threshold, as published.
        noise_on: noise of ``logits``: of one width in MeV on the ``deposits``, or of one width on the ``shares`` of all layers.
        relative_noise: width of the noise of ``logarithms``.
        log_alpha: margin of the logarithm.
    """

    flow: CouplingSize = CouplingSize()
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-9
    variables: Literal["logits", "logarithms"] = "logits"
    noise_on: Literal["deposits", "shares"] = "shares"
    relative_noise: Annotated[float, Field(gt=0)] = 5e-6
    log_alpha: Annotated[float, Field(gt=0)] = 1e-8

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_noise(self)
        check_share_noise(self, self.noise_on)
        if self.drop_voxel and self.variables == "logarithms":
            raise ValueError("'drop_voxel' and the 'variables' logarithms exclude each other")
        return self


class CaloINN(VoxelModel):
    """The coupling flow.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels or too few, or no gun to take a missing ``incident_reference`` from.
    """

    kind = "caloinn"
    Config = CaloINNConfig
    differences = (
        Difference(
            "variables",
            "log(x + 1e-8) of shares and fractions",
            "logits of both",
            "both lie between 0 and 1, and so do the showers then",
            "variables",
            ("logarithms", "logits"),
        ),
        Difference(
            "noise",
            "5e-6 on all shares and fractions",
            "on shares what 1 keV is of the highest energy; 1 keV on layer energies",
            "layer energies are known to 1 keV (goes with the variables)",
        ),
        Difference(
            "selection",
            "last epoch, 1 % of the showers kept for validation",
            "best epoch on 10 % of them",
            "few showers to train on",
        ),
        Difference("Bayesian version, CaloVAE + INN", "part of the publication", "not there", "other models"),
    )
    config: CaloINNConfig

    def __init__(self, config: CaloINNConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        self.representation: JointShares | LogShares
        if config.variables == "logarithms":
            self.representation = LogShares(
                detector,
                scale=config.energy_scale,
                extra_energy=config.extra_energy,
                noise=config.relative_noise,
                alpha=config.log_alpha,
            )
        else:
            self.representation = JointShares(config, detector, noise_on=config.noise_on)
        check_margin(self.representation.margin, config.flow.bound, "flow")
        features = self.representation.features
        if features < 2:
            raise ConfigError(f"the model 'caloinn' needs at least two variables, '{detector.name}' gives {features}")
        self.flow = config.flow.flow(features, 1)

    # ---- training -------------------------------------------------------------------------------------------------

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """The scale of the energies (fitted or checked), and the flow behind it."""
        scale, flow = self.representation.scale, training.for_stage("flow")
        path = next(name for name, module in self.named_modules() if module is scale)
        return [
            ScaleStage(path, scale, self.dequantisation),
            FlowStage("flow", "flow", self.flow, self.variables, flow, needs=("scale",)),
        ]

    def variables(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What the flow learns from a batch: shares, then fractions (B, D), and its condition (B, 1)."""
        incident = batch.incident_energy
        encoded = self.representation.encode(deposits_of(batch), incident, streams, batch.row, batch.epoch)
        return encoded.y.to(self.dtype), self.energy_conditions.incident(incident).to(self.dtype)

    # ---- generating and likelihood --------------------------------------------------------------------------------

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers: ``flow`` (N, D), float32."""
        return normal_latents({"flow": self.flow.features}, conditions, streams)

    def make_deposits(self, incident_energy: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
        """Deposits, float64 (N, V), MeV, from incident energies (N,), MeV, and the latents."""
        context = self.energy_conditions.incident(incident_energy).to(self.dtype)
        y, _ = self.flow.inverse(latents["flow"].to(self.dtype), context)
        return self.representation.decode(y, incident_energy)

    def noisy_log_prob(
        self, deposits: Tensor, incident_energy: Tensor, rows: Tensor, draw: int, streams: Streams
    ) -> Tensor:
        """See :meth:`caloforge.parts.voxel_model.VoxelModel.noisy_log_prob`; shares and fractions (``calogan``: 504 + 3)."""
        encoded = self.representation.encode(deposits, incident_energy, streams, rows, draw)
        context = self.energy_conditions.incident(incident_energy).to(self.dtype)
        log_prob = self.flow.log_prob(encoded.y.to(self.dtype), context).double() + encoded.logdet
        return torch.where(encoded.inside, log_prob, torch.full_like(log_prob, -math.inf))

    def describe_representation(self) -> dict[str, Any]:
        """How showers become numbers, in words and numbers."""
        return self.representation.describe() | {"conditions": self.energy_conditions.describe(layers=False)}
