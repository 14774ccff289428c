"""Showers layer by layer: energies of the layers from a flow, then each layer's voxels given the ones before it.

All these flows are trained on Geant4 alone, so every one of them is a stage that needs no other: thirty layers can train in
thirty processes. Layers of one shape can also share a flow, which then learns from all of them at once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from caloforge.conditions import Conditions
from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.models import Latents
from caloforge.nn.convolutional import ConvolutionalFlow
from caloforge.nn.flow import ConditionalFlow
from caloforge.parts.flows import FlowSize, FlowStage, normal_latents
from caloforge.parts.voxel_model import VoxelModel
from caloforge.random import Streams
from caloforge.representation import (
    EncodedShares,
    FractionSettings,
    LayerConditionSettings,
    NoisyShowers,
    least_deposit,
    unless_finite,
)
from caloforge.stage import Stage, TrainingBatch, TrainingConfig

__all__ = ["LayerByLayer", "LayerByLayerConfig", "LayerEmbedding", "LayerFlow"]


class LayerByLayerConfig(FractionSettings, LayerConditionSettings):
    """What the configurations of these models have in common.

    Attributes:
        energies: size of the flow of the layer energies.
        previous: how many layers before it a layer is conditioned on.
        masks: masks of the autoregressive flows, ``even`` or ``published`` (those of nflows).
        permutation_seed: seed of the fixed random permutations.
        share: layers that look alike, with layers that look alike before them, share one flow, which is told which of them
            it makes; without it every layer has a flow of its own, as published.
    """

    energies: FlowSize = FlowSize(blocks=6, hidden_features=64, hidden_layers=1)
    previous: Annotated[int, Field(ge=0)] = 5
    masks: Literal["even", "published"] = "even"
    permutation_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    share: bool = False


class LayerFlow(nn.Module, ABC):
    """The flow of one layer, or of several that share it, with its representation.

    The conditions of its methods are those of :meth:`LayerByLayer.layer_conditions`.

    Attributes:
        features: number of its latents.
        flow: the bare flow.
    """

    features: int
    flow: ConditionalFlow | ConvolutionalFlow

    @abstractmethod
    def encode(self, noisy: Tensor) -> EncodedShares:
        """Deposits with noise (N, n), MeV, to what the flow sees, (N, features)."""

    @abstractmethod
    def log_prob(self, y: Tensor, conditions: Tensor) -> Tensor:
        """Logarithm of the density of the variables (N, features), nats, (N,)."""

    @abstractmethod
    def sample(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """Variables (N, features) from standard normal numbers of the same shape."""

    @abstractmethod
    def decode(self, y: Tensor, energy: Tensor | None) -> Tensor:
        """Deposits without noise (N, n), float64, MeV, from the variables and the noisy layer energy (N, 1), MeV."""


class LayerEmbedding(nn.Module):
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


class LayerByLayer(VoxelModel):
    """An energy flow and a flow for every layer.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.
        energy_flow: learn the layer energies first, and each layer given its energy. Without it every layer flow has to
            find the energy of its layer itself.
        incident_factor: see :class:`~caloforge.parts.voxel_model.VoxelModel`.

    Raises:
        ConfigError: if the detector has no voxels, or no gun to take a missing ``incident_reference`` from.
    """

    likelihood_rows = 200
    #: Whether :meth:`seen` looks at what the flows learn.
    sees_variables: bool = False
    config: LayerByLayerConfig

    def __init__(
        self,
        config: LayerByLayerConfig,
        detector: Detector,
        *,
        energy_flow: bool = True,
        incident_factor: float = 1.0,
    ) -> None:
        super().__init__(config, detector, incident_factor=incident_factor)
        sizes = detector.readout.layer_sizes
        #: No deposit that the model makes is smaller than this, MeV.
        self.least = least_deposit(config, detector)
        self.energies = (
            self.energy_flow(
                config.energies,
                masks=config.masks,
                permutation_seed=config.permutation_seed,
                fractions=config.energy_fractions,
            )
            if energy_flow
            else None
        )
        digits = max(2, len(str(len(sizes) - 1)))
        self.names = [f"layer_{k:0{digits}d}" for k in range(len(sizes))]
        self.groups = {
            self.names[group[0]] if len(group) == 1 else f"layers_{group[0]:0{digits}d}": group
            for group in self._alike()
        }
        self.make_shared()
        found = {name: self.layer_flow(group) for name, group in self.groups.items()}
        #: The layer flows by the name of their stage; a layer that has nothing to learn has none.
        self.layers = nn.ModuleDict({name: flow for name, flow in found.items() if flow is not None})
        self._flow_of = {number: name for name in self.layers for number in self.groups[name]}
        if not self.layers:
            raise ConfigError(f"the model '{self.kind}' needs a layer with several voxels, '{detector.name}' has none")

    def make_shared(self) -> None:
        """Make what the flows of the layers share; called before they are made."""

    @abstractmethod
    def layer_flow(self, group: tuple[int, ...]) -> LayerFlow | None:
        """A new flow for the layers of a group, or None if such a layer is known once its energy is."""

    @property
    @abstractmethod
    def counts_deposits(self) -> bool:
        """Whether the likelihood is one of as many variables as there are deposits."""

    def _alike(self) -> list[tuple[int, ...]]:
        """Layers that one flow makes, each in one of the groups."""
        groups: dict[Any, list[int]] = {}
        readout = self.detector.readout
        for number, layer in enumerate(readout.layers):
            alike = (type(layer.grid), readout.layer_shapes[number], tuple(self.previous_shapes(number)))
            key = alike if self.config.share else number
            groups.setdefault(key, []).append(number)
        return [tuple(group) for group in groups.values()]

    def previous_shapes(self, number: int) -> list[tuple[int, int]]:
        """Shapes of the layers before layer ``number`` on which it is conditioned, from first to last.

        Where layers share flows, as many layers of its own shape stand before the first one as it takes. They are empty.
        """
        shapes = self.detector.readout.layer_shapes
        first = number - self.config.previous
        missing = [shapes[number]] * max(0, -first) if self.config.share else []
        return [*missing, *shapes[max(0, first) : number]]

    def _flows(self) -> Iterator[tuple[int, str, LayerFlow | None]]:
        for number, name in enumerate(self.names):
            flow = self._flow_of.get(number)
            yield number, name, None if flow is None else cast("LayerFlow", self.layers[flow])

    # ---- conditions of a layer ------------------------------------------------------------------------------------

    def layer_conditions(self, number: int, incident_energy: Tensor, energy: Tensor | None, before: Tensor) -> Tensor:
        """Conditions of the flow of a layer.

        Args:
            number: of the layer.
            incident_energy: (N,), MeV.
            energy: of the layer, with noise, (N, 1), MeV, if a flow makes it.
            before: what it sees of the layers before it, one behind the other, (N, voxels); see :meth:`seen`.

        Returns:
            The logarithms of the energies, the place of the layer in its group if it has one, and the voxels of the layers
            before it; float64 (N, C).
        """
        conditions = self.energy_conditions
        incident = incident_energy.double()
        parts = [conditions.incident(incident) if energy is None else conditions(incident, energy)]
        group = self.groups.get(self._flow_of.get(number, ""), ())
        if len(group) > 1:
            parts.append(torch.full_like(parts[0][:, :1], group.index(number)))
        # Layers that are missing are empty.
        first = number - self.config.previous
        missing = -first * self.detector.readout.layer_sizes[number] if self.config.share and first < 0 else 0
        parts.append(nn.functional.pad(before.double(), (missing, 0)))
        return torch.cat(parts, dim=1)

    def seen(self, number: int, y: Tensor | None, deposits: Tensor) -> Tensor:
        """What the layers behind it see of a layer, (N, voxels): in training of a layer of the data, else of one just made.

        Args:
            number: of the layer.
            y: what a flow learns, or has made, of it, (N, voxels); None if none does.
            deposits: in it, without noise, (N, voxels), MeV.
        """
        # Empty voxels are 0, those at the threshold 0.14, and every decade above adds 0.46.
        return torch.log1p(deposits.double() / self.least) / 5

    def _before(self, number: int, noisy: NoisyShowers) -> Tensor:
        """What a layer sees of the layers before it in training data, (N, voxels)."""
        slices = self.detector.readout.layer_slices
        parts = [noisy.visible[:, :0].double()]
        for other in range(max(0, number - self.config.previous), number):
            flow = self._flow_of.get(other)
            layer = None if flow is None or not self.sees_variables else cast("LayerFlow", self.layers[flow])
            y = None if layer is None else layer.encode(noisy.voxels[:, slices[other]]).y
            parts.append(self.seen(other, y, noisy.visible[:, slices[other]]))
        return torch.cat(parts, dim=1)

    # ---- training -------------------------------------------------------------------------------------------------

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """The scale of the energies, the flow of the energies behind it, and every layer independently."""
        energies = self.energies
        stages = [] if energies is None else energies.stages("energies", self.dequantisation, training)
        for name, flow in self.layers.items():
            stages.append(self._layer_stage(name, cast("LayerFlow", flow), training))
        return stages

    def _layer_stage(self, name: str, layer: LayerFlow, training: TrainingConfig) -> FlowStage:
        group, slices = self.groups[name], self.detector.readout.layer_slices

        def variables(batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
            """Variables of the layers, those of a shower one behind the other, and their conditions."""
            noisy = self.noisy(batch, streams, self.dtype)
            y, conditions = [], []
            for number in group:
                energy = None if self.energies is None else noisy.energies[:, number : number + 1]
                y.append(layer.encode(noisy.voxels[:, slices[number]]).y)
                before = self._before(number, noisy)
                conditions.append(self.layer_conditions(number, batch.incident_energy, energy, before))
            return (
                torch.stack(y, dim=1).flatten(0, 1).to(self.dtype),
                torch.stack(conditions, dim=1).flatten(0, 1).to(self.dtype),
            )

        return FlowStage(
            name,
            f"layers.{name}",
            layer,
            variables,
            training.for_stage(name),
            flow=layer.flow,
            rows_per_shower=len(group),
        )

    # ---- generating -----------------------------------------------------------------------------------------------

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers: ``energies`` (N, L), and ``layer_00`` (N, features) and so on; float32."""
        sizes = {} if self.energies is None else {"energies": len(self.names)}
        sizes |= {name: flow.features for _, name, flow in self._flows() if flow is not None}
        return normal_latents(sizes, conditions, streams)

    def make_deposits(self, incident_energy: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
        """Deposits, float64 (N, V), MeV, layer behind layer, from incident energies (N,), MeV, and the latents."""
        dtype, shift = self.dtype, self.dequantisation.energy_shift
        energies = None if self.energies is None else self.energies.sample(latents["energies"], incident_energy)
        made: list[Tensor] = []
        seen = [incident_energy.new_zeros(incident_energy.shape[0], 0).double()]
        for number, name, flow in self._flows():
            energy = None if energies is None else energies[:, number : number + 1]
            y: Tensor | None = None
            if flow is None:
                assert energy is not None
                layer = (energy - shift[number]).clamp_min(0)
                layer = unless_finite(torch.where(layer >= self.least, layer, torch.zeros_like(layer)), energy)
            else:
                before = torch.cat([seen[0], *seen[1:][max(0, number - self.config.previous) :]], dim=1)
                conditions = self.layer_conditions(number, incident_energy, energy, before).to(dtype)
                y = flow.sample(latents[name].to(dtype), conditions)
                layer = flow.decode(y, energy)
            made.append(layer)
            seen.append(self.seen(number, y, layer))
        return torch.cat(made, dim=1)

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def noisy_log_prob(
        self, deposits: Tensor, incident_energy: Tensor, rows: Tensor, draw: int, streams: Streams
    ) -> Tensor:
        """See :meth:`caloforge.parts.voxel_model.VoxelModel.noisy_log_prob`."""
        noisy = self.dequantisation(deposits, streams, rows, draw, torch.float64)
        log_prob, inside = torch.zeros_like(incident_energy), torch.ones_like(incident_energy, dtype=torch.bool)
        if self.energies is not None:
            log_prob, volume, inside = self.energies.log_prob(noisy.energies, incident_energy)
            log_prob = log_prob + (volume if self.counts_deposits else 0)
        dtype = self.dtype
        for number, _, flow in self._flows():
            if flow is None:
                continue
            energy = None if self.energies is None else noisy.energies[:, number : number + 1]
            conditions = self.layer_conditions(number, incident_energy, energy, self._before(number, noisy)).to(dtype)
            encoded = flow.encode(noisy.voxels[:, self.detector.readout.layer_slices[number]])
            log_prob = log_prob + flow.log_prob(encoded.y.to(dtype), conditions).double() + encoded.logdet
            inside = inside & encoded.inside
        return torch.where(inside, log_prob, torch.full_like(log_prob, -math.inf))

    def describe_representation(self) -> dict[str, Any]:
        """How showers become numbers, in words and numbers."""
        return {
            "noise": self.dequantisation.describe(),
            "energies": [] if self.energies is None else self.energies.describe(),
            "shapes": self.describe_layers(),
            "conditions": self.energy_conditions.describe(layers=self.energies is not None),
        }

    @abstractmethod
    def describe_layers(self) -> dict[str, Any]:
        """What ``model.json`` says about the representation of the layers."""
