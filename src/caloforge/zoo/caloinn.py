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

#: MeV.
_GEV = 1e3


class CaloINNConfig(JointSettings):
    """Configuration of CaloINN: the keys of :class:`~caloforge.representation.JointSettings`, and these.

    Attributes:
        flow: size of the coupling flow; the default is the published one for CaloChallenge data set 1.
        variables: ``logits`` of shares and fractions, with noise on the deposits; ``logarithms`` of both, with relative noise on
            both and without regard to threshold and energy scale, as published.
        shares_of: what the shares of ``logarithms`` are of, the ``layers`` or the whole ``shower``; see
            :class:`~caloforge.representation.LogShares`.
        noise_on: noise of ``logits``: of one width in MeV on the ``deposits``, or of one width on the ``shares`` of all layers.
        relative_noise: width of the noise of ``logarithms``.
        log_alpha: margin of the logarithm.
        condition: ``log10`` of the incident energy over a reference, or ``published``: log2 of its GeV, or ln with shares of the
            shower.
        outside: what a spline block leaves as it is if one of the variables that it transforms lies outside its interval: that
            ``variable``, or the whole ``event``. Only then may the margin of the variables lie outside.
        largest_ratio: training rows that deposit so many times their incident energy, or more, are left out; None keeps all.
        largest_voxel: training rows with so much in a voxel, or more, are left out, MeV; None keeps all.
    """

    flow: CouplingSize = CouplingSize()
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-9
    variables: Literal["logits", "logarithms"] = "logits"
    noise_on: Literal["deposits", "shares"] = "shares"
    relative_noise: Annotated[float, Field(gt=0)] = 5e-6
    log_alpha: Annotated[float, Field(gt=0)] = 1e-8
    shares_of: Literal["layers", "shower"] = "layers"
    condition: Literal["log10", "published"] = "log10"
    outside: Literal["variable", "event"] = "variable"
    largest_ratio: Annotated[float, Field(gt=0)] | None = None
    largest_voxel: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_noise(self)
        check_share_noise(self, self.noise_on)
        if self.drop_voxel and self.variables == "logarithms":
            raise ValueError("'drop_voxel' and the 'variables' logarithms exclude each other")
        if self.shares_of == "shower" and self.variables == "logits":
            raise ValueError("'shares_of' shower needs the 'variables' logarithms")
        if self.condition == "published" and self.incident_reference is not None:
            raise ValueError("the published 'condition' is in GeV, so 'incident_reference' does nothing")
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
            "first fraction",
            "deposited over incident energy, which may be above 1",
            "over the most that the training showers deposit",
            "a logit ends at 1 (goes with the variables)",
        ),
        Difference(
            "condition",
            "log2(E / GeV); with shares of the shower (CaloGAN) ln(E / GeV)",
            "log10(E / reference), 0 in the middle of the gun's",
            "about unit size, as the variables are",
            "condition",
            ("published", "log10"),
        ),
        Difference(
            "training showers left out",
            "pions: 3.5 times the incident energy or more, or 600 GeV in a voxel (so in the published preset)",
            "none",
            "the model should know them",
        ),
        Difference(
            "selection",
            "last epoch, 1 % of the showers kept for validation (CaloGAN 20 %), as in the published presets",
            "best epoch on 10 % of them",
            "few showers to train on",
        ),
        Difference(
            "outside the splines (18, pions, or 20; improved 21)",
            "an event with one variable outside passes a block as it is",
            "that variable alone",
            "log 1e-8 lies outside 18: a block learns nothing from many events with empty voxels",
            "outside",
            ("event", "variable"),
        ),
        Difference(
            "least slope at the ends of cubic splines",
            "0.001",
            "0.001 of the slope of the bin (in both profiles)",
            "the same for every width of a bin",
        ),
        Difference("Bayesian version, CaloVAE + INN", "part of the publication", "not there", "other models"),
    )
    config: CaloINNConfig

    def __init__(self, config: CaloINNConfig, detector: Detector) -> None:
        base = 0.0 if config.condition == "log10" else math.e if config.shares_of == "shower" else 2.0
        if base:
            settings = config.model_copy(update={"incident_reference": _GEV})
            super().__init__(settings, detector, incident_factor=1 / math.log10(base))
            self.config = config
        else:
            super().__init__(config, detector)
        self.representation: JointShares | LogShares
        if config.variables == "logarithms":
            width, alpha = config.relative_noise, config.log_alpha
            self.representation = LogShares(detector, of=config.shares_of, noise=width, alpha=alpha)
        else:
            self.representation = JointShares(config, detector, noise_on=config.noise_on)
        if config.outside == "variable":
            check_margin(self.representation.margin, config.flow.bound, "flow")
        features = self.representation.features
        if features < 2:
            raise ConfigError(f"the model 'caloinn' needs at least two variables, '{detector.name}' gives {features}")
        self.flow = config.flow.flow(features, 1, whole_rows=config.outside == "event")

    # ---- training -------------------------------------------------------------------------------------------------

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """With logits, the scale of the energies (fitted or checked) and the flow behind it; with logarithms the flow alone."""
        scales: list[Stage] = []
        if isinstance(self.representation, JointShares):
            path = "representation.energies.scale"
            scales.append(ScaleStage(path, self.representation.scale, self.dequantisation))
        needs, settings = tuple(stage.name for stage in scales), training.for_stage("flow")
        keep = None if self.config.largest_ratio is self.config.largest_voxel is None else self.kept
        return [*scales, FlowStage("flow", "flow", self.flow, self.variables, settings, keep=keep, needs=needs)]

    def variables(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What the flow learns from a batch: shares, then fractions (B, D), and its condition (B, 1)."""
        incident = batch.incident_energy
        encoded = self.representation.encode(deposits_of(batch), incident, streams, batch.row, batch.epoch)
        return encoded.y.to(self.dtype), self.energy_conditions.incident(incident).to(self.dtype)

    def kept(self, batch: TrainingBatch) -> Tensor:
        """Which rows of a batch are learnt, bool (B,)."""
        deposits, ratio, voxel = deposits_of(batch), self.config.largest_ratio, self.config.largest_voxel
        kept = torch.ones_like(batch.incident_energy, dtype=torch.bool)
        if ratio is not None:
            kept = kept & (deposits.sum(dim=1, dtype=torch.float64) < ratio * batch.incident_energy)
        return kept if voxel is None else kept & (deposits.amax(dim=1) < voxel)

    # ---- generating and likelihood --------------------------------------------------------------------------------

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
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
