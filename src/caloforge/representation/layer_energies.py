"""Layer energies as logits of fractions of what a shower can deposit, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from caloforge.representation.energies import EnergyFractions, EnergyScale, FixedEnergy, SingleFractions
from caloforge.representation.logit import Logit
from caloforge.representation.settings import FractionsKind

__all__ = ["EncodedEnergies", "LayerEnergies", "energy_fractions"]

#: Up to so many layers ``auto`` takes recursive energy fractions.
_FEW_LAYERS = 10


class EncodedEnergies(NamedTuple):
    """Layer energies as a flow sees them.

    Attributes:
        y: logits of the fractions (N, L).
        logdet: log-determinant of the logit (N,), nats: for a density of the fractions.
        volume: what is to be added for a density of the energies, per MeV^L, (N,).
        possible: whether there is no more energy than the scale allows, bool (N,).
    """

    y: Tensor
    logdet: Tensor
    volume: Tensor
    possible: Tensor


class LayerEnergies(nn.Module):
    """Energies of L layers to logits of fractions: recursive (arXiv:2106.05285, equation 4.1) or single ones.

    Args:
        layers: number of layers L.
        fractions: how the energies become fractions, see ``FractionsKind``.
        scale: the most that a shower deposits, as a multiple of the incident energy; None fits it.
        extra_energy: energy that the particle brings beside its kinetic one, MeV.
        reference: fractions are of this energy, MeV, whatever the incident energy (arXiv:2305.11934); None: of the scale.
        alpha: margin of the logit.
        clamps: see :class:`~caloforge.representation.EnergyScale`.
    """

    def __init__(
        self,
        layers: int,
        *,
        fractions: FractionsKind,
        scale: float | None,
        extra_energy: float,
        alpha: float,
        reference: float | None = None,
        clamps: bool = False,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.scale = EnergyScale(scale, extra_energy, clamps=clamps) if reference is None else FixedEnergy(reference)
        self.fractions = energy_fractions(fractions, layers)
        self.logit = Logit(alpha)

    @property
    def recursive(self) -> bool:
        """Whether the fractions are recursive ones."""
        return isinstance(self.fractions, EnergyFractions)

    def transform(self, energies: Tensor, incident_energy: Tensor) -> Tensor:
        """Logits alone, float64 (N, L), for training losses, of energies (N, L) and incident energies (N,), MeV."""
        u, _ = self.fractions(energies.double(), self.scale(incident_energy))
        return self.logit.transform(u.clamp(0, 1))

    def encode(self, energies: Tensor, incident_energy: Tensor) -> EncodedEnergies:
        """Energies with noise, float64 (N, L), and incident energies (N,), MeV, to logits."""
        u, volume = self.fractions(energies, self.scale(incident_energy))
        # Fractions of a fixed energy bound each layer by itself.
        bounded = isinstance(self.scale, EnergyScale)
        possible = self.fractions.possible(u) if bounded else (u <= 1).all(dim=1)
        y, logdet = self.logit(u.clamp(0, 1))
        return EncodedEnergies(y, logdet, volume, possible)

    def decode(self, y: Tensor, incident_energy: Tensor) -> Tensor:
        """Logits (N, L) and incident energies (N,), MeV, to energies, float64 (N, L), MeV."""
        # In float64 the remainder 1 - u of a deep layer keeps its digits.
        u, available = self.logit.restore(y.double()), self.scale(incident_energy)
        if isinstance(self.scale, FixedEnergy):
            return self.fractions.inverse(u, available)[0]
        return self.fractions.restore(u, available)

    def describe(self) -> list[dict[str, Any]]:
        """What ``model.json`` says about it."""
        return [self.scale.describe(), self.fractions.describe(), self.logit.describe()]


def energy_fractions(wanted: FractionsKind, layers: int) -> EnergyFractions | SingleFractions:
    """How the energies of so many layers become the variables of a flow."""
    few = wanted == "recursive" or (wanted == "auto" and layers <= _FEW_LAYERS)
    return EnergyFractions() if few else SingleFractions()
