"""Statistical errors of classifier scores against DeLong, the bootstrap and repetition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from caloforge.detectors.readout import Axis, LayerGroup, Readout
from caloforge.evaluation.classifiers.scores import area_under_roc, area_under_roc_error, divergence_of_classifier
from caloforge.evaluation.classifiers.uncertainty import (
    auc_contributions,
    divergence_contributions,
    grouped_error,
    mean_contributions,
    pack,
    shower_groups,
    spread,
    unpack,
)
from caloforge.evaluation.results import Spread
from caloforge.showers import ShowerPoints, Showers

TINY = Readout(layers=(LayerGroup(x=Axis(bins=2, range=(-1, 1)), y=Axis(bins=1, range=(-1, 1))),))


def test_one_retraining_has_delong_s_error() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([1, 0], [40, 70])
    outputs = np.round(rng.normal(size=110) + 0.7 * labels, 1)  # with ties
    contributions = auc_contributions(outputs, labels)
    assert contributions.sum() == pytest.approx(0, abs=1e-12)
    error = grouped_error([contributions], [np.arange(110)])
    assert error == pytest.approx(area_under_roc_error(outputs, labels), rel=1e-12)
    found = spread([area_under_roc(outputs, labels)], [contributions], [np.arange(110)])
    # Mutation: an error of 0 for one retraining, as in earlier versions.
    assert (found.std, found.error) == (0.0, pytest.approx(error))
    assert spread([0.5]).error is None


def test_a_shower_with_copies_counts_once() -> None:
    """Every shower k times: the error is that of the showers, not of the rows. Mutation: rows as groups."""
    rng = np.random.default_rng(2)
    labels, k = np.repeat([1, 0], 100), 4
    outputs = rng.normal(size=200) + labels
    once = area_under_roc_error(outputs, labels)
    many = auc_contributions(np.repeat(outputs, k), np.repeat(labels, k))
    assert grouped_error([many], [np.repeat(np.arange(200), k)]) == pytest.approx(once, rel=0.01)
    assert grouped_error([many], [np.arange(200 * k)]) == pytest.approx(once / 2, rel=0.01)
    # A shower that stands in both classes moves no AUC.
    both = auc_contributions(np.tile(outputs[:100], 2), labels)
    assert grouped_error([both], [np.tile(np.arange(100), 2)]) == pytest.approx(0, abs=1e-12)


def test_the_error_of_a_divergence_is_the_bootstrap_s() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([1, 0], [300, 500])
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=800) + labels - 0.5)))
    error = grouped_error([divergence_contributions(probabilities, labels)], [np.arange(800)])
    draws = []
    for _ in range(300):
        rows = np.concatenate([rng.choice(np.flatnonzero(labels == c), (labels == c).sum()) for c in (0, 1)])
        draws.append(divergence_of_classifier(probabilities[rows], labels[rows]))
    assert error == pytest.approx(np.std(draws), rel=0.15)
    values = rng.normal(3, 2, 50)
    assert np.sqrt((mean_contributions(values) ** 2).sum()) == pytest.approx(np.std(values, ddof=1) / np.sqrt(50))


def retrained(n: int, retrainings: int, rng: np.random.Generator) -> Spread:
    """Equal samples of Gaussians; every retraining is a linear fit to 60 % of them, scored on another 20 %."""
    x, labels = rng.normal(size=(2 * n, 10)), np.repeat([0, 1], n)
    scores, contributions, groups = [], [], []
    for _ in range(retrainings):
        orders = [rng.permutation(n), n + rng.permutation(n)]
        train, test = (
            np.concatenate([o[part] for o in orders]) for part in (slice(0, 3 * n // 5), slice(4 * n // 5, n))
        )
        outputs = x[test] @ np.linalg.lstsq(x[train], 2.0 * labels[train] - 1, rcond=None)[0]
        scores.append(area_under_roc(outputs, labels[test]))
        contributions.append(auc_contributions(outputs, labels[test]))
        groups.append(test)
    return spread(scores, contributions, groups)


def test_the_error_of_a_mean_over_retrainings_is_that_of_repetition() -> None:
    """Ten retrainings on the same showers. Mutations: standard deviation over their root (half the truth); contributions of
    different retrainings as independent (likewise)."""
    rng = np.random.default_rng(4)
    found = [retrained(150, 10, rng) for _ in range(250)]
    truth = np.std([f.mean for f in found])
    assert np.sqrt(np.mean([f.error**2 for f in found if f.error is not None])) == pytest.approx(truth, rel=0.12)
    assert np.mean([f.std for f in found]) / np.sqrt(10) < 0.6 * truth
    # A verdict at three errors is wrong about once in a thousand times.
    assert sum(f.mean - 0.5 > 3 * (f.error or 0) for f in found) <= 1


def test_trainings_that_scatter_more_than_their_test_showers_explain() -> None:
    still, groups = [np.full(4, 1e-6)] * 4, [np.arange(4)] * 4
    found = spread([0.6, 0.7, 0.8, 0.7], still, groups)
    assert found.std == pytest.approx(np.std(found.values, ddof=1))
    assert found.error == pytest.approx(found.std / 2, rel=1e-4)


def test_copies_are_found_and_dark_showers_are_none() -> None:
    deposits = np.array([[1, 2], [0, 0], [3, 4], [1, 2]], np.float32)
    one = Showers(deposits, np.array([5.0, 5, 5, 5]), 22, TINY)
    two = Showers(deposits[:3], np.array([5.0, 5, 6]), 22, TINY)
    numbers = shower_groups([one, two])
    assert numbers[0] == numbers[3] == numbers[4]
    assert len(set(numbers)) == 5  # rows 1 and 5 are dark, row 6 has another energy than row 2
    points = ShowerPoints(np.array([0, 1, 1, 1, 2]), np.ones((2, 4), np.float32), np.full(4, 5.0), 22)
    assert len(set(shower_groups([points]))) == 3


def test_contributions_survive_a_file() -> None:
    values, showers = np.array([0.25, -1e-3, 0]), np.array([7, 2**40, 0])
    got, which = unpack(pack(showers, {"auc": values, "other": values * 2}), "auc")
    assert_allclose(got, values, rtol=1e-6)
    assert_array_equal(which, showers)
