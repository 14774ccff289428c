"""What models have in common that make a shower layer by layer, each layer from the ones before it.

The energies of all layers come first, from a flow of their own; then one flow per layer makes its voxels, given the
incident energy, the layer's energy and the finished layers before it. All these flows are trained on Geant4 alone, so
every one of them is a stage that needs no other: thirty layers can train in thirty processes. Layers of one shape can also
share a flow, which then learns from all of them at once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.models.base import Latents, ModelConfig, ShowerModel
from caloforge.models.common import (
    LEAST_DEPOSIT,
    FlowSize,
    FractionsKind,
    ScaleStage,
    check_noise,
    check_voxels,
    middle_energy,
    normal_latents,
)
from caloforge.models.conditions import Conditions
from caloforge.models.energy_flow import EnergyFlowStage, LayerEnergyFlow
from caloforge.models.likelihood import noise_averaged_log_prob
from caloforge.models.marginals import collect_rows
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import GradientStage, Stage, StageTraining, TrainingBatch, TrainingConfig, TrainingData
from caloforge.transforms import DequantisationNoise, LayerSums, LogEnergy

__all__ = ["LayerByLayer", "LayerByLayerConfig", "LayerFlow", "WhichLayer"]

#: Training rows from which the initial weights are taken: enough for quantiles.
_START_ROWS = 4000
#: Rows per evaluation of the likelihood; limits the memory, changes no result.
_LIKELIHOOD_ROWS = 200


class LayerByLayerConfig(ModelConfig):
    """What the configurations of these models have in common.

    Attributes:
        energies: size of the flow of the layer energies.
        energy_flow: learn the layer energies first, and each layer given its energy. Without it every layer flow has to
            find the energy of its layer itself.
        previous: how many layers before it a layer is conditioned on.
        masks: masks of the autoregressive flows, ``even`` or ``published`` (those of nflows).
        permutation_seed: seed of the fixed random permutations.
        noise: width of the uniform noise on each voxel in training, MeV.
        energy_noise: width of the noise on the layer energies, MeV.
        energy_noise_per: ``layer`` adds one such noise to the energy of each layer; ``voxel`` takes the sums of the
            noisy voxels.
        alpha: margin of the logit.
        energy_fractions: how the layer energies become variables, see ``FractionsKind``.
        energy_scale: the most that a shower deposits, as a multiple of the incident energy; None fits it to the
            training data.
        extra_energy: energy that the particle brings beside its kinetic one, MeV.
        incident_reference: incident energy whose condition is 0, MeV; None takes the logarithmic middle of the gun's.
        layer_reference: layer energy whose condition is 0, MeV; None takes a tenth of ``incident_reference``.
        layer_offset: added to layer energies before the logarithm, MeV.
        cut: threshold on voxels, MeV; None takes the detector's analysis threshold.
        cut_first: apply the threshold to the training data too, so that the model learns what is left behind it.
        share: layers that look alike, with layers that look alike before them, share one flow, which is told which of them
            it makes; without it every layer has a flow of its own, as published.
        start: initial weights: ``marginals`` from the distribution of each variable, or ``random``.
    """

    energies: FlowSize = FlowSize(blocks=6, hidden_features=64, hidden_layers=1)
    energy_flow: bool = True
    previous: Annotated[int, Field(ge=0)] = 5
    masks: Literal["even", "published"] = "even"
    permutation_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
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
    share: bool = False
    start: Literal["marginals", "random"] = "marginals"

    @model_validator(mode="after")
    def _noise_agrees(self) -> Self:
        check_noise(self.noise, self.energy_noise, self.energy_noise_per, drop_voxel=False)
        return self


class LayerFlow(nn.Module, ABC):
    """The flow of one layer, or of several that share it, with its preprocessing.

    The conditions of its methods are those of :meth:`LayerByLayer.conditions`.

    Attributes:
        features: number of its latents.
    """

    features: int

    @abstractmethod
    def variables(self, noisy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Deposits with noise (N, n), MeV, to what the flow sees, (N, features).

        Returns:
            The variables; the log-determinant (N,), nats, of the map from the variables in which the model's
            likelihood is stated; whether they are possible at all, bool (N,).
        """

    @abstractmethod
    def log_prob(self, y: Tensor, conditions: Tensor) -> Tensor:
        """Logarithm of the density of the variables (N, features), nats, (N,)."""

    @abstractmethod
    def sample(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """Variables (N, features) from standard normal numbers of the same shape."""

    @abstractmethod
    def restore(self, y: Tensor, energy: Tensor | None) -> Tensor:
        """Deposits without noise (N, n), float64, MeV, from the variables and the noisy layer energy (N, 1), MeV."""

    @abstractmethod
    def start_from(self, y: Tensor, *, splines: bool) -> None:
        """Set initial weights from variables (N, features) of training data; with ``splines`` also those of the splines."""


class WhichLayer(nn.Module):
    """Tells a flow that several layers share which of them it makes, as some numbers that are learnt for each.

    Args:
        layers: how many share the flow.
    """

    features = 8

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.randn(layers, self.features))

    def forward(self, place: Tensor) -> Tensor:
        """Numbers (N, 8) from places in the group, counted from 0, as floats (N,)."""
        return self.numbers.index_select(0, place.round().long())


class LayerByLayer(ShowerModel):
    """An energy flow and a flow for every layer.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels, or no gun to take a missing ``incident_reference`` from.
    """

    has_likelihood = True
    config: LayerByLayerConfig

    def __init__(self, config: LayerByLayerConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        readout = detector.readout
        check_voxels(self.kind, detector)
        sizes = readout.layer_sizes
        reference = config.incident_reference or middle_energy(detector)
        self.cut = max(detector.analysis_threshold if config.cut is None else config.cut, 0.0)
        #: No deposit that the model makes is smaller than this, MeV.
        self.least = max(self.cut, config.noise, LEAST_DEPOSIT)
        self.sums = LayerSums(sizes)
        per_voxel = config.energy_noise_per == "voxel"
        self.energy_noise = DequantisationNoise(readout.n_voxels if per_voxel else len(sizes), config.energy_noise)
        self.log_incident = LogEnergy(reference)
        self.log_layers = LogEnergy(config.layer_reference or reference / 10, config.layer_offset)
        self.energies = (
            LayerEnergyFlow(
                len(sizes),
                config.energies,
                scale=config.energy_scale,
                extra_energy=config.extra_energy,
                fractions=config.energy_fractions,
                alpha=config.alpha,
                masks=config.masks,
                permutation_seed=config.permutation_seed,
                incident=self.log_incident,
            )
            if config.energy_flow
            else None
        )
        digits = max(2, len(str(len(sizes) - 1)))
        self.names = [f"layer_{k:0{digits}d}" for k in range(len(sizes))]
        self.groups = {
            self.names[group[0]] if len(group) == 1 else f"layers_{group[0]:0{digits}d}": group
            for group in self._alike()
        }
        made = {name: self.layer_flow(group) for name, group in self.groups.items()}
        #: The layer flows by the name of their stage; a layer that has nothing to learn has none.
        self.layers = nn.ModuleDict({name: flow for name, flow in made.items() if flow is not None})
        self._flow_of = {number: name for name in self.layers for number in self.groups[name]}
        if not self.layers:
            raise ConfigError(f"the model '{self.kind}' needs a layer with several voxels, '{detector.name}' has none")

    @abstractmethod
    def layer_flow(self, group: tuple[int, ...]) -> LayerFlow | None:
        """A new flow for the layers of a group, or None if such a layer is known once its energy is."""

    def _alike(self) -> list[tuple[int, ...]]:
        """Layers that one flow makes, each in one of the groups."""
        groups: dict[Any, list[int]] = {}
        readout = self.detector.readout
        for number, layer in enumerate(readout.layers):
            alike = (type(layer.grid), readout.layer_shapes[number], tuple(self.seen(number)))
            key = alike if self.config.share else number
            groups.setdefault(key, []).append(number)
        return [tuple(group) for group in groups.values()]

    def seen(self, number: int) -> list[tuple[int, int]]:
        """Shapes of the layers before layer ``number`` on which it is conditioned, from first to last.

        Where layers share flows, as many layers of its own shape stand before the first one as it takes. They are empty.
        """
        shapes = self.detector.readout.layer_shapes
        first = number - self.config.previous
        missing = [shapes[number]] * max(0, -first) if self.config.share else []
        return [*missing, *shapes[max(0, first) : number]]

    def layer_shift(self, number: int) -> float:
        """Mean of the noise on the energy of a layer, MeV."""
        noise = self.config.energy_noise / 2
        return noise * self.sums.layer_sizes[number] if self.config.energy_noise_per == "voxel" else noise

    def _flows(self) -> Iterator[tuple[int, str, LayerFlow | None]]:
        for number, name in enumerate(self.names):
            flow = self._flow_of.get(number)
            yield number, name, None if flow is None else cast("LayerFlow", self.layers[flow])

    # ---- training -------------------------------------------------------------------------------------------------

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """The scale of the energies, the flow of the energies behind it, and every layer independently."""
        stages: list[Stage] = []
        if self.energies is not None:
            stages.append(ScaleStage("energies.scale", self.energies.scale, self.clean_energies))
            stages.append(
                EnergyFlowStage(
                    "energies",
                    self.energies,
                    self._noisy_energies,
                    training.for_stage("energies"),
                    from_data=self.config.start == "marginals",
                )
            )
        for name, flow in self.layers.items():
            stages.append(_LayerStage(self, name, cast("LayerFlow", flow), training.for_stage(name)))
        return stages

    def deposits_behind_cut(self, deposits: Tensor) -> Tensor:
        """Deposits (N, V), MeV, as the model learns them: without those below the threshold, if so configured."""
        if not self.config.cut_first or self.cut == 0:
            return deposits
        return torch.where(deposits >= self.cut, deposits, torch.zeros_like(deposits))

    def clean_energies(self, deposits: Tensor) -> Tensor:
        """Energies of the layers behind the threshold, float64 (N, L), MeV."""
        energies: Tensor = self.sums(self.deposits_behind_cut(deposits), dtype=torch.float64)
        return energies

    def _noisy_energies(self, batch: TrainingBatch, streams: Streams) -> Tensor:
        uniform = self.energy_noise.draw(streams, batch.row, batch.epoch)
        return self.energies_with_noise(self.clean_energies(batch.deposits), uniform)

    def energies_with_noise(self, energies: Tensor, uniform: Tensor) -> Tensor:
        """Layer energies (N, L) with noise from uniform numbers, one for each layer or for each voxel; MeV."""
        if self.config.energy_noise_per == "layer":
            noisy: Tensor = self.energy_noise(energies, uniform)[0]
            return noisy
        extra, _ = self.energy_noise(torch.zeros_like(uniform, device=energies.device), uniform)
        with_sums: Tensor = energies + self.sums(extra)
        return with_sums

    def numbers(self, number: int, incident_energy: Tensor, energy: Tensor | None) -> Tensor:
        """What layer ``number`` is told besides other layers.

        Args:
            number: of the layer.
            incident_energy: (N,), MeV.
            energy: of the layer, (N, 1), MeV, if a flow makes it.

        Returns:
            The logarithms of both, and the place of the layer in its group if it has one, float64 (N, 1 to 3).
        """
        told = [self.log_incident.transform(incident_energy.double()[:, None])]
        if energy is not None:
            told.append(self.log_layers.transform(energy.double()))
        group = self.groups.get(self._flow_of.get(number, ""), ())
        if len(group) > 1:
            told.append(torch.full_like(told[0], group.index(number)))
        return torch.cat(told, dim=1)

    def conditions(self, numbers: Tensor, previous: Tensor) -> Tensor:
        """What the flow of a layer is told, float64 (N, C).

        Args:
            numbers: from :meth:`numbers`.
            previous: deposits of the layers before it, (N, voxels), MeV.
        """
        # Empty voxels are 0, those at the threshold 0.14, and every decade above adds 0.46.
        return torch.cat([numbers, torch.log1p(previous.double() / self.least) / 5], dim=1)

    def before(self, deposits: Tensor, number: int) -> Tensor:
        """Deposits (N, voxels) of the layers before layer ``number`` on which it is conditioned; see :meth:`seen`."""
        slices = self.detector.readout.layer_slices
        first = number - self.config.previous
        there = deposits[:, slices[max(0, first)].start : slices[number].start]
        missing = -first * self.sums.layer_sizes[number] if self.config.share and first < 0 else 0
        return nn.functional.pad(there, (missing, 0)) if missing else there

    # ---- generating -----------------------------------------------------------------------------------------------

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers: ``energies`` (N, L), and ``layer_00`` (N, features) and so on; float32."""
        sizes = {} if self.energies is None else {"energies": len(self.names)}
        sizes |= {name: flow.features for _, name, flow in self._flows() if flow is not None}
        return normal_latents(sizes, conditions, streams)

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Deposits (N, V) in MeV from the incident energies and the latents; invalid where a number is not finite."""
        incident, dtype = conditions["incident_energy"], self.dtype
        energies = None if self.energies is None else self.energies.sample(latents["energies"], incident)
        made = incident.new_zeros(incident.shape[0], 0)
        for number, name, flow in self._flows():
            energy = None if energies is None else energies[:, number : number + 1]
            if flow is None:
                assert energy is not None
                layer = (energy - self.layer_shift(number)).clamp_min(0)
                layer = torch.where(layer >= self.least, layer, torch.zeros_like(layer))
            else:
                told = self.conditions(self.numbers(number, incident, energy), self.before(made, number)).to(dtype)
                layer = flow.restore(flow.sample(latents[name].to(dtype), told), energy)
            made = torch.cat([made, layer], dim=1)
        valid = torch.isfinite(made).all(dim=1)
        return {"deposits": torch.where(valid[:, None], made, torch.zeros_like(made)).float()}, valid

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def log_prob(
        self, showers: Showers | ShowerPoints, streams: Streams, *, draws: int = 1, first_row: int = 0
    ) -> Tensor:
        """Logarithm of the density of showers with training noise, nats.

        The model's page in the documentation says in which variables. Several draws of the noise are averaged over the
        density. A shower that deposits more than the energy scale allows has density 0.

        Arguments, result and errors are those of :meth:`caloforge.models.base.ShowerModel.log_prob`.
        """
        return noise_averaged_log_prob(
            self, self._noisy_log_prob, showers, streams, draws=draws, first_row=first_row, rows=_LIKELIHOOD_ROWS
        )

    def _noisy_log_prob(self, deposits: Tensor, incident: Tensor, rows: Tensor, draw: int, streams: Streams) -> Tensor:
        deposits = self.deposits_behind_cut(deposits).double()
        noise = DequantisationNoise(deposits.shape[1], self.config.noise).to(deposits.device)
        uniform = noise.draw(streams.child("voxels"), rows, draw)
        noisy, _ = noise(deposits, uniform)
        per_voxel = self.config.energy_noise_per == "voxel"
        own = uniform if per_voxel else self.energy_noise.draw(streams.child("layers"), rows, draw)
        energies = self.energies_with_noise(self.sums(deposits), own.to(deposits.device))
        return self.log_density(noisy, deposits, energies, incident)

    def log_density(self, noisy: Tensor, deposits: Tensor, energies: Tensor, incident_energy: Tensor) -> Tensor:
        """Logarithm of the density at given noisy values, nats, float64 (N,); see :meth:`log_prob` for the variables.

        Args:
            noisy: deposits with noise, float64 (N, V), MeV.
            deposits: the same without noise, which is what the following layers are told.
            energies: layer energies with noise, float64 (N, L), MeV.
            incident_energy: float64 (N,), MeV.
        """
        log_prob, inside = torch.zeros_like(incident_energy), torch.ones_like(incident_energy, dtype=torch.bool)
        if self.energies is not None:
            log_prob, volume, inside = self.energies.log_prob(energies, incident_energy)
            log_prob = log_prob + (volume if self.counts_deposits else 0)
        dtype = self.dtype
        for number, _, flow in self._flows():
            if flow is None:
                continue
            energy = None if self.energies is None else energies[:, number : number + 1]
            numbers = self.numbers(number, incident_energy, energy)
            told = self.conditions(numbers, self.before(deposits, number)).to(dtype)
            y, logdet, possible = flow.variables(noisy[:, self.detector.readout.layer_slices[number]])
            log_prob = log_prob + flow.log_prob(y.to(dtype), told).double() + logdet
            inside = inside & possible
        return torch.where(inside, log_prob, torch.full_like(log_prob, -math.inf))

    @property
    def counts_deposits(self) -> bool:
        """Whether the likelihood is one of as many variables as there are deposits."""
        return self.energies is None

    def transforms(self) -> dict[str, Any]:
        """The preprocessing in words and numbers."""
        noise = DequantisationNoise(1, self.config.noise).describe()
        energies = [] if self.energies is None else self.energies.describe()
        return {
            "cut_MeV": self.cut,
            "cut_first": self.config.cut_first,
            "energies": [self.energy_noise.describe() | {"per": self.config.energy_noise_per}, *energies],
            "shapes": [noise, *self.describe_layers()],
            "conditions": {"incident": self.log_incident.describe(), "layers": self.log_layers.describe()},
        }

    @abstractmethod
    def describe_layers(self) -> list[dict[str, Any]]:
        """What ``model.json`` says about the preprocessing of the layers."""


class _LayerStage(GradientStage):
    """Minus log-likelihood of one layer's variables, nats, given the layers before it in Geant4.

    If several layers share the flow, it learns from all of them in every step.
    """

    def __init__(self, model: LayerByLayer, name: str, flow: LayerFlow, training: StageTraining) -> None:
        super().__init__(name, {f"layers.{name}": flow}, training)
        self.model, self.group, self.flow = model, model.groups[name], flow
        self.size = model.sums.layer_sizes[self.group[0]]
        self.voxels = DequantisationNoise(self.size * len(self.group), model.config.noise)
        self.layer = DequantisationNoise(len(self.group), model.config.energy_noise)

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        def of_showers(batch: TrainingBatch) -> Tensor:
            return self._inputs(batch, streams)[0].view(len(batch), -1)

        y = collect_rows(data, max(1, _START_ROWS // len(self.group)), of_showers)
        self.flow.start_from(y.view(-1, self.flow.features), splines=self.model.config.start == "marginals")

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        y, conditions = self._inputs(batch, streams)
        return {"loss": -self.flow.log_prob(y, conditions).mean()}

    def _inputs(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """Variables of the layers, those of a shower one behind the other, and what the flow is told."""
        model, slices = self.model, self.model.detector.readout.layer_slices
        deposits = model.deposits_behind_cut(batch.deposits).to(model.dtype)
        own = torch.cat([deposits[:, slices[number]] for number in self.group], dim=1)
        noisy, _ = self.voxels.to(own.device)(own, self.voxels.draw(streams.child("voxels"), batch.row, batch.epoch))
        noisy, own = (values.view(len(batch), len(self.group), self.size) for values in (noisy, own))
        energies = None
        if model.energies is not None:
            if model.config.energy_noise_per == "voxel":
                energies = noisy.sum(dim=2, dtype=torch.float64)
            else:
                # A layer is later told the energy that the energy flow makes, so it learns with the same noise on it.
                energies, _ = self.layer.to(own.device)(
                    own.sum(dim=2, dtype=torch.float64),
                    self.layer.draw(streams.child("layers"), batch.row, batch.epoch),
                )
        told = [
            model.conditions(
                model.numbers(number, batch.incident_energy, None if energies is None else energies[:, k : k + 1]),
                model.before(deposits, number),
            )
            for k, number in enumerate(self.group)
        ]
        y, _, _ = self.flow.variables(noisy.flatten(0, 1))
        return y.to(model.dtype), torch.stack(told, dim=1).flatten(0, 1).to(model.dtype)
