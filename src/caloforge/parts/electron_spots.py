"""Electrons as spots of energy at random places of their profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from caloforge.parts.electron_showers import ElectronNumbers, ElectronShowers
from caloforge.parts.shower_spots import Spots, choose_steps, divided_energies, place_spots, radius_of
from caloforge.parts.shower_steps import ShowerSteps

__all__ = ["electron_spots"]


def electron_spots(
    found: ElectronShowers,
    steps: ShowerSteps,
    numbers: ElectronNumbers,
    layers: Tensor,
    direction: Tensor,
    latents: Mapping[str, Tensor],
) -> Spots:
    """Spots of equal energy within a step.

    Args:
        found: the electrons of each shower in every step.
        steps: the calorimeter.
        numbers: what a fit may have changed; the factor on radii is used.
        layers: energies of the layers, (N, L), MeV, which the spots share.
        direction: unit vectors, (N, 3).
        latents: ``spots``, uniform (M, 3), which begin at ``starts`` (N + 1,).
    """
    starts, chance = latents["starts"], latents["spots"]
    shower = torch.repeat_interleave(torch.arange(len(starts) - 1, device=starts.device), starts.diff())
    count = len(steps.layer)
    weights = found.spots.flatten(1)
    step = choose_steps(weights, chance[:, 0], shower)
    flat = shower * 2 * count + step
    portion = (found.deposited * steps.weight).flatten()[flat] / weights.flatten()[flat].clamp_min(1e-300)
    of_step = step % count
    layer = steps.layer[of_step]
    energy = divided_energies(portion, layers, layer, shower)
    share, core, tail = (values.flatten()[flat] for values in (found.share, found.core, found.tail))
    unit = steps.matter.moliere_radius * numbers.radius
    radius = unit * radius_of(share, core, tail, chance[:, 1])
    x, y = place_spots(radius, 2 * math.pi * chance[:, 2], steps.z[of_step], direction[shower])
    return Spots(x, y, layer, energy, starts)
