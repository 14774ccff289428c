"""What must agree before samples are compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.evaluation.checks import check_samples, identical_showers, refuse_trained_on
from caloforge.showers import ShowerPoints, Showers, row_hashes

DETECTOR = load_detector("calogan")


def showers(n: int = 400, seed: int = 1, low: float = 1e3, high: float = 1e5) -> Showers:
    rng = np.random.default_rng(seed)
    energy = rng.uniform(low, high, n)
    deposits = rng.random((n, 504)) * energy[:, None] / 252
    return Showers(deposits.astype(np.float32), energy, 22, DETECTOR.readout)


def test_equal_samples_pass_every_check() -> None:
    checks = check_samples(showers(), showers(seed=2), detector=DETECTOR)
    assert [c.name for c in checks] == ["detector", "particle", "units", "energy spectrum", "directions"]
    assert all(c.passed for c in checks)


@pytest.mark.parametrize(
    ("generated", "message"),
    [
        (showers(seed=2, high=6e4), "median .* expected the same spectrum"),
        (replace(showers(seed=2), particle=11), "the generated showers are e-, the reference showers gamma"),
        (replace(showers(seed=2), deposits=showers(seed=2).deposits / 1000), "another unit"),
        (replace(showers(seed=2), direction=np.tile(np.float32([0, 0, 1]), (400, 1))), "have no directions"),
    ],
    ids=["spectrum", "particle", "unit", "directions"],
)
def test_a_mismatch_is_refused_with_what_differs_unless_allowed(generated: Showers, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_samples(generated, showers(), detector=DETECTOR)
    checks = check_samples(generated, showers(), detector=DETECTOR, allow_mismatch=True)
    assert sum(not c.passed for c in checks) == 1


def test_another_detector_with_the_same_readout_is_refused_unless_allowed() -> None:
    other = DETECTOR.model_copy(update={"analysis_threshold": 0.02})
    with pytest.raises(UsageError, match="not their material, gun or thresholds"):
        check_samples(showers(), showers(seed=2), detector=DETECTOR, generated_detector=other)
    check_samples(showers(), showers(seed=2), detector=DETECTOR, generated_detector=other, allow_mismatch=True)


def test_another_readout_can_never_be_compared() -> None:
    readout = load_detector("ds1-photons").readout
    other = Showers(np.ones((5, 368), np.float32), np.full(5, 1e4), 22, readout)
    with pytest.raises(UsageError, match="368 and 504 voxels, expected 504"):
        check_samples(other, showers(), detector=DETECTOR, allow_mismatch=True)
    points = ShowerPoints(np.zeros(6, np.int64), np.zeros((0, 4), np.float32), np.full(5, 1e4), 22)
    with pytest.raises(UsageError, match="voxels and points"):
        check_samples(points, showers(), detector=DETECTOR, allow_mismatch=True)


def test_no_showers_are_refused() -> None:
    with pytest.raises(UsageError, match="generated sample has no showers"):
        check_samples(showers()[:0], showers(), detector=DETECTOR)


def test_a_reference_that_was_trained_on_is_refused() -> None:
    reference = showers()
    trained_on = np.sort(np.concatenate([row_hashes(reference[:3]), row_hashes(showers(seed=5))]))
    with pytest.raises(UsageError, match="3 of the 400 reference showers were used to train"):
        refuse_trained_on(reference, trained_on)
    assert refuse_trained_on(reference[3:], trained_on).passed


def test_showers_in_both_samples_are_counted() -> None:
    mixed = Showers.concatenate([showers()[:7], showers(seed=2)])
    assert identical_showers(mixed, showers()) == 7
