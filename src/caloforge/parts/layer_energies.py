"""The energies of the layers from an autoregressive flow of their own, given the incident energy.

The first step of almost every model of voxels: fractions, recursive (arXiv:2106.05285, equation 4.1) or single ones, a logit, a
masked autoregressive flow. It brings the two stages that train it.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from caloforge.nn.permutations import alternating_within_layers, random_after_every_block
from caloforge.nn.weights import first_parameter
from caloforge.parts.checks import check_margin
from caloforge.parts.flows import FlowSize, FlowStage, autoregressive_flow
from caloforge.random import Streams
from caloforge.representation import Dequantisation, EnergyScale, LayerEnergies, LogEnergy
from caloforge.stage import FitStage, Stage, TrainingBatch, TrainingConfig, TrainingData, deposits_of

__all__ = ["LayerEnergyFlow", "ScaleStage"]


class LayerEnergyFlow(nn.Module):
    """Distribution of the layer energies, given the incident energy.

    Args:
        representation: how the energies become variables; recursive fractions are permuted at random, single ones stay in the
            order of the layers and in reverse by turns.
        incident: the condition made of the incident energy.
        size: size of the flow.
        masks: as for ``MaskedAutoregressiveFlow``.
        permutation_seed: seed of the fixed random permutations.

    Raises:
        ConfigError: if the logits of empty layers lie outside the interval on which the splines act.
    """

    def __init__(
        self,
        representation: LayerEnergies,
        incident: LogEnergy,
        size: FlowSize,
        *,
        masks: Literal["even", "published"],
        permutation_seed: int,
    ) -> None:
        super().__init__()
        check_margin(representation.logit, size.bound, "energies")
        layers = representation.layers
        self.representation, self.incident = representation, incident
        permutations = (
            random_after_every_block(layers, size.blocks, seed=permutation_seed)
            if representation.recursive
            else alternating_within_layers([layers], size.blocks, seed=permutation_seed)
        )
        self.flow = autoregressive_flow(size, layers, 1, masks, permutations)

    @property
    def features(self) -> int:
        """Number of latents, that of the layers."""
        return self.representation.layers

    def context(self, incident_energy: Tensor) -> Tensor:
        """Condition of the flow (N, 1) from the incident energies (N,), MeV."""
        condition = self.incident.transform(incident_energy.double()[:, None])
        weight = first_parameter(self.flow)
        assert weight is not None  # a flow without any does nothing
        return condition.to(weight.dtype)

    def sample(self, latents: Tensor, incident_energy: Tensor) -> Tensor:
        """Layer energies with noise, float64 (N, L), MeV, from standard normal (N, L) and incident energies (N,), MeV."""
        context = self.context(incident_energy)
        y, _ = self.flow.inverse(latents.to(context.dtype), context)
        return self.representation.decode(y, incident_energy)

    def log_prob(self, energies: Tensor, incident_energy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithm of the density of the energy fractions.

        Args:
            energies: layer energies with noise, float64 (N, L), MeV.
            incident_energy: (N,), MeV.

        Returns:
            The logarithm (N,), nats; what is to be added for a density of the energies, per MeV^L (N,); and whether
            there is no more energy than the scale allows, bool (N,).
        """
        encoded, context = self.representation.encode(energies, incident_energy), self.context(incident_energy)
        log_prob = self.flow.log_prob(encoded.y.to(context.dtype), context).double() + encoded.logdet
        return log_prob, encoded.volume, encoded.possible

    def stages(self, path: str, dequantisation: Dequantisation, training: TrainingConfig) -> list[Stage]:
        """The scale of the energies (fitted or checked), if there is one, and the flow behind it.

        Args:
            path: where this part stands in the model.
            dequantisation: gives the noisy energies.
            training: the training section of the preset.
        """
        scale = self.representation.scale
        fits: list[Stage] = []
        if isinstance(scale, EnergyScale):
            fits.append(ScaleStage(f"{path}.representation.scale", scale, dequantisation))

        def variables(batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
            energies = dequantisation.noisy_energies(deposits_of(batch), streams, batch.row, batch.epoch)
            context = self.context(batch.incident_energy)
            return self.representation.transform(energies, batch.incident_energy).to(context.dtype), context

        needs = tuple(stage.name for stage in fits)
        settings = training.for_stage("energies")
        return [*fits, FlowStage("energies", f"{path}.flow", self.flow, variables, settings, needs=needs)]

    def describe(self) -> list[dict[str, Any]]:
        """What ``model.json`` says about it."""
        return self.representation.describe()


class ScaleStage(FitStage):
    """The most that a shower deposits: fitted, or checked against the training data.

    Args:
        path: where the scale stands in the model.
        scale: the scale.
        dequantisation: says which deposits are visible.
    """

    def __init__(self, path: str, scale: EnergyScale, dequantisation: Dequantisation) -> None:
        super().__init__("scale", {path: scale})
        self.path, self.scale, self.dequantisation = path, scale, dequantisation

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.FitStage.fit`."""
        rows = (
            (self.dequantisation.layer_energies(deposits_of(batch)).sum(dim=1), batch.incident_energy) for batch in data
        )
        return {f"{self.path}.{name}": value for name, value in self.scale.fit(rows).items()}
