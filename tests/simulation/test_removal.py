"""A removal plane: what it takes, where it stands, and that no energy is lost or counted twice, with both engines."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caloforge.detectors import EnergySpectrum, load_detector
from caloforge.errors import UsageError
from caloforge.simulation import BLOCK_SIZE, Production, RemovalPlane, SimulationPlan
from caloforge.units import ELECTRON_MASS, GeV

PHOTON, PI0 = 22, 111
EVERYTHING = (0.0, math.inf)


def test_ranges():
    plane = RemovalPlane({PHOTON: (1000.0, 5000.0)}, max_angle=0.05, max_offset=20.0)
    straight, tilted, back = (0.0, 0.0, 1.0), (math.sin(0.06), 0.0, math.cos(0.06)), (0.0, 0.0, -1.0)
    assert plane.takes(PHOTON, 1000.0, (12.0, 16.0, 0.0), straight)
    assert not plane.takes(PHOTON, 999.0, (0.0, 0.0, 0.0), straight)
    assert not plane.takes(PHOTON, 5001.0, (0.0, 0.0, 0.0), straight)
    assert not plane.takes(11, 2000.0, (0.0, 0.0, 0.0), straight)
    assert not plane.takes(PHOTON, 2000.0, (12.1, 16.0, 0.0), straight)
    assert not plane.takes(PHOTON, 2000.0, (0.0, 0.0, 0.0), tilted)
    assert not RemovalPlane({PHOTON: EVERYTHING}).takes(PHOTON, 2000.0, (0.0, 0.0, 0.0), back)
    for wrong in ({}, {PHOTON: (2.0, 1.0)}):
        with pytest.raises(UsageError, match="removal plane"):
            RemovalPlane(wrong)


def test_places():
    calogan = load_detector("calogan")
    assert RemovalPlane({PHOTON: EVERYTHING}).place(calogan) == (None, pytest.approx(-0.0005))
    assert RemovalPlane({PHOTON: EVERYTHING}, depth=6.0).place(calogan) == (1, pytest.approx(5.9995))
    assert RemovalPlane({PHOTON: EVERYTHING}, depth=7.0).place(calogan) == (2, pytest.approx(6.9995))
    for depth, message in ((-48.0, "not behind the place"), (481.0, "behind the stack"), (-60.0, "not behind")):
        with pytest.raises(UsageError, match=message):
            RemovalPlane({PHOTON: EVERYTHING}, depth=depth).place(calogan)
    cylinders = load_detector("par04-ds2")
    assert RemovalPlane({PHOTON: EVERYTHING}).place(cylinders) == (None, pytest.approx(-0.0005))
    assert RemovalPlane({PHOTON: EVERYTHING}, depth=10.0).place(cylinders) == (11, pytest.approx(9.9995))
    with pytest.raises(UsageError, match="not behind"):
        RemovalPlane({PHOTON: EVERYTHING}, depth=-800.0).place(cylinders)


def test_a_plane_may_only_see():
    plane = RemovalPlane({}, depth=6.0, seen_above=1.0)
    assert plane.text() == "at 6 mm: nothing, only seen from 1 MeV on"
    assert not plane.takes(PHOTON, 5.0, (0.0, 0.0, 6.0), (0.0, 0.0, 1.0))
    assert plane.sees(5.0, (0.0, 0.0, 1.0))


def produced(engine: str, plane: RemovalPlane, particle: int, energy: str, events: int, jobs: int = 1):
    """Deposited energy of each shower, and the particles that were stopped in it."""
    plan = SimulationPlan(
        load_detector("calogan"), particle, EnergySpectrum.parse(energy), events, 3, tables="builtin", engine=engine,
        removal=plane,
    )  # fmt: skip
    with Production(plan, jobs=jobs) as production:
        assert "removal_plane" in production.provenance()
        blocks = sorted(production, key=lambda block: block.number)
    deposited = [block.showers.total_energy() + block.showers.overflow.sum(axis=1) for block in blocks]
    return np.concatenate(deposited), [block.removed for block in blocks]


@pytest.mark.geant4
@pytest.mark.parametrize("engine", ["calzone", "geant4-pybind"])
def test_photons_behind_two_layers_are_stopped_and_no_energy_is_lost(engine):
    # Fails if a stopped particle is tracked on, or one that is not stopped is lost at the plane.
    plane = RemovalPlane({PHOTON: (1000.0, math.inf)}, depth=12.0, max_angle=0.05, max_offset=20.0)
    deposited, removed = produced(engine, plane, PI0, "5", 30, jobs=2)
    stopped = np.zeros(30)
    for number, some in enumerate(removed):
        assert set(some.particle.tolist()) <= {PHOTON}
        assert np.all(some.energy >= 1000)
        assert np.all(some.direction[:, 2] > math.cos(0.05))
        assert np.all(np.hypot(*some.position[:, :2].T) <= 20)
        assert some.position[:, 2] == pytest.approx(np.full(len(some), 11.999), abs=1e-5)
        assert np.all(some.shower < BLOCK_SIZE)
        np.add.at(stopped, number * BLOCK_SIZE + some.shower, some.energy)
        if engine == "geant4-pybind":
            assert some.time == pytest.approx(np.full(len(some), 60.0 / 299.79), rel=0.01)  # ns for 60 mm
        else:
            assert np.isnan(some.time).all()
    assert 0.3 < (stopped > 0).mean() < 1
    whole = deposited + stopped
    there = 5 * GeV + 134.977
    assert np.all(whole <= there + 2 * ELECTRON_MASS)
    assert whole.mean() > 0.99 * there
    again, removed_again = produced(engine, plane, PI0, "5", 30)
    assert np.array_equal(again, deposited)
    assert all(np.array_equal(a.energy, b.energy) for a, b in zip(removed, removed_again, strict=True))


@pytest.mark.geant4
@pytest.mark.parametrize("engine", ["calzone", "geant4-pybind"])
def test_all_photons_are_stopped_in_front_of_the_face(engine):
    deposited, (removed,) = produced(engine, RemovalPlane({PHOTON: EVERYTHING}, depth=-5.0), PHOTON, "2", 5)
    assert not deposited.any()
    assert removed.shower.tolist() == [0, 1, 2, 3, 4]
    assert removed.energy == pytest.approx(np.full(5, 2000.0))
    assert removed.position == pytest.approx(np.tile([0.0, 0.0, -5.001], (5, 1)), abs=1e-6)
    assert removed.track.tolist() == [1] * 5
