"""iCaloFlow: layer energies from one flow, the first layer from a second, all others from a third (arXiv:2305.11934).

The third flow is inductive: it learns the shower in a layer given that in the layer before, for all layers at once, so its size
does not grow with the number of layers. All layers must have equally many voxels.
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
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.permutations import alternating_within_layers
from caloforge.parts.checks import check_margin
from caloforge.parts.differences import CUT_FIRST, MASKS, TRAINING_DIFFERENCES
from caloforge.parts.flows import FlowSize, FlowStage, autoregressive_flow, normal_latents
from caloforge.parts.voxel_model import VoxelModel
from caloforge.random import Streams
from caloforge.representation import (
    InductiveConditions,
    LayerConditionSettings,
    NoisyShowers,
    PostProcessing,
    ShareSettings,
    VoxelShares,
    check_noise,
    highest_energy,
)
from caloforge.stage import Stage, TrainingBatch, TrainingConfig

__all__ = ["ICaloFlow", "ICaloFlowConfig"]


class ICaloFlowConfig(LayerConditionSettings, ShareSettings):
    """Configuration of iCaloFlow: the keys of ``LayerConditionSettings`` and ``ShareSettings``, and these.

    Attributes:
        energies: size of the flow of the layer energies; the default sizes are the published ones for CaloChallenge data set 2.
        first: size of the flow of the first layer.
        following: size of the inductive flow of all other layers.
        masks: ``even`` or ``published``, see ``caloforge.nn.made.hidden_degrees``.
        permutation_seed: seed of the fixed random permutations.
        energies_relative_to: layer energies are fractions of the ``scale`` times the incident energy, or of a ``fixed`` energy.
        energy_reference: that fixed energy, MeV (published: 65 GeV); None takes the highest of the gun's.
        conditions: how energies enter, see :class:`~caloforge.representation.InductiveConditions`.
        postprocessing: how shares become deposits, see :class:`~caloforge.representation.VoxelShares`.
    """

    noise: Annotated[float, Field(ge=0)] = 5e-3
    energy_noise: Annotated[float, Field(ge=0)] = 5e-3
    layer_offset: Annotated[float, Field(gt=0)] = 5e-3
    energies: FlowSize = FlowSize(blocks=8, hidden_features=256, hidden_layers=1)
    first: FlowSize = FlowSize(blocks=8, hidden_features=256, hidden_layers=2)
    following: FlowSize = FlowSize(blocks=8, hidden_features=256, hidden_layers=2)
    masks: Literal["even", "published"] = "even"
    permutation_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    energies_relative_to: Literal["scale", "fixed"] = "scale"
    energy_reference: Annotated[float, Field(gt=0)] | None = None
    conditions: Literal["logarithms", "logits"] = "logarithms"
    postprocessing: PostProcessing = "exact"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_noise(self)
        return self


class ICaloFlow(VoxelModel):
    """The three flows.

    Args:
        config: sizes and constants.
        detector: a calorimeter whose layers have equally many voxels, at least two.

    Raises:
        ConfigError: if the detector does not suit, or lacks a gun to take missing energies from.
    """

    kind = "icaloflow"
    Config = ICaloFlowConfig
    differences = (
        MASKS,
        CUT_FIRST,
        Difference(
            "variables of the layer energies",
            "logits of fractions of 65 GeV",
            "logits of fractions of what a shower of this incident energy can deposit",
            "no layer of any shower can hold more than came in",
            "energies_relative_to",
            ("fixed", "scale"),
        ),
        Difference(
            "energies as conditions",
            "logits of fractions of 65 GeV, unscaled beside the logits of the layer before",
            "logarithms times 5, logits of the layer before divided by 14",
            "few energies drown among hundreds of voxels",
            "conditions",
            ("logits", "logarithms"),
        ),
        Difference(
            "from shares to deposits",
            "multiplied by the layer energy, then cut, whatever they add up to",
            "noise taken away, cut and rescaled in one step",
            "layer energies are kept",
            "postprocessing",
            ("multiply", "exact"),
        ),
        Difference(
            "batch of the inductive flow",
            "1,000 layers of different showers",
            "all layers of 23 showers",
            "layers are read shower by shower",
        ),
        *TRAINING_DIFFERENCES,
    )
    likelihood_rows = 20  # of 45 layers each
    config: ICaloFlowConfig

    def __init__(self, config: ICaloFlowConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        sizes = detector.readout.layer_sizes
        if len(set(sizes)) != 1 or sizes[0] < 2:
            raise ConfigError(f"'{self.kind}' needs layers of equally many voxels, which '{detector.name}' has not")
        self.layers, self.voxels = len(sizes), sizes[0]
        fixed = config.energy_reference or highest_energy(detector)
        #: Of one layer, whichever it is.
        self.shares = VoxelShares(config, detector, layers=[0], postprocessing=config.postprocessing)
        conditions, kind = self.energy_conditions, config.conditions
        self.conditions = InductiveConditions(conditions, self.layers, kind=kind, reference=fixed, alpha=config.alpha)
        self.energies = self.energy_flow(
            config.energies,
            masks=config.masks,
            permutation_seed=config.permutation_seed,
            fractions="single",
            reference=fixed if config.energies_relative_to == "fixed" else None,
        )
        for name, size in (("first", config.first), ("following", config.following)):
            check_margin(self.shares.logit, size.bound, name)
        self.first = self._flow(config.first, 2)
        self.following = (
            self._flow(config.following, self.conditions.features(self.voxels)) if self.layers > 1 else None
        )

    def _flow(self, size: FlowSize, context_features: int) -> AutoregressiveFlow:
        """A flow of the voxels of one layer, with random weights."""
        permutations = self.layer_permutations(size.blocks)
        return autoregressive_flow(size, self.shares.features, context_features, self.config.masks, permutations)

    def layer_permutations(self, blocks: int) -> list[Any]:
        """Permutations between the blocks of a flow of voxels: reverse and random ones by turns."""
        return list(alternating_within_layers([self.shares.features], blocks, seed=self.config.permutation_seed))

    # ---- training -------------------------------------------------------------------------------------------------

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """The scale (if there is one), the energies behind it, and the other flows independently of both."""
        stages = self.energies.stages("energies", self.dequantisation, training)
        stages.append(FlowStage("first", "first", self.first, self.first_variables, training.for_stage("first")))
        if self.following is not None:
            stage, many = training.for_stage("following"), self.layers - 1
            parts = ("following", "following", self.following, self.following_variables, stage)
            stages.append(FlowStage(*parts, rows_per_shower=many))
        return stages

    def first_variables(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What the flow of the first layer learns: logits (B, learnt voxels) and conditions (B, 2)."""
        noisy = self.noisy(batch, streams)
        y = self.shares.transform(noisy.voxels[:, : self.voxels])
        return y.to(self.dtype), self.conditions.first(batch.incident_energy, noisy.energies).to(self.dtype)

    def following_variables(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What the inductive flow learns, the layers of a shower one behind the other.

        Returns:
            Logits (B (layers - 1), learnt voxels) and conditions (B (layers - 1), C).
        """
        noisy = self.noisy(batch, streams)
        logits = self._logits(noisy.voxels)
        context = self.conditions.following(batch.incident_energy, noisy.energies, logits[:, :-1])
        learnt = logits[:, 1:].index_select(2, self.shares.learnt)
        return learnt.flatten(0, 1).to(self.dtype), context.flatten(0, 1).to(self.dtype)

    def _logits(self, voxels: Tensor) -> Tensor:
        """Logits of the shares of all voxels (N, layers, voxels), of deposits with noise (N, V), MeV."""
        return self.shares.all_logits(voxels.reshape(-1, self.voxels)).view(-1, self.layers, self.voxels)

    # ---- generating and likelihood --------------------------------------------------------------------------------

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers of the flows, and uniform ones for the noise on layers that are conditions, float32.

        ``energies`` (N, layers), ``first`` (N, learnt), ``following`` (N, layers - 1, learnt), ``noise`` (N,
        layers - 1, voxels).
        """
        index, attempt, behind = conditions.index, conditions.attempt, self.layers - 1
        sizes = {"energies": self.layers, "first": self.first.features}
        if self.following is None:
            return normal_latents(sizes, conditions, streams)
        latents = normal_latents(sizes | {"following": behind * self.first.features}, conditions, streams)
        latents["following"] = latents["following"].view(-1, behind, self.first.features)
        uniform = torch.from_numpy(streams.child("noise").uniform(index, behind * self.voxels, counters=attempt))
        return latents | {"noise": uniform.float().view(-1, behind, self.voxels)}

    def make_deposits(self, incident_energy: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
        """Deposits, float64 (N, V), MeV, layer behind layer, from incident energies (N,), MeV, and the latents."""
        dtype = self.dtype
        energies = self.energies.sample(latents["energies"], incident_energy)
        if (
            self.config.postprocessing == "multiply"
        ):  # as published: layers below the threshold are empty before they are made
            energies = torch.where(energies >= self.shares.cut, energies, torch.zeros_like(energies))
        context = self.conditions.first(incident_energy, energies).to(dtype)
        logits, _ = self.first.inverse(latents["first"].to(dtype), context)
        layers = [self.shares.decode(logits, energies[:, :1])]
        for layer in range(1, self.layers):
            assert self.following is not None  # there are layers behind the first
            noisy = layers[-1] + self.config.noise * latents["noise"][:, layer - 1].double()
            before = self.shares.all_logits(noisy)[:, None]
            context = self.conditions.following(incident_energy, energies, before, layer)[:, 0]
            z = latents["following"][:, layer - 1].to(dtype).contiguous()
            logits, _ = self.following.inverse(z, context.to(dtype))
            layers.append(self.shares.decode(logits, energies[:, layer : layer + 1]))
        return torch.cat(layers, dim=1)

    def log_density(self, noisy: NoisyShowers, incident_energy: Tensor) -> Tensor:
        """Logarithm of the density of L energy fractions and the voxels' shares, or with ``drop_voxel`` of the deposits."""
        dtype, count, energies = self.dtype, noisy.voxels.shape[0], noisy.energies
        log_prob, volume, possible = self.energies.log_prob(energies, incident_energy)
        encoded = self.shares.encode(noisy.voxels.reshape(-1, self.voxels))
        y = encoded.y.to(dtype).view(count, self.layers, -1)
        inside = possible & encoded.inside.view(count, -1).all(dim=1)
        log_prob = log_prob + encoded.logdet.view(count, -1).sum(dim=1)
        context = self.conditions.first(incident_energy, energies).to(dtype)
        log_prob = log_prob + self.first.log_prob(y[:, 0].contiguous(), context)
        if self.following is not None:
            before = self._logits(noisy.voxels)[:, :-1]
            context = self.conditions.following(incident_energy, energies, before).to(dtype)
            behind = self.following.log_prob(y[:, 1:].flatten(0, 1), context.flatten(0, 1))
            log_prob = log_prob + behind.view(count, -1).sum(dim=1)
        if self.config.drop_voxel:
            log_prob = log_prob + volume
        return torch.where(inside, log_prob, torch.full_like(log_prob, -math.inf))

    def describe_representation(self) -> dict[str, Any]:
        """How showers become numbers, in words and numbers."""
        return {
            "noise": self.dequantisation.describe(),
            "energies": self.energies.describe(),
            "layers": self.shares.describe(),
            "conditions": self.conditions.describe(),
        }
