"""Diffusion in the formulation of Karras et al. (EDM, arXiv:2206.00364), and its distillation to one step.

Noise levels sigma are those of the data after normalisation. A *denoiser* is a function ``(x, sigma) -> D(x; sigma)`` on
packed points (M, F), sigma one for each shower (N,). Consistency distillation follows Song et al. (arXiv:2303.01469).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Denoiser", "Edm", "heun_sample", "heun_step"]

Denoiser = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Edm:
    """The constants of the formulation; the defaults are the published ones (arXiv:2206.00364, table 1).

    Attributes:
        sigma_data: standard deviation of the normalised data.
        sigma_min: lowest noise level.
        sigma_max: highest noise level, where sampling starts.
        rho: how noise levels are spaced.
        log_mean: mean of ln sigma in training.
        log_std: standard deviation of ln sigma in training.
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    log_mean: float = -1.2
    log_std: float = 1.2

    def levels(self, steps: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """Noise levels from the highest to the lowest, (steps,) (equation 5)."""
        if steps == 1:
            return torch.full((1,), self.sigma_max, device=device, dtype=dtype)
        place = torch.arange(steps, device=device, dtype=torch.float64) / (steps - 1)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        spaced: Tensor = (high + place * (low - high)) ** self.rho
        return spaced.to(dtype)

    def training_levels(self, normal: Tensor) -> Tensor:
        """Log-normal noise levels from standard normal numbers."""
        return torch.exp(self.log_mean + self.log_std * normal)

    def input_scale(self, sigma: Tensor) -> Tensor:
        """What a noisy input is multiplied by: c_in (table 1)."""
        return torch.rsqrt(sigma.square() + self.sigma_data**2)

    def output_scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip and c_out of the denoiser (table 1)."""
        total = sigma.square() + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data * torch.rsqrt(total)

    def consistency_scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip and c_out of a consistency model: the identity at the lowest level (arXiv:2303.01469, appendix C)."""
        above = sigma - self.sigma_min
        total = sigma.square() + self.sigma_data**2
        skip = self.sigma_data**2 / (above.square() + self.sigma_data**2)
        return skip, above * self.sigma_data * torch.rsqrt(total)

    @cached_property
    def one_step(self) -> tuple[float, tuple[float, float, float]]:
        """How a consistency model samples in one step from standard normal numbers z at the highest level.

        Returns:
            The noise level as the network is to see it, ln(sigma) / 4, and the numbers scale, skip and out of the sample
            ``skip z + out F(scale z)``, where F is the network.
        """
        sigma = torch.tensor(self.sigma_max, dtype=torch.float64)
        skip, out = self.consistency_scales(sigma)
        scales = (float(sigma * self.input_scale(sigma)), float(sigma * skip), float(out))
        return math.log(self.sigma_max) / 4, scales


def heun_step(denoise: Denoiser, x: Tensor, sigma: Tensor, lower: Tensor, index: Tensor) -> Tensor:
    """One second-order step of the probability flow from one noise level to a lower one above zero.

    Args:
        denoise: the denoiser.
        x: packed noisy points (M, F).
        sigma: present noise level of each shower, (N,).
        lower: the next one, (N,).
        index: number of the shower of each point, int64 (M,).

    Source: arXiv:2206.00364, algorithm 1.
    """
    now, step = sigma[index][:, None], (lower - sigma)[index][:, None]
    slope = (x - denoise(x, sigma)) / now
    euler = x + step * slope
    slope_behind = (euler - denoise(euler, lower)) / lower[index][:, None]
    return x + step * (slope + slope_behind) / 2


def heun_sample(edm: Edm, denoise: Denoiser, noise: Tensor, showers: int, index: Tensor, steps: int) -> Tensor:
    """Denoise from the highest level to zero with 2 * steps - 1 calls of the denoiser.

    Args:
        edm: the noise levels.
        denoise: the denoiser.
        noise: standard normal numbers (M, F), packed.
        showers: how many showers, N.
        index: number of the shower of each point, int64 (M,).
        steps: number of noise levels.

    Source: arXiv:2206.00364, algorithm 1; the last step, to zero, is Euler's.
    """
    levels = edm.levels(steps, device=noise.device, dtype=noise.dtype)
    x = noise * levels[0]
    for number in range(steps - 1):
        sigma, lower = (levels[number + k].expand(showers) for k in (0, 1))
        x = heun_step(denoise, x, sigma, lower, index)
    return denoise(x, levels[-1].expand(showers))
