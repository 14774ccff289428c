"""Precision, recall, density and coverage against all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from caloforge.detectors.readout import Axis, LayerGroup, Readout
from caloforge.errors import UsageError
from caloforge.evaluation.prdc import prdc, prdc_features
from caloforge.showers import Showers


def slow(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """The definitions, pair by pair; agrees with the package ``prdc`` 0.2."""

    def radii(points: np.ndarray) -> list[float]:
        return [sorted(np.linalg.norm(p - q) for q in points)[k] for p in points]  # [0] is the point itself

    r, f = radii(real), radii(fake)
    near = np.array([[np.linalg.norm(p - q) for q in fake] for p in real])
    in_real = near < np.array(r)[:, None]
    return (
        in_real.any(axis=0).mean(),
        (near < np.array(f)[None, :]).any(axis=1).mean(),
        in_real.sum(axis=0).mean() / k,
        (near.min(axis=1) < np.array(r)).mean(),
    )


@pytest.mark.parametrize("shift", [0.0, 1.5])
@pytest.mark.parametrize("block", [1, 100, 1 << 26])
def test_against_all_pairs(shift: float, block: int) -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(60, 3)), rng.normal(size=(45, 3)) + shift + 5
    real += 5
    result = prdc(real, fake, k=5, block=block)
    assert_allclose((result.precision, result.recall, result.density, result.coverage), slow(real, fake, 5))
    assert result.showers == (45, 60)


def test_a_collapsed_generator_has_density_without_recall() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(500, 4)), 0.05 * rng.normal(size=(500, 4))
    result = prdc(real, fake)
    assert result.density > 1.2  # better than perfect
    assert result.precision == 1
    assert result.recall < 0.05
    assert result.coverage < 0.1


def test_features_put_empty_voxels_at_a_tenth_of_an_mev() -> None:
    readout = Readout(layers=(LayerGroup(x=Axis(bins=2, range=(0, 1)), y=Axis(bins=1, range=(0, 1))),))
    showers = Showers(np.array([[0, 100]], np.float32), np.ones(1), 22, readout)
    assert_allclose(prdc_features(showers), [[-1, 2]], rtol=1e-6)


def test_too_few_showers_are_refused() -> None:
    with pytest.raises(UsageError, match="more than 5 showers"):
        prdc(np.zeros((5, 2)), np.zeros((9, 2)))
