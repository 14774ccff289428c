"""Statistical errors of classifier scores: what each test shower contributes, and a shower counts once.

To first order a score is a sum over test showers (for an AUC DeLong's structural components, E. DeLong et al., Biometrics 44
(1988) 837). A shower that stands at several places of one test set contributes the sum of them, as in clustered data
(N. Obuchowski, Biometrics 53 (1997) 567). The test sets of several retrainings overlap: a shower in many of them is not seen
anew each time, so what it contributes to one counts as fully correlated with what it contributes to the others. Where each
test set is drawn as a share p of all showers, the variance of the mean over R retrainings is then (p + (1 - p) / R) times
that of one retraining, and never less than with every shower tested once; counting retrainings as independent would give
1 / R (C. Nadeau and Y. Bengio, Machine Learning 52 (2003) 239, on the same point).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.evaluation.classifiers.scores import area_under_roc_parts
from caloforge.evaluation.results import Spread
from caloforge.showers import ShowerPoints, Showers, row_hashes

__all__ = [
    "auc_contributions",
    "divergence_contributions",
    "grouped_error",
    "mean_contributions",
    "pack",
    "shower_groups",
    "spread",
    "unpack",
]

Float64 = NDArray[np.float64]
Index = NDArray[np.int64]


def mean_contributions(values: Float64) -> Float64:
    """What each value contributes to the error of their mean, shape (N,); the sum of the squares is its variance."""
    n = len(values)
    if n < 2:
        # A single shower says nothing about the scatter; no AUC is farther off than this from the middle of its range.
        return np.full(n, 0.5)
    scaled: Float64 = (values - values.mean()) / math.sqrt(n * (n - 1))
    return scaled


def auc_contributions(outputs: Float64, labels: Index) -> Float64:
    """What each test shower contributes to the error of the AUC, shape (N,); the squares add up to DeLong's variance.

    Args:
        outputs: of the classifier, shape (N,).
        labels: 0 or 1, shape (N,).
    """
    positive, negative = area_under_roc_parts(outputs, labels)
    found = np.empty(len(labels))
    found[labels == 1] = mean_contributions(positive)
    found[labels == 0] = mean_contributions(negative)
    return found


def divergence_contributions(probabilities: Float64, labels: Index) -> Float64:
    """The same for ``divergence_of_classifier``; the error of its calibration is not in it."""
    found = np.empty(len(labels))
    for label, logs in ((1, np.log(probabilities)), (0, np.log1p(-probabilities))):
        found[labels == label] = mean_contributions(logs[labels == label]) / (2 * math.log(2))
    return found


def shower_groups(samples: Sequence[Showers | ShowerPoints]) -> Index:
    """A number for each row of all samples together, the same for rows that hold the same shower to the last bit.

    Showers without any deposit are alike by nature, not copies of each other, so each has a number of its own.

    Returns:
        Shape (total number of rows,).
    """
    hashes = np.concatenate([row_hashes(s) for s in samples])
    dark = np.concatenate([
        ~s.deposits.any(axis=1) if isinstance(s, Showers) else np.diff(s.offsets) == 0 for s in samples
    ])  # fmt: skip
    numbers = np.unique(hashes, return_inverse=True)[1].astype(np.int64)
    numbers[dark] = len(hashes) + np.arange(int(dark.sum()))
    return numbers


def grouped_error(contributions: Sequence[Float64], groups: Sequence[Index]) -> float:
    """Statistical error of the mean of several scores (one standard deviation).

    Args:
        contributions: one array for each score: what its test showers contribute.
        groups: likewise which showers these are, numbers from 0.
    """
    size = 1 + max(int(g.max()) for g in groups)
    tests, squares = np.zeros(size), np.zeros(size)
    for contribution, group in zip(contributions, groups, strict=True):
        squares += np.bincount(group, weights=contribution, minlength=size) ** 2
        tests += np.bincount(group, minlength=size) > 0
    # (a + b + ...)^2 <= n (a^2 + b^2 + ...), equal if a shower contributes the same to all scores.
    return math.sqrt(float((tests * squares).sum())) / len(contributions)


def spread(
    values: Sequence[float],
    contributions: Sequence[Float64] | None = None,
    groups: Sequence[Index] | None = None,
    *,
    correlation: float = 0.0,
) -> Spread:
    """Mean, standard deviation (0 for a single value), the values themselves, and the error of the mean.

    The error has two parts: that of the test showers (:func:`grouped_error`), and the scatter between trainings as far as
    it is larger than what the test showers of a single one explain.

    Args:
        values: the score of each retraining.
        contributions: likewise what its test showers contribute; None if that is not known.
        groups: likewise which showers these are.
        correlation: between the scores of any two trainings, beyond what common test showers explain. The folds of a
            cross-validation have none of these, but the test showers of one are training showers of the others: Nadeau and
            Bengio's estimate for it is the share of showers that are tested at a time.
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    error = None
    if contributions is not None and groups is not None:
        test = grouped_error(contributions, groups) * math.sqrt(1 + (len(values) - 1) * correlation)
        single = np.mean([grouped_error([c], [g]) ** 2 for c, g in zip(contributions, groups, strict=True)])
        training = max(0.0, deviation**2 - float(single)) / len(values)
        error = math.sqrt(test**2 + training)
    return Spread(mean=float(np.mean(values)), std=deviation, values=tuple(values), error=error)


def pack(showers: Index, numbers: Mapping[str, NDArray[np.generic]]) -> dict[str, str]:
    """Test showers and numbers of them, contributions above all, as a JSON file can hold them: float32, base 64."""
    arrays = {"showers": showers.astype("<i8")} | {name: c.astype("<f4") for name, c in numbers.items()}
    return {name: base64.b64encode(array.tobytes()).decode("ascii") for name, array in arrays.items()}


def unpack(packed: Mapping[str, Any], name: str) -> tuple[Float64, Index]:
    """What :func:`pack` packed under a name, and the showers that it is of."""
    values = np.frombuffer(base64.b64decode(packed[name]), dtype="<f4").astype(np.float64)
    return values, np.frombuffer(base64.b64decode(packed["showers"]), dtype="<i8").astype(np.int64)
