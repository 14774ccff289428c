"""iCaloFlow: layer energies from one flow, the first layer from a second, all others from a third (arXiv:2305.11934).

The third flow is inductive: it learns the shower in a layer given that in the layer before, for all layers at once, so
its size does not grow with the number of layers. All layers must have equally many voxels. docs/models/icaloflow.md
says where the defaults differ from the publication and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.models.base import Latents, ModelConfig, ShowerModel
from caloforge.models.common import (
    LEAST_DEPOSIT,
    FlowSize,
    ScaleStage,
    autoregressive_flow,
    axis_voxels,
    check_margin,
    middle_energy,
    normal_latents,
)
from caloforge.models.conditions import Conditions
from caloforge.models.likelihood import noise_averaged_log_prob
from caloforge.models.marginals import collect_rows, start_from_marginals
from caloforge.models.registry import register
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.permutations import alternating_within_layers
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import GradientStage, Stage, TrainingBatch, TrainingConfig, TrainingData
from caloforge.transforms import (
    DequantisationNoise,
    DroppedVoxelNormalisation,
    EnergyScale,
    LayerNormalisation,
    LogEnergy,
    Logit,
    SingleFractions,
    restore_deposits,
)

__all__ = ["ICaloFlow", "ICaloFlowConfig"]

#: Training rows from which the initial weights are taken: enough for quantiles.
_START_ROWS = 2000
#: Rows per evaluation of the likelihood; limits the memory, changes no result.
_LIKELIHOOD_ROWS = 20
#: The publication gives the first layer's energy condition divided by this.
_PUBLISHED_DIVISION = 4.0
#: Logits of the previous layer, up to 14 in size, are conditions divided by this (the publication does not divide).
_DIVISION = 14.0
#: Energies and number of the layer are multiplied by this, or they would drown among the voxels of the layer before: the
#: first weights of a layer with hundreds of inputs are small.
_EMPHASIS = 5.0


class ICaloFlowConfig(ModelConfig):
    """Configuration of iCaloFlow; the default sizes are the published ones for CaloChallenge dataset 2.

    Attributes:
        energies: size of the flow of the layer energies.
        first: size of the flow of the first layer.
        following: size of the inductive flow of all other layers.
        masks: ``even`` or ``published``, see ``caloforge.nn.made.hidden_degrees``.
        permutation_seed: seed of the fixed random permutations.
        noise: width of the uniform noise on each voxel in training, MeV.
        energy_noise: width of the noise on each layer energy, MeV.
        alpha: margin of the logit.
        conditions: ``logarithms``: energies enter as logarithms; those of the inductive flow, and the number of the
            layer, are multiplied by 5, and the logits of the layer before divided by 14. ``published``: energies enter as
            logits relative to ``energy_reference``, and nothing of the inductive flow is scaled.
        energy_reference: layer energies are learnt as fractions of this energy, MeV, as published (65 GeV); None learns
            them as fractions of the incident energy times a scale.
        energy_scale: that scale; None fits it to the training data.
        incident_reference: incident energy whose condition is 0, MeV; None takes the logarithmic middle of the gun's.
        layer_reference: layer energy whose condition is 0, MeV; None takes a tenth of ``incident_reference``.
        layer_offset: added to layer energies before the logarithm, MeV.
        cut: threshold on voxels, MeV; None takes the detector's analysis threshold.
        cut_first: apply the threshold to the training data too, so that the model learns what is left behind it.
        postprocessing: ``exact`` takes the noise away and scales every layer to its energy, through the threshold;
            ``published`` multiplies the shares by the layer energy and cuts, whatever they add up to.
        drop_voxel: leave out one voxel per layer and take the layer energies from the noisy voxels, which makes the
            likelihood one of the deposits themselves.
        start: initial weights: ``marginals`` from the distribution of each variable, or ``random`` as published.
    """

    energies: FlowSize = FlowSize(blocks=8, hidden_features=256, hidden_layers=1)
    first: FlowSize = FlowSize(blocks=8, hidden_features=256, hidden_layers=2)
    following: FlowSize = FlowSize(blocks=8, hidden_features=256, hidden_layers=2)
    masks: Literal["even", "published"] = "even"
    permutation_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    noise: Annotated[float, Field(ge=0)] = 5e-3
    energy_noise: Annotated[float, Field(ge=0)] = 5e-3
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6
    conditions: Literal["logarithms", "published"] = "logarithms"
    energy_reference: Annotated[float, Field(gt=0)] | None = None
    energy_scale: Annotated[float, Field(gt=0)] | None = None
    incident_reference: Annotated[float, Field(gt=0)] | None = None
    layer_reference: Annotated[float, Field(gt=0)] | None = None
    layer_offset: Annotated[float, Field(gt=0)] = 5e-3
    cut: Annotated[float, Field(ge=0)] | None = None
    cut_first: bool = True
    postprocessing: Literal["exact", "published"] = "exact"
    drop_voxel: bool = False
    start: Literal["marginals", "random"] = "marginals"


@register("icaloflow")
class ICaloFlow(ShowerModel):
    """The three flows with their preprocessing.

    Args:
        config: sizes and constants.
        detector: a calorimeter whose layers have equally many voxels, at least two.

    Raises:
        ConfigError: if the detector does not suit, or lacks a gun to take a missing ``incident_reference`` from, or
            published conditions come without ``energy_reference``, or a margin reaches beyond the splines.
    """

    Config = ICaloFlowConfig
    has_likelihood = True
    config: ICaloFlowConfig

    def __init__(self, config: ICaloFlowConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        sizes = detector.readout.layer_sizes
        if not detector.readout.has_voxels or len(set(sizes)) != 1 or sizes[0] < 2:
            raise ConfigError(
                f"the model '{self.kind}' needs layers of equally many voxels, which '{detector.name}' has not"
            )
        if config.conditions == "published" and config.energy_reference is None:
            raise ConfigError("published conditions are relative to 'energy_reference', which is missing")
        self.layers, self.voxels = len(sizes), sizes[0]
        reference = config.incident_reference or middle_energy(detector)
        self.cut = max(detector.analysis_threshold if config.cut is None else config.cut, 0.0)
        self.voxel_noise = DequantisationNoise(sum(sizes), config.noise)
        self.energy_noise = DequantisationNoise(self.layers, config.energy_noise)
        self.logit = Logit(config.alpha)
        for name in ("energies", "first", "following") if self.layers > 1 else ("energies", "first"):
            check_margin(self.logit, getattr(config, name).bound, name)
        self.fractions = SingleFractions()
        self.normalisation = LayerNormalisation(sizes)
        self.one_layer = LayerNormalisation(sizes[:1])
        left_out = axis_voxels(detector.readout)[:1]
        self.dropping = DroppedVoxelNormalisation(sizes[:1], left_out) if config.drop_voxel else None
        self.log_incident = LogEnergy(reference)
        self.log_layers = LogEnergy(config.layer_reference or reference / 10, config.layer_offset)
        self.scale = EnergyScale(config.energy_scale) if config.energy_reference is None else None
        learnt = self.voxels - 1 if config.drop_voxel else self.voxels
        self.energies = self._flow("energies", self.layers, 1)
        self.first = self._flow("first", learnt, 2)
        # Conditions: the incident energy, the energies of both layers, the layer before, the number of the layer.
        several = self.layers > 1
        self.following = self._flow("following", learnt, 3 + self.voxels + self.layers - 1) if several else None

    def _flow(self, name: str, features: int, context_features: int) -> AutoregressiveFlow:
        """One of the flows, with random weights."""
        size: FlowSize = getattr(self.config, name)
        permutations = alternating_within_layers([features], size.blocks, seed=self.config.permutation_seed)
        return autoregressive_flow(size, features, context_features, self.config.masks, permutations)

    # ---- training -------------------------------------------------------------------------------------------------

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """The scale (if there is one), the energies behind it, and the other flows independently of both."""
        stages: list[Stage] = []
        if self.scale is not None:
            stages.append(ScaleStage("scale", self.scale, self._energies))
        needs = tuple(stage.name for stage in stages)
        stages.append(_FlowStage(self, "energies", self.energies, self.energy_inputs, training, needs))
        stages.append(_FlowStage(self, "first", self.first, self.first_inputs, training))
        if self.following is not None:
            stages.append(_FlowStage(self, "following", self.following, self.following_inputs, training))
        return stages

    def deposits_behind_cut(self, deposits: Tensor) -> Tensor:
        """Deposits (N, V), MeV, as the model learns them: without those below the threshold, if so configured."""
        if not self.config.cut_first or self.cut == 0:
            return deposits
        return torch.where(deposits >= self.cut, deposits, torch.zeros_like(deposits))

    def _energies(self, deposits: Tensor) -> Tensor:
        energies: Tensor = self.normalisation.sums(self.deposits_behind_cut(deposits), dtype=torch.float64)
        return energies

    def noisy(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """Deposits (B, layers, voxels) and layer energies (B, layers), both with noise, float64, MeV."""
        return self._with_noise(batch.deposits, batch.row, batch.epoch, streams)

    def _with_noise(self, deposits: Tensor, rows: Tensor, epoch: int, streams: Streams) -> tuple[Tensor, Tensor]:
        clean = self.deposits_behind_cut(deposits).double()
        noisy, _ = self.voxel_noise(clean, self.voxel_noise.draw(streams.child("voxels"), rows, epoch))
        if self.dropping is None:
            drawn = self.energy_noise.draw(streams.child("layers"), rows, epoch)
            energies, _ = self.energy_noise(self.normalisation.sums(clean), drawn)
        else:
            energies = self.normalisation.sums(noisy)
        return noisy.view(-1, self.layers, self.voxels), energies

    def share_logits(self, noisy: Tensor) -> Tensor:
        """Logits of the shares of all voxels in one layer with noise, (..., voxels), from (..., voxels) in MeV."""
        shares = self.one_layer.transform(noisy.flatten(0, -2), noisy.flatten(0, -2).sum(dim=1, keepdim=True))
        return self.logit.transform(shares.clamp(0, 1)).view(noisy.shape)

    def learnt(self, logits: Tensor) -> Tensor:
        """Those of the logits (..., voxels) that a flow learns."""
        return logits if self.dropping is None else logits.index_select(-1, self.dropping.kept)

    def reference_energy(self, incident_energy: Tensor) -> Tensor:
        """What the layer energies are fractions of, float64 (N,), MeV: the most that a shower deposits, or as published."""
        if self.scale is None:
            assert self.config.energy_reference is not None
            return torch.full_like(incident_energy, self.config.energy_reference, dtype=torch.float64)
        available: Tensor = self.scale(incident_energy)
        return available

    def incident_condition(self, incident_energy: Tensor) -> Tensor:
        """Condition (N, 1), float64, from the incident energies (N,), MeV."""
        return self.log_incident.transform(incident_energy.double()[:, None])

    def _layer_condition(self, energies: Tensor) -> Tensor:
        if self.config.conditions == "logarithms":
            return self.log_layers.transform(energies)
        assert self.config.energy_reference is not None  # checked above
        return self.logit.transform((energies / self.config.energy_reference).clamp(0, 1))

    def first_context(self, incident_energy: Tensor, energies: Tensor) -> Tensor:
        """Conditions of the first layer (N, 2) from incident (N,) and layer energies (N, layers), MeV."""
        layer = self._layer_condition(energies[:, :1])
        published = self.config.conditions == "published"
        return torch.cat(
            [self.incident_condition(incident_energy), layer / _PUBLISHED_DIVISION if published else layer], dim=1
        )

    def following_context(self, incident_energy: Tensor, energies: Tensor, before: Tensor, first: int = 1) -> Tensor:
        """Conditions of some layers behind the first.

        Args:
            incident_energy: (N,), MeV.
            energies: energies of all layers, with noise, (N, layers), MeV.
            before: logits of the shares in the layer before each, (N, n, voxels).
            first: number of the first of the n layers.

        Returns:
            (N, n, 3 + voxels + layers - 1).
        """
        rows, count = before.shape[:2]
        layer = self._layer_condition(energies)
        number = torch.eye(self.layers - 1, dtype=layer.dtype, device=layer.device)[first - 1 : first - 1 + count]
        incident = self.incident_condition(incident_energy)
        if self.config.conditions == "logarithms":
            incident, layer, number = (_EMPHASIS * value for value in (incident, layer, number))
            before = before / _DIVISION
        return torch.cat(
            [
                incident[:, None].expand(-1, count, -1),
                layer[:, first : first + count, None],
                layer[:, first - 1 : first - 1 + count, None],
                before,
                number.expand(rows, -1, -1),
            ],
            dim=2,
        )

    def energy_inputs(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What the flow of the energies learns: logits (B, layers) and conditions (B, 1)."""
        _, energies = self.noisy(batch, streams)
        u, _ = self.fractions(energies, self.reference_energy(batch.incident_energy))
        logits = self.logit.transform(u.clamp(0, 1))
        return logits.to(self.dtype), self.incident_condition(batch.incident_energy).to(self.dtype)

    def first_inputs(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What the flow of the first layer learns: logits (B, learnt voxels) and conditions (B, 2)."""
        noisy, energies = self.noisy(batch, streams)
        context = self.first_context(batch.incident_energy, energies)
        return self.learnt(self.share_logits(noisy[:, 0])).to(self.dtype), context.to(self.dtype)

    def following_inputs(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What the inductive flow learns, the layers of a shower one behind the other.

        Returns:
            Logits (B (layers - 1), learnt voxels) and conditions (B (layers - 1), C).
        """
        noisy, energies = self.noisy(batch, streams)
        logits = self.share_logits(noisy)
        context = self.following_context(batch.incident_energy, energies, logits[:, :-1])
        return self.learnt(logits[:, 1:]).flatten(0, 1).to(self.dtype), context.flatten(0, 1).to(self.dtype)

    # ---- generating -----------------------------------------------------------------------------------------------

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers of the flows, and uniform ones for the noise on layers that are conditions, float32.

        ``energies`` (N, layers), ``first`` (N, learnt), ``following`` (N, layers - 1, learnt), ``noise`` (N,
        layers - 1, voxels).
        """
        index, attempt = conditions.index, conditions.attempt
        sizes = {"energies": self.layers, "first": self.first.features}
        latents = normal_latents(sizes, conditions, streams)
        if self.following is not None:
            size = (self.layers - 1) * self.first.features
            numbers = torch.from_numpy(streams.child("following").normal(index, size, attempts=attempt))
            latents["following"] = numbers.view(-1, self.layers - 1, self.first.features)
            size = (self.layers - 1) * self.voxels
            uniform = torch.from_numpy(streams.child("noise").uniform(index, size, attempts=attempt)).float()
            latents["noise"] = uniform.view(-1, self.layers - 1, self.voxels)
        return latents

    def draw_energies(self, incident_energy: Tensor, latents: Tensor) -> Tensor:
        """Layer energies with noise, float64 (N, layers), MeV, for incident energies (N,) and latents (N, layers)."""
        context = self.incident_condition(incident_energy).to(self.dtype)
        logits, _ = self.energies.inverse(latents.to(self.dtype), context)
        reference = self.reference_energy(incident_energy)
        u = self.logit.restore(logits.double())
        return self.fractions.inverse(u, reference)[0] if self.scale is None else self.fractions.restore(u, reference)

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Deposits (N, V) in MeV, layer behind layer; invalid where a number is not finite."""
        incident, dtype = conditions["incident_energy"], self.dtype
        energies = self.draw_energies(incident, latents["energies"])
        logits, _ = self.first.inverse(latents["first"].to(dtype), self.first_context(incident, energies).to(dtype))
        deposits = [self._restored(logits, energies[:, 0])]
        for layer in range(1, self.layers):
            assert self.following is not None  # there are layers behind the first
            noisy = deposits[-1] + self.config.noise * latents["noise"][:, layer - 1].double()
            context = self.following_context(incident, energies, self.share_logits(noisy)[:, None], layer)[:, 0]
            z = latents["following"][:, layer - 1].to(dtype).contiguous()
            logits, _ = self.following.inverse(z, context.to(dtype))
            deposits.append(self._restored(logits, energies[:, layer]))
        made = torch.cat(deposits, dim=1)
        valid = torch.isfinite(made).all(dim=1) & torch.isfinite(energies).all(dim=1)
        return {"deposits": torch.where(valid[:, None], made, torch.zeros_like(made)).float()}, valid

    def _restored(self, logits: Tensor, energies: Tensor) -> Tensor:
        """Deposits (N, voxels) of one layer from the logits of the flow and the layer's energy with noise (N,), MeV."""
        shares = self.logit.restore(logits).double()
        if self.dropping is not None:
            shares = self.dropping.complete(shares).clamp_min(0)
        if self.config.postprocessing == "published":
            deposits = shares * torch.where(energies >= self.cut, energies, torch.zeros_like(energies))[:, None]
            return torch.where(deposits >= self.cut, deposits, torch.zeros_like(deposits))
        return restore_deposits(
            shares,
            energies[:, None],
            noise=self.config.noise,
            energy_noise=self.config.energy_noise,
            energy_shift=self._energy_shift().to(energies),
            cut=max(self.cut, self.config.noise, LEAST_DEPOSIT),
            sums=self.one_layer.sums,
        )

    def _energy_shift(self) -> Tensor:
        """Mean of the noise on the energy of a layer, (1,), MeV."""
        return self.energy_noise.mean[:1] if self.dropping is None else self.voxels * self.voxel_noise.mean[:1]

    # ---- likelihood -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(
        self, showers: Showers | ShowerPoints, streams: Streams, *, draws: int = 1, first_row: int = 0
    ) -> Tensor:
        """Logarithm of the density of showers with training noise, nats.

        The variables are the fractions of the layer energies and the voxels' shares of their layers, or with
        ``drop_voxel`` the deposits themselves (density per MeV^V). Several draws of the noise are averaged over the
        density. A shower with a layer above the largest energy has density 0. Deposits below the threshold are cut first
        if the model was trained so.

        Arguments, result and errors are those of :meth:`caloforge.models.base.ShowerModel.log_prob`.
        """
        # Few layers make short rows.
        rows = max(_LIKELIHOOD_ROWS, 45 * _LIKELIHOOD_ROWS // self.layers)
        return noise_averaged_log_prob(
            self, self._noisy_log_prob, showers, streams, draws=draws, first_row=first_row, rows=rows
        )

    def _noisy_log_prob(self, deposits: Tensor, incident: Tensor, rows: Tensor, draw: int, streams: Streams) -> Tensor:
        return self.log_density(*self._with_noise(deposits, rows, draw, streams), incident)

    def log_density(self, noisy: Tensor, energies: Tensor, incident_energy: Tensor) -> Tensor:
        """Logarithm of the density at given noisy values, nats; see :meth:`log_prob` for the variables.

        Args:
            noisy: deposits with noise, float64 (N, layers, voxels), MeV.
            energies: layer energies with noise, float64 (N, layers), MeV; the sums of ``noisy`` with ``drop_voxel``.
            incident_energy: float64 (N,), MeV.

        Returns:
            float64 (N,).
        """
        dtype, rows = self.dtype, noisy.shape[0]
        u, fractions_logdet = self.fractions(energies, self.reference_energy(incident_energy))
        inside = (u <= 1).all(dim=1) if self.scale is None else self.fractions.possible(u)
        energy_logits, energy_logdet = self.logit(u.clamp(0, 1))
        condition = self.incident_condition(incident_energy).to(dtype)
        logits = self.share_logits(noisy)
        shares = self.learnt(noisy / noisy.sum(dim=2, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny))
        _, share_logdet = self.logit(shares.flatten(1))
        learnt = self.learnt(logits).to(dtype)
        log_prob = (
            self.energies.log_prob(energy_logits.to(dtype), condition).double()
            + self.first.log_prob(learnt[:, 0].contiguous(), self.first_context(incident_energy, energies).to(dtype))
            + energy_logdet
            + share_logdet
        )
        if self.following is not None:
            context = self.following_context(incident_energy, energies, logits[:, :-1]).to(dtype)
            behind = self.following.log_prob(learnt[:, 1:].flatten(0, 1), context.flatten(0, 1))
            log_prob = log_prob + behind.view(rows, -1).sum(dim=1)
        if self.dropping is not None:
            # From fractions to energies, and from shares to the deposits of all voxels but the one left out.
            log_prob = log_prob + fractions_logdet
            log_prob = log_prob - (self.voxels - 1) * torch.log(energies).sum(dim=1)
        return torch.where(inside, log_prob, torch.full_like(log_prob, -math.inf))

    def transforms(self) -> dict[str, Any]:
        """The preprocessing in words and numbers."""
        config = self.config
        reference = {"transform": "fraction of an energy", "reference_MeV": config.energy_reference}
        shares = self.one_layer if self.dropping is None else self.dropping
        return {
            "cut_MeV": self.cut,
            "cut_first": config.cut_first,
            "energies": [
                self.energy_noise.describe() if self.dropping is None else {"transform": "sum of noisy voxels"},
                reference if self.scale is None else self.scale.describe(),
                self.logit.describe(),
            ],
            "layers": [self.voxel_noise.describe(), shares.describe(), self.logit.describe()],
            "conditions": {
                "kind": config.conditions,
                "incident": self.log_incident.describe(),
                "layers": self.log_layers.describe() if config.conditions == "logarithms" else reference,
            },
            "postprocessing": config.postprocessing,
        }


class _FlowStage(GradientStage):
    """Minus log-likelihood of one of the flows, nats per row (per layer for the inductive flow)."""

    def __init__(
        self,
        model: ICaloFlow,
        name: str,
        flow: AutoregressiveFlow,
        inputs: Callable[[TrainingBatch, Streams], tuple[Tensor, Tensor]],
        training: TrainingConfig,
        needs: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, {name: flow}, training.for_stage(name), needs=needs)
        self.model, self.flow, self.inputs = model, flow, inputs

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        if self.model.config.start == "marginals":
            features = self.flow.features

            def of_showers(batch: TrainingBatch) -> Tensor:
                return self.inputs(batch, streams)[0].view(len(batch), -1)

            logits = collect_rows(data, _START_ROWS, of_showers)
            start_from_marginals(self.flow, logits.view(-1, features))

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        return {"loss": -self.flow.log_prob(*self.inputs(batch, streams)).mean()}
