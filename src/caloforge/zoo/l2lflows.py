"""L2LFlows: layer energies, then one autoregressive flow per layer, given the layers before it (arXiv:2302.11594)."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.models import Difference
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.perceptron import Perceptron
from caloforge.nn.permutations import alternating_within_layers
from caloforge.parts.checks import check_margin
from caloforge.parts.differences import CUT_FIRST, MASKS
from caloforge.parts.flows import FlowSize, autoregressive_flow
from caloforge.parts.layer_voxels import LayerByLayer, LayerByLayerConfig, LayerEmbedding, LayerFlow
from caloforge.representation import EncodedShares, ShareSettings, VoxelShares, check_noise
from caloforge.validation import Settings, Size

__all__ = ["AutoregressiveLayer", "EmbeddingSize", "L2LFlows", "L2LFlowsConfig"]


class EmbeddingSize(Settings):
    """Size of the network that sums up the layers before a layer.

    Attributes:
        hidden_features: units of its hidden layer.
        features: numbers that come out.
    """

    hidden_features: Size = 128
    features: Size = 64


class L2LFlowsConfig(LayerByLayerConfig, ShareSettings):
    """Configuration of L2LFlows: the keys of ``LayerByLayerConfig`` and ``ShareSettings``, and these.

    Attributes:
        layer: size of each layer's flow.
        embedding: size of the network that sums up the layers before it.
    """

    layer: FlowSize = FlowSize(blocks=6, hidden_features=128, hidden_layers=1)
    embedding: EmbeddingSize = EmbeddingSize()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_noise(self)
        return self


class L2LFlows(LayerByLayer):
    """An energy flow and a masked autoregressive flow for every layer.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels, or no gun to take a missing ``incident_reference`` from.
    """

    kind = "l2lflows"
    Config = L2LFlowsConfig
    differences = (
        MASKS,
        CUT_FIRST,
        Difference(
            "energy fractions",
            "recursive",
            "recursive for up to ten layers, else single ones",
            "recursive fractions of layers that are often empty are ratios of noise",
            "energy_fractions",
            ("recursive", "auto"),
        ),
        Difference("sizes and training", "not public", "own choices", "neither code nor body of the paper can be had"),
    )
    config: L2LFlowsConfig

    def __init__(self, config: L2LFlowsConfig, detector: Detector) -> None:
        super().__init__(config, detector)

    def layer_flow(self, group: tuple[int, ...]) -> LayerFlow | None:
        """See :meth:`caloforge.parts.layer_voxels.LayerByLayer.layer_flow`."""
        # The share of a layer's only voxel is 1, so there is nothing to learn about it.
        return None if self.detector.readout.layer_sizes[group[0]] == 1 else AutoregressiveLayer(self, group)

    @property
    def counts_deposits(self) -> bool:
        """Whether the likelihood is one of as many variables as there are deposits."""
        return self.config.drop_voxel

    def describe_layers(self) -> dict[str, Any]:
        """See :meth:`caloforge.parts.layer_voxels.LayerByLayer.describe_layers`."""
        return VoxelShares(self.config, self.detector).describe()


class AutoregressiveLayer(LayerFlow):
    """Shares of one layer's voxels, or of those of any layer of a group, from a masked autoregressive flow."""

    flow: AutoregressiveFlow

    def __init__(self, model: L2LFlows, group: tuple[int, ...]) -> None:
        super().__init__()
        config, number = model.config, group[0]
        self.shares = VoxelShares(config, model.detector, layers=[number])
        check_margin(self.shares.logit, config.layer.bound, "layer")
        self.features = self.shares.features
        previous = sum(math.prod(shape) for shape in model.previous_shapes(number))
        self.place = LayerEmbedding(len(group)) if len(group) > 1 else None
        self.embedding = (
            Perceptron(
                nn.Linear(previous, config.embedding.hidden_features),
                nn.ReLU(),
                nn.Linear(config.embedding.hidden_features, config.embedding.features),
                nn.ReLU(),
            )
            if previous
            else None
        )
        self.flow = autoregressive_flow(
            config.layer,
            self.features,
            2 + (self.place.features if self.place else 0) + (config.embedding.features if previous else 0),
            config.masks,
            alternating_within_layers([self.features], config.layer.blocks, seed=config.permutation_seed + number),
        )

    def encode(self, noisy: Tensor) -> EncodedShares:
        """See :meth:`caloforge.parts.layer_voxels.LayerFlow.encode`."""
        return self.shares.encode(noisy)

    def _context(self, conditions: Tensor) -> Tensor:
        parts, previous = [conditions[:, :2]], conditions[:, 2:]
        if self.place is not None:
            parts, previous = [*parts, self.place(previous[:, 0])], previous[:, 1:]
        if self.embedding is not None:
            parts.append(self.embedding(previous))
        return torch.cat(parts, dim=1)

    def log_prob(self, y: Tensor, conditions: Tensor) -> Tensor:
        """See :meth:`caloforge.parts.layer_voxels.LayerFlow.log_prob`."""
        return self.flow.log_prob(y, self._context(conditions))

    def sample(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """See :meth:`caloforge.parts.layer_voxels.LayerFlow.sample`."""
        y, _ = self.flow.inverse(latents, self._context(conditions))
        return y

    def decode(self, y: Tensor, energy: Tensor | None) -> Tensor:
        """See :meth:`caloforge.parts.layer_voxels.LayerFlow.decode`."""
        assert energy is not None
        return self.shares.decode(y, energy)
