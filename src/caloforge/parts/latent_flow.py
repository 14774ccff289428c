"""The flow that draws latents of an autoencoder, and energies of the shower with them (arXiv:2102.12491, arXiv:2303.18150)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from caloforge.nn.permutations import random_after_every_block
from caloforge.parts.bottleneck_settings import BottleneckConfig
from caloforge.parts.flows import autoregressive_flow
from caloforge.representation import EnergyScale, LayerConditionSettings, LayerEnergies

__all__ = ["LatentFlow"]


class _Ratio(nn.Module):
    """Mean and standard deviation of the energy of a shower over that of the particle."""

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(1.0, dtype=torch.float64))
        self.register_buffer("spread", torch.tensor(1.0, dtype=torch.float64))


class LatentFlow(nn.Module):
    """Energies of a shower and its learnt latents, given energy and direction of the particle.

    With ``total`` the energy of the shower over that of the particle, standardised; with ``layers`` fractions of the energies of
    the layers, as in :class:`~caloforge.representation.LayerEnergies`.

    Args:
        config: of the model.
        drawn: number of energies that are drawn.
        conditions: number of conditions.
        basics: margin of the logits, scale of the energies.

    """

    def __init__(self, config: BottleneckConfig, drawn: int, conditions: int, basics: LayerConditionSettings) -> None:
        super().__init__()
        self.drawn, self.features = drawn, drawn + config.latents
        self.energies: LayerEnergies | None = None
        self.ratio = _Ratio()
        if config.sampling == "layers":
            self.energies = LayerEnergies(
                drawn,
                fractions="auto",
                scale=basics.energy_scale,
                extra_energy=basics.extra_energy,
                alpha=basics.alpha,
            )
        permutations = random_after_every_block(self.features, config.flow.blocks, seed=0)
        self.flow = autoregressive_flow(config.flow, self.features, conditions, "even", permutations)

    @property
    def scale(self) -> EnergyScale | None:
        """The most that a shower deposits, if its energies are fractions of it."""
        scale = None if self.energies is None else self.energies.scale
        return scale if isinstance(scale, EnergyScale) else None

    def variables(self, energies: Tensor, incident_energy: Tensor) -> Tensor:
        """Variables of the energies, float64 (N, n), from layer energies (N, L) and incident energies (N,), MeV."""
        if self.energies is not None:
            return self.energies.transform(energies, incident_energy)
        ratio = energies.sum(dim=1, keepdim=True) / incident_energy.double()[:, None]
        return (ratio - self.ratio.mean) / self.ratio.spread

    def draw(self, latents: Tensor, conditions: Tensor, incident_energy: Tensor) -> tuple[Tensor, Tensor]:
        """Energies and latents.

        Args:
            latents: standard normal, (N, n + D).
            conditions: (N, C).
            incident_energy: (N,), MeV.

        Returns:
            Energies, float64 (N, n), MeV, not negative, and latents (N, D).
        """
        made, _ = self.flow.inverse(latents, conditions)
        variables = made[:, : self.drawn].double()
        if self.energies is not None:
            return self.energies.decode(variables, incident_energy), made[:, self.drawn :]
        ratio = self.ratio.mean + self.ratio.spread * variables
        return (ratio * incident_energy.double()[:, None]).clamp_min(0), made[:, self.drawn :]

    def describe(self) -> Any:
        """What ``model.json`` says about it."""
        if self.energies is not None:
            return self.energies.describe()
        mean, spread = float(self.ratio.mean), float(self.ratio.spread)
        return {"transform": "energy over incident energy", "mean": mean, "spread": spread}
