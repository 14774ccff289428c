"""Parametrised electron showers: the formulas of G. Grindhammer and S. Peters, hep-ex/0001020.

Depths t are in radiation lengths, radii in Moliere radii, y = E / E_c. Sampling formulas describe the visible energy in the
active plates of a sampling calorimeter, homogeneous ones all the energy that is deposited. Not as implemented in Geant4, whose
sampling class has the radiation length in mm in the critical energy, homogeneous constants in place of sampling ones, and
other slips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from caloforge.detectors.materials import Sampling

__all__ = ["LEAST_ALPHA", "LongitudinalFormula", "RadialFormula", "mean_profile", "shares_before"]

#: Below this alpha the profile has no maximum inside; CMS draws such showers again.
LEAST_ALPHA = 1.05
#: ln y below which the formulas' means, or widths, have no meaning any more; softer showers get those of this ln y.
_LEAST_MEAN, _LEAST_WIDTH = 1.3, 4.0
#: Largest depth in units of that of the maximum for which the radial formulas are used, as in CMS.
_DEEPEST = 10.0


def mean_profile(log_y: float, matter_z: float, sampling: Sampling | None = None) -> tuple[float, float]:
    """T and alpha of the mean longitudinal profile (hep-ex/0001020, equations for the average shower).

    Args:
        log_y: ln(E / E_c).
        matter_z: effective atomic number.
        sampling: the stack, for the sampling formulas.
    """
    peak, alpha = log_y - 0.858, 0.21 + (0.492 + 2.38 / matter_z) * log_y
    if sampling is None:
        return peak, alpha
    return (
        peak - 0.59 / sampling.frequency - 0.53 * (1 - sampling.e_over_mip),
        alpha - 0.444 / sampling.frequency,
    )


def shares_before(alpha: Tensor, beta: Tensor, depth: Tensor) -> Tensor:
    """Share of the energy before a depth (radiation lengths), the regularised incomplete gamma function P(alpha, beta t)."""
    share: Tensor = torch.special.gammainc(alpha, (beta * depth).clamp_min(0))
    return share


@dataclass(frozen=True)
class LongitudinalFormula:
    """Fluctuating T (depth of the maximum) and alpha of showers: their logarithms are correlated Gaussian numbers.

    exp<ln T> = ``peak[0] + peak[1] ln y``, exp<ln alpha> likewise; the widths are 1 / (a + b ln y), the correlation a + b ln y.
    """

    peak: tuple[float, float]
    alpha: tuple[float, float]
    peak_width: tuple[float, float]
    alpha_width: tuple[float, float]
    correlation: tuple[float, float]

    @classmethod
    def of(cls, matter_z: float, sampling: Sampling | None = None) -> LongitudinalFormula:
        """The published one, homogeneous, or for a sampling calorimeter."""
        peak, alpha = -0.812, 0.81
        slope = 0.458 + 2.26 / matter_z
        if sampling is None:
            return cls((peak, 1.0), (alpha, slope), (-1.4, 1.26), (-0.58, 0.86), (0.705, -0.023))
        peak -= 0.55 / sampling.frequency + 0.69 * (1 - sampling.e_over_mip)
        alpha -= 0.476 / sampling.frequency
        return cls((peak, 1.0), (alpha, slope), (-2.5, 1.25), (-0.82, 0.79), (0.784, -0.023))

    def numbers(self) -> Tensor:
        """All ten numbers, (5, 2), in the order of the attributes."""
        rows = (self.peak, self.alpha, self.peak_width, self.alpha_width, self.correlation)
        return torch.tensor(rows, dtype=torch.float64)

    @staticmethod
    def draw(numbers: Tensor, log_y: Tensor, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """T, alpha, and exp<ln alpha>, each (...), from ln y (...) and standard normal numbers (..., 2)."""
        mean, wide = log_y.clamp_min(_LEAST_MEAN), log_y.clamp_min(_LEAST_WIDTH)
        peak, alpha = (row[0] + row[1] * mean for row in numbers[:2])
        peak, alpha = peak.clamp_min(0.05), alpha.clamp_min(LEAST_ALPHA)
        widths = [1 / (row[0] + row[1] * wide) for row in numbers[2:4]]
        correlation = (numbers[4, 0] + numbers[4, 1] * wide).clamp(-0.99, 0.99)
        plus, minus = ((1 + correlation) / 2).sqrt(), ((1 - correlation) / 2).sqrt()
        first, second = normal[..., 0], normal[..., 1]
        return (
            peak * (widths[0] * (plus * first + minus * second)).exp(),
            (alpha * (widths[1] * (plus * first - minus * second)).exp()).clamp_min(LEAST_ALPHA),
            alpha,
        )


@dataclass(frozen=True)
class RadialFormula:
    """Two components of the radial profile, each 2 r R^2 / (r^2 + R^2)^2, of which the core has the share p."""

    matter_z: float
    sampling: Sampling | None = None

    def __call__(self, log_energy: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """p, R_core and R_tail.

        Args:
            log_energy: ln(E / GeV).
            depth: t / T of the mean shower, tau.
        """
        z, tau = self.matter_z, depth.clamp(0, _DEEPEST)
        core = 0.0251 + 0.00319 * log_energy + (0.1162 - 0.000381 * z) * tau
        k1, k2, k3, k4 = 0.659 - 0.00309 * z, 0.645, -2.59, 0.3585 + 0.0421 * log_energy
        tail = k1 * ((k3 * (tau - k2)).exp() + (k4 * (tau - k2)).exp())
        x = (0.401 + 0.00187 * z - tau) / (1.313 - 0.0686 * log_energy).clamp_min(0.3)
        share = (2.632 - 0.00094 * z) * (x - x.exp()).exp()
        if self.sampling is not None:
            loss, frequency = 1 - self.sampling.e_over_mip, self.sampling.frequency
            core = core - 0.0203 * loss + 0.0397 / frequency * (-tau).exp()
            tail = tail - 0.14 * loss - 0.495 / frequency * (-tau).exp()
            share = share + loss * (0.348 - 0.642 / frequency * (-((tau - 1) ** 2)).exp())
        core = core.clamp_min(0.005)
        return share.clamp(0, 1), core, torch.maximum(tail, core)


def spot_number(energy_gev: Tensor, matter_z: float, sampling: Sampling | None) -> Tensor:
    """Mean number of spots of equal energy that fluctuate as a shower does."""
    if sampling is None or sampling.stochastic <= 0:
        return 93 * math.log(matter_z) * energy_gev**0.876
    return 10.3 / sampling.stochastic * energy_gev**0.959


def spot_profile(peak: Tensor, alpha: Tensor, matter_z: float, *, sampling: bool) -> tuple[Tensor, Tensor]:
    """T and alpha of the depth of spots, from those of the energy."""
    if sampling:
        return peak * (0.813 + 0.0019 * matter_z), alpha * (0.844 + 0.0026 * matter_z)
    return peak * (0.698 + 0.00212 * matter_z), alpha * (0.639 + 0.00334 * matter_z)
