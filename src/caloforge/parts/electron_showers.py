"""Electrons and pairs of them in a calorimeter: energy in its steps, in its layers, and the radial profile on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caloforge.parts.electron_profile import LongitudinalFormula, RadialFormula, shares_before, spot_profile
from caloforge.parts.gamma_numbers import log_gamma_numbers
from caloforge.parts.shower_steps import ShowerSteps
from caloforge.units import GeV

__all__ = ["ElectronNumbers", "ElectronShowers", "electron_showers", "seen_layers"]

#: Energy below which an electron has the radial profile of this energy, GeV.
_SOFTEST = 0.05


class ElectronNumbers(nn.Module):
    """What a file of showers may change: constants of the formulas until then.

    Attributes:
        longitudinal: rows as in :class:`~caloforge.parts.electron_profile.LongitudinalFormula`, (5, 2).
        radius: factor on all radii.
        quanta: factors on the portions of energy in the core and in the tail of each layer, (2, L).
        response: a, b of the mean visible over the expected energy, a + b ln(E/GeV); c, d of its spread c/sqrt(E/GeV) and d.
    """

    longitudinal: Tensor
    radius: Tensor
    response: Tensor
    quanta: Tensor

    def __init__(self, longitudinal: Tensor, stochastic: float, layers: int) -> None:
        super().__init__()
        self.register_buffer("longitudinal", longitudinal)
        self.register_buffer("radius", torch.ones((), dtype=torch.float64))
        self.register_buffer("quanta", torch.ones(2, layers, dtype=torch.float64))
        self.register_buffer("response", torch.tensor([1.0, 0.0, stochastic, 0.0], dtype=torch.float64))


@dataclass(frozen=True)
class ElectronShowers:
    """Two electrons of each of N showers, of which the second may have no energy, in S steps.

    Attributes:
        deposited: energy that is lost in each step, float64 (N, 2, S), MeV.
        spots: how many spots there are in each step, but for a factor, (N, 2, S).
        share, core, tail: share of the core and both radii of the radial profile, Moliere radii, (N, 2, S).
    """

    deposited: Tensor
    spots: Tensor
    share: Tensor
    core: Tensor
    tail: Tensor


def electron_showers(
    steps: ShowerSteps,
    numbers: Tensor,
    radial: RadialFormula,
    conditions: Mapping[str, Tensor],
    shape: Tensor,
    pair: Tensor,
    *,
    with_spots: bool,
) -> ElectronShowers:
    """Draw longitudinal profiles and divide them among steps.

    Args:
        steps: the calorimeter.
        numbers: of the longitudinal formula, (5, 2).
        radial: the radial formula.
        conditions: as from ``Conditions.tensors``; a shower at an angle meets more material in each step.
        shape: standard normal numbers, (N, 4).
        pair: depth at which the electrons begin, radiation lengths, and the share of the first one, (N, 2).
        with_spots: whether spots are wanted, whose depths follow another profile than the energy's.
    """
    first = pair[:, 1:].double()
    energy = conditions["incident_energy"][:, None] * torch.cat([first, 1 - first], dim=1)
    log_y = (energy / steps.matter.critical_energy).clamp_min(1.0).log()
    peak, alpha, typical = LongitudinalFormula.draw(numbers, log_y, shape[:, :4].double().reshape(-1, 2, 2))
    stretch = 1 / conditions["direction"][:, 2:].double().clamp_min(1e-3)
    start = pair[:, :1].double()
    edges = (steps.edge[None] * stretch - start)[:, None, :]

    def in_steps(top: Tensor, shape_parameter: Tensor) -> Tensor:
        before = shares_before(shape_parameter[..., None], ((shape_parameter - 1) / top)[..., None], edges)
        return before[..., steps.last] - before[..., steps.first]

    deposited = energy[..., None] * in_steps(peak, alpha)
    spots = deposited
    if with_spots:
        profile = spot_profile(peak, alpha, radial.matter_z, sampling=radial.sampling is not None)
        spots = (energy / GeV)[..., None] ** 0.876 * in_steps(profile[0], profile[1].clamp_min(1.01))
    # Depth over that of the maximum of a mean shower, from the mean depth of this one.
    middle = (steps.middle[None] * stretch - start)[:, None, :].clamp_min(0)
    mean = alpha * peak / (alpha - 1)
    depth = middle / mean[..., None] * (typical / (typical - 1))[..., None]
    log_energy = (energy / GeV).clamp_min(_SOFTEST).log()[..., None]
    share, core, tail = radial(log_energy, depth)
    return ElectronShowers(deposited, spots, share, core, tail)


def seen_layers(
    found: ElectronShowers,
    steps: ShowerSteps,
    layers: int,
    response: Tensor,
    incident: Tensor,
    latents: Mapping[str, Tensor],
) -> Tensor:
    """Energy that the files hold of each layer, float64 (N, L), MeV.

    Sampling fluctuations are Gamma numbers with a variance of c^2 E (GeV), added up over a shower whatever the layers are.

    Args:
        found: the electrons.
        steps: the calorimeter.
        layers: L.
        response: a, b, c, d, see :class:`ElectronNumbers`.
        incident: incident energy, (N,), MeV.
        latents: ``layers`` and ``sampling`` for the fluctuations of the layers, ``shape`` for that of the whole shower.
    """
    lost = found.deposited.sum(dim=1)
    place = steps.layer[None].expand(len(lost), -1)
    true = torch.zeros(len(lost), layers, dtype=torch.float64, device=lost.device).scatter_add_(1, place, lost)
    seen = torch.zeros_like(true).scatter_add_(1, place, lost * steps.weight)
    log_energy = (incident / GeV).log()
    factor = (response[0] + response[1] * log_energy + response[3] * latents["shape"][:, 4]).clamp_min(0)[:, None]
    if float(response[2]) > 0:
        shape = true / GeV / response[2] ** 2
        draws = log_gamma_numbers(shape, latents["layers"].double(), latents["sampling"])
        factor = factor * torch.where(shape > 0, (draws - shape.clamp_min(1e-12).log()).exp(), torch.zeros_like(shape))
    return seen * factor
