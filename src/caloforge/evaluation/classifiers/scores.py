"""Scores of a two-class classifier: AUC, its error, isotonic calibration, Jensen-Shannon divergence, ROC curve."""

from __future__ import annotations

import math

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray

from caloforge.errors import UsageError

__all__ = [
    "IsotonicCalibration",
    "area_under_roc",
    "area_under_roc_error",
    "area_under_roc_parts",
    "divergence_of_classifier",
    "roc_curve",
]

Float64 = NDArray[np.float64]
Labels = NDArray[np.int64]


def _split(outputs: Float64, labels: Labels) -> tuple[Float64, Float64]:
    positive, negative = outputs[labels == 1], outputs[labels == 0]
    if not len(positive) or not len(negative):
        raise UsageError("an AUC needs showers of both classes")
    return positive, negative


def area_under_roc(outputs: Float64, labels: Labels) -> float:
    """Probability that a shower of class 1 gets a higher output than one of class 0, ties counting one half.

    Outputs must not be rounded to classes first: that would make a balanced accuracy of it.

    Args:
        outputs: any monotonic function of the classifier's output, shape (N,).
        labels: 0 or 1, shape (N,).
    """
    positive, negative = _split(outputs, labels)
    ranks = scipy.stats.rankdata(np.concatenate([positive, negative]))
    n = len(positive)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


def area_under_roc_parts(outputs: Float64, labels: Labels) -> tuple[Float64, Float64]:
    """For each shower the share of the other class on its right side, ties counting one half; either mean is the AUC.

    These are the structural components of the AUC (E. DeLong et al., Biometrics 44 (1988) 837).

    Returns:
        Of class 1 and of class 0, in the order in which they stand in ``outputs``.
    """
    positive, negative = _split(outputs, labels)
    n, m = len(positive), len(negative)
    every = scipy.stats.rankdata(np.concatenate([positive, negative]))
    above = (every[:n] - scipy.stats.rankdata(positive)) / m
    below = 1 - (every[n:] - scipy.stats.rankdata(negative)) / n
    return above, below


def area_under_roc_error(outputs: Float64, labels: Labels) -> float:
    """Standard error of the AUC from the finite test sample (E. DeLong et al., Biometrics 44 (1988) 837)."""
    above, below = area_under_roc_parts(outputs, labels)
    if len(above) < 2 or len(below) < 2:
        return 0.5
    return math.sqrt(float(above.var(ddof=1)) / len(above) + float(below.var(ddof=1)) / len(below))


class IsotonicCalibration:
    """The rising step function of the output that fits the labels best, joined by straight lines.

    As in CaloFlow's appendix A and CaloChallenge: fitted on the showers that chose the epoch, clipped to
    [1e-6, 1 - 1e-6]. It makes ties, so the AUC after it is not the raw one.

    A step at the end that holds a handful of showers of one class claims certainty, and a single shower of the other
    class then costs the cross-entropy 14 nats: with some hundred showers the divergence of equal samples would come out
    near -0.1. ``prior`` adds so many showers of each class to every step; with the published 40,000 showers one half
    changes the divergence by less than 1e-3.

    Args:
        outputs: classifier outputs, shape (N,).
        labels: 0 or 1, shape (N,).
        prior: showers of each class added to every step; 0 as published.
    """

    def __init__(self, outputs: Float64, labels: Labels, *, prior: float = 0.0) -> None:
        self._x, where, counts = np.unique(outputs, return_inverse=True, return_counts=True)
        weights = counts.astype(np.float64)
        mean = np.bincount(where, weights=labels.astype(np.float64)) / weights
        fit = scipy.optimize.isotonic_regression(mean, weights=weights)
        fitted = fit.x
        if prior > 0:
            step = np.repeat(np.arange(len(fit.blocks) - 1), np.diff(fit.blocks))
            size = np.bincount(step, weights=weights)[step]
            # Small steps are drawn towards one half, possibly past their neighbours.
            drawn = (fitted * size + prior) / (size + 2 * prior)
            fitted = scipy.optimize.isotonic_regression(drawn, weights=weights).x
        self._y = np.clip(fitted, 1e-6, 1 - 1e-6)

    def __call__(self, outputs: Float64) -> Float64:
        """Calibrated probability of class 1; outputs beyond those of the fit get its end values."""
        calibrated: Float64 = np.interp(outputs, self._x, self._y)
        return calibrated


def divergence_of_classifier(probabilities: Float64, labels: Labels) -> float:
    """Jensen-Shannon divergence of the two classes, (ln 2 - BCE) / ln 2, from a classifier's binary cross-entropy.

    arXiv:2106.05285, section 5.4: 0 if the samples cannot be told apart, 1 if they are disjoint. It is a lower bound
    that a perfect classifier would reach; noise of the calibration can push it slightly below 0.

    Args:
        probabilities: calibrated probabilities of class 1, strictly between 0 and 1, shape (N,).
        labels: 0 or 1, shape (N,).
    """
    # Both classes count the same, whatever their numbers.
    positive, negative = _split(probabilities, labels)
    entropy = -(np.log(positive).mean() + np.log1p(-negative).mean()) / 2
    return float(1 - entropy / math.log(2))


def roc_curve(outputs: Float64, labels: Labels, points: int = 101) -> tuple[Float64, Float64]:
    """Share of class 0 and of class 1 above a falling threshold, at ``points`` equal steps of the former."""
    positive, negative = _split(outputs, labels)
    order = np.argsort(-np.concatenate([positive, negative]), kind="stable")
    is_positive = order < len(positive)
    values = np.concatenate([positive, negative])[order]
    ends = np.append(np.diff(values) != 0, True)
    true = np.concatenate([[0.0], (np.cumsum(is_positive) / len(positive))[ends]])
    false = np.concatenate([[0.0], (np.cumsum(~is_positive) / len(negative))[ends]])
    grid = np.linspace(0, 1, points)
    return grid, np.interp(grid, false, true)
