"""CaloFlow: layer energies from one autoregressive flow, shower shapes from another (arXiv:2106.05285).

Flow I ("energies") learns the energies of the layers given the incident energy, as recursive fractions. Flow II ("shapes")
learns the voxels of all layers, as shares of their layer's energy, given all these energies. The two are trained independently.
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
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.permutations import alternating_within_layers
from caloforge.parts.checks import check_margin
from caloforge.parts.differences import CUT_FIRST, LAYER_NOISE, MASKS, TRAINING_DIFFERENCES
from caloforge.parts.flows import FlowSize, FlowStage, autoregressive_flow, normal_latents
from caloforge.parts.voxel_model import VoxelModel
from caloforge.random import Streams
from caloforge.representation import NoisyShowers, PostProcessing, VoxelSettings, VoxelShares, check_noise
from caloforge.stage import Stage, TrainingBatch, TrainingConfig

__all__ = ["CaloFlow", "CaloFlowConfig"]


class CaloFlowConfig(VoxelSettings):
    """Configuration of CaloFlow: the keys of :class:`~caloforge.representation.VoxelSettings`, and these.

    Attributes:
        energies: size of Flow I; the default is the published one, as for Flow II.
        shapes: size of Flow II.
        masks: ``even`` spreads the degrees of the hidden units over all inputs; ``published`` gives those of nflows, with which
            inputs beyond the number of hidden units condition nothing.
        permutation_seed: seed of the fixed random permutations.
        above_scale: what a training row above a given ``energy_scale`` is: an ``error``, or its fraction is put to 1 (``clamp``).
        postprocessing: how shares become deposits, see :class:`~caloforge.representation.VoxelShares`.
    """

    energies: FlowSize = FlowSize(blocks=6, hidden_features=64, hidden_layers=2)
    shapes: FlowSize = FlowSize(blocks=8, hidden_features=378, hidden_layers=1, dropout=0.05)
    masks: Literal["even", "published"] = "even"
    permutation_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    above_scale: Literal["error", "clamp"] = "error"
    postprocessing: PostProcessing = "exact"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_noise(self)
        return self


class CaloFlow(VoxelModel):
    """Flow I and Flow II.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels, or no gun to take a missing ``incident_reference`` from.
    """

    kind = "caloflow"
    Config = CaloFlowConfig
    differences = (
        MASKS,
        LAYER_NOISE,
        CUT_FIRST,
        Difference(
            "energy fractions",
            "recursive",
            "recursive for up to ten layers, else single ones",
            "recursive fractions of layers that are often empty are ratios of noise",
            "energy_fractions",
            ("recursive", "auto"),
        ),
        Difference(
            "showers above the energy scale",
            "their fraction is clamped to 1",
            "an error that names the row",
            "a scale that is too small, or a wrong unit, should not go unseen",
            "above_scale",
            ("clamp", "error"),
        ),
        Difference(
            "from shares to deposits",
            "scaled to the layer energies by absolute values, then cut",
            "noise taken away, cut and rescaled in one step",
            "a cut behind the scaling changes layer energies",
            "postprocessing",
            ("renormalise", "exact"),
        ),
        *TRAINING_DIFFERENCES,
    )
    config: CaloFlowConfig
    shapes: AutoregressiveFlow

    def __init__(self, config: CaloFlowConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        self.shares = VoxelShares(config, detector, postprocessing=config.postprocessing)
        check_margin(self.shares.logit, config.shapes.bound, "shapes")
        self.energies = self.energy_flow(
            config.energies,
            masks=config.masks,
            permutation_seed=config.permutation_seed,
            fractions=config.energy_fractions,
            clamps=config.above_scale == "clamp",
        )
        permutations = self.shape_permutations(config.shapes.blocks)
        conditions = 1 + detector.readout.n_layers
        self.shapes = autoregressive_flow(config.shapes, self.shares.features, conditions, config.masks, permutations)

    def shape_permutations(self, blocks: int) -> list[Any]:
        """Permutations between the blocks of Flow II: reverse and random ones by turns, within each layer."""
        return list(alternating_within_layers(self.shares.learnt_sizes, blocks, seed=self.config.permutation_seed))

    # ---- training -------------------------------------------------------------------------------------------------

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """The scale of the energies (fitted or checked), Flow I behind it, and Flow II independently of both."""
        shapes = FlowStage("shapes", "shapes", self.shapes, self.shape_variables, training.for_stage("shapes"))
        return [*self.energies.stages("energies", self.dequantisation, training), shapes]

    def shape_variables(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What Flow II learns from a batch: logits of the noisy shares (B, learnt voxels), and its conditions (B, 1 + L).

        The layer energies among the conditions have noise, too: see :meth:`seen_energies`.
        """
        noisy = self.noisy(batch, streams, self.dtype)
        context = self.energy_conditions(batch.incident_energy, self.seen_energies(noisy))
        return self.shares.transform(noisy.voxels).to(self.dtype), context.to(self.dtype)

    def seen_energies(self, noisy: NoisyShowers) -> Tensor:
        """Layer energies among the conditions of Flow II, float64 (N, L), MeV: as Flow I makes them, or sums of the voxels.

        Sums of noisy voxels are those of the voxels that Flow II learns, even if Flow I learns less noise.
        """
        if self.config.energy_noise_per == "layer":
            return noisy.energies
        sums: Tensor = self.shares.sums(noisy.voxels, dtype=torch.float64)
        return sums

    # ---- generating -----------------------------------------------------------------------------------------------

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers: ``energies`` (N, L) and ``shapes`` (N, learnt voxels), float32."""
        sizes = {"energies": self.energies.features, "shapes": self.shapes.features}
        return normal_latents(sizes, conditions, streams)

    def make_deposits(self, incident_energy: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
        """Deposits, float64 (N, V), MeV, from incident energies (N,), MeV, and the latents."""
        energies = self.energies.sample(latents["energies"], incident_energy)
        context = self.energy_conditions(incident_energy, energies).to(self.dtype)
        logits, _ = self.shapes.inverse(latents["shapes"].to(self.dtype), context)
        return self.shares.decode(logits, energies)

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def log_density(self, noisy: NoisyShowers, incident_energy: Tensor) -> Tensor:
        """Logarithm of the density of L energy fractions and the voxels' shares (arXiv:2106.05285: 3 + 504), or of deposits."""
        log_prob, volume, possible = self.energies.log_prob(noisy.energies, incident_energy)
        encoded = self.shares.encode(noisy.voxels)
        context = self.energy_conditions(incident_energy, self.seen_energies(noisy)).to(self.dtype)
        log_prob = log_prob + self.shapes.log_prob(encoded.y.to(self.dtype), context).double() + encoded.logdet
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
