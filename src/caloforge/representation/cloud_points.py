"""Point clouds as models see them: shifted onto the shower axis, within a box, normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from caloforge.detectors import Readout
from caloforge.errors import ConfigError
from caloforge.stage import PointBatch, TrainingBatch

__all__ = ["AxisShift", "Cloud", "PointNormalisation", "cloud_of", "conditions_of", "directions_of"]


@dataclass(frozen=True)
class Cloud:
    """Training showers as the models see them: shifted onto the axis, without what lies outside the box.

    Attributes:
        offsets: where the points of each shower start, int64 (N + 1,).
        shower: number of the shower of each point, int64 (M,).
        place: x and y from the shower axis, (M, 2), mm.
        layer: int64 (M,).
        energy: (M,), MeV.
        counts: points in each layer, float64 (N, L).
        energies: of each layer, float64 (N, L), MeV.
    """

    offsets: Tensor
    shower: Tensor
    place: Tensor
    layer: Tensor
    energy: Tensor
    counts: Tensor
    energies: Tensor


class AxisShift(nn.Module):
    """Each layer moved so that the shower axis meets it at the origin (arXiv:2511.01460, section 2.2).

    The axis meets layer l, whose centre lies at depth d_l, at ``d_l * (p_x, p_y) / p_z``. After the shift a shower of any
    direction looks like one along +z, so a box around it is small and its layers lie on top of each other.

    Args:
        readout: with the depths of its layers.

    Raises:
        ConfigError: if the readout does not know them.
    """

    depths: Tensor

    def __init__(self, readout: Readout) -> None:
        super().__init__()
        if not len(readout.depths):
            raise ConfigError(
                "a model of point clouds needs the depth of every layer, and the detector does not say it"
            )
        self.register_buffer("depths", torch.from_numpy(readout.depths.mean(axis=1)), persistent=False)

    def displacement(self, direction: Tensor) -> Tensor:
        """Where the axes meet the layers, mm, float32 (N, L, 2), from directions (N, 3)."""
        slopes = direction[:, None, :2].double() / direction[:, None, 2:].double()
        return (self.depths[:, None] * slopes).float()

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {"transform": "layers shifted onto the shower axis", "depths_mm": self.depths.tolist()}


class PointNormalisation(nn.Module):
    """Features of points for a diffusion model: x, y, depth and energy, each of about unit scale.

    Args:
        layers: number of layers L.
        box: full width of the box, mm.
        positions: ``standard`` gives ``(v - mean) / (2 std)`` (arXiv:2511.01460); ``box`` maps box and layers to [-1, 1]
            (arXiv:2309.05704); ``asinh`` standardises ``asinh(v / c)`` of x and y, with c the distance from the axis
            within which half of all coordinates, or another share of them, lie: it spreads the dense core and draws in
            the far tails.
        energy: ``log`` takes the standardised logarithm (arXiv:2511.01460), ``linear`` the energy in MeV as it is
            (arXiv:2309.05704).
        outside: what becomes of generated places beyond the box, where training showers have no points: ``reflected`` at its
            edge, where they would pile up if they were put onto it, or ``kept`` as published.
    """

    mean: Tensor
    scale: Tensor
    core: Tensor
    least_energy: Tensor

    def __init__(
        self,
        layers: int,
        box: float,
        positions: Literal["asinh", "standard", "box"],
        energy: Literal["log", "linear"],
        outside: Literal["reflected", "kept"] = "reflected",
    ) -> None:
        super().__init__()
        self.layers, self.box, self.positions, self.energy, self.outside = layers, box, positions, energy, outside
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(4, dtype=torch.float64))
        self.register_buffer("core", torch.ones((), dtype=torch.float64))
        self.register_buffer("least_energy", torch.ones((), dtype=torch.float64))

    def plain(self, place: Tensor, depth: Tensor, energy: Tensor) -> Tensor:
        """Features before normalisation, (M, 4), from places (M, 2), mm, depths (M,), layers, and energies (M,), MeV."""
        last = torch.log(energy) if self.energy == "log" else energy
        if self.positions == "asinh":
            place = torch.asinh(place / self.core.to(place.dtype))
        return torch.cat([place, depth[:, None], last[:, None]], dim=1)

    def fitted(self, count: Tensor, total: Tensor, squares: Tensor, least: Tensor) -> dict[str, Tensor]:
        """The state, from number of points, sums (4,) and sums of squares (4,) of the plain features, least energy."""
        mean = total / count
        scale = 2 * torch.sqrt((squares / count - mean.square()).clamp_min(1e-12))
        if self.positions == "box":
            half = self.layers / 2
            mean[:3] = mean.new_tensor([0.0, 0.0, half])
            scale[:3] = scale.new_tensor([self.box / 2, self.box / 2, half])
        if self.energy == "linear":
            mean[3], scale[3], least = 0.0, 1.0, torch.zeros_like(least)
        return {"mean": mean, "scale": scale, "least_energy": least}

    def forward(self, plain: Tensor) -> Tensor:
        """Plain features (M, 4) to normalised ones."""
        return (plain - self.mean.to(plain.dtype)) / self.scale.to(plain.dtype)

    def restore(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised features (M, 4) to places (M, 2), mm, depths (M,), layers, and energies (M,), MeV, not below zero."""
        plain = torch.addcmul(self.mean.to(features.dtype), features, self.scale.to(features.dtype))
        last = plain[:, 3]
        # No point of any detector reaches the limits of the logarithm; they only keep a wild network finite.
        linear = self.energy == "linear"
        energy = last.clamp_min(float(self.least_energy)) if linear else torch.exp(last.clamp(-30.0, 30.0))
        place, half = plain[:, :2], self.box / 2
        if self.positions == "asinh":
            place = self.core.to(plain.dtype) * torch.sinh(place.clamp(-20.0, 20.0))
        return place if self.outside == "kept" else _folded(place, half), plain[:, 2], energy

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {
            "transform": "points",
            "box_mm": self.box,
            "positions": self.positions,
            "core_mm": float(self.core),
            "energy": self.energy,
            "outside": self.outside,
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "least_energy_MeV": float(self.least_energy),
        }


def _folded(place: Tensor, half: float) -> Tensor:
    """Places reflected at -half and half as often as it takes."""
    way = torch.remainder(place + half, 4 * half)
    folded = torch.where(way > 2 * half, 3 * half - way, way - half)
    return torch.where(place.abs() > half, folded, place)


def cloud_of(batch: PointBatch, shift: AxisShift, box: float) -> Cloud:
    """A training batch of points as the models see it.

    Args:
        batch: the showers.
        shift: onto the shower axis.
        box: points further than half of this from the axis in x or y are left out, mm.
    """
    sizes, layers = batch.offsets.diff(), len(shift.depths)
    shower = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    layer = batch.points[:, 2].long()
    away = shift.displacement(directions_of(batch)).to(batch.points.dtype)[shower, layer]
    place = batch.points[:, :2] - away
    energy = batch.points[:, 3]
    inside = (place.abs() <= box / 2).all(dim=1) & (energy > 0)
    shower, layer, place, energy = shower[inside], layer[inside], place[inside], energy[inside]
    n, cells = len(batch), shower * layers + layer
    counts = torch.bincount(cells, minlength=n * layers).double().reshape(n, layers)
    energies = torch.bincount(cells, weights=energy.double(), minlength=n * layers).reshape(n, layers)
    offsets = torch.cat([batch.offsets.new_zeros(1), counts.sum(dim=1).long().cumsum(0)])
    return Cloud(offsets, shower, place, layer, energy, counts, energies)


def directions_of(batch: TrainingBatch) -> Tensor:
    """Flight directions of a batch, (N, 3), along +z if it names none."""
    if batch.direction is not None:
        return batch.direction
    direction = torch.zeros(len(batch), 3, device=batch.incident_energy.device)
    direction[:, 2] = 1
    return direction


def conditions_of(batch: TrainingBatch) -> dict[str, Tensor]:
    """Conditions of the showers of a batch, as the models want them."""
    return {"incident_energy": batch.incident_energy.double(), "direction": directions_of(batch)}
