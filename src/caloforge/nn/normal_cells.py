"""Cells that normal numbers stand behind: zero where these are negative, with a tail where they are large."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["bent", "censored_log_prob", "straightened"]

#: Largest exponent of a cell.
_MOST_BENDS = 8.0


def bent(numbers: Tensor, bend: float | None) -> Tensor:
    """Cells of numbers that are not negative: b (exp(x / b) - 1), equal up to b or so and exponential beyond; b None: x itself.

    Deposits of a cell have a long tail, of which normal numbers know nothing. Beyond e^8 b, where no cell is, they stay.
    """
    return numbers if bend is None else bend * torch.expm1((numbers / bend).clamp_max(_MOST_BENDS))


def straightened(cells: Tensor, bend: float | None) -> Tensor:
    """What :func:`bent` makes cells of: b ln(1 + cell / b)."""
    return cells if bend is None else bend * torch.log1p(cells / bend)


def censored_log_prob(cells: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Logarithm of the density of normal numbers that are zero where they would be negative (J. Tobin, Econometrica 26, 1958).

    Args:
        cells: the numbers, not negative, of any shape.
        mean: of the normal distributions, of the same shape.
        spread: their standard deviations.

    Returns:
        Nats: of the density where a cell is positive, of the probability where it is zero.
    """
    away = (cells - mean) / spread
    density = -0.5 * away.square() - spread.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(cells > 0, density, torch.special.log_ndtr(-mean / spread))
