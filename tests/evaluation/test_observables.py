"""Observables against showers worked out by hand and against slow loops over voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from caloforge.detectors import load_detector
from caloforge.detectors.readout import Axis, LayerGroup, Readout
from caloforge.errors import UsageError
from caloforge.evaluation.observables import (
    calochallenge,
    calochallenge_observables,
    caloclouds,
    caloclouds_observables,
    caloflow,
    caloflow_observables,
    cells_as_points,
    high_level_feature_names,
    high_level_features,
    layer_moments,
)
from caloforge.showers import Showers

# Two layers: 2 x 3 cells of 10 mm x 20 mm, and 1 x 2 cells of 40 mm x 10 mm.
SMALL = Readout(
    layers=(
        LayerGroup(depth=(0.0, 4.0), x=Axis(bins=2, range=(-10, 10)), y=Axis(bins=3, range=(-30, 30))),
        LayerGroup(depth=(4.0, 10.0), x=Axis(bins=1, range=(-20, 20)), y=Axis(bins=2, range=(-10, 10))),
    )
)
#: Shower 0 worked out below, shower 1 has an empty second layer, shower 2 is empty.
HAND = Showers(
    np.array(
        [[6, 0, 1, 0, 2, 0, 3, 1], [0, 0, 0, 0, 4, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]],
        dtype=np.float32,
    ),
    np.array([20.0, 10.0, 10.0]),
    22,
    SMALL,
)


def random_showers(name: str, n: int, seed: int) -> Showers:
    """Log-normal energies in a random tenth of the voxels."""
    readout = load_detector(name).readout
    rng = np.random.default_rng(seed)
    shape = (n, readout.n_voxels)
    deposits = np.where(rng.random(shape) < 0.1, np.exp(rng.normal(size=shape)), 0).astype(np.float32)
    return Showers(deposits, rng.uniform(1e3, 1e5, n), 22, readout)


def test_caloflow_observables_of_a_shower_worked_out_by_hand() -> None:
    assert_allclose(caloflow.layer_energy(HAND), [[9, 4], [4, 0], [0, 0]])
    assert_allclose(caloflow.total_energy(HAND), [13, 4, 0])
    assert_allclose(caloflow.layer_fraction(HAND), [[9 / 13, 4 / 13], [1, 0], [0, 0]])
    assert_allclose(caloflow.layer_weighted_energy(HAND), [4, 0, 0])
    assert_allclose(caloflow.shower_depth(HAND), [4 / 13, 0, 0])
    assert_allclose(caloflow.shower_depth_width(HAND), [math.sqrt(4 / 13 - (4 / 13) ** 2), 0, 0])
    assert_allclose(caloflow.brightest_ratio(HAND, 1), [[6 / 9, 3 / 4], [1, 0], [0, 0]])
    assert_allclose(caloflow.brightest_ratio(HAND, 2), [[2 / 9, 1 / 4], [0, 0], [0, 0]])
    assert_allclose(caloflow.brightest_ratio(HAND, 3), [[1 / 9, 0], [0, 0], [0, 0]])
    assert_allclose(caloflow.energy_ratio(HAND), [[4 / 8, 2 / 4], [1, 0], [0, 0]])
    assert_allclose(caloflow.filled_fraction(HAND), [[3 / 6, 1], [1 / 6, 0], [0, 0]])
    # Layer 0: 6 at (-5, -20), 1 at (-5, 20), 2 at (5, 0). Layer 1: 3 at (0, -5), 1 at (0, 5).
    assert_allclose(caloflow.eta_centroid(HAND), [[-100 / 9, -10 / 4], [0, 0], [0, 0]])
    assert_allclose(caloflow.phi_centroid(HAND), [[-25 / 9, 0], [5, 0], [0, 0]])
    eta2 = math.sqrt(7 * 400 / 9 - (100 / 9) ** 2), math.sqrt(25 - 2.5**2)
    assert_allclose(caloflow.eta_width(HAND), [eta2, (0, 0), (0, 0)])


def test_empty_layers_are_counted_and_follow_the_convention() -> None:
    by_key = {o.key: o for o in caloflow_observables(HAND)}
    assert by_key["eta-centroid/1"].empty == 2
    assert by_key["eta-centroid/0"].empty == 1
    assert by_key["brightest/1"].values[1] == 0
    assert by_key["layer-energy/1"].empty == 0  # zero energy is a value, not a gap
    assert by_key["shower-depth"].empty == 1
    assert by_key["eta-centroid-difference/0-1"].empty == 2
    assert all(np.isfinite(o.values).all() and len(o.values) == 3 for o in by_key.values())
    challenge = {o.key: o for o in calochallenge_observables(HAND)}
    assert challenge["phi-centre/1"].empty == 2
    assert challenge["empty-fraction/1"].empty == 0


def test_the_two_sparsities_are_opposites() -> None:
    showers = random_showers("calogan", 50, 1)
    assert_allclose(caloflow.filled_fraction(showers) + calochallenge.empty_fraction(showers), 1)


def test_caloflow_lists_every_quantity_of_the_paper_once() -> None:
    found = caloflow_observables(random_showers("calogan", 5, 2))
    families = {o.family for o in found}
    assert families == {
        "layer-energy", "total-energy", "layer-fraction", "layer-weighted-energy", "shower-depth",
        "shower-depth-width", "brightest", "second-brightest", "energy-ratio", "filled-fraction", "phi-centroid",
        "eta-centroid", "eta-width", "phi-centroid-difference", "eta-centroid-difference",
    }  # fmt: skip
    assert len({o.key for o in found}) == len(found) == 1 + 3 + 9 * 3 + 2 * 3


@pytest.mark.parametrize("name", ["calogan", "ds1-photons", "par04-ds2"])
def test_moments_against_a_loop_over_voxels(name: str) -> None:
    showers = random_showers(name, 3, 3)
    centre = showers.readout.centres()
    for coordinate, position in (("x", centre[:, 0]), ("y", centre[:, 1]), ("r", np.hypot(*centre[:, :2].T))):
        mean, width = layer_moments(showers, coordinate)  # type: ignore[arg-type]
        for row in range(3):
            for layer in range(0, showers.readout.n_layers, 7):
                total = first = second = 0.0
                for voxel in np.flatnonzero(showers.readout.voxel_layers == layer):
                    energy = float(showers.deposits[row, voxel])
                    total += energy
                    first += energy * position[voxel]
                    second += energy * position[voxel] ** 2
                m = first / (total + 1e-16)
                w = math.sqrt(max(0.0, second / (total + 1e-16) - m * m))
                assert mean[row, layer] == pytest.approx(m, abs=1e-9)
                assert width[row, layer] == pytest.approx(w, abs=1e-6)


def test_an_unknown_coordinate_is_refused() -> None:
    with pytest.raises(UsageError, match="'z' is not known"):
        layer_moments(HAND, "z")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "size"), [("ds1-photons", 30), ("ds1-pions", 46), ("par04-ds2", 362), ("par04-ds3", 362)]
)
def test_feature_vectors_have_the_published_sizes(name: str, size: int) -> None:
    showers = random_showers(name, 2, 4)
    assert high_level_features(showers).shape == (2, size)
    assert len(high_level_feature_names(showers.readout)) == size
    # The challenge draws one histogram for each feature but the incident energy, and the voxel spectrum.
    assert len(calochallenge_observables(showers)) + 1 == size


def test_high_level_features_of_a_polar_shower_worked_out_by_hand() -> None:
    readout = Readout(layers=(LayerGroup(r_edges=(0, 10, 30), alpha=4), LayerGroup(r_edges=(0, 20, 100))))
    # Layer 0, alpha outer and r inner; sector centres at -135, -45, 45, 135 degrees, radii 5 and 20.
    deposits = np.array([[0, 2, 0, 0, 6, 0, 0, 0, 0, 3]], dtype=np.float32)
    showers = Showers(deposits, np.array([100.0]), 22, readout)
    h = math.sqrt(0.5)
    eta = (2 * (-20 * h) + 6 * (5 * h)) / 8
    phi = (2 * (-20 * h) + 6 * (5 * h)) / 8
    square = (2 * (20 * h) ** 2 + 6 * (5 * h) ** 2) / 8
    r = (2 * 20 + 6 * 5) / 8
    expected = [
        2.0,  # incident energy
        math.log10(8 + 1e-8), math.log10(3 + 1e-8),
        eta / 100, phi / 100,  # the second layer has one sector only
        math.sqrt(square - eta**2) / 100, math.sqrt(square - phi**2) / 100,
        math.log10(11 + 1e-8),
        6 / 8, 1 / 2,
        r / 100, 60 / 100,
        math.sqrt((2 * 400 + 6 * 25) / 8 - r**2) / 100, 0,
    ]  # fmt: skip
    assert_allclose(high_level_features(showers), [expected], atol=1e-9)
    assert high_level_feature_names(readout)[3] == "<eta>/100 0"


def test_cells_become_points_at_their_centres() -> None:
    points = cells_as_points(HAND, cut=2.0)
    assert points.offsets.tolist() == [0, 3, 4, 4]
    assert_allclose(points.points, [[-5, -20, 0, 6], [5, 0, 0, 2], [0, -5, 1, 3], [5, 0, 0, 4]])
    assert len(cells_as_points(HAND).points) == 6  # without a cut an empty cell is still no point


def test_caloclouds_observables_of_points_worked_out_by_hand() -> None:
    points = cells_as_points(HAND, cut=2.0)
    assert_allclose(caloclouds.cell_energies(points), [6, 2, 3, 4])
    assert_allclose(caloclouds.visible_energy(points), [11, 4, 0])
    assert caloclouds.hit_count(points).tolist() == [3, 1, 0]
    assert_allclose(caloclouds.longitudinal_profile(points, 2), [[8, 3], [4, 0], [0, 0]])
    assert_allclose(caloclouds.longitudinal_profile(points, 2, "occupancy"), [[2, 1], [1, 0], [0, 0]])
    edges = np.array([0.0, 5.0, 10.0])  # the cell at 20.6 mm lies outside
    assert_allclose(caloclouds.radial_profile(points, edges), [[0, 5], [0, 4], [0, 0]])
    assert_allclose(caloclouds.radial_profile(points, edges, "occupancy"), [[0, 2], [0, 1], [0, 0]])
    # Depths of the layers' middles: 2 and 7 mm.
    assert_allclose(
        caloclouds.centre_of_gravity(points),
        [[(-30 + 10) / 11, (-120 - 15) / 11, (16 + 21) / 11], [5, 0, 2], [0, 0, 0]],
        rtol=1e-6,
    )
    found = caloclouds_observables(points, 2, edges)
    assert {o.key for o in found} >= {"visible-energy", "hit-count", "gravity-z", "layer-energy/1", "ring-occupancy/0"}
    assert next(o for o in found if o.key == "gravity-x").empty == 1
    with pytest.raises(UsageError, match="energy or occupancy"):
        caloclouds.longitudinal_profile(points, 2, "time")  # type: ignore[arg-type]


def test_profiles_of_points_against_a_loop() -> None:
    points = cells_as_points(random_showers("par04-ds2", 4, 5), cut=0.5)
    edges = np.linspace(0, 40, 9)
    radial = caloclouds.radial_profile(points, edges)
    slow = np.zeros_like(radial)
    for shower in range(4):
        for x, y, _, energy in points.points[points.offsets[shower] : points.offsets[shower + 1]].tolist():
            for k in range(8):
                if edges[k] <= math.hypot(x, y) < edges[k + 1]:
                    slow[shower, k] += energy
    assert_allclose(radial, slow, rtol=1e-5)
    assert_allclose(caloclouds.longitudinal_profile(points, 45).sum(axis=1), points.total_energy())
