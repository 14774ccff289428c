"""Layers of showers as images, each from a convolutional coupling flow that sees the images before it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from caloforge.detectors import Detector, PolarGrid
from caloforge.nn.convolutional import ConvolutionalFlow
from caloforge.nn.splines import SplineSettings
from caloforge.parts.layer_voxels import LayerByLayer, LayerByLayerConfig, LayerEmbedding, LayerFlow
from caloforge.random import Streams
from caloforge.representation import CellLogits, CellLogs, CellScale, EncodedShares
from caloforge.stage import FitStage, Stage, TrainingConfig, TrainingData, deposits_of
from caloforge.validation import Count, Size

__all__ = ["ConvolutionalLayer", "LayerImages", "LayerImagesConfig"]


class LayerImagesConfig(LayerByLayerConfig):
    """Configuration: the keys of :class:`~caloforge.parts.layer_voxels.LayerByLayerConfig`, and these.

    Attributes:
        energy_flow: see :class:`~caloforge.parts.layer_voxels.LayerByLayer`.
        incident_factor: on the logarithm of the incident energy as a condition.
        network: U-Nets, context and 1 x 1 convolutions, ``published`` or ``slim``, with fewer numbers at the U-Nets' end.
        cells: how cells become variables, which are also what later layers see of published ones: ``logits`` or ``logarithms``.
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
    incident_factor: Annotated[float, Field(gt=0)] = 1.0
    network: Literal["slim", "published"] = "slim"
    cells: Literal["logarithms", "logits"] = "logarithms"
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
        if self.share and self.cells == "logits":
            raise ValueError(
                "logits are relative to the largest cell of a layer, so 'share' and 'cells' logits exclude each other"
            )
        return self


class LayerImages(LayerByLayer):
    """An energy flow and a convolutional flow for every layer.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: as :class:`~caloforge.parts.layer_voxels.LayerByLayer` does.
    """

    config: LayerImagesConfig
    scale: CellScale | None

    def __init__(self, config: LayerImagesConfig, detector: Detector) -> None:
        super().__init__(config, detector, energy_flow=config.energy_flow, incident_factor=config.incident_factor)
        self.sees_variables = self.scale is not None

    def make_shared(self) -> None:
        """See :meth:`caloforge.parts.layer_voxels.LayerByLayer.make_shared`."""
        self.scale = CellScale(self.detector.readout.n_layers) if self.config.cells == "logits" else None

    def cells(self, layer: int) -> CellLogs | CellLogits:
        """The representation of a layer's cells."""
        config = self.config
        if self.scale is not None:
            return CellLogits(config, self.detector, layer=layer, scale=self.scale)
        return CellLogs(
            config,
            self.detector,
            layer=layer,
            floor=config.cell_floor,
            reference=config.cell_reference,
            decades=config.cell_decades,
        )

    def seen(self, number: int, y: Tensor | None, deposits: Tensor) -> Tensor:
        """See :meth:`caloforge.parts.layer_voxels.LayerByLayer.seen`; with ``cells`` logits these logits."""
        if self.scale is None:
            return super().seen(number, y, deposits)
        seen: Tensor = self.cells(number).encode(deposits).y if y is None else y
        return seen.double()

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """As :meth:`caloforge.parts.layer_voxels.LayerByLayer.stages`; with ``cells`` logits, first a look at the largest."""
        stages = super().stages(training)
        if self.scale is None:
            return stages
        for stage in stages:
            if stage.name in self.layers:
                stage.needs = (*stage.needs, "cells")
        return [_CellScaleStage(self, self.scale), *stages]


class _CellScaleStage(FitStage):
    """The largest cell of every layer."""

    def __init__(self, model: LayerImages, scale: CellScale) -> None:
        super().__init__("cells", {"scale": scale})
        self.model, self.scale = model, scale

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.FitStage.fit`."""
        noise = self.model.dequantisation
        visible = (noise.visible(deposits_of(batch)) for batch in data)
        return {f"scale.{name}": value for name, value in self.scale.fit(visible, noise.sums).items()}


class ConvolutionalLayer(LayerFlow):
    """The cells of one layer, or of any of a group, from a convolutional flow.

    Args:
        model: the model.
        group: numbers of the layers.
    """

    coordinates: Tensor
    flow: ConvolutionalFlow

    def __init__(self, model: LayerImages, group: tuple[int, ...]) -> None:
        super().__init__()
        config, readout, number = model.config, model.detector.readout, group[0]
        self.shape = readout.layer_shapes[number]
        self.cells = model.cells(number)
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
            published=config.network == "published",
            plain_context=not self.previous and not len(self.coordinates),
        )

    def encode(self, noisy: Tensor) -> EncodedShares:
        """See :meth:`caloforge.parts.layer_voxels.LayerFlow.encode`."""
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
        """See :meth:`caloforge.parts.layer_voxels.LayerFlow.log_prob`."""
        return self.flow.log_prob(y.reshape(-1, *self.shape), self._images(conditions))

    def sample(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """See :meth:`caloforge.parts.layer_voxels.LayerFlow.sample`."""
        image, _ = self.flow.inverse(latents, self._images(conditions))
        return image.flatten(1)

    def decode(self, y: Tensor, energy: Tensor | None) -> Tensor:
        """See :meth:`caloforge.parts.layer_voxels.LayerFlow.decode`."""
        return self.cells.decode(y, energy)
