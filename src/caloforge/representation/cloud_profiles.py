"""Points and energies of the layers of a shower, and what a flow sees of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from caloforge.representation.base import Representation

__all__ = ["CONDITION_FUNCTIONS", "ROOM", "CloudProfiles", "Profiles", "Scale", "condition_functions"]

#: A shower may have this many times the points of any training shower of its energy before it counts as unphysical.
ROOM = 1.25
#: Number of functions in ``condition_functions``.
CONDITION_FUNCTIONS = 7


@dataclass(frozen=True)
class Profiles:
    """What the flow says about showers.

    Attributes:
        counts: points of each layer before the calibration, whole numbers in float64 (N, L).
        energies: of each layer, float64 (N, L), MeV; 0 where there are no points.
        gravity: where the energy-weighted mean of x and y from the axis is to be, (N, 2), mm; None leaves it.
        valid: bool (N,).
    """

    counts: Tensor
    energies: Tensor
    gravity: Tensor | None
    valid: Tensor


class Scale(NamedTuple):
    """Mean and standard deviation of the features of the profiles, float64 (F,) or (N, F) each."""

    mean: Tensor
    std: Tensor


class CloudProfiles(Representation):
    """Features of the profiles, scaled to about unit size for a flow, and back.

    Values pass at these places, each with the conditions as a second argument: ``scale``, the :class:`Scale`; ``outputs``, those
    of the flow (N, F); ``factors``, a pair of what points and energies of the layers are multiplied by, (N, 1) or (N, L) each, or
    (None, None), with the :class:`Profiles` as a third argument.

    Args:
        features: outputs of the flow, F.

    Attributes:
        incident: unit of incident energies, MeV: the highest one in training, or a constant.
        mean: of the features, (F,).
        std: of the features, (F,).
        most_points: no training shower has more than ``most_points[0] + most_points[1] * E``, E in MeV.
        outside: share of the training showers' points and energy outside the box, which the model never sees, (2,).
    """

    places = ("scale", "outputs", "factors")
    incident: Tensor
    mean: Tensor
    std: Tensor
    most_points: Tensor
    outside: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("incident", torch.ones((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("std", torch.ones(features, dtype=torch.float64))
        self.register_buffer("most_points", torch.tensor([1.0, 0.0], dtype=torch.float64))
        self.register_buffer("outside", torch.zeros(2, dtype=torch.float64))

    def relative(self, incident_energy: Tensor) -> Tensor:
        """Incident energies (N,), MeV, over their unit, float64 (N,)."""
        return incident_energy.double() / self.incident

    def functions(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """:func:`condition_functions` of the conditions, float64 (N, 7)."""
        return condition_functions(self.relative(conditions["incident_energy"]), conditions["direction"].double())

    def scale_of(self, conditions: Mapping[str, Tensor]) -> Scale:
        """Mean and standard deviation of the features under these conditions."""
        return self.passed("scale", Scale(self.mean.double(), self.std.double()), conditions)

    def encode(self, features: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Features, float64 (N, F), to what the flow sees."""
        scale = self.scale_of(conditions)
        return (features - scale.mean) / scale.std

    def decode(self, outputs: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Outputs of the flow (N, F) to features, float64 (N, F)."""
        outputs = self.passed("outputs", outputs, conditions)
        scale = self.scale_of(conditions)
        return scale.mean + outputs.double() * scale.std

    def corrected(self, profiles: Profiles, conditions: Mapping[str, Tensor]) -> Profiles:
        """Profiles behind what stands at the place ``factors``; counts stay whole numbers."""
        none: tuple[Tensor | None, Tensor | None] = (None, None)
        of_points, of_energy = self.passed("factors", none, conditions, profiles)
        counts = profiles.counts if of_points is None else torch.floor(profiles.counts * of_points + 0.5)
        energies = profiles.energies if of_energy is None else profiles.energies * of_energy
        return Profiles(counts, energies, profiles.gravity, profiles.valid)

    def point_limit(self, incident_energy: Tensor) -> Tensor:
        """Most points that a shower may have, float64 (N,), of incident energies (N,), MeV."""
        return torch.ceil(ROOM * (self.most_points[0] + self.most_points[1] * incident_energy.double()))

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "incident_energy_MeV": float(self.incident),
            "most_points": {"constant": float(self.most_points[0]), "per_MeV": float(self.most_points[1])},
            "outside_the_box": {"points": float(self.outside[0]), "energy": float(self.outside[1])},
        }


def condition_functions(energy: Tensor, direction: Tensor) -> Tensor:
    """Functions of the condition of which smooth trends are made up, float64 (N, 7).

    Layers grow with the energy, and showers get deeper with its logarithm; both are among the functions.

    Args:
        energy: incident energies over the highest one in training, (N,).
        direction: unit vectors, (N, 3).
    """
    x, y, z = direction.unbind(dim=1)
    slant = 1 / z
    return torch.stack([torch.ones_like(energy), energy, torch.log(energy), x, y, slant, energy * slant], dim=1)
