"""Energies as conditions of a network."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.representation.base import Representation
from caloforge.representation.energies import LogEnergy
from caloforge.representation.logit import Logit
from caloforge.representation.settings import LayerConditionSettings, VoxelBasics

__all__ = ["EnergyConditions", "InductiveConditions", "highest_energy", "middle_energy"]

#: The publication of iCaloFlow gives the first layer's energy condition divided by this.
_PUBLISHED_DIVISION = 4.0
#: Logits of the previous layer, up to 14 in size, are conditions divided by this.
_DIVISION = 14.0
#: Energies and number of the layer are multiplied by this: the first weights of a layer with hundreds of inputs are small.
_EMPHASIS = 5.0


class EnergyConditions(Representation):
    """Logarithms of the incident energy and of layer energies.

    At the place ``conditions`` the finished conditions pass, (N, C).

    Args:
        settings: references and offset.
        detector: whose gun says what a missing ``incident_reference`` is.
        incident_factor: on the logarithm of the incident energy.

    Raises:
        ConfigError: if it has no gun to take it from.
    """

    places = ("conditions",)

    def __init__(self, settings: VoxelBasics, detector: Detector, *, incident_factor: float = 1.0) -> None:
        super().__init__()
        reference = settings.incident_reference or middle_energy(detector)
        self.log_incident = LogEnergy(reference, factor=incident_factor)
        own = settings if isinstance(settings, LayerConditionSettings) else LayerConditionSettings()
        self.log_layers = LogEnergy(own.layer_reference or reference / 10, own.layer_offset)

    def incident(self, incident_energy: Tensor) -> Tensor:
        """Condition from the incident energy alone, float64 (N, 1), from (N,) in MeV."""
        return self.passed("conditions", self.log_incident.transform(incident_energy.double()[:, None]))

    def forward(self, incident_energy: Tensor, layer_energies: Tensor) -> Tensor:
        """Conditions from incident energies (N,) and layer energies (N, L), MeV: float64 (N, 1 + L)."""
        incident = self.log_incident.transform(incident_energy.double()[:, None])
        layers = self.log_layers.transform(layer_energies.double())
        return self.passed("conditions", torch.cat([incident, layers], dim=1))

    def describe(self, *, layers: bool = True) -> dict[str, Any]:
        """What ``model.json`` says about it; ``layers`` says whether layer energies are among the conditions."""
        incident = {"incident": self.log_incident.describe()}
        return incident | ({"layers": self.log_layers.describe()} if layers else {})


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


class InductiveConditions(nn.Module):
    """Conditions of flows that make a layer from the one before (arXiv:2305.11934).

    With ``logits`` layer energies enter as logits of their fraction of a fixed energy, as published: divided by 4 for the first
    layer, unscaled for the others. With ``logarithms`` they enter as logarithms; behind the first layer energies and the
    number of the layer are multiplied by 5 and the logits of the layer before divided by 14, or energies would drown among
    the voxels.

    Args:
        energies: logarithms of incident and layer energies.
        layers: number of layers L.
        kind: see above.
        reference: the fixed energy, MeV.
        alpha: margin of the logit of layer energies.
    """

    def __init__(
        self,
        energies: EnergyConditions,
        layers: int,
        *,
        kind: Literal["logarithms", "logits"],
        reference: float,
        alpha: float,
    ) -> None:
        super().__init__()
        self.energies, self.layers, self.kind, self.reference = energies, layers, kind, reference
        self.logit = Logit(alpha)

    def features(self, voxels: int) -> int:
        """Number of conditions behind the first layer: incident energy, energies of both layers, voxels, number of the layer."""
        return 3 + voxels + self.layers - 1

    def _split(self, incident_energy: Tensor, energies: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions from the incident energy (N, 1) and from layer energies (N, L)."""
        if self.kind == "logits":
            fractions = (energies / self.reference).clamp(0, 1)
            return self.energies.incident(incident_energy), self.logit.transform(fractions)
        both = self.energies(incident_energy, energies)
        return both[:, :1], both[:, 1:]

    def first(self, incident_energy: Tensor, energies: Tensor) -> Tensor:
        """Conditions of the first layer (N, 2) from incident (N,) and layer energies (N, L), MeV."""
        incident, layer = self._split(incident_energy, energies[:, :1])
        return torch.cat([incident, layer / _PUBLISHED_DIVISION if self.kind == "logits" else layer], dim=1)

    def following(self, incident_energy: Tensor, energies: Tensor, before: Tensor, first: int = 1) -> Tensor:
        """Conditions of some layers behind the first.

        Args:
            incident_energy: (N,), MeV.
            energies: energies of all layers, with noise, (N, L), MeV.
            before: logits of the shares in the layer before each, (N, n, voxels).
            first: number of the first of the n layers.

        Returns:
            (N, n, 3 + voxels + L - 1).
        """
        rows, count = before.shape[:2]
        incident, layer = self._split(incident_energy, energies)
        number = torch.eye(self.layers - 1, dtype=layer.dtype, device=layer.device)[first - 1 : first - 1 + count]
        if self.kind == "logarithms":
            incident, layer, number = (_EMPHASIS * value for value in (incident, layer, number))
            before = before / _DIVISION
        parts = [
            incident[:, None].expand(-1, count, -1),
            layer[:, first : first + count, None],
            layer[:, first - 1 : first - 1 + count, None],
            before,
            number.expand(rows, -1, -1),
        ]
        return torch.cat(parts, dim=2)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        logits = {"layers": {"transform": "logit of a fraction", "reference_MeV": self.reference}}
        layers = self.kind == "logarithms"
        return {"kind": self.kind} | self.energies.describe(layers=layers) | ({} if layers else logits)


def highest_energy(detector: Detector) -> float:
    """Highest energy of the gun, MeV.

    Raises:
        ConfigError: if the detector has no gun.
    """
    if detector.gun is None:
        raise ConfigError(
            f"the detector '{detector.name}' has no gun, so the model needs 'energy_reference', a large energy in MeV"
        )
    return detector.gun.spectrum.maximum
