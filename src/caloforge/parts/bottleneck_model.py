"""A shower model around a bounded-information-bottleneck autoencoder (arXiv:2005.05334): what both publications share.

An encoder makes latents of a shower, of which critics, a divergence and a discrepancy make standard normal numbers; a decoder
makes a shower of latents, conditions and further normal numbers; critics say whether it looks like the one that was encoded; a
post-processor corrects the energies of single cells. Where the latents are not normal after all, a flow draws them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from caloforge.conditions import Conditions
from caloforge.detectors import Detector, PolarGrid
from caloforge.errors import ConfigError
from caloforge.models import Latents, ShowerModel
from caloforge.nn.bottleneck import (
    BottleneckDecoder,
    BottleneckEncoder,
    ConvolutionStack,
    DenseHead,
    Flat,
    Grid,
    GridHead,
    PlainHead,
    PostProcessor,
    Recipe,
    critic_steps,
    encoder_steps,
)
from caloforge.nn.bottleneck_critics import LatentCritic, PairCritic
from caloforge.parts.adversarial import rows_of
from caloforge.parts.bottleneck_settings import BottleneckConfig
from caloforge.parts.checks import check_voxels
from caloforge.parts.flows import normal_latents
from caloforge.parts.latent_flow import LatentFlow
from caloforge.parts.separations import Separations
from caloforge.random import Streams
from caloforge.representation import (
    CellUnits,
    Dequantisation,
    EnergyConditions,
    LayerConditionSettings,
    LayerSums,
    clean_layer_energies,
    conditions_of,
    cut_layers,
)
from caloforge.stage import TrainingBatch, deposits_of

__all__ = ["BottleneckModel", "Reconstruction"]

#: More cells than this are worth convolutions.
_MANY_CELLS = 1000


class Reconstruction(NamedTuple):
    """What a pass through the autoencoder makes of training rows.

    Attributes:
        cells: cells, (B, V).
        centre: what they are before they are made not negative and fluctuate, (B, V).
        spread: how much they fluctuate, (B, V).
        mean: of the learnt latents, (B, D).
        log_variance: logarithm of their variance, (B, D).
        latents: all that the decoder had, (B, D + M).
    """

    cells: Tensor
    centre: Tensor
    spread: Tensor
    mean: Tensor
    log_variance: Tensor
    latents: Tensor


class BottleneckModel(ShowerModel):
    """Autoencoder, critics, post-processor and flow.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Attributes:
        recipe: of the published networks, see :mod:`caloforge.nn.bottleneck`.
        knows_direction: whether the direction of the particle is a condition.
        post_norm: whether the post-processor has layer norms.
        post_bias: whether its last convolution has a bias.
        hidden_layers: number of hidden layers of the critics.

    Raises:
        ConfigError: if the detector has no voxels, or layers of unequal shape where convolutions are asked for, or no gun to take
            a missing ``incident_reference`` from.
    """

    recipe: ClassVar[Recipe]
    knows_direction: ClassVar[bool]
    post_norm: ClassVar[bool]
    post_bias: ClassVar[bool]
    hidden_layers: ClassVar[int]
    config: BottleneckConfig

    def __init__(self, config: BottleneckConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        check_voxels(self.kind, detector)
        readout = detector.readout
        basics = LayerConditionSettings(
            noise=0.0, incident_reference=config.incident_reference, cut=config.cut, cut_first=config.cut_first
        )
        self.dequantisation = Dequantisation(basics, detector)
        self.energy_conditions = EnergyConditions(basics, detector)
        self.sums = LayerSums(readout.layer_sizes)
        self.units = CellUnits(detector, config.cells, config.cell_unit)
        self.network = self._network()
        drawn = {"normal": 0, "total": 1, "layers": readout.n_layers}[config.sampling]
        #: Energy of the particle, its direction, and what is drawn of the shower's energies.
        self.conditions = 1 + self.direction_features + (readout.n_layers if config.sampling == "layers" else 0)
        self.encoder = BottleneckEncoder(self._body(), self.conditions, config.hidden, config.latents)
        self.decoder = BottleneckDecoder(
            config.latents + config.noise_latents,
            self.conditions,
            config.hidden,
            self.head(config.hidden[0]),
            cell_noise=config.cell_noise,
            bend=config.cell_bend,
        )
        self.critic = self._critic()
        self.fresh_critic = self._critic() if config.critics == 2 else None
        self.latent_critic = LatentCritic()
        self.post_processor = PostProcessor(
            readout.n_voxels,
            self.conditions + (config.sampling == "total"),
            width=config.post_width,
            layers=config.post_layers,
            norm=self.post_norm and not config.post_residual,
            last_bias=self.post_bias,
            residual=config.post_residual,
        )
        self.separations = Separations(detector)
        self.flow = None
        if drawn:
            self.flow = LatentFlow(config, drawn, 1 + self.direction_features, basics)

    # ---- networks ---------------------------------------------------------------------------------------------------

    @property
    def direction_features(self) -> int:
        """Number of conditions that say where the particle flies."""
        if not self.knows_direction:
            return 0
        return 2 if self.config.conditions == "raw" else 3

    @property
    def grid(self) -> Grid:
        """Layers, rows and columns.

        Raises:
            ConfigError: if the layers are not all of one shape.
        """
        readout = self.detector.readout
        shapes = set(readout.layer_shapes)
        if len(shapes) != 1:
            raise ConfigError(
                f"the model '{self.kind}' has convolutions only where all layers have one shape; those of "
                f"'{self.detector.name}' do not: the network must be 'dense'"
            )
        return (readout.n_layers, *shapes.pop())

    def _network(self) -> str:
        """Which network it is, if the configuration leaves it open."""
        readout, wanted = self.detector.readout, self.config.network
        if wanted != "auto":
            return wanted
        large = readout.n_voxels > _MANY_CELLS and len(set(readout.layer_shapes)) == 1
        return "convolutions" if large else "dense"

    @property
    def periodic(self) -> bool:
        """Whether the rows of cells close on themselves, as the sectors of a polar grid do."""
        return isinstance(self.detector.readout.layers[0].grid, PolarGrid)

    def _body(self) -> ConvolutionStack | Flat:
        channels = self.config.channels
        if self.network == "dense":
            return Flat(self.detector.readout.n_voxels)
        if self.network == "published":
            return ConvolutionStack(self.grid, encoder_steps(self.recipe, self.grid, channels))
        return ConvolutionStack(self.grid, encoder_steps("plain", self.grid, channels), periodic=self.periodic)

    def head(self, width: int) -> DenseHead | GridHead:
        """The end of the decoder, from so many numbers."""
        outputs = 1 + self.config.cell_noise
        if self.network == "dense":
            return DenseHead(width, self.detector.readout.n_voxels, outputs)
        if self.network == "published":
            return self.published_head(width)
        return PlainHead(width, self.grid, self.config.channels, outputs, periodic=self.periodic)

    @abstractmethod
    def published_head(self, width: int) -> GridHead:
        """The publication's end of the decoder, from so many numbers."""

    @property
    def batch_statistics(self) -> bool:
        """Whether critics compare the showers of a batch."""
        return True

    def _critic(self) -> PairCritic:
        config, cells = self.config, self.detector.readout.n_voxels
        bodies: list[ConvolutionStack | Flat] = []
        for _ in range(2):
            if self.network == "dense":
                bodies.append(Flat(cells))
                continue
            recipe: Recipe = self.recipe if self.network == "published" else "plain"
            steps = critic_steps(recipe, self.grid, config.critic_channels)
            bodies.append(ConvolutionStack(self.grid, steps, periodic=recipe == "plain" and self.periodic))
        return PairCritic(
            cells,
            (bodies[0], bodies[1]),
            self.conditions,
            width=config.critic_width,
            hidden=self.hidden_layers,
            two_angles=self.batch_statistics,
            pairs=config.difference == "critics",
            of_one=config.cells == "shares",
        )

    # ---- training ---------------------------------------------------------------------------------------------------

    def encoded(self, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Cells (B, V), conditions (B, C) and energies of the layers, float64 (B, L), MeV, of training rows."""
        visible = self.dequantisation.visible(deposits_of(batch))
        energies = self.sums(visible, dtype=torch.float64)
        cells = self.units.encode(visible, energies)
        return cells.to(self.dtype), self.condition(conditions_of(batch), energies), energies

    def condition(self, conditions: Mapping[str, Tensor], energies: Tensor | None) -> Tensor:
        """Conditions of the networks, (N, C).

        Args:
            conditions: of the particles.
            energies: of the layers, (N, L), MeV; needed with ``sampling`` layers.
        """
        parts = [self.particle(conditions)]
        if self.config.sampling == "layers":
            assert energies is not None
            parts.append(self.energy_conditions.log_layers.transform(energies.double()).to(self.dtype))
        return torch.cat(parts, dim=1)

    def particle(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """Energy and direction of the particles as the networks see them."""
        energy, direction = conditions["incident_energy"], conditions["direction"].double()
        if self.config.conditions == "raw":
            parts = [energy.double()[:, None] / 1000]
            if self.knows_direction:
                theta = torch.atan2(direction[:, :2].norm(dim=1), direction[:, 2])
                phi = torch.atan2(direction[:, 1], direction[:, 0])
                parts.append(torch.rad2deg(torch.stack([theta, phi], dim=1)))
        else:
            parts = [self.energy_conditions.incident(energy)]
            if self.knows_direction:
                parts.append(direction)
        return torch.cat(parts, dim=1).to(self.dtype)

    def seen(self, cells: Tensor) -> Tensor:
        """Cells (N, V) as the encoder sees them."""
        return torch.log1p(cells) if self.config.cells == "shares" else cells

    def reconstructed(
        self, cells: Tensor, condition: Tensor, energies: Tensor, batch: TrainingBatch, streams: Streams
    ) -> Reconstruction:
        """A pass through encoder and decoder.

        Args:
            cells: of training rows, (B, V).
            condition: of them, (B, C).
            energies: of their layers, (B, L), MeV.
            batch: the rows.
            streams: random streams.
        """
        config = self.config
        mean, log_variance = self.encoder(self.seen(cells), condition)
        noise = rows_of(self, batch, streams, "latents", config.latents + config.noise_latents)
        latents = torch.cat(
            [mean + (log_variance / 2).exp() * noise[:, : config.latents], noise[:, config.latents :]], dim=1
        )
        of_cells = rows_of(self, batch, streams, "cells", cells.shape[1]) if config.cell_noise else None
        made, centre, spread = self.decoder.parts(latents, condition, of_cells)
        return Reconstruction(self.units.balanced(made, energies), centre, spread, mean, log_variance, latents)

    def corrected(self, cells: Tensor, condition: Tensor, total: Tensor) -> Tensor:
        """Cells (N, V) behind the post-processor; with ``sampling`` total it is told the energies of the showers (N,), MeV."""
        if self.config.sampling == "total":
            condition = torch.cat([condition, total[:, None].to(condition.dtype)], dim=1)
        corrected: Tensor = self.post_processor(cells, condition)
        return corrected

    @torch.no_grad()
    def flow_variables(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """What the flow learns from a batch: energies and latents (B, n), and its conditions (B, C)."""
        assert self.flow is not None
        cells, condition, _ = self.encoded(batch)
        mean, log_variance = self.encoder(self.seen(cells), condition)
        noise = rows_of(self, batch, streams, "latents", self.config.latents)
        latents = mean + (log_variance / 2).exp() * noise
        energies = self.dequantisation.noisy_energies(deposits_of(batch), streams, batch.row, batch.epoch)
        variables = self.flow.variables(energies, batch.incident_energy)
        conditions = self.particle(conditions_of(batch))
        return torch.cat([variables.to(self.dtype), latents], dim=1), conditions

    # ---- generating -------------------------------------------------------------------------------------------------

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers, float32: ``flow``, or ``latents`` where there is none, ``noise``, and maybe ``cells``."""
        sizes = {"latents": self.config.latents} if self.flow is None else {"flow": self.flow.features}
        sizes["noise"] = self.config.noise_latents
        if self.config.cell_noise:
            sizes["cells"] = self.detector.readout.n_voxels
        return normal_latents(sizes, conditions, streams)

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Deposits (N, V) in MeV; a shower with a number that is not finite is not valid, and empty."""
        incident, dtype = conditions["incident_energy"], self.dtype
        energies, total, cut = None, incident.double(), self.dequantisation.cut
        if self.flow is None:
            learnt = latents["latents"].to(dtype)
        else:
            particle = self.particle(conditions)
            drawn, learnt = self.flow.draw(latents["flow"].to(dtype), particle, incident)
            if self.config.sampling == "layers":
                width, shift = self.dequantisation.settings.energy_noise, self.dequantisation.energy_shift
                energies = clean_layer_energies(drawn, energy_noise=width, energy_shift=shift, cut=cut)
            total = drawn.sum(dim=1)
        condition = self.condition(conditions, energies)
        noise = latents["cells"].to(dtype) if self.config.cell_noise else None
        made = self.decoder(torch.cat([learnt, latents["noise"].to(dtype)], dim=1), condition, noise)
        made = made if energies is None else self.units.balanced(made, energies)
        deposits = self.units.decode(self.corrected(made, condition, total).clamp_min(0), energies)
        deposits = self._finished(deposits, energies, total, cut)
        valid = torch.isfinite(deposits).all(dim=1)
        return {"deposits": torch.where(valid[:, None], deposits, torch.zeros_like(deposits)).float()}, valid

    def _finished(self, deposits: Tensor, energies: Tensor | None, total: Tensor, cut: float) -> Tensor:
        """Cut at the threshold, and what was drawn of the energies kept."""
        if energies is not None:
            if cut > 0:
                return cut_layers(deposits, energies, cut, self.sums)
            return deposits * self.sums.spread(energies / self.sums(deposits).clamp_min(1e-300))
        lit = torch.where(deposits >= cut, deposits, torch.zeros_like(deposits))
        if self.config.sampling != "total":
            return lit
        # Once with the cells that are to be cut, so that what is scaled up stays above the threshold.
        scaled = deposits * (total / deposits.sum(dim=1).clamp_min(1e-300))[:, None]
        lit = torch.where(scaled >= cut, scaled, torch.zeros_like(scaled))
        return lit * (total / lit.sum(dim=1).clamp_min(1e-300)).clamp_min(1)[:, None]

    def describe_representation(self) -> dict[str, Any]:
        """How showers become numbers, in words and numbers."""
        return {
            "network": self.network,
            "cells": self.units.describe(),
            "cut_MeV": self.dequantisation.cut,
            "conditions": self.config.conditions,
        } | ({} if self.flow is None else {"drawn": self.flow.describe()})
