"""Convolutional L2LFlows: layer energies, then one convolutional coupling flow per layer (arXiv:2405.20407).

Each layer is an image; the layers before it are further images that the flow is shown.
"""

from __future__ import annotations

from typing import Any

from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.models import Difference
from caloforge.parts.differences import MASKS
from caloforge.parts.layer_images import ConvolutionalLayer, LayerImages, LayerImagesConfig
from caloforge.parts.layer_voxels import LayerFlow

__all__ = ["ConvL2LFlows", "ConvL2LFlowsConfig"]


class ConvL2LFlowsConfig(LayerImagesConfig):
    """Configuration: the keys of :class:`~caloforge.parts.layer_images.LayerImagesConfig`; its sizes are the published ones."""


class ConvL2LFlows(LayerImages):
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
        Difference(
            "energies",
            "affine map, clamp and logit of each layer; Gaussian noise of 1 +- 0.2 keV",
            "fractions of what the shower can deposit; uniform noise of 1 keV",
            "one part for all models; constants of the map are not known for both detectors (in both profiles)",
        ),
        Difference(
            "cells",
            "over the layer's largest (of the first batch; here of all rows), clamped, log10 with 1e-7, over 7 plus 1, logit "
            "with 0.01; the brightest are kept",
            "log10 alone; cut and rescaled in one step",
            "exact inverse; nothing is clamped",
            "cells",
            ("logits", "logarithms"),
        ),
        Difference(
            "noise on cells",
            "empty ones log-normal about 1 keV, others uniform",
            "uniform in [0, 1 keV) on all (in both profiles)",
            "the likelihood knows one noise",
        ),
        Difference(
            "what a layer sees of those before it",
            "their variables, with noise, as the flow made them",
            "ln(1 + d / cut) / 5 of their deposits behind the cut (goes with the cells)",
            "what is generated is what is seen",
        ),
        Difference(
            "end of the U-Nets",
            "a 3 x 3 convolution to the spline parameters; nothing but an activation at the bottom",
            "two 3 x 3 convolutions and a 1 x 1; a block at a bottom of several pixels",
            "faster: the widest convolution has a ninth of the products",
            "network",
            ("published", "slim"),
        ),
        Difference(
            "context network",
            "no activation at its end; none for the first layer",
            "an activation, and one for every layer (goes with the network)",
            "layers may share a flow",
        ),
        Difference(
            "1 x 1 convolutions",
            "L U with a bias behind a random permutation, as which it starts",
            "P L U, starts as a random rotation (goes with the network)",
            "mixes the channels from the first step",
        ),
        Difference(
            "incident energy as a condition",
            "2 log10(E / GeV) - 3",
            "log10(E / reference)",
            "one expression for all models",
            "incident_factor",
            (2.0, 1.0),
        ),
        Difference(
            "its zero",
            "31.6 GeV",
            "the middle of the gun's",
            "constants belong to data",
            "incident_reference",
            (3.1622776601683795e4, None),
        ),
        Difference(
            "energy of the layer as a condition",
            "log10(E_k / GeV + 1e-6) + 1",
            "a tenth of that reference is 0",
            "constants belong to data",
            "layer_reference",
            (100.0, None),
        ),
        Difference(
            "coordinates",
            "none",
            "two images of the cells' places",
            "cells know where they are",
            "coordinates",
            (False, True),
        ),
        Difference(
            "spectrum of cells (ILD)",
            "a map of it behind the flow, from 128 quantiles of 100,000 showers",
            "no map (in both profiles)",
            "it would hide what the flow does not learn",
        ),
    )
    config: ConvL2LFlowsConfig

    def __init__(self, config: ConvL2LFlowsConfig, detector: Detector) -> None:
        super().__init__(config, detector)

    def layer_flow(self, group: tuple[int, ...]) -> LayerFlow | None:
        """See :meth:`caloforge.parts.layer_voxels.LayerByLayer.layer_flow`."""
        if self.detector.readout.layer_sizes[group[0]] > 1:
            return ConvolutionalLayer(self, group)
        if not self.config.energy_flow:
            raise ConfigError(f"layer {group[0]} of '{self.detector.name}' has one voxel, so it needs 'energy_flow'")
        return None

    @property
    def counts_deposits(self) -> bool:
        """Whether the likelihood is one of as many variables as there are deposits."""
        return self.energies is None

    def describe_layers(self) -> dict[str, Any]:
        """See :meth:`caloforge.parts.layer_voxels.LayerByLayer.describe_layers`."""
        return self.cells(0).describe()
