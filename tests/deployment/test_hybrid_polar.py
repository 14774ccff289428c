"""Hybrid simulations of calorimeters made of cylinders, read out in polar cells."""

from __future__ import annotations

import numpy as np
import pytest
from hybrid_files import same_arrays

from caloforge.conditions import Conditions
from caloforge.deployment.hybrid import Placement, hybrid_simulation, read_faces
from caloforge.deployment.hybrid.placement_polar import PolarLayer, RadialProfile
from caloforge.deployment.hybrid.work import shower_number
from caloforge.detectors import Upstream, behind, load_detector
from caloforge.errors import DetectorError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import ready_model
from caloforge.random import Streams

PAR04 = load_detector("par04-ds2")
GRID = PAR04.readout.layers[0].grid
PLATE = Upstream.model_validate({"plates": [{"material": "G4_Al", "thickness": 5.0}], "gap": 20.0})


def test_cylinders_stand_inside_cylinders():
    whole = behind(PAR04, PLATE)
    assert whole.stack.inner_radius == 775.0
    assert whole.gun.position == (0.0, 0.0, -775.0)  # where it was
    np.testing.assert_allclose(whole.readout.depths, PAR04.readout.depths + 25)
    with pytest.raises(DetectorError, match="do not fit into the cylinders"):
        behind(PAR04, PLATE.model_copy(update={"gap": 900.0}))


def test_a_radial_profile_is_found_again():
    edges = np.asarray(GRID.r_edges)
    true = RadialProfile(4.0, 25.0, 0.8)
    part = np.diff(true.integral(edges))
    found = RadialProfile.fitted(edges, part)
    np.testing.assert_allclose(np.diff(found.integral(edges)), part, rtol=0.02)
    assert RadialProfile.fitted(edges, 0 * part).share == 0.5


def layer(hit=1.0):
    rings = np.diff(RadialProfile(4.0, 25.0, 0.8).integral(np.asarray(GRID.r_edges)))
    return PolarLayer(GRID, np.tile(rings, GRID.n_alpha), hit)


def test_spots_follow_where_points_of_the_same_profile_would_go():
    """The slow way: a million points drawn from the profile, moved and counted. Mutation: spots at the middle of their cells."""
    rng = np.random.default_rng(1)
    made = layer(hit=1e-3)
    r = np.interp(rng.random(10**6) * made.profile.integral(np.array([GRID.radius]))[0], made._within, made._radii)
    alpha = rng.uniform(-np.pi, np.pi, len(r))
    x, y = r * np.cos(alpha), r * np.sin(alpha)
    shift = np.array([6.0, -3.0])
    before = np.bincount(GRID.cell(x, y), minlength=GRID.shape[0] * GRID.shape[1]).astype(float)
    there = GRID.cell(x + shift[0], y + shift[1])
    wanted = np.bincount(there[there >= 0], minlength=len(before)) / len(r)
    # Cells share their uniform numbers, so many tries are needed.
    uniform = rng.random((400, 2))
    moved, lost = made.moved(np.tile(before / len(r), (400, 1)), np.tile(shift, (400, 1)), uniform)
    assert np.abs(moved.mean(axis=0) - wanted).max() < 0.004
    assert lost.mean() == pytest.approx((there < 0).mean(), abs=0.003)
    rough = made.moved(np.tile(before / len(r), (1, 1)), np.tile(shift, (1, 1)), uniform[:1])[0][0]
    assert np.abs(rough - wanted).sum() < 0.15  # one shower alone


def test_energy_is_kept_and_dim_cells_stay_single():
    rng = np.random.default_rng(2)
    energy = np.where(rng.random((50, 144)) < 0.2, rng.random((50, 144)) * 0.9, 0.0)
    moved, lost = layer().moved(energy, rng.uniform(-15, 15, (50, 2)), rng.random((50, 2)))
    np.testing.assert_allclose(moved.sum(axis=1) + lost, energy.sum(axis=1), rtol=1e-12)
    # Every energy is below that of two deposits, so cells stay whole, and may only meet.
    assert ((moved > 0).sum(axis=1) <= (energy > 0).sum(axis=1)).all()
    still, nothing = layer().moved(energy, np.zeros((50, 2)), rng.random((50, 2)))
    np.testing.assert_allclose(still, energy, rtol=1e-12)
    assert not nothing.any()
    assert not layer().moved(energy, np.full((50, 2), 500.0), rng.random((50, 2)))[0].any()


@pytest.fixture(scope="module")
def barrels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("barrels")
    for name, jobs in (("one", 1), ("two", 2)):
        hybrid_simulation(
            PAR04, folder / f"{name}.h5", models={"gamma": "gflash"}, particle="gamma", energy="2", events=60,
            engine="calzone", geant4_data="builtin", show=False, jobs=jobs, upstream=PLATE,
        )  # fmt: skip
    return folder


@pytest.mark.geant4
def test_a_barrel_gives_the_same_file_for_any_jobs_and_keeps_energy(barrels):
    first = same_arrays(barrels / "one.h5", barrels / "two.h5")
    faces = read_faces(barrels / "one.h5")
    answered = faces.reason == 0
    assert 45 <= answered.sum() < 60  # most photons do not convert
    event = np.repeat(np.arange(60), np.diff(faces.offsets))[answered]
    model = ready_model("gflash", PAR04, "gamma")
    index = shower_number(event, faces.track[answered])
    conditions = Conditions(faces.energy[answered], 22, index, np.zeros_like(index), faces.direction[answered])
    made = sample_showers(model, conditions, generation_streams(1)).showers
    placed, beside = Placement.of(made, slopes=False).place(
        made.deposits.astype(float), faces.position[answered].astype(float), faces.direction[answered].astype(float),
        index, Streams(1, "hybrid").child("placing"),
    )  # fmt: skip
    np.testing.assert_allclose(placed.sum(axis=1) + beside.sum(axis=1), made.total_energy(), rtol=1e-9)
    # Events that are one answered photon hold its energy, to what the readout threshold takes.
    alone = [k for k, e in enumerate(event.tolist()) if np.diff(faces.offsets)[e] == 1]
    whole = first["showers"].sum(axis=1) + first["overflow"].sum(axis=1)
    overflow = 0.0 if made.overflow is None else made.overflow.sum(axis=1)
    np.testing.assert_allclose(whole[event[alone]], (made.total_energy() + overflow)[alone], rtol=2e-3)


@pytest.mark.geant4
def test_the_other_engine_stops_photons_at_the_cylinder_too(tmp_path):
    hybrid_simulation(
        PAR04, tmp_path / "h.h5", models={"gamma": "gflash"}, particle="gamma", energy="2", events=20,
        engine="geant4-pybind", geant4_data="builtin", show=False, jobs=1, upstream=PLATE,
    )  # fmt: skip
    faces = read_faces(tmp_path / "h.h5")
    answered = faces.reason == 0
    assert 12 <= answered.sum() <= 20
    assert np.isfinite(faces.time).all()
    # Along the axis, straight from the gun: 800 mm of flight at the speed of light.
    first = faces.energy > 1999.9
    np.testing.assert_allclose(faces.time[first], 800 / 299.792458, rtol=1e-4)
    np.testing.assert_allclose(faces.position[first], 0.0, atol=1e-3)
