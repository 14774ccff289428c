"""What must agree before samples are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.evaluation.checks import check_samples, refuse_trained_on, repeated_rows, shared_rows
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


def test_samples_that_share_showers_are_named() -> None:
    """Mutations: looking at generated against reference alone; hashing the rows of the files alone."""
    mixed = Showers.concatenate([showers()[:7], showers(seed=2)])
    samples = {"generated": showers(seed=3), "reference": mixed, "floor": showers()}
    (found,) = shared_rows(samples, 0.01)
    assert (found.samples, found.showers, found.of) == (("reference", "floor"), 7, (407, 400))
    assert found.spoils
    assert found.text == "7 of the 407 reference showers are also among the 400 floor showers, bit for bit"
    assert shared_rows({"generated": showers(), "reference": showers(seed=2)}, 0.01) == ()
    # A file and its thresholded copy hold other rows, but the same showers.
    faint = replace(showers(), deposits=np.where(showers().deposits < 1, np.float32(0.5), showers().deposits))
    (found,) = shared_rows({"generated": faint, "reference": showers()}, 1.0)
    assert found.text == "generated and reference are the same 400 showers"
    # One shower of many is named, but changes no score.
    (found,) = shared_rows(
        {"generated": Showers.concatenate([showers(), showers(seed=4)[:1]]), "reference": showers(seed=4)}, 0
    )
    assert not found.spoils


def test_one_file_is_named_whatever_rows_were_drawn_from_it(tmp_path: Path) -> None:
    paths = {"generated": tmp_path / "a.h5", "floor": tmp_path / "b" / ".." / "a.h5"}
    (found,) = shared_rows({"generated": showers()[:200], "floor": showers()[200:]}, 0.01, paths)
    assert found.same_file
    assert found.spoils
    assert found.text.endswith("of one file")


def test_dark_showers_are_no_copies() -> None:
    dark = replace(showers(), deposits=np.zeros((400, 504), np.float32), incident_energy=np.full(400, 256.0))
    assert shared_rows({"generated": dark, "reference": dark}, 0.01) == ()
    assert repeated_rows(dark) == 0
    points = ShowerPoints(np.zeros(401, np.int64), np.zeros((0, 4), np.float32), np.full(400, 256.0), 22)
    assert shared_rows({"generated": points, "reference": points}, 0.01) == ()
    assert repeated_rows(Showers.concatenate([showers(), showers()[:5], showers()[:5]])) == 10
