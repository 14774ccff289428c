"""CaloINN: one coupling flow for the voxels of all layers and the energies of the layers (arXiv:2312.09290).

The variables are each voxel's share of its layer and the recursive energy fractions, all in one flow that is as fast in
sampling as in training; or the energies come from a small flow of their own. docs/models/caloinn.md says where the defaults
differ from the publication and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

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
    axis_voxels,
    check_margin,
    check_noise,
    check_voxels,
    energy_fractions,
    middle_energy,
    normal_latents,
)
from caloforge.models.conditions import Conditions
from caloforge.models.coupling_start import start_coupling_from_marginals
from caloforge.models.energy_flow import EnergyFlowStage, LayerEnergyFlow
from caloforge.models.likelihood import noise_averaged_log_prob
from caloforge.models.marginals import collect_rows
from caloforge.models.registry import register
from caloforge.nn.coupling import CouplingFlow
from caloforge.nn.permutations import random_all, reverse_all
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
    LogMargin,
    restore_deposits,
)

__all__ = ["CaloINN", "CaloINNConfig"]

#: Training rows from which the initial weights are taken: enough for quantiles.
_START_ROWS = 4000
#: Rows per evaluation of the likelihood; limits the memory, changes no result.
_LIKELIHOOD_ROWS = 500

Size = Annotated[int, Field(ge=1, le=1_000_000)]
#: Of things that are made one after the other.
Count = Annotated[int, Field(ge=1, le=10_000)]


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
        energy_alpha: that of the energy fractions in a flow of their own, whose splines act on a smaller interval.
        relative_noise: width of the noise on shares and fractions of ``published`` preprocessing.
        log_alpha: margin of its logarithm.
        energies: size of an autoregressive flow of its own for the layer energies, which are then conditions of the
            coupling flow. None, as published, leaves them to the coupling flow, where few numbers among many have to
            carry the energy of the shower.
        energy_fractions: how the layer energies become variables, see ``FractionsKind``; ``recursive`` as published.
        energy_scale: the most that a shower deposits, as a multiple of the incident energy; None fits it to the
            training data.
        extra_energy: energy that the particle brings beside its kinetic one, MeV.
        incident_reference: incident energy whose condition is 0, MeV; None takes the logarithmic middle of the gun's.
        layer_reference: layer energy whose condition is 0, MeV; None takes a tenth of ``incident_reference``.
        layer_offset: added to layer energies before the logarithm, MeV.
        emphasis: the conditions are multiplied by this. They are few numbers among thousands that a network sees, and short
            trainings hardly hear them otherwise.
        cut: threshold on voxels, MeV; None takes the detector's analysis threshold.
        cut_first: apply the threshold to the training data too, so that the model learns what is left behind it.
        drop_voxel: leave out one voxel per layer, which makes the likelihood one of the deposits themselves.
        start: initial weights: ``marginals`` from the distribution of each variable, or ``identity`` as published.
    """

    blocks: Count = 12
    hidden_features: Size = 256
    layers: Count = 4
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
    energy_alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6
    relative_noise: Annotated[float, Field(gt=0)] = 5e-6
    log_alpha: Annotated[float, Field(gt=0)] = 1e-8
    energies: FlowSize | None = None
    energy_fractions: FractionsKind = "recursive"
    energy_scale: Annotated[float, Field(gt=0)] | None = None
    extra_energy: Annotated[float, Field(ge=0)] = 0.0
    incident_reference: Annotated[float, Field(gt=0)] | None = None
    layer_reference: Annotated[float, Field(gt=0)] | None = None
    layer_offset: Annotated[float, Field(gt=0)] = 1e-3
    emphasis: Annotated[float, Field(gt=0)] = 1.0
    cut: Annotated[float, Field(ge=0)] | None = None
    cut_first: bool = True
    drop_voxel: bool = False
    start: Literal["marginals", "identity"] = "marginals"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_noise(self.noise, self.energy_noise, self.energy_noise_per, drop_voxel=self.drop_voxel)
        if self.noise_on == "shares" and self.energy_noise_per == "voxel":
            raise ValueError("noise on the shares gives no sums of noisy voxels, so 'energy_noise_per' must be layer")
        if self.drop_voxel and self.preprocessing == "published":
            raise ValueError("'drop_voxel' and 'published' preprocessing exclude each other")
        if self.energies is not None and self.preprocessing == "published":
            raise ValueError("a flow of the 'energies' and 'published' preprocessing exclude each other")
        if self.least * self.bins >= 1:
            raise ValueError(f"{self.bins} bins of at least {self.least:g} of the interval do not fit into it")
        return self


class _Variables(NamedTuple):
    """What the flow sees of some showers.

    Attributes:
        y: the variables (N, D).
        energies: layer energies with noise (N, L), MeV.
        logdet: log-determinant (N,), nats, of the map to them, and to the energies if these have a flow of their own, from
            the deposits with ``drop_voxel``, else from shares and fractions.
        inside: whether shares and fractions are possible, bool (N,).
    """

    y: Tensor
    energies: Tensor
    logdet: Tensor
    inside: Tensor


@register("caloinn")
class CaloINN(ShowerModel):
    """The coupling flow with its preprocessing.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels or too few, or no gun to take a missing ``incident_reference`` from, or a
            margin reaches beyond the splines.
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
        check_margin(self.log if config.preprocessing == "published" else self.logit, config.bound, "flow")
        self.normalisation = LayerNormalisation(sizes)
        self.sums = self.normalisation.sums
        self.dropping = DroppedVoxelNormalisation(sizes, axis_voxels(readout)) if config.drop_voxel else None
        incident_reference = config.incident_reference or middle_energy(detector)
        self.log_incident = LogEnergy(incident_reference)
        self.log_layers = LogEnergy(config.layer_reference or incident_reference / 10, config.layer_offset)
        self.share_noise = 0.0
        if config.noise_on == "shares":
            self.share_noise = config.noise / (config.highest_energy or _highest_energy(detector))
        # The share of a layer's only voxel is 1, so there is nothing to learn about it.
        several = torch.tensor([size > 1 for size in sizes])[self.sums.voxel_layers]
        index = torch.nonzero(several).flatten() if self.dropping is None else self.dropping.kept
        self.register_buffer("shape_index", index, persistent=False)
        self.energies = (
            None
            if config.energies is None
            else LayerEnergyFlow(
                len(sizes),
                config.energies,
                scale=config.energy_scale,
                extra_energy=config.extra_energy,
                fractions=config.energy_fractions,
                alpha=config.energy_alpha,
                masks="even",
                permutation_seed=config.permutation_seed,
                incident=self.log_incident,
            )
        )
        self.fractions = energy_fractions(config.energy_fractions, len(sizes))
        self.scale = EnergyScale(config.energy_scale, config.extra_energy) if self.energies is None else None
        features = len(index) + (len(sizes) if self.energies is None else 0)
        if features < 2:
            raise ConfigError(f"the model 'caloinn' needs at least two variables, '{detector.name}' gives {features}")
        self.relative_noise = DequantisationNoise(features, config.relative_noise)
        self.flow = CouplingFlow(
            features=features,
            context_features=1 if self.energies is None else 1 + len(sizes),
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
        """The scale of the energies (fitted or checked), and behind it the flow or the flow of the energies.

        With a flow of the energies the coupling flow needs neither and can be trained beside them.
        """
        flow = training.for_stage("flow")
        if self.energies is None:
            assert self.scale is not None
            return [ScaleStage("scale", self.scale, self._energies_behind_cut), _FlowStage(self, flow, ("scale",))]
        return [
            ScaleStage("energies.scale", self.energies.scale, self._energies_behind_cut),
            EnergyFlowStage(
                "energies",
                self.energies,
                lambda batch, streams: self.noisy_energies(batch.deposits, batch.row, batch.epoch, streams),
                training.for_stage("energies"),
                from_data=self.config.start == "marginals",
            ),
            _FlowStage(self, flow, ()),
        ]

    def deposits_behind_cut(self, deposits: Tensor) -> Tensor:
        """Deposits (N, V), MeV, as the model learns them: without those below the threshold, if so configured."""
        if not self.config.cut_first or self.cut == 0 or self.config.preprocessing == "published":
            return deposits
        return torch.where(deposits >= self.cut, deposits, torch.zeros_like(deposits))

    def _energies_behind_cut(self, deposits: Tensor) -> Tensor:
        energies: Tensor = self.sums(self.deposits_behind_cut(deposits), dtype=torch.float64)
        return energies

    def context(self, incident_energy: Tensor, energies: Tensor) -> Tensor:
        """Conditions of the flow, float64 (N, 1) or with a flow of the energies (N, 1 + L).

        Args:
            incident_energy: (N,), MeV.
            energies: layer energies with noise (N, L), MeV.
        """
        condition = self.log_incident.transform(incident_energy.double()[:, None])
        if self.energies is not None:
            condition = torch.cat([condition, self.log_layers.transform(energies.double())], dim=1)
        return self.config.emphasis * condition

    def variables(
        self, deposits: Tensor, incident_energy: Tensor, rows: Tensor, draw: int, streams: Streams
    ) -> _Variables:
        """What the flow sees of some showers: shares of voxels, then (if they have no other flow) energy fractions.

        Args:
            deposits: (N, V), MeV.
            incident_energy: (N,), MeV.
            rows: numbers of the rows, which with ``draw`` address the noise; int64 (N,), in CPU memory.
            draw: number of the epoch or of the draw.
            streams: random streams of the noise.
        """
        # In float32 a share of almost 1 would have no logit.
        deposits = self.deposits_behind_cut(deposits).double()
        if self.config.preprocessing == "published":
            energies = self.sums(deposits)
            assert self.scale is not None  # these exclude a flow of the energies
            u, _ = self.fractions(energies, self.scale(incident_energy))
            shares = self.normalisation.transform(deposits, energies).index_select(1, self.shape_index)
            plain = torch.cat([shares, u], dim=1)
            noisy, _ = self.relative_noise(plain, self.relative_noise.draw(streams.child("relative"), rows, draw))
            y, logdet = self.log(noisy)
            return _Variables(y, energies, logdet, torch.ones_like(rows, dtype=torch.bool, device=deposits.device))
        uniform = self.voxel_noise.draw(streams.child("voxels"), rows, draw)
        noisy = deposits
        if self.config.noise_on == "deposits":
            noisy, _ = self.voxel_noise(deposits, uniform)
        energies = self.sums(noisy)
        told = energies if self.config.energy_noise_per == "voxel" else self._layer_noise(deposits, rows, draw, streams)
        if self.dropping is None:
            shares = self.normalisation.transform(noisy, energies)
            if self.share_noise:
                shares = (shares + self.share_noise * uniform.to(shares.device)) / (1 + self.share_noise)
            plain = shares.index_select(1, self.shape_index)
            volume = plain.new_zeros(len(plain))
        else:
            plain, _, volume = self.dropping(noisy)
        inside = ((plain >= 0) & (plain <= 1)).all(dim=1)
        if self.scale is not None:
            u, fractions_logdet = self.fractions(told, self.scale(incident_energy))
            inside &= self.fractions.possible(u)
            plain = torch.cat([plain, u], dim=1)
            if self.dropping is not None:
                volume = volume + fractions_logdet
        y, logdet = self.logit(plain.clamp(0, 1))
        return _Variables(y, told, logdet + volume, inside)

    def noisy_energies(self, deposits: Tensor, rows: Tensor, draw: int, streams: Streams) -> Tensor:
        """The ``energies`` of :meth:`variables`, (N, L), alone: as its arguments, without the work for the shares."""
        deposits = self.deposits_behind_cut(deposits).double()
        if self.config.energy_noise_per == "layer":
            return self._layer_noise(deposits, rows, draw, streams)
        noisy, _ = self.voxel_noise(deposits, self.voxel_noise.draw(streams.child("voxels"), rows, draw))
        energies: Tensor = self.sums(noisy)
        return energies

    def _layer_noise(self, deposits: Tensor, rows: Tensor, draw: int, streams: Streams) -> Tensor:
        uniform = self.energy_noise.draw(streams.child("layers"), rows, draw)
        energies: Tensor = self.energy_noise(self.sums(deposits), uniform)[0]
        return energies

    def _batch_variables(self, batch: TrainingBatch, streams: Streams) -> _Variables:
        return self.variables(batch.deposits, batch.incident_energy, batch.row, batch.epoch, streams)

    # ---- generating -----------------------------------------------------------------------------------------------

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers: ``flow`` (N, D), and ``energies`` (N, L) if these have a flow of their own, float32."""
        sizes = {"flow": self.flow.features}
        if self.energies is not None:
            sizes["energies"] = self.energies.flow.features
        return normal_latents(sizes, conditions, streams)

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Deposits (N, V) in MeV from the incident energies and the latents; invalid where a number is not finite."""
        incident = conditions["incident_energy"]
        told = incident if self.energies is None else self.energies.sample(latents["energies"], incident)
        y, _ = self.flow.inverse(latents["flow"].to(self.dtype), self.context(incident, told).to(self.dtype))
        published = self.config.preprocessing == "published"
        plain = (
            self._without_relative_noise(self.log.restore(y.double())) if published else self.logit.restore(y.double())
        )
        learnt = plain[:, : len(self.shape_index)]
        drawn = plain[:, len(self.shape_index) :]
        energies = told if self.scale is None else self.fractions.restore(drawn, self.scale(incident))
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
        seen = self.variables(deposits, incident, rows, draw, streams)
        context = self.context(incident, seen.energies).to(self.dtype)
        log_prob = self.flow.log_prob(seen.y.to(self.dtype), context).double() + seen.logdet
        inside = seen.inside
        if self.energies is not None:
            energy_log_prob, volume, possible = self.energies.log_prob(seen.energies, incident)
            log_prob = log_prob + energy_log_prob
            inside = inside & possible
            if self.dropping is not None:
                log_prob = log_prob + volume
        return torch.where(inside, log_prob, torch.full_like(log_prob, -math.inf))

    def transforms(self) -> dict[str, Any]:
        """The preprocessing in words and numbers."""
        shares = (self.normalisation if self.dropping is None else self.dropping).describe()
        conditions = {"incident": self.log_incident.describe() | {"emphasis": self.config.emphasis}}
        if self.energies is not None:
            conditions["layers"] = self.log_layers.describe() | {"emphasis": self.config.emphasis}
            energies = self.energies.describe()
        else:
            assert self.scale is not None
            energies = [self.scale.describe(), self.fractions.describe()]
            # Published preprocessing has noise and a logarithm behind the fractions.
            energies += [] if self.config.preprocessing == "published" else [self.logit.describe()]
        if self.config.preprocessing == "published":
            noise = {"transform": "uniform noise", "width_relative": self.config.relative_noise}
            return {
                "energies": [*energies, noise, self.log.describe()],
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
            ],
            "shapes": [shares, noise, self.logit.describe()]
            if self.share_noise
            else [noise, shares, self.logit.describe()],
            "conditions": conditions,
        }


class _FlowStage(GradientStage):
    """Minus log-likelihood of the variables, nats."""

    def __init__(self, model: CaloINN, training: StageTraining, needs: tuple[str, ...]) -> None:
        super().__init__("flow", {"flow": model.flow}, training, needs=needs)
        self.model = model

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        values = collect_rows(
            data, _START_ROWS, lambda batch: self.model._batch_variables(batch, streams).y.to(self.model.dtype)
        )
        start_coupling_from_marginals(self.model.flow, values, splines=self.model.config.start == "marginals")

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        model = self.model
        seen = model._batch_variables(batch, streams)
        context = model.context(batch.incident_energy, seen.energies).to(model.dtype)
        return {"loss": -model.flow.log_prob(seen.y.to(model.dtype), context).mean()}


def _highest_energy(detector: Detector) -> float:
    """Highest energy of the gun, MeV."""
    if detector.gun is None:
        raise ConfigError(
            f"the detector '{detector.name}' has no gun, so the model needs 'highest_energy', a large energy in MeV"
        )
    return detector.gun.spectrum.maximum
