"""Gamma-distributed numbers from a Gaussian and a uniform one, so that a draw is a function of numbers drawn before."""

from __future__ import annotations

from torch import Tensor

__all__ = ["log_gamma_numbers"]

_LEAST = 1e-9


def log_gamma_numbers(shape: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
    """Logarithms of Gamma(shape, 1) numbers, for any shape above 0.

    Gamma(k) is Gamma(k + 1) times U^(1/k); a number of the latter's shape, above 1, comes from the cube of a Gaussian one
    (Wilson and Hilferty 1931), whose mean is right within 0.1 % and whose standard deviation is within 1.5 %.

    Args:
        shape: k.
        normal: standard normal numbers.
        uniform: numbers in [0, 1).
    """
    above = shape + 1
    ninth = 1 / (9 * above)
    cube = (1 - ninth + ninth.sqrt() * normal).clamp_min(_LEAST)
    return above.log() + 3 * cube.log() + (1 - uniform).log() / shape.clamp_min(_LEAST)
