"""L2LFlows: layer energies, then one autoregressive flow per layer, given the layers before it (arXiv:2302.11594).

docs/models/l2lflows.md says what is known of the publication and where the defaults differ from it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.models.base import ModelConfig
from caloforge.models.common import FlowSize, autoregressive_flow, axis_voxels, check_margin, check_noise
from caloforge.models.layer_by_layer import LayerByLayer, LayerByLayerConfig, LayerFlow, WhichLayer
from caloforge.models.marginals import start_from_marginals
from caloforge.models.registry import register
from caloforge.nn.perceptron import Perceptron
from caloforge.nn.permutations import alternating_within_layers
from caloforge.transforms import DroppedVoxelNormalisation, LayerNormalisation, Logit, restore_deposits

__all__ = ["EmbeddingSize", "L2LFlows", "L2LFlowsConfig"]

Size = Annotated[int, Field(ge=1, le=1_000_000)]


class EmbeddingSize(ModelConfig):
    """Size of the network that sums up the layers before a layer.

    Attributes:
        hidden_features: units of its hidden layer.
        features: numbers that come out.
    """

    hidden_features: Size = 128
    features: Size = 64


class L2LFlowsConfig(LayerByLayerConfig):
    """Configuration of L2LFlows; the keys of :class:`~caloforge.models.layer_by_layer.LayerByLayerConfig`, and these.

    Attributes:
        layer: size of each layer's flow.
        embedding: size of the network that sums up the layers before it.
        drop_voxel: leave out one voxel per layer, which makes the likelihood one of the deposits themselves.
    """

    layer: FlowSize = FlowSize(blocks=6, hidden_features=128, hidden_layers=1)
    embedding: EmbeddingSize = EmbeddingSize()
    drop_voxel: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_noise(self.noise, self.energy_noise, self.energy_noise_per, drop_voxel=self.drop_voxel)
        if not self.energy_flow:
            raise ValueError("shares of a layer need its energy, so 'energy_flow' cannot be left out")
        return self


@register("l2lflows")
class L2LFlows(LayerByLayer):
    """An energy flow and a masked autoregressive flow for every layer.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels, or no gun to take a missing ``incident_reference`` from, or a margin
            reaches beyond the splines.
    """

    Config = L2LFlowsConfig
    config: L2LFlowsConfig

    def __init__(self, config: L2LFlowsConfig, detector: Detector) -> None:
        super().__init__(config, detector)

    def layer_flow(self, group: tuple[int, ...]) -> LayerFlow | None:
        """See :meth:`caloforge.models.layer_by_layer.LayerByLayer.layer_flow`."""
        # The share of a layer's only voxel is 1, so there is nothing to learn about it.
        return None if self.sums.layer_sizes[group[0]] == 1 else _AutoregressiveLayer(self, group)

    @property
    def counts_deposits(self) -> bool:
        """Whether the likelihood is one of as many variables as there are deposits."""
        return self.config.drop_voxel

    def describe_layers(self) -> list[dict[str, Any]]:
        """See :meth:`caloforge.models.layer_by_layer.LayerByLayer.describe_layers`."""
        left_out = axis_voxels(self.detector.readout) if self.config.drop_voxel else []
        shares = {"transform": "share of the layer energy", "layers": list(self.sums.layer_sizes), "left_out": left_out}
        return [shares, Logit(self.config.alpha).describe()]


class _AutoregressiveLayer(LayerFlow):
    """Shares of one layer's voxels, or of those of any layer of a group, from a masked autoregressive flow."""

    def __init__(self, model: L2LFlows, group: tuple[int, ...]) -> None:
        super().__init__()
        config, readout, number = model.config, model.detector.readout, group[0]
        size = readout.layer_sizes[number]
        self.normalisation = LayerNormalisation((size,))
        self.dropping = None
        if config.drop_voxel:
            bright = axis_voxels(readout)[number] - readout.layer_slices[number].start
            self.dropping = DroppedVoxelNormalisation((size,), (bright,))
        self.features = size - 1 if config.drop_voxel else size
        self.logit = Logit(config.alpha)
        check_margin(self.logit, config.layer.bound, "layer")
        self.noise, self.energy_noise, self.cut = config.noise, config.energy_noise, model.least
        self.shift = model.layer_shift(number)
        seen = sum(math.prod(shape) for shape in model.seen(number))
        self.which = WhichLayer(len(group)) if len(group) > 1 else None
        told = 2 + (self.which.features if self.which else 0)
        self.embedding = (
            Perceptron(
                nn.Linear(seen, config.embedding.hidden_features),
                nn.ReLU(),
                nn.Linear(config.embedding.hidden_features, config.embedding.features),
                nn.ReLU(),
            )
            if seen
            else None
        )
        self.flow = autoregressive_flow(
            config.layer,
            self.features,
            told + (config.embedding.features if seen else 0),
            config.masks,
            alternating_within_layers([self.features], config.layer.blocks, seed=config.permutation_seed + number),
        )

    def variables(self, noisy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.dropping is None:
            shares = self.normalisation.transform(noisy, self.normalisation.sums(noisy))
            volume = noisy.new_zeros(noisy.shape[0])
        else:
            shares, _, volume = self.dropping(noisy)
        inside = ((shares >= 0) & (shares <= 1)).all(dim=1)
        y, logdet = self.logit(shares.clamp(0, 1))
        return y, logdet + volume, inside

    def _context(self, conditions: Tensor) -> Tensor:
        told, seen = [conditions[:, :2]], conditions[:, 2:]
        if self.which is not None:
            told, seen = [*told, self.which(seen[:, 0])], seen[:, 1:]
        if self.embedding is not None:
            told.append(self.embedding(seen))
        return torch.cat(told, dim=1)

    def log_prob(self, y: Tensor, conditions: Tensor) -> Tensor:
        return self.flow.log_prob(y, self._context(conditions))

    def sample(self, latents: Tensor, conditions: Tensor) -> Tensor:
        y, _ = self.flow.inverse(latents, self._context(conditions))
        return y

    def restore(self, y: Tensor, energy: Tensor | None) -> Tensor:
        assert energy is not None
        shares = self.logit.restore(y).double()
        if self.dropping is not None:
            shares = self.dropping.complete(shares).clamp_min(0)
        return restore_deposits(
            shares,
            energy,
            noise=self.noise,
            energy_noise=self.energy_noise,
            energy_shift=energy.new_tensor([self.shift]),
            cut=self.cut,
            sums=self.normalisation.sums,
        )

    def start_from(self, y: Tensor, *, splines: bool) -> None:
        if splines:
            start_from_marginals(self.flow, y)
