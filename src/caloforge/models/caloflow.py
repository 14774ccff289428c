"""CaloFlow: layer energies from one autoregressive flow, shower shapes from another (arXiv:2106.05285).

Flow I ("energies") learns the energies of the layers given the incident energy, as recursive fractions. Flow II
("shapes") learns the voxels of all layers, as shares of their layer's energy, given all these energies. The two are
trained independently. Sizes and constants are configuration, so the model works for every detector with voxels;
docs/models/caloflow.md says where the defaults differ from the publication and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.models.base import Latents, ModelConfig, ShowerModel
from caloforge.models.common import (
    LEAST_DEPOSIT,
    FlowSize,
    FractionsKind,
    ScaleStage,
    autoregressive_flow,
    axis_voxels,
    check_margin,
    check_noise,
    check_voxels,
    energy_fractions,
    middle_energy,
    normal_latents,
)
from caloforge.models.conditions import Conditions
from caloforge.models.likelihood import noise_averaged_log_prob
from caloforge.models.marginals import collect_rows, start_from_marginals
from caloforge.models.registry import register
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.permutations import alternating_within_layers, random_after_every_block
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import GradientStage, Stage, StageTraining, TrainingBatch, TrainingConfig, TrainingData
from caloforge.transforms import (
    DequantisationNoise,
    DroppedVoxelNormalisation,
    EnergyScale,
    LayerNormalisation,
    LogEnergy,
    Logit,
    restore_deposits,
)

__all__ = ["CaloFlow", "CaloFlowConfig", "FlowSize"]

#: Training rows from which the initial weights are taken: enough for quantiles.
_START_ROWS = 4000
#: Rows per evaluation of the likelihood; limits the memory, changes no result.
_LIKELIHOOD_ROWS = 500


class CaloFlowConfig(ModelConfig):
    """Configuration of CaloFlow; the defaults of the two flows are the published sizes.

    Attributes:
        energies: size of Flow I.
        shapes: size of Flow II.
        masks: ``even`` spreads the degrees of the hidden units over all inputs; ``published`` gives those of nflows,
            with which inputs beyond the number of hidden units condition nothing.
        permutation_seed: seed of the fixed random permutations.
        noise: width of the uniform noise on each voxel in training, MeV.
        energy_noise: width of the noise on the energies that Flow I learns, MeV.
        energy_noise_per: ``layer`` adds one such noise to the energy of each layer; ``voxel``, as published, takes the
            sums of the noisy voxels, which shifts them by half the width for every voxel; the two widths are equal then.
        alpha: margin of the logit.
        energy_fractions: how the layer energies become variables, see ``FractionsKind``; ``recursive`` as published.
        energy_scale: the most that a shower deposits, as a multiple of the incident energy; None fits it to the
            training data. 1 conserves energy exactly.
        extra_energy: energy that the particle brings beside its kinetic one, MeV.
        incident_reference: incident energy whose condition is 0, MeV; None takes the logarithmic middle of the gun's.
        layer_reference: layer energy whose condition is 0, MeV; None takes a tenth of ``incident_reference``.
        layer_offset: added to layer energies before the logarithm, MeV.
        cut: threshold on voxels, MeV; None takes the detector's analysis threshold.
        cut_first: apply the threshold to the training data too, so that the model learns what is left behind it.
        postprocessing: ``exact`` takes the noise away, keeps layer energies through the threshold and leaves layers
            below it empty; ``published`` does what the publication did.
        drop_voxel: leave out one voxel per layer, which makes the likelihood one of the deposits themselves.
        start: initial weights: ``marginals`` from the distribution of each variable, or ``random`` as published.
    """

    energies: FlowSize = FlowSize(blocks=6, hidden_features=64, hidden_layers=2)
    shapes: FlowSize = FlowSize(blocks=8, hidden_features=378, hidden_layers=1, dropout=0.05)
    masks: Literal["even", "published"] = "even"
    permutation_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    noise: Annotated[float, Field(ge=0)] = 1e-3
    energy_noise: Annotated[float, Field(ge=0)] = 1e-3
    energy_noise_per: Literal["layer", "voxel"] = "layer"
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6
    energy_fractions: FractionsKind = "recursive"
    energy_scale: Annotated[float, Field(gt=0)] | None = None
    extra_energy: Annotated[float, Field(ge=0)] = 0.0
    incident_reference: Annotated[float, Field(gt=0)] | None = None
    layer_reference: Annotated[float, Field(gt=0)] | None = None
    layer_offset: Annotated[float, Field(gt=0)] = 1e-3
    cut: Annotated[float, Field(ge=0)] | None = None
    cut_first: bool = True
    postprocessing: Literal["exact", "published"] = "exact"
    drop_voxel: bool = False
    start: Literal["marginals", "random"] = "marginals"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_noise(self.noise, self.energy_noise, self.energy_noise_per, drop_voxel=self.drop_voxel)
        return self


@register("caloflow")
class CaloFlow(ShowerModel):
    """Flow I and Flow II with their preprocessing.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels, or no gun to take a missing ``incident_reference`` from, or a margin
            reaches beyond the splines.
    """

    Config = CaloFlowConfig
    has_likelihood = True
    config: CaloFlowConfig
    shapes: AutoregressiveFlow
    shape_index: Tensor

    def __init__(self, config: CaloFlowConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        readout = detector.readout
        check_voxels(self.kind, detector)
        sizes = readout.layer_sizes
        incident_reference = config.incident_reference or middle_energy(detector)
        per_voxel = config.energy_noise_per == "voxel"
        self.cut = max(detector.analysis_threshold if config.cut is None else config.cut, 0.0)
        self.voxel_noise = DequantisationNoise(readout.n_voxels, config.noise)
        self.energy_noise = DequantisationNoise(readout.n_voxels if per_voxel else len(sizes), config.energy_noise)
        self.logit = Logit(config.alpha)
        check_margin(self.logit, config.energies.bound, "energies")
        check_margin(self.logit, config.shapes.bound, "shapes")
        self.fractions = energy_fractions(config.energy_fractions, len(sizes))
        self.normalisation = LayerNormalisation(sizes)
        self.sums = self.normalisation.sums
        self.dropping = DroppedVoxelNormalisation(sizes, axis_voxels(readout)) if config.drop_voxel else None
        self.log_incident = LogEnergy(incident_reference)
        self.log_layers = LogEnergy(config.layer_reference or incident_reference / 10, config.layer_offset)
        # The share of a layer's only voxel is 1, so there is nothing to learn about it.
        several = torch.tensor([size > 1 for size in sizes])[self.sums.voxel_layers]
        index = torch.nonzero(several).flatten() if self.dropping is None else self.dropping.kept
        learnt = [max(0, size - 1) if config.drop_voxel else (size if size > 1 else 0) for size in sizes]
        if not len(index):
            raise ConfigError(f"the model 'caloflow' needs a layer with several voxels, '{detector.name}' has none")
        self.register_buffer("shape_index", index, persistent=False)

        layers = len(sizes)
        self.scale = EnergyScale(config.energy_scale, config.extra_energy)
        self.energies = autoregressive_flow(
            config.energies,
            layers,
            1,
            config.masks,
            random_after_every_block(layers, config.energies.blocks, seed=config.permutation_seed),
        )
        self.shapes = self._shape_flow(len(index), 1 + layers, learnt)

    def _shape_flow(self, features: int, context_features: int, learnt: list[int]) -> AutoregressiveFlow:
        """Flow II, with random weights; ``learnt`` are the learnt voxels of each layer."""
        config = self.config
        permutations = alternating_within_layers(learnt, config.shapes.blocks, seed=config.permutation_seed)
        return autoregressive_flow(config.shapes, features, context_features, config.masks, permutations)

    # ---- training -------------------------------------------------------------------------------------------------

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """The scale of the energies (fitted or checked), Flow I behind it, and Flow II independently of both."""
        return [
            ScaleStage("scale", self.scale, self._energies_behind_cut),
            _EnergyStage(self, training.for_stage("energies")),
            _ShapeStage(self, training.for_stage("shapes")),
        ]

    def deposits_behind_cut(self, deposits: Tensor) -> Tensor:
        """Deposits (N, V), MeV, as the model learns them: without those below the threshold, if so configured."""
        if not self.config.cut_first or self.cut == 0:
            return deposits
        return torch.where(deposits >= self.cut, deposits, torch.zeros_like(deposits))

    def _energies_behind_cut(self, deposits: Tensor) -> Tensor:
        """Layer energies (N, L), MeV, float64, of the deposits as the model learns them."""
        energies: Tensor = self.sums(self.deposits_behind_cut(deposits), dtype=torch.float64)
        return energies

    def noisy_energies(self, deposits: Tensor, uniform: Tensor) -> Tensor:
        """Layer energies with the noise of Flow I, float64 (N, L), from deposits (N, V) and uniform numbers, MeV."""
        energies: Tensor = self.sums(deposits, dtype=torch.float64)
        if self.config.energy_noise_per == "voxel":
            noise, _ = self.energy_noise(torch.zeros_like(deposits, dtype=torch.float64), uniform)
            energies = energies + self.sums(noise)
        else:
            energies, _ = self.energy_noise(energies, uniform)
        return energies

    def energy_context(self, incident_energy: Tensor) -> Tensor:
        """Condition of Flow I, float64 (N, 1), from the incident energies (N,), MeV."""
        return self.log_incident.transform(incident_energy.double()[:, None])

    def shape_context(self, incident_energy: Tensor, layer_energies: Tensor) -> Tensor:
        """Conditions of Flow II, float64 (N, 1 + L), from incident (N,) and layer energies (N, L), MeV."""
        return torch.cat(
            [self.energy_context(incident_energy), self.log_layers.transform(layer_energies.double())], dim=1
        )

    def shape_inputs(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What Flow II learns from a batch: logits of the noisy shares (B, learnt voxels), and its conditions (B, 1 + L)."""
        deposits = self.deposits_behind_cut(batch.deposits).to(self.dtype)
        noisy, _ = self.voxel_noise(deposits, self.voxel_noise.draw(streams.child("voxels"), batch.row, batch.epoch))
        energies = self.sums(noisy)
        shares = self.normalisation.transform(noisy, energies)
        logits = self.logit.transform(shares.index_select(1, self.shape_index))
        if self.config.energy_noise_per == "layer":
            # Flow II is later told the energies that Flow I makes, so it learns with the same noise on them.
            uniform = self.energy_noise.draw(streams.child("layers"), batch.row, batch.epoch)
            energies = self.noisy_energies(self.deposits_behind_cut(batch.deposits), uniform)
        return logits, self.shape_context(batch.incident_energy, energies).to(self.dtype)

    # ---- generating -----------------------------------------------------------------------------------------------

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers: ``energies`` (N, L) and ``shapes`` (N, learnt voxels), float32."""
        sizes = {"energies": self.energies.features, "shapes": self.shapes.features}
        return normal_latents(sizes, conditions, streams)

    def draw_energies(self, incident_energy: Tensor, latents: Tensor) -> Tensor:
        """Layer energies with noise from Flow I, float64 (N, L), MeV, for incident energies (N,) and latents (N, L)."""
        dtype = self.dtype
        logits, _ = self.energies.inverse(latents.to(dtype), self.energy_context(incident_energy).to(dtype))
        # In float64 the remainder 1 - u of a deep layer keeps its digits.
        return self.fractions.restore(self.logit.restore(logits.double()), self.scale(incident_energy))

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Deposits (N, V) in MeV from the incident energies and the latents; invalid where a number is not finite."""
        incident = conditions["incident_energy"]
        dtype = self.dtype
        energies = self.draw_energies(incident, latents["energies"])
        context = self.shape_context(incident, energies).to(dtype)
        logits, _ = self.shapes.inverse(latents["shapes"].to(dtype), context)
        published = self.config.postprocessing == "published"
        learnt = self.logit.restore(logits, clamp=not published).double()
        if self.dropping is not None:
            shares = self.dropping.complete(learnt)
            shares = shares if published else shares.clamp_min(0)
        else:
            ones = learnt.new_ones(learnt.shape[0], self.sums.voxel_layers.shape[0])
            shares = ones.index_copy(1, self.shape_index, learnt)
        deposits = self._published(shares, energies) if published else self._exact(shares, energies)
        valid = torch.isfinite(deposits).all(dim=1) & torch.isfinite(energies).all(dim=1)
        return {"deposits": torch.where(valid[:, None], deposits, torch.zeros_like(deposits)).float()}, valid

    def postprocess(self, shares: Tensor, energies: Tensor) -> Tensor:
        """Deposits (N, V) from the shares (N, V) of Flow II and the noisy layer energies (N, L) of Flow I, MeV."""
        if self.config.postprocessing == "published":
            return self._published(shares, energies)
        return self._exact(shares, energies)

    def _published(self, shares: Tensor, energies: Tensor) -> Tensor:
        """Scale to the layer energies by absolute values, then cut (arXiv:2106.05285, section 4.3, and its code)."""
        scaled, _ = self.normalisation.inverse(shares, energies / self.sums(shares.abs()))
        return torch.where(scaled >= self.cut, scaled.clamp_min(0), torch.zeros_like(scaled))

    def _exact(self, shares: Tensor, energies: Tensor) -> Tensor:
        """Take the noise away, then cut and rescale in one step."""
        per_voxel = self.config.energy_noise_per == "voxel"
        return restore_deposits(
            shares,
            energies,
            noise=self.config.noise,
            energy_noise=self.config.energy_noise,
            energy_shift=self.sums(self.energy_noise.mean[None])[0] if per_voxel else self.energy_noise.mean,
            cut=max(self.cut, self.config.noise, LEAST_DEPOSIT),
            sums=self.sums,
        )

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def log_prob(
        self, showers: Showers | ShowerPoints, streams: Streams, *, draws: int = 1, first_row: int = 0
    ) -> Tensor:
        """Logarithm of the density of showers with training noise, nats.

        The variables are the L energy fractions and the voxels' shares of their layers (arXiv:2106.05285: 3 + 504), or
        with ``drop_voxel`` the deposits themselves (density per MeV^V). Several draws of the noise are averaged over
        the density. A shower that deposits more than the energy scale allows has density 0.

        Arguments, result and errors are those of :meth:`caloforge.models.base.ShowerModel.log_prob`.
        """
        return noise_averaged_log_prob(
            self, self._noisy_log_prob, showers, streams, draws=draws, first_row=first_row, rows=_LIKELIHOOD_ROWS
        )

    def _noisy_log_prob(self, deposits: Tensor, incident: Tensor, rows: Tensor, draw: int, streams: Streams) -> Tensor:
        deposits = self.deposits_behind_cut(deposits).double()
        voxels = self.voxel_noise.draw(streams.child("voxels"), rows, draw)
        per_voxel = self.config.energy_noise_per == "voxel"
        layers = voxels if per_voxel else self.energy_noise.draw(streams.child("layers"), rows, draw)
        noisy, _ = self.voxel_noise(deposits, voxels)
        return self.log_density(noisy, self.noisy_energies(deposits, layers), incident)

    def log_density(self, noisy: Tensor, energies: Tensor, incident_energy: Tensor) -> Tensor:
        """Logarithm of the density at given noisy values, nats; see :meth:`log_prob` for the variables.

        Args:
            noisy: deposits with noise, float64 (N, V), MeV.
            energies: layer energies with noise, float64 (N, L), MeV; the sums of ``noisy`` with ``drop_voxel``.
            incident_energy: float64 (N,), MeV.

        Returns:
            float64 (N,).
        """
        u, fractions_logdet = self.fractions(energies, self.scale(incident_energy))
        inside = self.fractions.possible(u)
        energy_logits, energy_logdet = self.logit(u.clamp(0, 1))
        if self.dropping is None:
            shares, _ = self.normalisation(noisy, self.sums(noisy))
            shares = shares.index_select(1, self.shape_index)
            volume = torch.zeros_like(incident_energy)
        else:
            shares, _, volume = self.dropping(noisy)
            volume = volume + fractions_logdet
        inside &= ((shares >= 0) & (shares <= 1)).all(dim=1)
        shape_logits, shape_logdet = self.logit(shares.clamp(0, 1))
        dtype = self.dtype
        shape_context = self.shape_context(incident_energy, energies)
        log_prob = (
            self.energies.log_prob(energy_logits.to(dtype), self.energy_context(incident_energy).to(dtype)).double()
            + self.shapes.log_prob(shape_logits.to(dtype), shape_context.to(dtype)).double()
            + energy_logdet
            + shape_logdet
            + volume
        )
        return torch.where(inside, log_prob, torch.full_like(log_prob, -math.inf))

    def transforms(self) -> dict[str, Any]:
        """The preprocessing in words and numbers."""
        shares = self.normalisation if self.dropping is None else self.dropping
        return {
            "cut_MeV": self.cut,
            "cut_first": self.config.cut_first,
            "energies": [
                self.energy_noise.describe() | {"per": self.config.energy_noise_per},
                self.scale.describe(),
                self.fractions.describe(),
                self.logit.describe(),
            ],
            "shapes": [self.voxel_noise.describe(), shares.describe(), self.logit.describe()],
            "conditions": {"incident": self.log_incident.describe(), "layers": self.log_layers.describe()},
            "postprocessing": self.config.postprocessing,
        }


class _EnergyStage(GradientStage):
    """Flow I: minus log-likelihood of the logits of the energy fractions, nats."""

    def __init__(self, model: CaloFlow, training: StageTraining) -> None:
        super().__init__("energies", {"energies": model.energies}, training, needs=("scale",))
        self.model = model

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        if self.model.config.start == "marginals":
            logits = collect_rows(data, _START_ROWS, lambda batch: self._logits(batch, streams))
            start_from_marginals(self.model.energies, logits)

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        model = self.model
        context = model.energy_context(batch.incident_energy).to(model.dtype)
        return {"loss": -model.energies.log_prob(self._logits(batch, streams), context).mean()}

    def _logits(self, batch: TrainingBatch, streams: Streams) -> Tensor:
        model = self.model
        uniform = model.energy_noise.draw(streams, batch.row, batch.epoch)
        energies = model.noisy_energies(model.deposits_behind_cut(batch.deposits), uniform)
        u, _ = model.fractions(energies, model.scale(batch.incident_energy))
        return model.logit.transform(u.clamp(0, 1)).to(model.dtype)


class _ShapeStage(GradientStage):
    """Flow II: minus log-likelihood of the logits of the voxels' shares, nats."""

    def __init__(self, model: CaloFlow, training: StageTraining) -> None:
        super().__init__("shapes", {"shapes": model.shapes}, training)
        self.model = model

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        if self.model.config.start == "marginals":
            logits = collect_rows(data, _START_ROWS, lambda batch: self.model.shape_inputs(batch, streams)[0])
            start_from_marginals(self.model.shapes, logits)

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        logits, context = self.model.shape_inputs(batch, streams)
        return {"loss": -self.model.shapes.log_prob(logits, context).mean()}
