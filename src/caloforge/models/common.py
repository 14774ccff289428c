"""What several flow models share: sizes of autoregressive flows, reference energies, the stage that fits the scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from caloforge.detectors import Detector, Readout
from caloforge.errors import ConfigError
from caloforge.models.base import Latents, ModelConfig
from caloforge.models.conditions import Conditions
from caloforge.nn.autoregressive import AutoregressiveFlow, MaskedAutoregressiveFlow
from caloforge.nn.inverse_autoregressive import InverseAutoregressiveFlow
from caloforge.random import Streams
from caloforge.stage import FitStage, TrainingData
from caloforge.transforms import EnergyFractions, EnergyScale, Logit, LogMargin, SingleFractions

__all__ = [
    "LEAST_DEPOSIT",
    "FlowSize",
    "FractionsKind",
    "ScaleStage",
    "autoregressive_flow",
    "axis_voxels",
    "check_margin",
    "check_noise",
    "check_voxels",
    "energy_fractions",
    "middle_energy",
    "normal_latents",
]

#: No deposit is smaller than this (MeV): the threshold where neither detector nor noise gives one.
LEAST_DEPOSIT = 1e-6

#: Up to so many layers ``auto`` takes recursive energy fractions.
_FEW_LAYERS = 10

#: How layer energies become variables. ``recursive``: their sum is bounded; ``single``: the energy of each layer over the most
#: that can be deposited. Where deep layers are often empty, recursive ones are ratios of noise and hard to learn. ``auto``
#: takes recursive ones for up to ten layers.
FractionsKind = Literal["recursive", "single", "auto"]

Size = Annotated[int, Field(ge=1, le=1_000_000)]
#: Of things that are made one after the other.
Count = Annotated[int, Field(ge=1, le=10_000)]


class FlowSize(ModelConfig):
    """Size of one autoregressive flow.

    Attributes:
        blocks: autoregressive blocks.
        hidden_features: units of each hidden layer.
        hidden_layers: masked layers between the first hidden layer and the output.
        bins: spline bins.
        bound: the splines act on [-bound, bound].
        dropout: dropout probability while training.
    """

    blocks: Count
    hidden_features: Size
    hidden_layers: Annotated[int, Field(ge=0, le=10_000)] = 1
    bins: Annotated[int, Field(ge=2)] = 8
    bound: Annotated[float, Field(gt=0)] = 14.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


def autoregressive_flow(
    size: FlowSize,
    features: int,
    context_features: int,
    masks: Literal["even", "published"],
    permutations: Sequence[Any],
    *,
    inverse: bool = False,
) -> AutoregressiveFlow:
    """An autoregressive flow of a given size, with random weights.

    Args:
        size: its size.
        features: number of features.
        context_features: number of conditions.
        masks: as for ``AutoregressiveFlow``.
        permutations: likewise.
        inverse: an inverse autoregressive flow, fast in sampling, instead of a masked one, fast in its density.
    """
    return (InverseAutoregressiveFlow if inverse else MaskedAutoregressiveFlow)(
        features=features,
        context_features=context_features,
        blocks=size.blocks,
        hidden_features=size.hidden_features,
        hidden_layers=size.hidden_layers,
        bins=size.bins,
        bound=size.bound,
        dropout=size.dropout,
        masks=masks,
        permutations=permutations,
    )


def energy_fractions(wanted: FractionsKind, layers: int) -> EnergyFractions | SingleFractions:
    """How the energies of so many layers become the variables of a flow."""
    few = wanted == "recursive" or (wanted == "auto" and layers <= _FEW_LAYERS)
    return EnergyFractions() if few else SingleFractions()


def normal_latents(sizes: Mapping[str, int], conditions: Conditions, streams: Streams) -> Latents:
    """Standard normal numbers of several flows, (N, size) each, float32, from a stream of each one's name."""
    return {
        name: torch.from_numpy(streams.child(name).normal(conditions.index, size, attempts=conditions.attempt))
        for name, size in sizes.items()
    }


def middle_energy(detector: Detector) -> float:
    """Logarithmic middle of the gun's energy range, MeV.

    Raises:
        ConfigError: if the detector has no gun.
    """
    if detector.gun is None:
        raise ConfigError(
            f"the detector '{detector.name}' has no gun, so the model needs 'incident_reference', a typical energy in MeV"
        )
    spectrum = detector.gun.spectrum
    return math.sqrt(spectrum.minimum * spectrum.maximum)


def check_voxels(kind: str, detector: Detector) -> None:
    """Refuse a detector without voxels.

    Raises:
        ConfigError: naming the kind of the model and the detector.
    """
    if not detector.readout.has_voxels:
        raise ConfigError(f"the model '{kind}' needs voxels, the detector '{detector.name}' is read out as points")


def check_noise(noise: float, energy_noise: float, energy_noise_per: str, *, drop_voxel: bool) -> None:
    """Refuse settings of the noise that contradict each other.

    If the energies of the layers are the sums of their noisy voxels, they have no noise of their own. Only then does a voxel
    that is left out follow from the others.

    Args:
        noise: width of the noise on the voxels, MeV.
        energy_noise: width of the noise on the energies, MeV.
        energy_noise_per: ``voxel`` or ``layer``.
        drop_voxel: whether one voxel of each layer is left out.

    Raises:
        ValueError: naming the settings, for pydantic to say where they stand.
    """
    if drop_voxel and (energy_noise_per != "voxel" or energy_noise != noise):
        raise ValueError(
            "'drop_voxel' needs layer energies that are the sums of the noisy voxels: "
            "'energy_noise_per' voxel and 'energy_noise' equal to 'noise'"
        )
    if energy_noise_per == "voxel" and energy_noise != noise:
        raise ValueError(
            f"with 'energy_noise_per' voxel the layer energies are the sums of the noisy voxels, so 'energy_noise' "
            f"({energy_noise:g} MeV) must equal 'noise' ({noise:g} MeV)"
        )


def check_margin(margin: Logit | LogMargin, bound: float, flow: str) -> None:
    """Refuse a margin whose logits or logarithms of empty voxels and layers lie beyond the splines that learn them.

    Splines are the identity outside their interval, so a flow would learn nothing there, without a word.

    Args:
        margin: the last step of the preprocessing.
        bound: the splines act on [-bound, bound].
        flow: name of the flow.

    Raises:
        ConfigError: naming the margin, how far it reaches, and the bound.
    """
    if margin.reach > bound:
        name = "logit" if isinstance(margin, Logit) else "logarithm"
        raise ConfigError(
            f"a {name} with the margin {margin.alpha:g} reaches {margin.reach:.1f}, where the splines of the flow '{flow}', "
            f"which end at {bound:g}, learn nothing: the margin or the bound must be larger"
        )


def axis_voxels(readout: Readout) -> list[int]:
    """Flat number of the voxel of each layer that lies nearest to the axis: bright in almost every shower."""
    distance = np.hypot(*readout.centres()[:, :2].T)
    return [where.start + int(distance[where].argmin()) for where in readout.layer_slices]


class ScaleStage(FitStage):
    """The most that a shower deposits: fitted, or checked against the training data.

    Args:
        path: where the scale stands in the model.
        scale: the scale.
        energies: layer energies (N, L), MeV, of deposits (N, V), MeV, as the model learns them.
    """

    def __init__(self, path: str, scale: EnergyScale, energies: Callable[[Tensor], Tensor]) -> None:
        super().__init__("scale", {path: scale})
        self.path, self.scale, self.energies = path, scale, energies

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.FitStage.fit`."""
        rows = ((self.energies(batch.deposits).sum(dim=1), batch.incident_energy) for batch in data)
        return {f"{self.path}.{name}": value for name, value in self.scale.fit(rows).items()}
