"""Spots of energy along a shower, put into voxels or kept as points, for showers of any direction."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from caloforge.detectors import Readout

__all__ = ["Spots", "choose_steps", "divided_energies", "place_spots", "radius_of"]


def choose_steps(weights: Tensor, chance: Tensor, shower: Tensor) -> Tensor:
    """A step for each spot, int64 (M,), with probabilities in proportion to weights.

    Args:
        weights: of the steps of each shower, (N, S).
        chance: uniform numbers, (M,).
        shower: number of the shower of each spot, (M,), ascending.
    """
    steps = weights.shape[1]
    total = weights.cumsum(dim=1)
    # One ascending row behind the other, each a bit wider than 1, so that one search serves all.
    rows = total / total[:, -1:].clamp_min(1e-300) + 2 * torch.arange(len(weights), device=weights.device)[:, None]
    found = torch.searchsorted(rows.reshape(-1), chance + 2 * shower, right=True)
    return (found - shower * steps).clamp(0, steps - 1)


def place_spots(radius: Tensor, angle: Tensor, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Where spots lie in the planes of their steps, x and y (M,), mm.

    A spot lies off the axis across the flight direction; from there it is moved along the direction onto the plane.

    Args:
        radius: distance from the axis, mm, (M,).
        angle: about the axis, (M,).
        z: of the plane, mm, (M,).
        direction: unit vectors of the showers of the spots, float64 (M, 3).
    """
    nx, ny, nz = direction.unbind(dim=1)
    # Two vectors across the direction: that in the plane of the direction and z, and the other one.
    flat = (nx**2 + ny**2).sqrt()
    cos, sin = (
        torch.where(flat > 1e-12, nx / flat.clamp_min(1e-12), 1.0),
        torch.where(flat > 1e-12, ny / flat.clamp_min(1e-12), 0.0),
    )
    u, v = radius * angle.cos(), radius * angle.sin()
    across = torch.stack([u * nz * cos - v * sin, u * nz * sin + v * cos, -u * flat], dim=1)
    path = (z - across[:, 2]) / nz
    return across[:, 0] + path * nx, across[:, 1] + path * ny


class Spots:
    """Spots of N showers.

    Args:
        x, y: place, mm, (M,).
        layer: (M,).
        energy: MeV, (M,).
        starts: where the spots of each shower begin and those of the last end, (N + 1,).
    """

    def __init__(self, x: Tensor, y: Tensor, layer: Tensor, energy: Tensor, starts: Tensor) -> None:
        self.x, self.y, self.layer, self.energy, self.starts = x, y, layer, energy, starts

    def voxels(self, readout: Readout) -> Tensor:
        """Energy in each voxel, float64 (N, V); what lies outside of all is lost."""
        count = len(self.starts) - 1
        shower = torch.repeat_interleave(torch.arange(count, device=self.starts.device), self.starts.diff())
        arrays: list[np.ndarray] = [t.cpu().numpy() for t in (self.x, self.y, self.layer)]
        voxel = torch.from_numpy(readout.voxel_index(*arrays)).to(shower.device)
        inside = voxel >= 0
        out = torch.zeros(count * readout.n_voxels, dtype=torch.float64, device=shower.device)
        out.index_add_(0, (shower * readout.n_voxels + voxel)[inside], self.energy[inside])
        return out.reshape(count, readout.n_voxels)

    def points(self, least: float) -> tuple[Tensor, Tensor]:
        """``offsets`` (N + 1,) and ``points`` (K, 4), float32, of those that have energy."""
        kept = self.energy > least
        counts = torch.cat([torch.zeros_like(self.starts[:1]), kept.long().cumsum(0)])
        rows = torch.stack([self.x, self.y, self.layer.to(self.x.dtype), self.energy], dim=1)[kept]
        return counts[self.starts], rows.float()


def radius_of(share: Tensor, core: Tensor, tail: Tensor, chance: Tensor) -> Tensor:
    """Radius from the two components, with one uniform number for component and radius alike."""
    inner = chance < share
    own = torch.where(inner, chance / share.clamp_min(1e-12), (chance - share) / (1 - share).clamp_min(1e-12)).clamp(
        0, 1 - 1e-9
    )
    return torch.where(inner, core, tail) * (own / (1 - own)).sqrt()


def divided_energies(portion: Tensor, layers: Tensor, layer: Tensor, shower: Tensor) -> Tensor:
    """Energies of spots, float64 (M,), MeV, so that every layer has its own.

    What a layer without a spot would have had goes to the others.

    Args:
        portion: energies of the spots but for a factor of their layer, (M,).
        layers: energy of each layer, (N, L), MeV.
        layer: of each spot, (M,).
        shower: of each spot, (M,).
    """
    slot = shower * layers.shape[1] + layer
    total = torch.zeros(layers.numel(), dtype=torch.float64, device=layers.device).index_add_(0, slot, portion)
    energy = portion * (layers.flatten() / total.clamp_min(1e-300))[slot]
    reached = torch.where(total.reshape(layers.shape) > 0, layers, 0.0).sum(dim=1)
    return energy * (layers.sum(dim=1) / reached.clamp_min(1e-300))[shower]
