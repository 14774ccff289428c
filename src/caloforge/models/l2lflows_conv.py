"""Convolutional L2LFlows: layer energies, then one convolutional coupling flow per layer (arXiv:2405.20407).

Each layer is an image; the layers before it are further images that the flow is shown. docs/models/l2lflows.md says where
the defaults differ from the publication and why.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from caloforge.detectors import Detector, PolarGrid
from caloforge.errors import ConfigError
from caloforge.models.coupling_start import start_convolutions_from_marginals
from caloforge.models.layer_by_layer import LayerByLayer, LayerByLayerConfig, LayerFlow, WhichLayer
from caloforge.models.registry import register
from caloforge.nn.convolutional import ConvolutionalFlow
from caloforge.transforms import LayerSums, clean_layer_energies, cut_layers

__all__ = ["ConvL2LFlows", "ConvL2LFlowsConfig"]

Size = Annotated[int, Field(ge=1, le=1_000_000)]
#: Of things that are made one after the other.
Count = Annotated[int, Field(ge=1, le=10_000)]


class ConvL2LFlowsConfig(LayerByLayerConfig):
    """Configuration of convolutional L2LFlows; the keys of :class:`LayerByLayerConfig`, and these.

    Attributes:
        steps: steps of activation norm, coupling and 1 x 1 convolution in each layer's flow.
        hidden_channels: channels of the U-Nets' first level.
        context_channels: channels of the context behind its network.
        levels: most levels of the U-Nets.
        bins: spline bins.
        bound: the splines act on [-bound, bound].
        least: smallest relative bin width and height and smallest interior derivative.
        batch_norm: normalise over the batch inside the U-Nets.
        coordinates: show the flows two images of the cells' places, too.
        cell_floor: added to a cell's energy before the logarithm, MeV; None takes a tenth of ``noise``, or a hundredth of
            the threshold if there is no noise.
        cell_reference: cell energy whose variable is 0, MeV; None takes ten times the threshold.
        cell_decades: decades of cell energy to a unit of its variable.
    """

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


@register("l2lflows-conv")
class ConvL2LFlows(LayerByLayer):
    """An energy flow and a convolutional coupling flow for every layer.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels, or no gun to take a missing ``incident_reference`` from, or layers of a
            single voxel whose energy no flow makes.
    """

    Config = ConvL2LFlowsConfig
    config: ConvL2LFlowsConfig

    def __init__(self, config: ConvL2LFlowsConfig, detector: Detector) -> None:
        super().__init__(config, detector)

    def layer_flow(self, group: tuple[int, ...]) -> LayerFlow | None:
        """See :meth:`caloforge.models.layer_by_layer.LayerByLayer.layer_flow`."""
        if self.sums.layer_sizes[group[0]] > 1:
            return _ConvolutionalLayer(self, group)
        if not self.config.energy_flow:
            raise ConfigError(f"layer {group[0]} of '{self.detector.name}' has one voxel, so it needs 'energy_flow'")
        return None

    @property
    def cell_floor(self) -> float:
        """What is added to a cell's energy before the logarithm, MeV."""
        return self.config.cell_floor or (self.config.noise / 10 if self.config.noise else self.least / 100)

    @property
    def cell_reference(self) -> float:
        """Cell energy whose variable is 0, MeV."""
        return self.config.cell_reference or 10 * self.least

    def describe_layers(self) -> list[dict[str, Any]]:
        """See :meth:`caloforge.models.layer_by_layer.LayerByLayer.describe_layers`."""
        return [
            {
                "transform": "log10 energy of cells",
                "floor_MeV": self.cell_floor,
                "reference_MeV": self.cell_reference,
                "decades": self.config.cell_decades,
            }
        ]


class _ConvolutionalLayer(LayerFlow):
    """Logarithms of the cells' energies of one layer, or of any of a group, from a convolutional flow."""

    places: Tensor

    def __init__(self, model: ConvL2LFlows, group: tuple[int, ...]) -> None:
        super().__init__()
        config, readout, number = model.config, model.detector.readout, group[0]
        self.shape = readout.layer_shapes[number]
        self.features = readout.layer_sizes[number]
        self.before = model.seen(number)
        self.scalars = 2 if config.energy_flow else 1
        self.which = WhichLayer(len(group)) if len(group) > 1 else None
        self.floor, self.decades = model.cell_floor, config.cell_decades
        self.middle = math.log10(model.cell_reference)
        self.noise, self.energy_noise, self.cut = config.noise, config.energy_noise, model.least
        self.shift = model.layer_shift(number)
        self.sums = LayerSums((self.features,))
        lines = [torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1) for side in self.shape]
        places = torch.stack(torch.meshgrid(*lines, indexing="ij"))
        self.register_buffer("places", places if config.coordinates else places[:0], persistent=False)
        self.flow = ConvolutionalFlow(
            self.shape,
            self.scalars + len(self.before) + len(self.places) + (self.which.features if self.which else 0),
            steps=config.steps,
            hidden_channels=config.hidden_channels,
            context_channels=config.context_channels,
            levels=config.levels,
            bins=config.bins,
            bound=config.bound,
            periodic=isinstance(readout.layers[number].grid, PolarGrid),
            batch_norm=config.batch_norm,
            least=config.least,
        )

    def variables(self, noisy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shifted = noisy.clamp_min(0) + self.floor
        y = (torch.log10(shifted) - self.middle) / self.decades
        logdet = -torch.log(shifted).sum(dim=1) - self.features * math.log(math.log(10) * self.decades)
        return y, logdet, (noisy >= 0).all(dim=1)

    def _images(self, conditions: Tensor) -> Tensor:
        """Everything the flow is shown as images of this layer's shape, (N, K, H, W)."""
        rows = conditions.shape[0]
        numbers, start = conditions[:, : self.scalars], self.scalars
        if self.which is not None:
            numbers, start = torch.cat([numbers, self.which(conditions[:, start])], dim=1), start + 1
        images = [numbers[:, :, None, None].expand(-1, -1, *self.shape)]
        for height, width in self.before:
            image = conditions[:, start : start + height * width].reshape(rows, 1, height, width)
            start += height * width
            # Layers with other cells: averages, or repetitions, over the same relative area.
            same = (height, width) == self.shape
            images.append(image if same else nn.functional.adaptive_avg_pool2d(image, self.shape))
        images.append(self.places.to(conditions.dtype).expand(rows, -1, -1, -1))
        return torch.cat(images, dim=1)

    def log_prob(self, y: Tensor, conditions: Tensor) -> Tensor:
        return self.flow.log_prob(y.reshape(-1, *self.shape), self._images(conditions))

    def sample(self, latents: Tensor, conditions: Tensor) -> Tensor:
        image, _ = self.flow.inverse(latents, self._images(conditions))
        return image.flatten(1)

    def restore(self, y: Tensor, energy: Tensor | None) -> Tensor:
        estimates = torch.pow(10.0, y.double() * self.decades + self.middle) - self.floor - self.noise / 2
        margin = self.noise / 2
        if energy is None:
            lit = estimates >= self.cut - margin
            return torch.where(lit, self.cut + (estimates - self.cut).abs(), torch.zeros_like(estimates))
        shift = energy.new_tensor([self.shift])
        clean = clean_layer_energies(energy, energy_noise=self.energy_noise, energy_shift=shift, cut=self.cut)
        return cut_layers(estimates, clean, self.cut, self.sums, margin=margin)

    def start_from(self, y: Tensor, *, splines: bool) -> None:
        start_convolutions_from_marginals(self.flow, y.reshape(-1, *self.shape), splines=splines)
