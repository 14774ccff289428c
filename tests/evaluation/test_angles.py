"""The internal angle: lines of a known direction, halos that bias it, and Geant4's showers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cloud_samples import DEPTHS, DETECTOR, real_showers, shower_points, toy_showers
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from caloforge.errors import UsageError
from caloforge.evaluation.angles import FRACTIONS, angle_errors, compare_angles, principal_axes, theta_phi
from caloforge.evaluation.measures import cut
from caloforge.random import Streams
from caloforge.showers import ShowerPoints
from caloforge.units import deg

STREAMS = Streams(1, "angles")


def directions(n: int, seed: int) -> NDArray[np.float64]:
    gun = DETECTOR.gun
    assert gun is not None
    return gun.sample_directions("random", Streams(seed, "directions"), np.arange(n))


def lines(direction: NDArray[np.float64], true: NDArray[np.float64] | None = None) -> ShowerPoints:
    """Hits on straight lines through the entry point, of equal energies."""
    slope = direction[:, :2] / direction[:, 2:]
    points = [np.column_stack([DEPTHS[:, None] * s, np.arange(30), np.ones(30)]) for s in slope]
    return shower_points(points, np.full(len(direction), 10e3), direction if true is None else true)


def turned(direction: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Directions with theta larger by an angle."""
    theta, phi = theta_phi(direction)
    theta = theta + angle
    return np.stack([np.cos(theta), np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi)], axis=1)


def test_a_line_has_its_own_direction() -> None:
    true = directions(50, 1)
    for fraction in (1.0, 0.04):
        assert_allclose(principal_axes(lines(true), fraction), true, atol=2e-4)
    errors = angle_errors(lines(true))
    assert errors.total.max() < 2e-4
    assert errors.undefined == 0


def test_theta_is_counted_from_the_beam_and_phi_around_it() -> None:
    theta, phi = np.array([60.0, 90.0, 120.0]) * deg, np.array([80.0, 90.0, 100.0]) * deg
    unit = np.stack([np.cos(theta), np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi)], axis=1)
    assert_allclose(theta_phi(unit), (theta, phi))
    assert_allclose(theta_phi(np.array([[0, 0, 1.0]])), np.full((2, 1), np.pi / 2))


@pytest.mark.parametrize(("angle", "other"), [("theta", "phi"), ("phi", "theta")])
def test_a_turned_line_is_off_by_the_turn(angle: str, other: str) -> None:
    unit = np.tile([0.0, 0.0, 1.0], (10, 1))
    leaning = unit + (np.array([-np.tan(3 * deg), 0, 0]) if angle == "theta" else np.array([0, -np.tan(3 * deg), 0]))
    leaning /= np.linalg.norm(leaning, axis=1, keepdims=True)
    errors = angle_errors(lines(leaning, unit))
    assert_allclose(errors.total, 3 * deg, atol=1e-4)
    assert_allclose(getattr(errors, angle), 3 * deg, atol=1e-4)
    assert_allclose(getattr(errors, other), 0, atol=1e-4)


def test_the_axis_of_weighted_hits_worked_out_by_hand() -> None:
    # Two heavy hits along x in one layer, light ones along z: energy decides which way the axis points.
    heavy = np.array([[-10.0, 0, 10, 100], [10.0, 0, 10, 100], [0, 0, 9, 1], [0, 0, 11, 1]])
    axis = principal_axes(shower_points([heavy], np.array([1e4])))
    assert_allclose(np.abs(axis[0]), [1, 0, 0], atol=0.05)
    heavy[:, 3] = [1, 1, 100, 100]
    assert_allclose(principal_axes(shower_points([heavy], np.array([1e4])))[0], [0, 0, 1], atol=0.05)


def test_hits_of_low_energy_bias_the_axis_and_the_hottest_do_not() -> None:
    core = np.column_stack([np.zeros((30, 2)), np.arange(30), np.full(30, 10.0)])
    halo = np.column_stack([np.linspace(50, 300, 300), np.zeros(300), np.repeat(np.arange(10), 30), np.full(300, 0.2)])
    showers = shower_points([np.concatenate([core, halo])] * 3, np.full(3, 1e4))
    assert angle_errors(showers).total.min() > 10 * deg
    assert angle_errors(showers, 0.04).total.max() < 1e-3


def test_showers_without_an_axis() -> None:
    two = np.array([[0.0, 0, 0, 1], [0, 0, 5, 1]])
    same = np.array([[1.0, 2, 3, 1]] * 4)
    fine = np.array([[0.0, 0, 0, 1], [0, 0, 5, 1], [0, 0, 9, 1]])
    showers = shower_points([two, same, np.zeros((0, 4)), fine], np.full(4, 1e4))
    assert np.isnan(principal_axes(showers)).all(axis=1).tolist() == [True, True, True, False]
    assert angle_errors(showers).undefined == 3
    with pytest.raises(UsageError, match="share of hits is 0"):
        principal_axes(showers, 0.0)
    with pytest.raises(UsageError, match="depth of every layer"):
        principal_axes(replace(showers, readout=None))
    with pytest.raises(UsageError, match="three hits"):
        compare_angles(showers[:3], showers[:3], STREAMS)


def test_identical_samples_and_a_turned_one() -> None:
    true = directions(120, 2)
    toys = toy_showers(120, 3)
    points = toys.points.copy()
    slope = (true[:, :2] / true[:, 2:])[toys.shower_index]
    points[:, :2] += DEPTHS[points[:, 2].astype(int)][:, None] * slope
    showers = replace(toys, points=points, direction=true.astype(np.float32))
    same = compare_angles(showers, showers, STREAMS)
    assert {e.key for e in same.errors} == {
        f"angle/{name}/{share}" for name in ("total", "theta", "phi") for share in (100, 4)
    }  # fmt: skip
    assert all(e.js_divergence.value == e.js_distance.value == e.wasserstein.value == 0 for e in same.errors)
    assert [p.fraction for p in same.scan] == list(FRACTIONS)
    assert all(p.generated.value == p.reference.value for p in same.scan)
    assert all(b.generated == b.reference for b in same.bias)
    # The same hits with another claim of where they came from: theta is off by as much, everywhere.
    other = replace(showers, direction=turned(true, -2 * deg).astype(np.float32))
    result = compare_angles(other, showers, STREAMS)
    by_key = {e.key: e for e in result.errors}
    assert by_key["angle/theta/100"].wasserstein.value == pytest.approx(2 * deg, rel=0.02)
    assert by_key["angle/phi/100"].wasserstein.value < 0.1 * deg
    pulls = [
        (a - b) / deg
        for bias in result.bias
        if bias.angle == "theta" and bias.fraction == 1
        for a, b in zip(bias.generated[2:-2], bias.reference[2:-2], strict=True)
        if a is not None and b is not None
    ]
    assert len(pulls) > 4
    assert np.mean(pulls) == pytest.approx(2, abs=0.4)


def test_shifted_showers_point_where_they_did() -> None:
    toys = toy_showers(20, 4)
    points = toys.points.copy()
    points[:, 0] += 7.0
    assert_allclose(principal_axes(replace(toys, points=points)), principal_axes(toys), atol=1e-4)
    points[:, 3] *= 2
    assert_allclose(principal_axes(replace(toys, points=points)), principal_axes(toys), atol=1e-4)


def test_the_hottest_hits_of_real_showers_point_better() -> None:
    for inclined in (False, True):
        cells = cut(real_showers(inclined), DETECTOR.analysis_threshold)
        assert isinstance(cells, ShowerPoints)
        every, hottest = (np.median(angle_errors(cells, share).total) for share in (1.0, 0.04))
        assert hottest < 5 * deg
        assert every < 15 * deg
        # Hits that leave an inclined shower pull the axis; with 16 showers only that is beyond doubt.
        assert not inclined or hottest < every
