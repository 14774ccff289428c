"""Convolutional L2LFlows: layer energies, then one convolutional coupling flow per layer (arXiv:2405.20407).

Each layer is an image; the layers before it are further images that the flow is shown.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from caloforge.detectors import Detector, PolarGrid
from caloforge.errors import ConfigError
from caloforge.models import Difference
from caloforge.nn.convolutional import ConvolutionalFlow
from caloforge.nn.splines import SplineSettings
from caloforge.parts.differences import CUT_FIRST, MASKS
from caloforge.parts.layer_voxels import LayerByLayer, LayerByLayerConfig, LayerEmbedding, LayerFlow
from caloforge.representation import CellLogs, EncodedShares
from caloforge.validation import Count, Size

__all__ = ["ConvL2LFlows", "ConvL2LFlowsConfig"]


class ConvL2LFlowsConfig(LayerByLayerConfig):
    """Configuration: the keys of :class:`~caloforge.parts.layer_voxels.LayerByLayerConfig`, and these.

    Attributes:
        energy_flow: see :class:`~caloforge.parts.layer_voxels.LayerByLayer`.
        steps: steps of activation norm, coupling and 1 x 1 convolution in each layer's flow.
        hidden_channels: channels of the U-Nets' first level.
        context_channels: channels of the context behind its network.
        levels: most levels of the U-Nets.
        bins: spline bins.
        bound: the splines act on [-bound, bound].
        least: smallest relative bin width and height and smallest interior derivative.
        batch_norm: normalise over the batch inside the U-Nets.
        coordinates: show the flows two images of the cells' places, too.
        cell_floor: added to a cell's energy before the logarithm, MeV; see :class:`~caloforge.representation.CellLogs`.
        cell_reference: cell energy whose variable is 0, MeV; likewise.
        cell_decades: decades of cell energy to a unit of its variable.
    """

    energy_flow: bool = True
    steps: Count = 8
    hidden_channels: Size = 32
    context_channels: Size = 8
    levels: Annotated[int, Field(ge=0, le=100)] = 2
    bins: Annotated[int, Field(ge=2)] = 10
    bound: Annotated[float, Field(gt=0)] = 15.0
    least: Annotated[float, Field(gt=0, lt=0.1)] = 1e-3
    batch_norm: bool = True
    coordinates: bool = True
    cell_floor: Annotated[float, Field(gt=0)] | None = None
    cell_reference: Annotated[float, Field(gt=0)] | None = None
    cell_decades: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.least * self.bins >= 1:
            raise ValueError(f"{self.bins} bins of at least {self.least:g} of the interval do not fit into it")
        return self


class ConvL2LFlows(LayerByLayer):
    """An energy flow and a convolutional coupling flow for every layer.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels, or no gun to take a missing ``incident_reference`` from, or layers of a
            single voxel whose energy no flow makes.
    """

    kind = "l2lflows-conv"
    Config = ConvL2LFlowsConfig
    differences = (
        MASKS,
        CUT_FIRST,
        Difference(
            "energies",
            "affine map, clamp and logit of each layer",
            "recursive fractions for up to ten layers, else single ones",
            "one part for all models",
        ),
        Difference(
            "cells",
            "divided by the layer's largest, clamped, log10 with 1e-7, logit with 1e-2",
            "log10 alone",
            "exact inverse",
        ),
        Difference(
            "coordinates",
            "none",
            "two images of the cells' places",
            "cells know where they are",
            "coordinates",
            (False, True),
        ),
    )
    config: ConvL2LFlowsConfig

    def __init__(self, config: ConvL2LFlowsConfig, detector: Detector) -> None:
        super().__init__(config, detector, energy_flow=config.energy_flow)

    def layer_flow(self, group: tuple[int, ...]) -> LayerFlow | None:
        """See :meth:`caloforge.parts.layer_voxels.LayerByLayer.layer_flow`."""
        if self.detector.readout.layer_sizes[group[0]] > 1:
            return _ConvolutionalLayer(self, group)
        if not self.config.energy_flow:
            raise ConfigError(f"layer {group[0]} of '{self.detector.name}' has one voxel, so it needs 'energy_flow'")
        return None

    @property
    def counts_deposits(self) -> bool:
        """Whether the likelihood is one of as many variables as there are deposits."""
        return self.energies is None

    def describe_layers(self) -> dict[str, Any]:
        """See :meth:`caloforge.parts.layer_voxels.LayerByLayer.describe_layers`."""
        return _cell_logs(self, 0).describe()


def _cell_logs(model: ConvL2LFlows, layer: int) -> CellLogs:
    config = model.config
    return CellLogs(
        config,
        model.detector,
        layer=layer,
        floor=config.cell_floor,
        reference=config.cell_reference,
        decades=config.cell_decades,
    )


class _ConvolutionalLayer(LayerFlow):
    """Logarithms of the cells' energies of one layer, or of any of a group, from a convolutional flow."""

    coordinates: Tensor
    flow: ConvolutionalFlow

    def __init__(self, model: ConvL2LFlows, group: tuple[int, ...]) -> None:
        super().__init__()
        config, readout, number = model.config, model.detector.readout, group[0]
        self.shape = readout.layer_shapes[number]
        self.cells = _cell_logs(model, number)
        self.features = self.cells.features
        self.previous = model.previous_shapes(number)
        self.scalars = 2 if config.energy_flow else 1
        self.place = LayerEmbedding(len(group)) if len(group) > 1 else None
        lines = [torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1) for side in self.shape]
        coordinates = torch.stack(torch.meshgrid(*lines, indexing="ij"))
        self.register_buffer("coordinates", coordinates if config.coordinates else coordinates[:0], persistent=False)
        images = self.scalars + len(self.previous) + len(self.coordinates)
        self.flow = ConvolutionalFlow(
            self.shape,
            images + (self.place.features if self.place else 0),
            steps=config.steps,
            hidden_channels=config.hidden_channels,
            context_channels=config.context_channels,
            levels=config.levels,
            splines=SplineSettings(config.bins, config.bound, config.least, config.least, config.least),
            periodic=isinstance(readout.layers[number].grid, PolarGrid),
            batch_norm=config.batch_norm,
        )

    def encode(self, noisy: Tensor) -> EncodedShares:
        return self.cells.encode(noisy)

    def _images(self, conditions: Tensor) -> Tensor:
        """All conditions as images of this layer's shape, (N, K, H, W)."""
        rows = conditions.shape[0]
        numbers, start = conditions[:, : self.scalars], self.scalars
        if self.place is not None:
            numbers, start = torch.cat([numbers, self.place(conditions[:, start])], dim=1), start + 1
        images = [numbers[:, :, None, None].expand(-1, -1, *self.shape)]
        for height, width in self.previous:
            image = conditions[:, start : start + height * width].reshape(rows, 1, height, width)
            start += height * width
            # Layers with other cells: averages, or repetitions, over the same relative area.
            same = (height, width) == self.shape
            images.append(image if same else nn.functional.adaptive_avg_pool2d(image, self.shape))
        images.append(self.coordinates.to(conditions.dtype).expand(rows, -1, -1, -1))
        return torch.cat(images, dim=1)

    def log_prob(self, y: Tensor, conditions: Tensor) -> Tensor:
        return self.flow.log_prob(y.reshape(-1, *self.shape), self._images(conditions))

    def sample(self, latents: Tensor, conditions: Tensor) -> Tensor:
        image, _ = self.flow.inverse(latents, self._images(conditions))
        return image.flatten(1)

    def decode(self, y: Tensor, energy: Tensor | None) -> Tensor:
        return self.cells.decode(y, energy)
