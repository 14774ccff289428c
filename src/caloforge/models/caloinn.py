"""CaloINN: one coupling flow for the voxels of all layers and the energies of the layers (arXiv:2312.09290).

The variables are each voxel's share of its layer and the recursive energy fractions, all in one flow that is as fast in
sampling as in training. docs/models/caloinn.md says where the defaults differ from the publication and why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.models.base import Latents, ModelConfig, ShowerModel
from caloforge.models.common import (
    LEAST_DEPOSIT,
    ScaleStage,
    axis_voxels,
    check_dropped_voxel,
    check_voxels,
    middle_energy,
)
from caloforge.models.conditions import Conditions
from caloforge.models.coupling_start import start_coupling_from_marginals
from caloforge.models.likelihood import noise_averaged_log_prob
from caloforge.models.marginals import collect_rows
from caloforge.models.registry import register
from caloforge.nn.coupling import CouplingFlow
from caloforge.nn.permutations import random_all, reverse_all
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import FitStage, GradientStage, Stage, StageTraining, TrainingBatch, TrainingConfig, TrainingData
from caloforge.transforms import (
    DequantisationNoise,
    DroppedVoxelNormalisation,
    EnergyFractions,
    EnergyScale,
    EnergyTrend,
    LayerNormalisation,
    LogEnergy,
    Logit,
    LogMargin,
    SingleFractions,
    restore_deposits,
)

__all__ = ["CaloINN", "CaloINNConfig"]

#: Training rows from which the initial weights are taken: enough for quantiles.
_START_ROWS = 4000
#: Rows per evaluation of the likelihood; limits the memory, changes no result.
_LIKELIHOOD_ROWS = 500

Size = Annotated[int, Field(ge=1)]


class CaloINNConfig(ModelConfig):
    """Configuration of CaloINN; the default size is the published one for CaloChallenge dataset 1.

    Attributes:
        blocks: coupling blocks.
        hidden_features: units of each hidden layer of a block's network.
        layers: linear layers of a block's network.
        spline: ``rqs`` (dataset 1) or ``cubic`` (dataset 2).
        bins: spline bins.
        bound: the splines act on [-bound, bound].
        least: smallest relative bin width and height and smallest interior derivative.
        act_norm: trainable scale and shift of every variable in front of every block but the first.
        batch_norm: normalise the hidden layers over the batch, as the published sizes for dataset 1 imply.
        dropout: dropout probability while training.
        permutations: between blocks, ``random`` fixed ones or the plain ``reverse``, as published for cubic splines.
        permutation_seed: seed of the fixed random permutations.
        preprocessing: ``logit`` of shares and fractions; ``published`` takes logarithms, with relative noise on both, and
            does not apply the detector's threshold.
        noise_on: ``shares`` adds noise of one width to the shares of all layers; ``deposits`` adds noise of one width in
            MeV to the voxels before the shares are taken.
        noise: width of the uniform noise on the deposits in training, MeV; noise on the shares has the width that this
            is of the highest energy.
        energy_noise: width of the noise on the layer energies behind the fractions, MeV.
        energy_noise_per: ``layer`` adds one such noise to the energy of each layer; ``voxel`` takes the sums of the
            noisy voxels.
        highest_energy: energy that belongs to the width of the noise on the shares, MeV; None takes the gun's highest.
        alpha: margin of the logit.
        relative_noise: width of the noise on shares and fractions of ``published`` preprocessing.
        log_alpha: margin of its logarithm.
        fractions: ``recursive`` as published, whose sum is bounded; ``single`` takes the energy of each layer by itself over
            the most that a shower deposits, which is easier to learn for many layers.
        energy_trend: learn the variables of the fractions relative to what is usual at the incident energy, a parabola that
            is fitted to the training data.
        energy_scale: the most that a shower deposits, as a multiple of the incident energy; None fits it to the
            training data.
        extra_energy: energy that the particle brings beside its kinetic one, MeV.
        incident_reference: incident energy whose condition is 0, MeV; None takes the logarithmic middle of the gun's.
        emphasis: the condition is multiplied by this. It is one number among thousands that a network sees, and short trainings
            hardly hear it otherwise.
        cut: threshold on voxels, MeV; None takes the detector's analysis threshold.
        cut_first: apply the threshold to the training data too, so that the model learns what is left behind it.
        drop_voxel: leave out one voxel per layer, which makes the likelihood one of the deposits themselves.
        start: initial weights: ``marginals`` from the distribution of each variable, or ``identity`` as published.
    """

    blocks: Size = 12
    hidden_features: Size = 256
    layers: Size = 4
    spline: Literal["rqs", "cubic"] = "rqs"
    bins: Annotated[int, Field(ge=2)] = 10
    bound: Annotated[float, Field(gt=0)] = 21.0
    least: Annotated[float, Field(gt=0, lt=0.1)] = 1e-3
    act_norm: bool = True
    batch_norm: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    permutations: Literal["random", "reverse"] = "random"
    permutation_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    preprocessing: Literal["logit", "published"] = "logit"
    noise_on: Literal["shares", "deposits"] = "shares"
    noise: Annotated[float, Field(ge=0)] = 1e-3
    energy_noise: Annotated[float, Field(ge=0)] = 1e-3
    energy_noise_per: Literal["layer", "voxel"] = "layer"
    highest_energy: Annotated[float, Field(gt=0)] | None = None
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-9
    relative_noise: Annotated[float, Field(gt=0)] = 5e-6
    log_alpha: Annotated[float, Field(gt=0)] = 1e-8
    fractions: Literal["recursive", "single"] = "recursive"
    energy_trend: bool = False
    energy_scale: Annotated[float, Field(gt=0)] | None = None
    extra_energy: Annotated[float, Field(ge=0)] = 0.0
    incident_reference: Annotated[float, Field(gt=0)] | None = None
    emphasis: Annotated[float, Field(gt=0)] = 1.0
    cut: Annotated[float, Field(ge=0)] | None = None
    cut_first: bool = True
    drop_voxel: bool = False
    start: Literal["marginals", "identity"] = "marginals"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.drop_voxel:
            check_dropped_voxel(self.noise, self.energy_noise, self.energy_noise_per)
        if self.noise_on == "shares" and self.energy_noise_per == "voxel":
            raise ValueError("noise on the shares gives no sums of noisy voxels, so 'energy_noise_per' must be layer")
        if self.drop_voxel and self.preprocessing == "published":
            raise ValueError("'drop_voxel' and 'published' preprocessing exclude each other")
        if self.least * self.bins >= 1:
            raise ValueError(f"{self.bins} bins of at least {self.least:g} of the interval do not fit into it")
        return self


@register("caloinn")
class CaloINN(ShowerModel):
    """The coupling flow with its preprocessing.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels or too few, or no gun to take a missing ``incident_reference`` from.
    """

    Config = CaloINNConfig
    has_likelihood = True
    config: CaloINNConfig
    shape_index: Tensor

    def __init__(self, config: CaloINNConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        readout = detector.readout
        check_voxels(self.kind, detector)
        sizes = readout.layer_sizes
        per_voxel = config.energy_noise_per == "voxel"
        self.cut = max(detector.analysis_threshold if config.cut is None else config.cut, 0.0)
        self.voxel_noise = DequantisationNoise(readout.n_voxels, config.noise)
        self.energy_noise = DequantisationNoise(readout.n_voxels if per_voxel else len(sizes), config.energy_noise)
        self.logit = Logit(config.alpha)
        self.log = LogMargin(config.log_alpha)
        self.fractions = EnergyFractions() if config.fractions == "recursive" else SingleFractions()
        self.normalisation = LayerNormalisation(sizes)
        self.sums = self.normalisation.sums
        self.dropping = DroppedVoxelNormalisation(sizes, axis_voxels(readout)) if config.drop_voxel else None
        self.log_incident = LogEnergy(config.incident_reference or middle_energy(detector))
        self.share_noise = 0.0
        if config.noise_on == "shares":
            self.share_noise = config.noise / (config.highest_energy or _highest_energy(detector))
        # The share of a layer's only voxel is 1, so there is nothing to learn about it.
        several = torch.tensor([size > 1 for size in sizes])[self.sums.voxel_layers]
        index = torch.nonzero(several).flatten() if self.dropping is None else self.dropping.kept
        self.register_buffer("shape_index", index, persistent=False)
        features = len(index) + len(sizes)
        if features < 2:
            raise ConfigError(f"the model 'caloinn' needs at least two variables, '{detector.name}' gives {features}")
        self.relative_noise = DequantisationNoise(features, config.relative_noise)
        self.scale = EnergyScale(config.energy_scale, config.extra_energy)
        self.trend = EnergyTrend(len(sizes)) if config.energy_trend else None
        self.flow = CouplingFlow(
            features=features,
            context_features=1,
            blocks=config.blocks,
            hidden_features=config.hidden_features,
            layers=config.layers,
            permutations=[
                reverse_all(features)
                if config.permutations == "reverse"
                else random_all(features, seed=config.permutation_seed, stream=k)
                for k in range(config.blocks - 1)
            ],
            spline=config.spline,
            bins=config.bins,
            bound=config.bound,
            act_norm=config.act_norm,
            batch_norm=config.batch_norm,
            dropout=config.dropout,
            min_bin_width=config.least,
            min_bin_height=config.least,
            min_derivative=config.least,
        )

    # ---- training -------------------------------------------------------------------------------------------------

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """The scale of the energies (fitted or checked), their trend if there is one, and the flow."""
        stages: list[Stage] = [ScaleStage("scale", self.scale, self._energies_behind_cut)]
        if self.trend is not None:
            stages.append(_TrendStage(self, self.trend))
        needs = tuple(stage.name for stage in stages)
        return [*stages, _FlowStage(self, training.for_stage("flow"), needs)]

    def deposits_behind_cut(self, deposits: Tensor) -> Tensor:
        """Deposits (N, V), MeV, as the model learns them: without those below the threshold, if so configured."""
        if not self.config.cut_first or self.cut == 0 or self.config.preprocessing == "published":
            return deposits
        return torch.where(deposits >= self.cut, deposits, torch.zeros_like(deposits))

    def _energies_behind_cut(self, deposits: Tensor) -> Tensor:
        energies: Tensor = self.sums(self.deposits_behind_cut(deposits), dtype=torch.float64)
        return energies

    def context(self, incident_energy: Tensor) -> Tensor:
        """Condition of the flow, float64 (N, 1), from the incident energies (N,), MeV."""
        return self.config.emphasis * self.energy_logarithm(incident_energy)

    def energy_logarithm(self, incident_energy: Tensor) -> Tensor:
        """Logarithm of the incident energies (N,), MeV, over the reference, float64 (N, 1)."""
        return self.log_incident.transform(incident_energy.double()[:, None])

    def variables(
        self, deposits: Tensor, incident_energy: Tensor, rows: Tensor, draw: int, streams: Streams
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the flow sees of some showers: shares of voxels, then energy fractions, with noise.

        Args:
            deposits: (N, V), MeV.
            incident_energy: (N,), MeV.
            rows: numbers of the rows, which with ``draw`` address the noise; int64 (N,), in CPU memory.
            draw: number of the epoch or of the draw.
            streams: random streams of the noise.

        Returns:
            The variables y (N, D); the log-determinant of the map to them (N,), nats, from the deposits with
            ``drop_voxel``, else from shares and fractions; and whether shares and fractions lie in [0, 1], bool (N,).
        """
        y, logdet, inside = self.plain_variables(deposits, incident_energy, rows, draw, streams)
        if self.trend is not None:
            shapes, energies = y[:, : len(self.shape_index)], y[:, len(self.shape_index) :]
            y = torch.cat([shapes, self.trend(energies, self.energy_logarithm(incident_energy))], dim=1)
        return y, logdet, inside

    def plain_variables(
        self, deposits: Tensor, incident_energy: Tensor, rows: Tensor, draw: int, streams: Streams
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`variables`, those of the fractions not yet relative to a trend."""
        # In float32 a share of almost 1 would have no logit.
        deposits = self.deposits_behind_cut(deposits).double()
        available = self.scale(incident_energy)
        if self.config.preprocessing == "published":
            energies = self.sums(deposits)
            u, _ = self.fractions(energies, available)
            shares = self.normalisation.transform(deposits, energies).index_select(1, self.shape_index)
            plain = torch.cat([shares, u], dim=1)
            noisy, _ = self.relative_noise(plain, self.relative_noise.draw(streams.child("relative"), rows, draw))
            y, logdet = self.log(noisy)
            return y, logdet, torch.ones_like(rows, dtype=torch.bool, device=deposits.device)
        uniform = self.voxel_noise.draw(streams.child("voxels"), rows, draw)
        noisy = deposits
        if self.config.noise_on == "deposits":
            noisy, _ = self.voxel_noise(deposits, uniform)
        energies = self.sums(noisy)
        if self.config.energy_noise_per == "layer":
            plain_energies = self.sums(deposits)
            told, _ = self.energy_noise(plain_energies, self.energy_noise.draw(streams.child("layers"), rows, draw))
        else:
            told = energies
        u, fractions_logdet = self.fractions(told, available)
        if self.dropping is None:
            shares = self.normalisation.transform(noisy, energies)
            if self.share_noise:
                shares = (shares + self.share_noise * uniform.to(shares.device)) / (1 + self.share_noise)
            shares = shares.index_select(1, self.shape_index)
            volume = torch.zeros_like(fractions_logdet)
        else:
            shares, _, volume = self.dropping(noisy)
            volume = volume + fractions_logdet
        plain = torch.cat([shares, u], dim=1)
        inside = ((plain >= 0) & (plain <= 1)).all(dim=1)
        y, logdet = self.logit(plain.clamp(0, 1))
        return y, logdet + volume, inside

    # ---- generating -----------------------------------------------------------------------------------------------

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers: ``flow`` (N, D), float32."""
        numbers = streams.child("flow").normal(conditions.index, self.flow.features, attempts=conditions.attempt)
        return {"flow": torch.from_numpy(numbers)}

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Deposits (N, V) in MeV from the incident energies and the latents; invalid where a number is not finite."""
        incident = conditions["incident_energy"]
        y, _ = self.flow.inverse(latents["flow"].to(self.dtype), self.context(incident).to(self.dtype))
        y = y.double()
        if self.trend is not None:
            shapes, relative = y[:, : len(self.shape_index)], y[:, len(self.shape_index) :]
            y = torch.cat([shapes, self.trend.inverse(relative, self.energy_logarithm(incident))], dim=1)
        published = self.config.preprocessing == "published"
        plain = self._without_relative_noise(self.log.restore(y)) if published else self.logit.restore(y)
        learnt = plain[:, : len(self.shape_index)]
        energies, _ = self.fractions.inverse(plain[:, len(self.shape_index) :], self.scale(incident))
        if self.dropping is None:
            ones = learnt.new_ones(learnt.shape[0], self.sums.voxel_layers.shape[0])
            shares = ones.index_copy(1, self.shape_index, learnt)
        else:
            shares = self.dropping.complete(learnt).clamp_min(0)
        if published:
            shares = self.normalisation.transform(shares, self.sums(shares))
            deposits, _ = self.normalisation.inverse(shares, energies)
        else:
            deposits = self.postprocess(shares, energies)
        valid = torch.isfinite(deposits).all(dim=1) & torch.isfinite(energies).all(dim=1)
        return {"deposits": torch.where(valid[:, None], deposits, torch.zeros_like(deposits)).float()}, valid

    def postprocess(self, shares: Tensor, energies: Tensor) -> Tensor:
        """Deposits (N, V) from noisy shares (N, V) and noisy layer energies (N, L), MeV."""
        per_voxel = self.config.energy_noise_per == "voxel"
        if self.share_noise:
            shares = ((1 + self.share_noise) * shares - self.share_noise / 2).clamp_min(0)
        return restore_deposits(
            shares,
            energies,
            noise=0.0 if self.config.noise_on == "shares" else self.config.noise,
            energy_noise=self.config.energy_noise,
            energy_shift=self.sums(self.energy_noise.mean[None])[0] if per_voxel else self.energy_noise.mean,
            cut=max(self.cut, self.config.noise, LEAST_DEPOSIT),
            sums=self.sums,
        )

    def _without_relative_noise(self, noisy: Tensor) -> Tensor:
        """Published post-processing of shares and fractions (N, D): less the noise, 0 if below it, fractions up to 1."""
        width = self.config.relative_noise
        plain = noisy - width
        plain = torch.where(plain >= width, plain, torch.zeros_like(plain))
        first = len(self.shape_index)
        return torch.cat([plain[:, : first + 1], plain[:, first + 1 :].clamp_max(1)], dim=1)

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def log_prob(
        self, showers: Showers | ShowerPoints, streams: Streams, *, draws: int = 1, first_row: int = 0
    ) -> Tensor:
        """Logarithm of the density of showers with training noise, nats.

        The variables are the voxels' shares of their layers and the L energy fractions (``calogan``: 504 + 3), or with
        ``drop_voxel`` the deposits themselves (density per MeV^V). Several draws of the noise are averaged over the
        density. A shower that deposits more than the energy scale allows has density 0.

        Arguments, result and errors are those of :meth:`caloforge.models.base.ShowerModel.log_prob`.
        """
        return noise_averaged_log_prob(
            self, self._noisy_log_prob, showers, streams, draws=draws, first_row=first_row, rows=_LIKELIHOOD_ROWS
        )

    def _noisy_log_prob(self, deposits: Tensor, incident: Tensor, rows: Tensor, draw: int, streams: Streams) -> Tensor:
        y, logdet, inside = self.variables(deposits, incident, rows, draw, streams)
        log_prob = self.flow.log_prob(y.to(self.dtype), self.context(incident).to(self.dtype)).double() + logdet
        return torch.where(inside, log_prob, torch.full_like(log_prob, -math.inf))

    def transforms(self) -> dict[str, Any]:
        """The preprocessing in words and numbers."""
        shares = (self.normalisation if self.dropping is None else self.dropping).describe()
        trend = [] if self.trend is None else [self.trend.describe()]
        energies = [self.scale.describe(), self.fractions.describe()]
        conditions = {"incident": self.log_incident.describe() | {"emphasis": self.config.emphasis}}
        if self.config.preprocessing == "published":
            noise = {"transform": "uniform noise", "width_relative": self.config.relative_noise}
            return {
                "energies": [*energies, noise, self.log.describe(), *trend],
                "shapes": [shares, noise, self.log.describe()],
                "conditions": conditions,
            }
        noise = self.voxel_noise.describe()
        if self.share_noise:
            noise = {"transform": "uniform noise", "width_relative": self.share_noise}
        return {
            "cut_MeV": self.cut,
            "cut_first": self.config.cut_first,
            "energies": [
                self.energy_noise.describe() | {"per": self.config.energy_noise_per},
                *energies,
                self.logit.describe(),
                *trend,
            ],
            "shapes": [shares, noise, self.logit.describe()]
            if self.share_noise
            else [noise, shares, self.logit.describe()],
            "conditions": conditions,
        }


class _TrendStage(FitStage):
    """How the variables of the energy fractions follow the incident energy."""

    def __init__(self, model: CaloINN, trend: EnergyTrend) -> None:
        super().__init__("trend", {"trend": trend}, needs=("scale",))
        self.model, self.trend = model, trend

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        model = self.model

        def rows() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in data:
                y, _, _ = model.plain_variables(batch.deposits, batch.incident_energy, batch.row, batch.epoch, streams)
                yield y[:, len(model.shape_index) :], model.energy_logarithm(batch.incident_energy)

        return {f"trend.{name}": value for name, value in self.trend.fit(rows()).items()}


class _FlowStage(GradientStage):
    """Minus log-likelihood of the variables, nats."""

    def __init__(self, model: CaloINN, training: StageTraining, needs: tuple[str, ...]) -> None:
        super().__init__("flow", {"flow": model.flow}, training, needs=needs)
        self.model = model

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        values = collect_rows(data, _START_ROWS, lambda batch: self._variables(batch, streams))
        start_coupling_from_marginals(self.model.flow, values, splines=self.model.config.start == "marginals")

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        model = self.model
        context = model.context(batch.incident_energy).to(model.dtype)
        return {"loss": -model.flow.log_prob(self._variables(batch, streams), context).mean()}

    def _variables(self, batch: TrainingBatch, streams: Streams) -> Tensor:
        model = self.model
        y, _, _ = model.variables(batch.deposits, batch.incident_energy, batch.row, batch.epoch, streams)
        return y.to(model.dtype)


def _highest_energy(detector: Detector) -> float:
    """Highest energy of the gun, MeV."""
    if detector.gun is None:
        raise ConfigError(
            f"the detector '{detector.name}' has no gun, so the model needs 'highest_energy', a large energy in MeV"
        )
    return detector.gun.spectrum.maximum
