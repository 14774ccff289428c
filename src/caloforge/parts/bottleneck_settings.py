"""Settings that both models with a bounded-information-bottleneck autoencoder have."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from caloforge.models import ModelConfig
from caloforge.parts.flows import FlowSize
from caloforge.representation import CellUnitsKind
from caloforge.validation import Count, Size

__all__ = ["BottleneckConfig", "BottleneckNetwork", "LatentSampling"]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

#: Networks of a publication; convolutions of our own; none; or none where cells are few or layers unequal (``auto``).
BottleneckNetwork = Literal["published", "auto", "convolutions", "dense"]

#: What is drawn when showers are made. ``normal``: standard normal latents. ``total``: the energy of the shower and the latents
#: from a flow. ``layers``: the energies of the layers and the latents from a flow.
LatentSampling = Literal["normal", "total", "layers"]


class BottleneckConfig(ModelConfig):
    """Configuration that both models share.

    Attributes:
        network: see ``BottleneckNetwork``.
        cells: how deposits become numbers, see :class:`~caloforge.representation.CellUnits`; ``shares`` need ``sampling`` layers.
        cell_unit: see there; also the unit in which the post-processor compares cells.
        conditions: energies in GeV and angles in degrees (``raw``), or logarithms and components of the direction (``scaled``).
        incident_reference: incident energy whose logarithm is 0, MeV; None takes the logarithmic middle of the gun's.
        sampling: see ``LatentSampling``. Energies that a flow draws are conditions of the networks, and kept by what follows.
        cut: threshold on cells, MeV; None takes the detector's analysis threshold.
        cut_first: apply the threshold to the training data too.
        latents: learnt latents.
        noise_latents: standard normal numbers beside them.
        cell_noise: whether every cell has a normal number of its own, too; not with the published network.
        cell_bend: cells x, of the numbers n that the decoder makes, are b (exp(n / b) - 1); None: n.
        hidden: widths of the dense layers of the encoder; the decoder has them the other way round.
        channels: of the encoder's first convolution and the decoder's start.
        difference: whether the ``critics`` see how a shower behind the autoencoder differs from that in front of it, or the
            ``likelihood`` of the latter is a loss: of cells that are normal numbers, and zero where these are negative.
        difference_weight: weight of that loss.
        critics: 2 adds a critic that begins anew in every epoch.
        critic_channels: of the critics' convolutions.
        critic_width: of their hidden layers.
        critic_steps: steps of all critics for each of the autoencoder.
        gradient_penalty: weight of the critics' gradient penalty.
        latent_terms: whether latent critic and discrepancy see ``all`` latents or the ``learnt`` ones.
        latent_critic_weight: weight of the latent critic.
        kl_weight: weight of the Kullback-Leibler divergence of the latents from normal ones.
        discrepancy_weight: weight of their discrepancy from normal ones.
        post_layers: convolutions of the post-processor.
        post_width: its channels.
        post_residual: whether it changes the cells, or makes them anew.
        hits: whether it compares cells by ``energy`` or by ``logarithm``, ln(1 + energy), in units of ``cell_unit``.
        hit_kernels: kernels of the discrepancy of cells: their inverse squared widths.
        hit_weight: weight of that discrepancy, for every kernel; 1 is that of the squared change of the cells.
        hit_window: ranks of a window of sorted cells.
        hit_stride: ranks between the beginnings of windows.
        hit_ranks: windows begin within so many first ranks.
        sorted_weight: weight of the squared and of the absolute differences of the sorted cells.
        warm_up: epochs in which the post-processor learns to change nothing.
        flow: size of the flow of energies and latents.
    """

    network: BottleneckNetwork = "auto"
    cells: CellUnitsKind = "shares"
    cell_unit: Positive | None = None
    conditions: Literal["raw", "scaled"] = "scaled"
    incident_reference: Positive | None = None
    sampling: LatentSampling = "layers"
    cut: NotNegative | None = None
    cut_first: bool = True
    latents: Size = 24
    noise_latents: Size = 104
    cell_noise: bool = True
    cell_bend: Positive | None = 1.0
    hidden: Annotated[tuple[Size, ...], Field(min_length=1, max_length=100)] = (512, 256)
    channels: Size = 8
    difference: Literal["critics", "likelihood"] = "likelihood"
    difference_weight: NotNegative = 10.0
    critics: Annotated[int, Field(ge=1, le=2)] = 2
    critic_channels: Size = 64
    critic_width: Annotated[int, Field(ge=4, le=1_000_000)] = 256
    critic_steps: Count = 5
    gradient_penalty: NotNegative = 10.0
    latent_terms: Literal["all", "learnt"] = "learnt"
    latent_critic_weight: NotNegative = 100.0
    kl_weight: NotNegative = 0.1
    discrepancy_weight: NotNegative = 100.0
    post_layers: Annotated[int, Field(ge=3, le=10_000)] = 6
    post_width: Size = 128
    post_residual: bool = True
    hits: Literal["energy", "logarithm"] = "logarithm"
    hit_kernels: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=10)] = (8.0, 0.8)
    hit_weight: NotNegative = 5.0
    hit_window: Count = 100
    hit_stride: Count = 25
    hit_ranks: Size = 2000
    sorted_weight: NotNegative = 10.0
    warm_up: Annotated[int, Field(ge=0)] = 1
    flow: FlowSize = FlowSize(blocks=6, hidden_features=96, hidden_layers=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cells == "shares" and self.sampling != "layers":
            raise ValueError(
                "cells as shares of their layers need the energies of the layers: sampling must be 'layers'"
            )
        if self.network == "published" and self.cell_noise:
            raise ValueError("the published network has no 'cell_noise'")
        return self
