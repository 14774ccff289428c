"""CaloINN in two steps: the layer energies from a flow of their own, and the coupling flow conditional on them.

A variant of CaloINN (arXiv:2312.09290) that no paper describes. In the paper's model few numbers among hundreds or thousands have
to carry the energy of the shower; here they come first, as in CaloFlow, and are conditions of the voxels.
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
from caloforge.models import Difference, Latents
from caloforge.parts.checks import check_margin
from caloforge.parts.coupling import CouplingSize
from caloforge.parts.flows import FlowSize, FlowStage, normal_latents
from caloforge.parts.voxel_model import VoxelModel
from caloforge.random import Streams
from caloforge.representation import VoxelSettings, VoxelShares, check_noise, check_share_noise, share_noise_width
from caloforge.stage import Stage, TrainingBatch, TrainingConfig

__all__ = ["CaloINNFactorised", "CaloINNFactorisedConfig"]


class CaloINNFactorisedConfig(VoxelSettings):
    """Configuration: the keys of :class:`~caloforge.representation.VoxelSettings`, and these.

    Attributes:
        flow: size of the coupling flow of the voxels.
        energies: size of the autoregressive flow of the layer energies.
        energy_alpha: margin of the logit of the energy fractions, whose splines act on a smaller interval.
        permutation_seed: seed of the fixed random permutations of the flow of the energies.
        noise_on: noise of one width in MeV on the ``deposits``, or of one width on the ``shares`` of all layers.
    """

    flow: CouplingSize = CouplingSize()
    energies: FlowSize = FlowSize(blocks=6, hidden_features=64, hidden_layers=2)
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-9
    energy_alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6
    permutation_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    noise_on: Literal["deposits", "shares"] = "shares"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_noise(self)
        check_share_noise(self, self.noise_on)
        return self


class CaloINNFactorised(VoxelModel):
    """A flow of the layer energies and a coupling flow of the voxels.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels, or no gun to take a missing ``incident_reference`` from.
    """

    kind = "caloinn-factorised"
    Config = CaloINNFactorisedConfig
    differences = (
        Difference(
            "layer energies",
            "among the variables of the one flow (see caloinn)",
            "from a flow of their own, conditions of the voxels",
            "few numbers among many have to carry the energy of the shower",
        ),
    )
    config: CaloINNFactorisedConfig

    def __init__(self, config: CaloINNFactorisedConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        width = share_noise_width(config, detector) if config.noise_on == "shares" else 0.0
        self.shares = VoxelShares(config, detector, share_noise=width)
        check_margin(self.shares.logit, config.flow.bound, "flow")
        self.energies = self.energy_flow(
            config.energies,
            masks="even",
            permutation_seed=config.permutation_seed,
            fractions=config.energy_fractions,
            alpha=config.energy_alpha,
        )
        self.flow = config.flow.flow(self.shares.features, 1 + detector.readout.n_layers)

    # ---- training -------------------------------------------------------------------------------------------------

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """The scale of the energies (fitted or checked), their flow behind it, and the flow of the voxels beside both."""
        flow = FlowStage("flow", "flow", self.flow, self.variables, training.for_stage("flow"))
        return [*self.energies.stages("energies", self.dequantisation, training), flow]

    def variables(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What the flow of the voxels learns from a batch: logits of shares (B, n), and its conditions (B, 1 + L)."""
        noisy = self.noisy(batch, streams)
        encoded = self.shares.encode_noisy(noisy, self.dequantisation, streams, batch.row, batch.epoch)
        context = self.energy_conditions(batch.incident_energy, noisy.energies)
        return encoded.y.to(self.dtype), context.to(self.dtype)

    # ---- generating and likelihood --------------------------------------------------------------------------------

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers: ``flow`` (N, n) and ``energies`` (N, L), float32."""
        sizes = {"flow": self.flow.features, "energies": self.energies.features}
        return normal_latents(sizes, conditions, streams)

    def make_deposits(self, incident_energy: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
        """Deposits, float64 (N, V), MeV, from incident energies (N,), MeV, and the latents."""
        energies = self.energies.sample(latents["energies"], incident_energy)
        context = self.energy_conditions(incident_energy, energies).to(self.dtype)
        y, _ = self.flow.inverse(latents["flow"].to(self.dtype), context)
        return self.shares.decode(y.double(), energies)

    def noisy_log_prob(
        self, deposits: Tensor, incident_energy: Tensor, rows: Tensor, draw: int, streams: Streams
    ) -> Tensor:
        """See :meth:`caloforge.parts.voxel_model.VoxelModel.noisy_log_prob`; energy fractions and shares."""
        noisy = self.dequantisation(deposits, streams, rows, draw, torch.float64)
        log_prob, volume, possible = self.energies.log_prob(noisy.energies, incident_energy)
        encoded = self.shares.encode_noisy(noisy, self.dequantisation, streams, rows, draw)
        context = self.energy_conditions(incident_energy, noisy.energies).to(self.dtype)
        log_prob = log_prob + self.flow.log_prob(encoded.y.to(self.dtype), context).double() + encoded.logdet
        if self.config.drop_voxel:
            log_prob = log_prob + volume
        return torch.where(possible & encoded.inside, log_prob, torch.full_like(log_prob, -math.inf))

    def describe_representation(self) -> dict[str, Any]:
        """How showers become numbers, in words and numbers."""
        return {
            "noise": self.dequantisation.describe(),
            "energies": self.energies.describe(),
            "shapes": self.shares.describe(),
            "conditions": self.energy_conditions.describe(),
        }
