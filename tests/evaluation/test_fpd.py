"""FPD and KPD against JetNet 0.2.5, analytic values and slow definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from caloforge.errors import UsageError
from caloforge.evaluation.fpd import far_rows, fpd, frechet_distance, kpd


def features(n: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 4)) * scale + shift


def test_against_numbers_of_jetnet() -> None:
    """Values of jetnet 0.2.5's fpd(min_samples=1000, max_samples=5000) and kpd(batch_size=500) on these features."""
    rng = np.random.default_rng(12345)
    x, y = rng.normal(size=(400, 4)), rng.normal(size=(300, 4)) * 1.1 + 0.1
    frechet = fpd(x, y, min_samples=1000, max_samples=5000)
    assert frechet.value == pytest.approx(0.0077238348952788785, rel=1e-6)
    assert frechet.error == pytest.approx(0.00043743288884108534, rel=1e-4)
    kernel = kpd(x, y, batch_size=500)
    assert kernel.value == pytest.approx(0.004008746381916506, rel=1e-6)
    assert kernel.error == pytest.approx(0.002084894648390903, rel=1e-6)


def test_frechet_distance_against_the_matrix_root() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(6, 6)), rng.normal(size=(6, 6))
    one, two = a @ a.T, b @ b.T
    m1, m2 = rng.normal(size=6), rng.normal(size=6)
    root = scipy.linalg.sqrtm(one @ two).real
    expected = ((m1 - m2) ** 2).sum() + np.trace(one + two - 2 * root)
    assert frechet_distance(m1, one, m2, two) == pytest.approx(expected)
    # A feature that never varies makes covariances singular.
    one[0] = one[:, 0] = two[0] = two[:, 0] = 0
    assert frechet_distance(m1, one, m1, one) == pytest.approx(0, abs=1e-9)


def test_fpd_of_known_gaussians_and_of_equal_ones() -> None:
    one, two = features(60_000, 1), features(60_000, 2, scale=1.2, shift=0.3)
    scale = np.abs(one).max(axis=0)
    expected = ((0.3 / scale) ** 2 + (0.2 / scale) ** 2).sum()  # |dm|^2 + sum (s1 - s2)^2
    assert fpd(one, two).value == pytest.approx(expected, rel=0.05)
    same = fpd(one, features(60_000, 3))
    assert 0 <= same.value < 0.01 * expected
    assert fpd(one, two) == fpd(one, two)


def test_kpd_against_the_sum_over_pairs() -> None:
    x, y = features(30, 4), features(40, 5, shift=0.5)
    scale = np.abs(x).max(axis=0)
    values = []
    for batch in range(3):
        rng = np.random.default_rng(42 + 1000 * batch)
        a, b = x[rng.choice(30, 20)] / scale, y[rng.choice(40, 20)] / scale

        def kernel(p: np.ndarray, q: np.ndarray) -> float:
            return float((p @ q / 4 + 1) ** 4)

        within = sum(kernel(s[i], s[j]) for s in (a, b) for i in range(20) for j in range(20) if i != j) / (20 * 19)
        values.append(within - 2 * np.mean([kernel(p, q) for p in a for q in b]))
    assert kpd(x, y, batch_size=20, batches=3).value == pytest.approx(np.median(values))


def test_kpd_of_equal_truths_is_zero_within_its_error_and_sees_a_shift() -> None:
    one = features(20_000, 6)
    same = kpd(one, features(20_000, 7), batch_size=2000)
    assert abs(same.value) < 3 * same.error
    assert kpd(one, features(20_000, 8, shift=0.3), batch_size=2000).value > 10 * same.error


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        fpd(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(UsageError, match="at least one shower"):
        kpd(np.ones((0, 2)), np.ones((3, 2)))
    with pytest.raises(UsageError, match="2 or more"):
        kpd(np.ones((3, 2)), np.ones((3, 2)), batch_size=1)


def test_a_single_far_shower_is_found_and_decides_the_distance() -> None:
    reference, generated = features(1000, 1), features(1000, 2)
    assert not far_rows(reference, generated).any()
    generated[17, 3] = 40.0
    assert np.flatnonzero(far_rows(reference, generated)).tolist() == [17]
    whole, without = (fpd(reference, rows, draws=3) for rows in (generated, np.delete(generated, 17, axis=0)))
    assert whole.value > 5 * without.value
