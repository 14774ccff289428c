"""Settings that all representations of voxels share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from caloforge.validation import Settings

__all__ = [
    "FractionSettings",
    "FractionsKind",
    "JointSettings",
    "LayerConditionSettings",
    "PostProcessing",
    "ShareSettings",
    "VoxelBasics",
    "VoxelSettings",
]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

#: How layer energies become variables. ``recursive``: their sum is bounded; ``single``: the energy of each layer over the most
#: that can be deposited. Where deep layers are often empty, recursive ones are ratios of noise and hard to learn. ``auto``
#: takes recursive ones for up to ten layers.
FractionsKind = Literal["recursive", "single", "auto"]

#: How the shares that a flow makes become deposits; see :class:`caloforge.representation.shares.VoxelShares`.
PostProcessing = Literal["exact", "renormalise", "multiply"]


class VoxelBasics(Settings):
    """How the voxels of a shower become numbers, and numbers voxels: what every representation needs.

    Attributes:
        noise: width of the uniform noise on each voxel in training, MeV.
        energy_noise: width of the noise on the layer energies that a flow learns, MeV.
        energy_noise_per: ``layer`` adds one such noise to the energy of each layer; ``voxel`` takes the sums of voxels with
            such noise, which shifts them by half the width for every voxel.
        alpha: margin of the logit.
        energy_scale: the most that a shower deposits, as a multiple of the incident energy; None fits it to the training
            data. 1 conserves energy exactly.
        extra_energy: energy that the particle brings beside its kinetic one, MeV.
        incident_reference: incident energy whose condition is 0, MeV; None takes the logarithmic middle of the gun's.
        cut: threshold on voxels, MeV; None takes the detector's analysis threshold.
        cut_first: apply the threshold to the training data too, so that the model learns what is left behind it.
    """

    noise: NotNegative = 1e-3
    energy_noise: NotNegative = 1e-3
    energy_noise_per: Literal["layer", "voxel"] = "layer"
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6
    energy_scale: Positive | None = None
    extra_energy: NotNegative = 0.0
    incident_reference: Positive | None = None
    cut: NotNegative | None = None
    cut_first: bool = True


class FractionSettings(VoxelBasics):
    """Of models that may choose how layer energies become variables.

    Attributes:
        energy_fractions: how, see ``FractionsKind``.
    """

    energy_fractions: FractionsKind = "auto"


class LayerConditionSettings(VoxelBasics):
    """Of models that have layer energies as conditions.

    Attributes:
        layer_reference: layer energy whose condition is 0, MeV; None takes a tenth of ``incident_reference``.
        layer_offset: added to layer energies before the logarithm, MeV.
    """

    layer_reference: Positive | None = None
    layer_offset: Positive = 1e-3


class ShareSettings(VoxelBasics):
    """Of models that learn voxels as shares of their layer.

    Attributes:
        drop_voxel: leave out one voxel per layer, which makes the likelihood one of the deposits themselves.
    """

    drop_voxel: bool = False


class JointSettings(FractionSettings, ShareSettings):
    """Of models that learn shares and fractions together."""


class VoxelSettings(JointSettings, LayerConditionSettings):
    """All of these."""
