"""Models of point clouds in hybrid simulations: points are moved, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hybrid_files import Stops, same_arrays

from caloforge.conditions import Conditions
from caloforge.deployment.hybrid import hybrid_simulation, read_faces
from caloforge.deployment.hybrid.merging import ModelShowers, PointEvents, VoxelEvents, moved_points
from caloforge.deployment.hybrid.work import shower_number
from caloforge.detectors import load_detector
from caloforge.errors import Interrupted
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import ready_model
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers, open_showers, voxelise
from caloforge.simulation import Removed

ILD = load_detector("ild-ecal").with_field(0.0)


def some_points():
    rng = np.random.default_rng(1)
    counts = np.array([5, 0, 7])
    points = np.column_stack([rng.normal(0, 20, (12, 2)), rng.integers(0, 30, 12), rng.random(12)]).astype(np.float32)
    return ShowerPoints(np.concatenate([[0], np.cumsum(counts)]), points, np.ones(3), 22, ILD.readout)


def three_photons(direction=(0.0, 0.0, 1.0)):
    position = np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0], [-5.0, 6.5, 0.0]])
    return Removed(
        np.array([0, 1, 1]), np.full(3, 22), np.ones(3), position, np.tile(direction, (3, 1)), np.zeros(3), np.arange(3),
        np.ones(3, bool),
    )  # fmt: skip


def test_points_move_and_nothing_else_changes():
    """Mutation: move by the slope although the model knows directions, or touch an energy."""
    made, photons = some_points(), three_photons()
    moved = moved_points(made, photons, ILD.readout, slopes=True)
    np.testing.assert_array_equal(moved.points[:, 2:], made.points[:, 2:])
    np.testing.assert_array_equal(moved.offsets, made.offsets)
    for k in range(3):
        rows = slice(made.offsets[k], made.offsets[k + 1])
        for point, was in zip(moved.points[rows], made.points[rows], strict=True):
            np.testing.assert_allclose(point[:2] - was[:2], photons.position[k, :2], atol=1e-5)
    inclined = three_photons((0.03, 0.0, math.sqrt(1 - 0.03**2)))
    moved = moved_points(made, inclined, ILD.readout, slopes=True)
    depth = ILD.readout.depths.mean(axis=1)[made.points[:5, 2].astype(int)]
    np.testing.assert_allclose(
        moved.points[:5, 0] - made.points[:5, 0], 1.0 + depth * 0.03 / math.sqrt(1 - 0.03**2), atol=1e-5
    )
    straight = moved_points(made, inclined, ILD.readout, slopes=False)
    np.testing.assert_allclose(straight.points[:5, 0] - made.points[:5, 0], 1.0, atol=1e-5)


def test_points_of_several_answers_join_their_event():
    made, photons = some_points(), three_photons()
    tracked = ShowerPoints(
        np.array([0, 1, 1]), np.array([[9, 9, 3, 0.5]], np.float32), np.array([10.0, 20.0]), 111, ILD.readout
    )
    events = PointEvents(tracked, ILD.readout)
    events.add(ModelShowers(made, photons, np.arange(3), None, Streams(1, "test"), slopes=True))
    whole = events.finished()
    assert whole.offsets.tolist() == [0, 6, 13]
    np.testing.assert_array_equal(whole.points[0], tracked.points[0])
    np.testing.assert_allclose(
        whole.total_energy(), [0.5 + made.points[:5, 3].sum(), made.points[5:, 3].sum()], rtol=1e-6
    )
    assert whole.incident_energy.tolist() == [10.0, 20.0]


def test_points_become_voxels_where_the_file_has_voxels():
    """Mutation: sum the points before they are moved."""
    made, photons = some_points(), three_photons()
    none = np.zeros((2, ILD.readout.n_voxels), np.float32), np.zeros((2, 30), np.float32)
    tracked = Showers(none[0], np.array([10.0, 20.0]), 111, ILD.readout, None, none[1])
    events = VoxelEvents(tracked, ILD)
    events.add(ModelShowers(made, photons, np.arange(3), None, Streams(1, "test"), slopes=True))
    whole = events.finished()
    alone = voxelise(moved_points(made, photons, ILD.readout, slopes=True), ILD.readout)
    np.testing.assert_allclose(whole.deposits[0], alone.deposits[0], rtol=1e-6)
    np.testing.assert_allclose(whole.deposits[1], alone.deposits[1:].sum(axis=0), rtol=1e-6)
    energy = whole.total_energy() + whole.overflow.sum(axis=1)
    np.testing.assert_allclose(energy, [made.points[:5, 3].sum(), made.points[5:, 3].sum()], rtol=1e-6)


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """Photons answered by a parametrisation that gives points, in one process and in two, and as voxels."""
    folder = tmp_path_factory.mktemp("clouds")
    for name, changes in (
        ("one", {"points": True, "jobs": 1}),
        ("two", {"points": True, "jobs": 2}),
        ("voxels", {"jobs": 1}),
    ):
        hybrid_simulation(
            ILD, folder / f"{name}.h5", models={"gamma": "gflash"}, particle="gamma", energy="2", events=60,
            engine="calzone", geant4_data="builtin", show=False, **changes,
        )  # fmt: skip
    return folder


@pytest.mark.geant4
def test_points_are_the_models_own_where_the_particles_came_in(clouds):
    """Each event is one photon: its points are those of shower event x 2^20 + track, to the last bit."""
    same_arrays(clouds / "one.h5", clouds / "two.h5")
    faces = read_faces(clouds / "one.h5")
    assert (faces.reason == 0).all()
    assert len(faces.particle) == 60
    model = ready_model("gflash", ILD, "gamma", points=True)
    index = shower_number(np.arange(60), faces.track)
    conditions = Conditions(faces.energy, 22, index, np.zeros_like(index), faces.direction)
    alone = sample_showers(model, conditions, generation_streams(1)).showers
    with open_showers(clouds / "one.h5") as reader:
        assert reader.kind == "points"
        assert reader.detector == ILD
        whole = reader.read(0, 60)
    np.testing.assert_array_equal(whole.offsets, alone.offsets)
    np.testing.assert_array_equal(whole.points, alone.points[:, :4])


@pytest.mark.geant4
def test_a_half_finished_file_of_points_is_gone_on_with(clouds, tmp_path):
    """Points and particles at the face are ragged each in their own way, and both are merged from parts."""
    part = tmp_path / "part.h5"
    settings = {
        "models": {"gamma": "gflash"}, "particle": "gamma", "energy": "2", "events": 60, "engine": "calzone",
        "geant4_data": "builtin", "show": False, "points": True, "jobs": 1,
    }  # fmt: skip
    with pytest.raises(Interrupted, match="50 of 60 events"):
        hybrid_simulation(ILD, part, executor=Stops(), **settings)
    assert hybrid_simulation(ILD, part, resume=True, **settings).made == 10
    same_arrays(clouds / "one.h5", part)


@pytest.mark.geant4
def test_a_model_of_voxels_answers_for_a_readout_of_its_own(clouds):
    """The readout has cells as well, so the same parametrisation gives cells there."""
    with open_showers(clouds / "voxels.h5") as reader:
        voxels = reader.read(0, 60)
    with open_showers(clouds / "one.h5") as reader:
        points = reader.read(0, 60)
    assert voxels.total_energy().mean() == pytest.approx(points.total_energy().mean(), rel=0.1)
