"""Base of the flow models that make voxels: threshold and noise, energies as conditions, showers that are finite, likelihood."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from caloforge.detectors import Detector
from caloforge.models import ShowerModel, noise_averaged_log_prob
from caloforge.parts.checks import check_voxels
from caloforge.parts.flows import FlowSize
from caloforge.parts.layer_energies import LayerEnergyFlow
from caloforge.random import Streams
from caloforge.representation import (
    Dequantisation,
    EnergyConditions,
    FractionsKind,
    LayerEnergies,
    NoisyShowers,
    VoxelBasics,
)
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import TrainingBatch, deposits_of

__all__ = ["VoxelModel"]


class VoxelModel(ShowerModel):
    """A model of voxels with a likelihood.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.
        incident_factor: on the logarithm of the incident energy as a condition.

    Attributes:
        likelihood_rows: rows per evaluation of the likelihood; limits the memory, changes no result.
        dequantisation: threshold and noise.
        energy_conditions: logarithms of incident and layer energies.

    Raises:
        ConfigError: if the detector has no voxels, or no gun to take a missing ``incident_reference`` from.
    """

    has_likelihood = True
    likelihood_rows: ClassVar[int] = 500
    config: VoxelBasics

    def __init__(self, config: VoxelBasics, detector: Detector, *, incident_factor: float = 1.0) -> None:
        super().__init__(config, detector)
        check_voxels(self.kind, detector)
        self.dequantisation = Dequantisation(config, detector)
        self.energy_conditions = EnergyConditions(config, detector, incident_factor=incident_factor)

    def energy_flow(
        self,
        size: FlowSize,
        *,
        masks: Literal["even", "published"],
        permutation_seed: int,
        fractions: FractionsKind,
        alpha: float | None = None,
        reference: float | None = None,
        clamps: bool = False,
    ) -> LayerEnergyFlow:
        """A flow of the layer energies, with scale and margin of the configuration.

        Args:
            size: its size.
            masks: see :class:`~caloforge.parts.layer_energies.LayerEnergyFlow`.
            permutation_seed: likewise.
            fractions: how they become variables.
            alpha: margin of the logit; None takes that of the shares.
            reference: see :class:`~caloforge.representation.LayerEnergies`.
            clamps: likewise.
        """
        config = self.config
        representation = LayerEnergies(
            self.detector.readout.n_layers,
            fractions=fractions,
            scale=config.energy_scale,
            extra_energy=config.extra_energy,
            alpha=config.alpha if alpha is None else alpha,
            reference=reference,
            clamps=clamps,
        )
        return LayerEnergyFlow(
            representation,
            self.energy_conditions.log_incident,
            size,
            masks=masks,
            permutation_seed=permutation_seed,
        )

    @abstractmethod
    def make_deposits(self, incident_energy: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
        """Deposits, float64 (N, V), MeV, from incident energies (N,), MeV, and the latents; they need not be finite."""

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Deposits (N, V) in MeV; a shower with a number that is not finite is not valid, and empty."""
        deposits = self.make_deposits(conditions["incident_energy"], latents)
        valid = torch.isfinite(deposits).all(dim=1)
        return {"deposits": torch.where(valid[:, None], deposits, torch.zeros_like(deposits)).float()}, valid

    def noisy(self, batch: TrainingBatch, streams: Streams, dtype: torch.dtype = torch.float64) -> NoisyShowers:
        """A training batch with noise; in float32 a share of almost 1 would have no logit."""
        noisy: NoisyShowers = self.dequantisation(deposits_of(batch), streams, batch.row, batch.epoch, dtype)
        return noisy

    def noisy_log_prob(
        self, deposits: Tensor, incident_energy: Tensor, rows: Tensor, draw: int, streams: Streams
    ) -> Tensor:
        """Logarithm of the density of showers under one draw of the noise, nats; see :meth:`log_prob` for the variables.

        Args:
            deposits: as the file has them, (N, V), MeV.
            incident_energy: float64 (N,), MeV.
            rows: numbers of the showers, int64 (N,), in CPU memory.
            draw: number of the draw.
            streams: random streams of the noise.

        Returns:
            float64 (N,); minus infinity for a shower that the model cannot make.
        """
        return self.log_density(self.dequantisation(deposits, streams, rows, draw, torch.float64), incident_energy)

    def log_density(self, noisy: NoisyShowers, incident_energy: Tensor) -> Tensor:
        """Logarithm of the density at given noisy values, nats; see :meth:`log_prob` for the variables.

        A model whose noise is not that of :class:`~caloforge.representation.Dequantisation` alone has
        :meth:`noisy_log_prob` instead.

        Args:
            noisy: the showers with noise, float64.
            incident_energy: float64 (N,), MeV.

        Returns:
            float64 (N,); minus infinity for a shower that the model cannot make.
        """
        raise NotImplementedError

    def log_prob(
        self, showers: Showers | ShowerPoints, streams: Streams, *, draws: int = 1, first_row: int = 0
    ) -> Tensor:
        """Logarithm of the density of showers with training noise, nats.

        The model's page says in which variables: fractions of the layer energies and shares of the voxels, or with
        ``drop_voxel`` the deposits themselves (density per MeV^V). Several draws of the noise are averaged over the density. A
        shower that deposits more than the energy scale allows has density 0.

        Arguments, result and errors are those of :meth:`caloforge.models.ShowerModel.log_prob`.
        """
        log_prob = noise_averaged_log_prob(
            self, self.noisy_log_prob, showers, streams, draws=draws, first_row=first_row, rows=self.likelihood_rows
        )
        return self.with_factors(log_prob, showers)
