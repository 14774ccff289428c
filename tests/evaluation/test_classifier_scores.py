"""Scores of classifiers against definitions, scikit-learn and repetition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from caloforge.errors import UsageError
from caloforge.evaluation.classifiers.scores import (
    IsotonicCalibration,
    area_under_roc,
    area_under_roc_error,
    divergence_of_classifier,
    roc_curve,
)

outputs = st.lists(st.integers(0, 5), min_size=2, max_size=12)


def slow_auc(positive: list[int], negative: list[int]) -> float:
    wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


@given(outputs, outputs)
def test_auc_against_all_pairs(positive: list[int], negative: list[int]) -> None:
    values = np.array(positive + negative, dtype=float)
    labels = np.array([1] * len(positive) + [0] * len(negative))
    assert area_under_roc(values, labels) == pytest.approx(slow_auc(positive, negative))
    assert area_under_roc(values, labels) == pytest.approx(roc_auc_score(labels, values))
    assert area_under_roc(values, 1 - labels) == pytest.approx(1 - area_under_roc(values, labels))
    false, true = roc_curve(values, labels, 2001)
    assert np.trapezoid(true, false) == pytest.approx(area_under_roc(values, labels), abs=0.01)


def test_one_class_has_no_auc() -> None:
    with pytest.raises(UsageError, match="both classes"):
        area_under_roc(np.ones(3), np.ones(3, dtype=np.int64))


def test_the_error_of_the_auc_is_that_of_repetition() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([1, 0], [300, 500])
    values = [rng.normal(size=800) + 0.8 * labels for _ in range(200)]
    found = np.std([area_under_roc(v, labels) for v in values])
    assert np.mean([area_under_roc_error(v, labels) for v in values]) == pytest.approx(found, rel=0.15)
    assert np.mean([area_under_roc(v, labels) for v in values]) == pytest.approx(0.714, abs=0.005)  # Phi(0.8/sqrt 2)


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=3, max_size=60))
def test_calibration_against_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    x = np.array([p[0] for p in pairs]) / 8
    y = np.array([p[1] for p in pairs], dtype=np.int64)
    theirs = IsotonicRegression(out_of_bounds="clip", y_min=1e-6, y_max=1 - 1e-6).fit(x, y)
    grid = np.linspace(-0.5, 1.5, 41)
    assert_allclose(IsotonicCalibration(x, y)(grid), theirs.predict(grid), atol=1e-9)


def test_divergence_of_two_gaussians() -> None:
    """With the true probabilities the classifier's divergence is the Jensen-Shannon divergence itself."""
    rng = np.random.default_rng(2)
    labels = np.repeat([1, 0], 200_000)
    x = rng.normal(size=400_000) + labels
    probability = 1 / (1 + np.exp(0.5 - x))  # exact posterior for unit Gaussians at 1 and 0
    grid = np.linspace(-9, 10, 20_001)
    p, q = (np.exp(-((grid - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (1, 0))
    m = (p + q) / 2
    exact = 0.5 * np.trapezoid(p * np.log2(p / m) + q * np.log2(q / m), grid)
    assert divergence_of_classifier(probability, labels) == pytest.approx(exact, abs=0.003)
    assert divergence_of_classifier(np.full(400_000, 0.5), labels) == pytest.approx(0)
    # Ten times as many showers of one class say the same.
    more = np.concatenate([probability[:200_000], np.tile(probability[200_000:], 10)])
    assert divergence_of_classifier(more, np.repeat([1, 0], [200_000, 2_000_000])) == pytest.approx(exact, abs=0.003)


def test_a_prior_keeps_few_showers_from_claiming_certainty() -> None:
    rng = np.random.default_rng(3)
    labels = np.tile([0, 1], 200)
    plain, drawn = [], []
    for _ in range(50):
        fit, test = rng.random(400), rng.random(400)  # outputs that know nothing
        plain.append(divergence_of_classifier(IsotonicCalibration(fit, labels)(test), labels))
        drawn.append(divergence_of_classifier(IsotonicCalibration(fit, labels, prior=0.5)(test), labels))
    assert np.mean(plain) < -0.03
    assert -0.02 < np.mean(drawn) < 0.005
    calibrated = IsotonicCalibration(fit, labels, prior=0.5)(np.linspace(0, 1, 101))
    assert (np.diff(calibrated) >= 0).all()
    # With many showers the prior means nothing.
    x = rng.normal(size=40_000) + (labels := np.tile([0, 1], 20_000))
    both = [divergence_of_classifier(IsotonicCalibration(x, labels, prior=p)(x), labels) for p in (0.0, 0.5)]
    assert both[0] == pytest.approx(both[1], abs=1e-3)
