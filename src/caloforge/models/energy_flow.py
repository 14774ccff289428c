"""The energies of the layers from an autoregressive flow of their own, given the incident energy.

The first step of every model that makes a shower layer by layer: fractions, recursive (arXiv:2106.05285, equation 4.1) or
single ones, a logit, a masked autoregressive flow. It brings the two stages that train it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from caloforge.models.common import FlowSize, FractionsKind, autoregressive_flow, check_margin, energy_fractions
from caloforge.models.marginals import collect_rows, start_from_marginals
from caloforge.nn.permutations import alternating_within_layers, random_after_every_block
from caloforge.random import Streams
from caloforge.stage import GradientStage, StageTraining, TrainingBatch, TrainingData
from caloforge.transforms import EnergyFractions, EnergyScale, LogEnergy, Logit

__all__ = ["EnergyFlowStage", "LayerEnergyFlow"]

#: Training rows from which the initial weights are taken: enough for quantiles.
_START_ROWS = 4000


class LayerEnergyFlow(nn.Module):
    """Distribution of the layer energies, given the incident energy.

    Args:
        layers: number of layers L.
        size: size of the flow.
        scale: the most that a shower deposits, as a multiple of the incident energy; None fits it.
        extra_energy: energy that the particle brings beside its kinetic one, MeV.
        fractions: how the energies become variables; ``recursive`` ones are permuted at random, single ones stay in the order
            of the layers and in reverse by turns.
        alpha: margin of the logit.
        masks: as for ``MaskedAutoregressiveFlow``.
        permutation_seed: seed of the fixed random permutations.
        incident: the condition made of the incident energy.

    Raises:
        ConfigError: if the logits of empty layers lie outside the interval on which the splines act.
    """

    def __init__(
        self,
        layers: int,
        size: FlowSize,
        *,
        scale: float | None,
        extra_energy: float,
        fractions: FractionsKind,
        alpha: float,
        masks: Literal["even", "published"],
        permutation_seed: int,
        incident: LogEnergy,
    ) -> None:
        super().__init__()
        self.scale = EnergyScale(scale, extra_energy)
        self.fractions = energy_fractions(fractions, layers)
        self.logit = Logit(alpha)
        check_margin(self.logit, size.bound, "energies")
        self.incident = incident
        permutations = (
            random_after_every_block(layers, size.blocks, seed=permutation_seed)
            if isinstance(self.fractions, EnergyFractions)
            else alternating_within_layers([layers], size.blocks, seed=permutation_seed)
        )
        self.flow = autoregressive_flow(size, layers, 1, masks, permutations)

    def context(self, incident_energy: Tensor) -> Tensor:
        """Condition of the flow (N, 1) from the incident energies (N,), MeV."""
        dtype = next(self.flow.parameters()).dtype
        return self.incident.transform(incident_energy.double()[:, None]).to(dtype)

    def logits(self, energies: Tensor, incident_energy: Tensor) -> Tensor:
        """What the flow sees, (N, L), of layer energies (N, L), MeV, and incident energies (N,), MeV."""
        u, _ = self.fractions(energies.double(), self.scale(incident_energy))
        return self.logit.transform(u.clamp(0, 1)).to(next(self.flow.parameters()).dtype)

    def log_prob(self, energies: Tensor, incident_energy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithm of the density of the energy fractions.

        Args:
            energies: layer energies, float64 (N, L), MeV.
            incident_energy: (N,), MeV.

        Returns:
            The logarithm (N,), nats; what is to be added for a density of the energies, per MeV^L (N,); and whether
            there is no more energy than the scale allows, bool (N,).
        """
        u, volume = self.fractions(energies, self.scale(incident_energy))
        y, logdet = self.logit(u.clamp(0, 1))
        context = self.context(incident_energy)
        log_prob = self.flow.log_prob(y.to(context.dtype), context).double() + logdet
        return log_prob, volume, self.fractions.possible(u)

    def sample(self, latents: Tensor, incident_energy: Tensor) -> Tensor:
        """Layer energies, float64 (N, L), MeV, from standard normal numbers (N, L) and incident energies (N,), MeV."""
        context = self.context(incident_energy)
        y, _ = self.flow.inverse(latents.to(context.dtype), context)
        # In float64 the remainder 1 - u of a deep layer keeps its digits.
        return self.fractions.restore(self.logit.restore(y.double()), self.scale(incident_energy))

    def describe(self) -> list[dict[str, Any]]:
        """What ``model.json`` says about it."""
        return [self.scale.describe(), self.fractions.describe(), self.logit.describe()]


class EnergyFlowStage(GradientStage):
    """Minus log-likelihood of the logits of the energy fractions, nats.

    Args:
        path: where the :class:`LayerEnergyFlow` stands in the model.
        part: the energy flow.
        energies: noisy layer energies (N, L), MeV, of a batch.
        training: settings of the stage.
        from_data: start from the distribution of each variable.
    """

    def __init__(
        self,
        path: str,
        part: LayerEnergyFlow,
        energies: Callable[[TrainingBatch, Streams], Tensor],
        training: StageTraining,
        *,
        from_data: bool,
    ) -> None:
        super().__init__("energies", {f"{path}.flow": part.flow}, training, needs=("scale",))
        self.part, self.energies, self.from_data = part, energies, from_data

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        """See :meth:`caloforge.stage.GradientStage.prepare`."""
        if self.from_data:
            start_from_marginals(
                self.part.flow,
                collect_rows(
                    data, _START_ROWS, lambda b: self.part.logits(self.energies(b, streams), b.incident_energy)
                ),
            )

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.loss`."""
        logits = self.part.logits(self.energies(batch, streams), batch.incident_energy)
        return {"loss": -self.part.flow.log_prob(logits, self.part.context(batch.incident_energy)).mean()}
