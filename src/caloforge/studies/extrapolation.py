"""What a score would be with more showers, with an error that holds the choice of the law, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Extrapolated", "extrapolated", "together"]

Floats = NDArray[np.float64]
#: Both are linear in what they fit: without an end, and with one that is reached as statistical errors vanish.
_LAWS: tuple[Callable[[Floats], Floats], ...] = (np.log, lambda n: -1 / np.sqrt(n))


@dataclass(frozen=True)
class Extrapolated:
    """A value beyond what was measured.

    Attributes:
        value: between the two laws.
        error: of the fits, and half the difference of the laws.
        change: value minus that of the fits at the last point.
    """

    value: float
    error: float
    change: float


def extrapolated(points: Sequence[tuple[float, float, float]], at: float) -> Extrapolated:
    """Continue a score by ``a + b ln n`` and by ``a - b / sqrt(n)``, each a weighted fit.

    Args:
        points: number of showers, score, statistical error; at least three.
        at: number of showers to continue to.

    Raises:
        ValueError: if there are fewer than three points, or an error is not positive.
    """
    n, score, error = (np.asarray(column, np.float64) for column in zip(*points, strict=True))
    if len(n) < 3 or not (error > 0).all():
        raise ValueError(f"{len(n)} points with errors {error.tolist()}, expected three or more with positive ones")
    ends, errors, lasts = [], [], []
    for law in _LAWS:
        design = np.stack([np.ones_like(n), law(n)], axis=1) / error[:, None]
        covariance = np.linalg.inv(design.T @ design)
        fit = covariance @ design.T @ (score / error)
        # Points that scatter more than they should say so in the error.
        excess = max(1.0, float(((score / error - design @ fit) ** 2).sum()) / (len(n) - 2))
        gradient = law(np.array([n.max(), at]))
        last, end = fit[0] + fit[1] * gradient
        step = np.array([0.0, gradient[1] - gradient[0]])
        ends.append(end)
        lasts.append(last)
        errors.append(float(np.sqrt(excess * (step @ covariance @ step))))
    changes = np.subtract(ends, lasts)
    spread = float(np.hypot(max(errors), abs(changes[0] - changes[1]) / 2))
    return Extrapolated(float(np.mean(ends)), spread, float(np.mean(changes)))


def together(first: Extrapolated, second: Extrapolated, last: tuple[float, float]) -> Extrapolated:
    """Both changes added to the last score (value and error), as if neither depended on the other.

    An AUC stays within 0.5 and 1.
    """
    change = first.change + second.change
    value = min(max(last[0] + change, 0.5), 1.0)
    return Extrapolated(value, float(np.sqrt(first.error**2 + second.error**2 + last[1] ** 2)), change)
