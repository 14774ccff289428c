"""Voxel permutations do to showers what the symmetry does to points."""

import tomllib

import numpy as np
import pytest
import tomli_w

from caloforge.detectors import Detector, Readout, detector_from_toml, load_detector
from caloforge.detectors.symmetries import breaks_symmetry, symmetry_group, symmetry_permutation
from caloforge.errors import DetectorError

MOVES = {
    "reflect-x": lambda x, y, n: (-x, y),
    "reflect-y": lambda x, y, n: (x, -y),
    "swap-xy": lambda x, y, n: (y, x),
    "rotate-alpha": lambda x, y, n: (
        x * np.cos(2 * np.pi / n) - y * np.sin(2 * np.pi / n),
        x * np.sin(2 * np.pi / n) + y * np.cos(2 * np.pi / n),
    ),
}


@pytest.mark.parametrize(
    ("detector", "name"),
    [
        ("calogan", "reflect-x"),
        ("calogan", "reflect-y"),
        ("ild-ecal/10x10", "swap-xy"),
        ("par04-ds2", "reflect-x"),
        ("par04-ds2", "reflect-y"),
        ("par04-ds2", "swap-xy"),
        ("par04-ds2", "rotate-alpha"),
        ("par04-ds3", "reflect-x"),
        ("par04-ds3", "rotate-alpha"),
    ],
)
def test_permutation_moves_deposits_as_the_symmetry_moves_points(detector, name):
    readout = load_detector(detector).readout
    rng = np.random.default_rng(1)
    layer = rng.integers(0, readout.n_layers, 500)
    radius = readout.layers[0].grid.radius / 2
    x, y = rng.uniform(-radius, radius, (2, 500))
    n_alpha = getattr(readout.layers[0].grid, "n_alpha", 1)
    before = readout.voxel_index(x, y, layer)
    after = readout.voxel_index(*MOVES[name](x, y, n_alpha), layer)
    inside = (before >= 0) & (after >= 0)
    assert inside.sum() > 300
    shower = np.bincount(before[inside], minlength=readout.n_voxels)
    moved = np.bincount(after[inside], minlength=readout.n_voxels)
    assert np.array_equal(shower[symmetry_permutation(readout, name)], moved)


@pytest.mark.parametrize(("detector", "size"), [("calogan", 4), ("par04-ds2", 32), ("ds1-photons", 1)])
def test_group_is_closed_and_starts_with_the_identity(detector, size):
    loaded = load_detector(detector)
    group = loaded.symmetry_group(approximate=True)
    assert group.shape == (size, loaded.readout.n_voxels)
    assert np.array_equal(group[0], np.arange(loaded.readout.n_voxels))
    known = {row.tobytes() for row in group}
    assert len(known) == size
    assert all(one[two].tobytes() in known for one in group for two in group)


def test_impossible_symmetries_are_refused():
    lopsided = Readout.model_validate({"layers": [{"x_edges": [0, 1, 3], "y_edges": [-1, 1]}]})
    with pytest.raises(DetectorError, match="does not map"):
        symmetry_permutation(lopsided, "reflect-x")
    with pytest.raises(DetectorError, match="sectors"):
        symmetry_group(load_detector("ds1-pions").readout, ["rotate-alpha"])
    odd = Readout.model_validate({"layers": [{"r_edges": [0, 1], "alpha": 3}]})
    with pytest.raises(DetectorError, match="does not map"):
        symmetry_permutation(odd, "reflect-x")
    with pytest.raises(DetectorError, match="not known"):
        symmetry_permutation(odd, "turn-inside-out")


def test_a_magnetic_field_breaks_some_symmetries():
    # A mirror leaves a field along its normal as it is: charged particles turn in the plane of the mirror.
    along = {"x": (3.5, 0.0, 0.0), "y": (0.0, 3.5, 0.0), "z": (0.0, 0.0, 3.5), "x-y": (1.0, -1.0, 0.0)}
    kept = {"x": {"reflect-x"}, "y": {"reflect-y"}, "z": {"rotate-alpha"}, "x-y": {"swap-xy"}}
    for name, field in along.items():
        assert {symmetry for symmetry in MOVES if not breaks_symmetry(field, symmetry)} == kept[name]


def changed(name: str, **changes: object) -> Detector:
    return detector_from_toml(tomli_w.dumps(tomllib.loads(load_detector(name).to_toml()) | changes), where="test")


def test_broken_symmetries_are_refused_or_left_out():
    with pytest.raises(DetectorError, match="the magnetic field breaks the symmetry 'reflect-x'"):
        changed("par04-ds2", field=[0.0, 0.0, 2.0])
    nearly = ["reflect-x", "reflect-y"]
    detector = changed("par04-ds2", field=[2.0, 0.0, 0.0], symmetries=[], approximate_symmetries=nearly)
    assert detector.broken_symmetries == ("reflect-y",)
    assert len(detector.symmetry_group(approximate=True)) == 2
    assert len(detector.with_field(0.0).symmetry_group(approximate=True)) == 4


def test_rotations_alone_are_a_group_of_their_own() -> None:
    """Of data set 3: 50 sectors, none mirrored. Mutation: take the mirrors with them."""
    detector = load_detector("par04-ds3")
    group = detector.rotations()
    assert group.shape == (50, 40_500)
    assert np.array_equal(group[0], np.arange(40_500))
    cells = group.reshape(50, 45, 50, 18)
    # Whatever the turn, neighbouring sectors stay neighbours in the same order.
    assert all(np.array_equal(np.roll(turned, -1, axis=1), turned[:, (np.arange(50) + 1) % 50]) for turned in cells)
    sectors = cells[:, 0, :, 0] // 18
    assert all(np.array_equal(np.diff(turned) % 50, np.ones(49)) for turned in sectors)
    assert load_detector("calogan").rotations().shape == (1, 504)
