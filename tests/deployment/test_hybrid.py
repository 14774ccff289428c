"""Hybrid simulation: what is answered, where it goes, and that a file depends on its seed alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hybrid_files import Stops, arrays, same_arrays

from caloforge.cli.main import main
from caloforge.deployment.hybrid import Acceptance, LateralProfile, Placement, hybrid_simulation, read_faces
from caloforge.deployment.hybrid.acceptance import REASONS
from caloforge.deployment.hybrid.placement import crossing_shares, moved_along
from caloforge.deployment.hybrid.work import shower_number
from caloforge.detectors import CartesianGrid, Detector, behind, load_detector, load_upstream
from caloforge.detectors.description import build
from caloforge.errors import DetectorError, GenerationError, Interrupted, OutputError, ShowerFileError, UsageError
from caloforge.executor import InThisProcess
from caloforge.random import Streams
from caloforge.showers import open_showers
from caloforge.simulation import Removed
from caloforge.simulation.worker import prepare

CALOGAN = load_detector("calogan")
SAMPLE = Path(__file__).parents[2] / "src/caloforge/datasets/data/calogan-gamma-sample-test.h5"
PLATE = """
title = "10 mm of aluminium"
gap = 100.0
[[plates]]
material = "G4_Al"
thickness = 10.0
"""


@pytest.fixture
def plate(tmp_path):
    path = tmp_path / "al10.toml"
    path.write_text(PLATE)
    return path


# ---- material in front ----------------------------------------------------------------------------------------------


def test_a_calorimeter_moves_behind_its_upstream_material(plate):
    upstream = load_upstream(plate)
    assert upstream.thickness == 110.0
    whole = behind(CALOGAN, upstream)
    assert [p.material for p in whole.stack.plates[:3]] == ["G4_Al", "G4_Galactic", "G4_Pb"]
    assert len(whole.stack.plates) == len(CALOGAN.stack.plates) + 2
    np.testing.assert_allclose(whole.readout.depths, CALOGAN.readout.depths + 110)
    assert whole.readout.n_voxels == CALOGAN.readout.n_voxels
    # As much room in front as before, so that particles still start inside the world.
    assert (whole.stack.world[2] - whole.stack.thickness) / 2 >= (CALOGAN.stack.world[2] - CALOGAN.stack.thickness) / 2
    assert whole.hash != CALOGAN.hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLATE + "thicknes = 3\n", r"plates\[0\].thicknes"),
        (PLATE.replace("10.0", "-1.0"), r"plates\[0\].thickness"),
        (PLATE + "active = true\n", r"plates\[0\].active"),
        ("gap = 3\n", "plates"),
        ("gap = [", "is not TOML"),
    ],
)
def test_a_wrong_description_is_refused_with_its_key(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(DetectorError, match=message):
        load_upstream(path)


def test_material_stands_in_front_of_plates_only(plate):
    with pytest.raises(DetectorError, match="stack of plates only"):
        behind(load_detector("ds1-photons"), load_upstream(plate))


# ---- what is answered -----------------------------------------------------------------------------------------------


def test_every_particle_has_its_reason():
    acceptance = Acceptance({22: (1000.0, 5000.0)}, max_angle=0.05, max_offset=20.0)
    tilt = (math.sin(0.06), 0.0, math.cos(0.06))
    rows = [
        (22, 2000.0, (0, 0), (0, 0, 1), True),
        (11, 2000.0, (0, 0), (0, 0, 1), False),
        (22, 999.0, (0, 0), (0, 0, 1), False),
        (22, 5001.0, (0, 0), (0, 0, 1), False),
        (22, 2000.0, (0, 0), tilt, False),
        (22, 2000.0, (20.1, 0), (0, 0, 1), False),
    ]
    n = len(rows)
    seen = Removed(
        np.arange(n), np.array([r[0] for r in rows]), np.array([r[1] for r in rows]),
        np.array([(*r[2], 0.0) for r in rows]), np.array([r[3] for r in rows], dtype=float), np.zeros(n), np.arange(n),
        np.array([r[4] for r in rows]),
    )  # fmt: skip
    assert acceptance.reasons(seen).tolist() == list(range(len(REASONS)))
    plane = acceptance.plane(10.0)
    assert [plane.takes(r[0], r[1], (*r[2], 10.0), r[3]) for r in rows] == [True] + [False] * 5


def test_numbers_of_showers_belong_to_one_event_and_track():
    assert shower_number(np.array([0, 3]), np.array([7, 5])).tolist() == [7, 3 * 2**20 + 5]
    with pytest.raises(GenerationError, match="cannot be numbered"):
        shower_number(np.array([0]), np.array([2**20]))


# ---- where it goes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photons():
    with open_showers(SAMPLE) as reader:
        return reader.read(0, 300)


def placed(showers, x, y, direction=(0.0, 0.0, 1.0), seed=1):
    n = len(showers)
    placement = Placement.of(showers, slopes=True)
    return placement.place(
        showers.deposits.astype(float), np.tile([x, y], (n, 1)).astype(float), np.tile(direction, (n, 1)),
        np.arange(n), Streams(seed, "test"),
    )  # fmt: skip


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (7.0, 0.0), (-3.2, 11.0), (19.0, -6.0), (230.0, 230.0)])
def test_energy_is_kept_layer_by_layer(photons, x, y):
    moved, lost = placed(photons, x, y)
    for layer, (first, last) in enumerate(((0, 288), (288, 432), (432, 504))):
        before = photons.deposits[:, first:last].astype(float).sum(axis=1)
        np.testing.assert_allclose(moved[:, first:last].sum(axis=1) + lost[:, layer], before, rtol=1e-12, atol=1e-9)
    assert (moved >= 0).all()
    assert (lost >= 0).all()


def test_nothing_moves_without_an_offset_and_whole_cells_move_as_they_are(photons):
    moved, lost = placed(photons, 0.0, 0.0)
    np.testing.assert_allclose(moved, photons.deposits, rtol=1e-6, atol=1e-12)
    assert not lost.any()
    moved, _ = placed(photons, 0.0, 240.0)  # 48, 6 and 3 cells of y: what is there comes from the first half of them
    cells = slice(288, 432)
    old, new = (d[:, cells].reshape(-1, 12, 12) for d in (photons.deposits, moved))
    np.testing.assert_allclose(new[:, :, 6:], old[:, :, :6], rtol=1e-6, atol=1e-12)
    assert not new[:, :, :6].any()


@pytest.mark.parametrize(("x", "y"), [(7.0, 0.0), (-4.0, 9.0), (15.0, 4.0)])
def test_lit_voxels_and_their_spectrum_stay_and_the_centre_follows(photons, x, y):
    """The prototype, which shared in proportion to the overlap, lights 11 % more voxels; that fails here."""
    moved, _ = placed(photons, x, y)
    for first, last in ((0, 288), (288, 432)):
        old, new = (d[:, first:last] for d in (photons.deposits, moved))
        lit, still = (float((d > 0.01).sum()) for d in (old, new))
        assert still == pytest.approx(lit, rel=0.04)
        dim, still_dim = (float(((d > 0.01) & (d < 0.1)).sum()) for d in (old, new))
        assert still_dim == pytest.approx(dim, rel=0.15)
    # Layer 0 has narrow cells of y, where the centre of gravity is seen.
    centre = (np.arange(96) + 0.5) * 5 - 240
    rows = np.flatnonzero((photons.deposits[:, :288].sum(axis=1) > 1) & (moved[:, :288].sum(axis=1) > 1))
    old, new = (d[rows, :288].reshape(-1, 3, 96).sum(axis=1) for d in (photons.deposits.astype(float), moved))
    shift = (new @ centre) / new.sum(axis=1) - (old @ centre) / old.sum(axis=1)
    assert shift.mean() == pytest.approx(y, abs=0.5)


def test_the_centre_of_wide_cells_follows_without_a_scatter_of_its_own(photons):
    """Geant4's own spread at 7 mm is 0.7 of that on the axis. Mutation: the whole image moves up or down at random (1.2)."""
    chosen = photons[(photons.incident_energy > 10_000) & (photons.incident_energy < 60_000)]
    moved, _ = placed(chosen, 7.0, 0.0)
    x = (np.arange(12) + 0.5) * 40 - 240
    spread = []
    for deposits in (chosen.deposits.astype(float), moved):
        columns = deposits[:, 288:432].reshape(-1, 12, 12).sum(axis=2)
        spread.append(float(((columns @ x) / columns.sum(axis=1)).std()))
    assert 0.4 * spread[0] < spread[1] < 0.8 * spread[0]


def test_an_inclined_particle_moves_its_deep_layers_farther(photons):
    slope = 0.03
    direction = np.array([0.0, slope, 1.0]) / math.hypot(slope, 1.0)
    moved, _ = placed(photons, 0.0, 0.0, direction)
    straight, _ = placed(photons, 0.0, slope * float(CALOGAN.readout.depths[1].mean()))
    cells = slice(288, 432)
    np.testing.assert_allclose(moved[:, cells].sum(axis=0), straight[:, cells].sum(axis=0), rtol=1e-9)


def test_places_are_drawn_for_each_shower_alone(photons):
    whole, _ = placed(photons, 7.0, 3.0)
    placement = Placement.of(photons, slopes=True)
    some = np.array([5, 250])
    alone, _ = placement.place(
        photons.deposits[some].astype(float), np.tile([7.0, 3.0], (2, 1)), np.tile([0.0, 0.0, 1.0], (2, 1)), some,
        Streams(1, "test"),
    )  # fmt: skip
    np.testing.assert_allclose(alone, whole[some], rtol=1e-12)
    assert not np.array_equal(placed(photons, 7.0, 3.0, seed=2)[0], whole)


def test_a_profile_is_found_again():
    edges = tuple(float(e) for e in np.linspace(-100, 100, 41))
    true = LateralProfile(4.0, 25.0, 0.8)
    # Of two independent axes, which is what the fit looks at.
    energy = np.outer(true.shares(np.asarray(edges)), true.shares(np.asarray(edges))).ravel()
    found = LateralProfile.fitted(CartesianGrid(x_edges=edges, y_edges=edges), energy)
    np.testing.assert_allclose([found.core, found.tail, found.share], [4.0, 25.0, 0.8], rtol=0.02)
    assert LateralProfile.fitted(CartesianGrid(x_edges=edges, y_edges=edges), 0 * energy).share == 0.5


def test_a_shower_of_its_own_place_crosses_as_the_mean_one_moved():
    """Every shower is the profile at some place; so is what it becomes. Mutation: shares of the mean shower for all of them."""
    profile, edges = LateralProfile(5.0, 40.0, 0.9), np.linspace(-240.0, 240.0, 13)
    own = np.array([-3.0, 0.0, 2.0, 5.0])
    rows = np.array([np.diff(profile.integral(edges - place)) for place in own])
    share = crossing_shares(rows, np.full(4, 7.0), edges, profile)
    moved = rows * (1 - share)
    moved[:, 1:] += (rows * share)[:, :-1]
    wanted = np.array([np.diff(profile.integral(edges - place - 7.0)) for place in own])
    # The two columns about the axis hold nine tenths.
    np.testing.assert_allclose(moved[:, 5:7], wanted[:, 5:7], atol=0.01)
    common = np.diff(profile.integral(edges))
    fixed = rows * (1 - (1 - profile.integral(edges[1:] - 7.0) - (1 - profile.integral(edges[1:]))) / common)
    assert np.abs(fixed[:, 5] - wanted[:, 5]).max() > 0.03


def test_what_crosses_follows_the_profile():
    """A shower's core in the middle of a wide cell does not cross its edge, however large a part of the cell it moves by."""
    profile, edges = LateralProfile(3.0, 30.0, 0.9), np.array([-240.0, -80.0, 80.0, 240.0])
    energy = np.tile(np.array([1.0, 98.0, 1.0])[None, :, None], (2000, 1, 1))
    uniform = (np.arange(2000) + 0.5) / 2000
    moved, _ = moved_along(energy, np.full(2000, 40.0), edges, profile, uniform)
    overlap = 0.25 * 98  # what proportional sharing would move
    assert moved[:, 2].mean() - 1 < 0.1 * overlap


def test_other_cells_than_equal_cartesian_or_polar_ones_are_refused():
    uneven = CALOGAN.readout.to_description()
    uneven["layers"][0] = {
        "depth": [0.0, 90.0],
        "x_edges": [-240.0, -100.0, 100.0, 240.0],
        "y_edges": [-240.0, 0.0, 240.0],
    }
    readout = build(
        Detector, CALOGAN.model_dump(exclude_none=True, mode="json") | {"readout": uneven}, where="test"
    ).readout
    with pytest.raises(UsageError, match="several widths"):
        Placement(readout, np.ones(readout.n_voxels), slopes=True)


# ---- the whole ------------------------------------------------------------------------------------------------------


def run(out, plate, **changes):
    asked = {
        "models": ["calogan-gamma"], "particle": "pi0", "energy": "5", "events": 20, "upstream": load_upstream(plate),
        "engine": "calzone", "geant4_data": "builtin", "jobs": 1, "show": False,
    }  # fmt: skip
    return hybrid_simulation(CALOGAN, out, **(asked | changes))


def test_another_file_holds_no_particles_at_a_face():
    with pytest.raises(ShowerFileError, match="no particles at the face"):
        read_faces(SAMPLE)


@pytest.mark.geant4
def test_what_geant4_gave_up_is_reported(tmp_path, plate, monkeypatch):
    """Of every block of every task; mutation: report those of a task's last block."""

    def lossy(plan):
        track = prepare(plan)

        def make(number):
            made = track(number)
            return made if number is None else replace(made, block=replace(made.block, given_up=(0.0075,) * number))

        return make

    monkeypatch.setattr("caloforge.deployment.hybrid.work.prepare_geant4", lossy)
    summary = run(tmp_path / "h.h5", plate, events=30, energy="1", models=[], executor=InThisProcess())
    assert summary.given_up == (0.0075,) * 3
    summary = run(tmp_path / "h2.h5", plate, events=30, energy="1", executor=InThisProcess())
    assert summary.given_up == (0.0075,) * 3


@pytest.mark.geant4
def test_same_seed_same_file_whoever_makes_it(tmp_path, plate):
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    summary = run(one, plate, events=60)
    run(two, plate, events=60, jobs=2)
    first = same_arrays(one, two)
    assert {"showers", "overflow", "face/energy", "face/reason"} <= first.keys()
    faces = read_faces(one)
    assert len(faces.offsets) == 61
    assert faces.summary() == summary.faces
    answered = faces.reason == 0
    assert set(faces.particle[answered].tolist()) == {22}
    assert faces.energy[answered].min() > 890
    # A pi0 of 5 GeV comes to the face as photons and pairs; what is deposited is what came in, but for the model's resolution.
    total = first["showers"].sum(axis=1) + first["overflow"].sum(axis=1)
    assert np.median(total) == pytest.approx(5135, rel=0.03)
    with open_showers(one) as reader:
        assert reader.detector == CALOGAN


@pytest.mark.geant4
def test_without_a_model_geant4_tracks_everything_and_half_a_file_is_gone_on_with(tmp_path, plate):
    whole, part = tmp_path / "whole.h5", tmp_path / "part.h5"
    summary = run(whole, plate, models=[], energy="1")
    assert summary.acceptance == ""
    assert {row["answer"] for row in summary.faces} == {"species"}
    faces = read_faces(whole)
    assert len(faces.offsets) == 21
    assert faces.energy.sum() == pytest.approx(20 * 1135, rel=0.05)  # with the mass of the pi0

    with pytest.raises(Interrupted, match="10 of 20 events"):
        run(part, plate, models=[], energy="1", executor=Stops())
    assert len(arrays(part)["showers"]) == 10
    with pytest.raises(OutputError, match="begun with"):
        run(part, plate, models=[], energy="1", resume=True, seed=2)
    assert run(part, plate, models=[], energy="1", resume=True).made == 10
    same_arrays(whole, part)


@pytest.mark.geant4
def test_no_energy_is_lost_between_geant4_and_the_answers(tmp_path, plate):
    """gflash answers electrons and positrons; every event's energy is what Geant4 left plus what was answered."""
    out = tmp_path / "all.h5"
    summary = run(out, plate, models={"gamma": "calogan-gamma", "e+": "gflash", "e-": "gflash"}, events=30)
    answered = {row["particle"] for row in summary.faces if row["answer"] == "answered"}
    assert answered >= {"gamma"}
    share = sum(row["energy_share"] for row in summary.faces if row["answer"] == "answered")
    assert share > 0.9
    total = arrays(out)["showers"].sum(axis=1) + arrays(out)["overflow"].sum(axis=1)
    assert (total > 4000).mean() > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["gflash"]}, "has to be told for what it stands"),
        ({"models": {"e-": "calogan-gamma"}}, "makes showers of gamma, not of e-"),
        ({"models": ["calogan-gamma", "calogan-gamma"]}, "two models answer gamma"),
        ({"max_angle": 3000.0}, "max_angle is 3000"),
        ({"max_offset": 0.0}, "max_offset is 0"),
        ({"events": 0}, "events is 0"),
        ({"points": True}, "makes voxels, so points cannot be asked for"),
        (
            {"models": {"e-": "gflash"}, "max_angle": 1500.0},
            "max_angle is 1500 mrad, and 'gflash' knows 1369 mrad at most",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, plate, changes, message):
    out = tmp_path / "h.h5"
    with pytest.raises(UsageError, match=message):
        run(out, plate, **changes)
    assert not list(tmp_path.glob("h.h5*"))


def test_a_model_of_another_calorimeter_is_refused(tmp_path, plate):
    with pytest.raises(UsageError, match="for the readout of 'calogan'"):
        hybrid_simulation(
            load_detector("ild-ecal"),
            tmp_path / "h.h5",
            models=["calogan-gamma"],
            particle="pi0",
            energy="5",
            events=1,
        )


def test_the_command_wants_a_model_or_none(capsys):
    command = ["hybrid", "--detector", "calogan", "--particle", "pi0", "--energy", "20", "--out", "h.h5"]
    for more in ([], ["--full", "--model", "calogan-gamma"]):
        assert main([*command, *more]) == 2
        said = capsys.readouterr().err
        assert "either --model" in said
        assert len(said.splitlines()) == 1
