"""C++ fast-simulation models in a real Geant4: the one of geant4-pybind, through its binary interface.

The calorimeter stands askew in its world, 30 pi0 come through aluminium, and what Geant4 and the adapter say is compared with the
package in Python.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from adapter_build import HERE, SOURCES, compiled
from runtime_built import Built

from caloforge.deployment import export_model
from caloforge.detectors import load_detector
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions, ShowerModel, load_model, ready_model
from caloforge.showers import Showers

pytestmark = [
    pytest.mark.geant4,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the stubs lie in memory as on x86-64"),
]

ANSWERED, SPECIES, BELOW, ABOVE, ANGLE, OFFSET, NUMBER, FAILED, INSIDE = range(9)


def answering() -> dict[int, ShowerModel]:
    """Models by the species that they answer; positrons are tracked."""
    return {22: load_model("calogan-gamma"), 11: ready_model("gflash", load_detector("calogan"), "e-")}


@pytest.fixture(scope="module")
def run(built: Built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("binary")
    plug = compiled([SOURCES / "binary.cpp"], folder / "plug.so", "-O1", "-fPIC", "-shared", runtime=built.build)
    electrons = folder / "electrons"
    export_model(answering()[11], "cpp", electrons, verify=False, showers=1)
    models = [str(export / "model") for export in (built.export, electrons)]
    command = [sys.executable, str(HERE / "geant4_host.py"), str(plug), str(folder / "out.npz"), *models]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    with np.load(folder / "out.npz") as made:
        out = dict(made)
    names = ("particle", "event", "track", "number", "energy", "time", "deposited", "x", "y", "z")
    return out | dict(zip(names, out["found"].T, strict=True))


def test_another_version_is_refused_in_one_sentence(run: dict[str, Any]) -> None:
    """So are a region, a model and a face that are not there; the guard of the layout let the right version pass."""
    assert dict(run["refused"]) == {
        "version": "the adapter was laid out for Geant4 11.4 patch 1 (1141), not for version 1132",
        "region": "a fast-simulation model needs the region of a calorimeter",
        "model": "'/nowhere/runtime.json' cannot be opened",
        "face": "x and y of a face are not unit vectors at a right angle",
    }


def test_geant4_stops_what_is_answered(run: dict[str, Any]) -> None:
    """Each once, at the face, and the step has the energy of the hits. Mutation: not to kill, or another offset in G4FastStep."""
    steps, counts = run["steps"], run["counts"]
    assert len(steps) == counts[ANSWERED] == len(run["event"]) > 40
    assert counts[INSIDE] > 1000  # Geant4 asks at every step of every photon
    assert counts[[SPECIES, ABOVE, NUMBER, FAILED]].sum() == 0
    assert (steps[:, 0] == run["event"] - 1000).all()
    assert (steps[:, 1] == run["track"]).all()
    assert len({*run["number"]}) == len(steps)
    assert steps[:, 2] == pytest.approx(400.0, abs=1e-9)  # the face, in the world
    assert (steps[:, 5] == run["energy"]).all()
    assert (steps[:, 6] == run["deposited"]).all()
    assert (steps[:, 7] == 1).all()
    assert (run["energy"] >= 1000).all()
    assert run["time"] == pytest.approx(300 / 299.792458, rel=0.01)  # ns
    assert run["deposited"] == pytest.approx(
        np.add.reduceat(run["hits"][:, 3], np.cumsum([0, *run["lengths"][:-1]])), rel=1e-12
    )
    # Nothing is counted twice, nothing is lost: what Geant4 books of 20 GeV, answered or tracked.
    assert np.median(run["booked"]) == pytest.approx(20000, rel=0.01)
    assert (run["booked"] < 20100).all()
    assert run["deposited"].sum() / run["energy"].sum() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("pdg", [22, 11])
def test_answers_are_those_of_python(pdg: int, run: dict[str, Any]) -> None:
    """Of the same seed, event and track. Mutation: another number of the shower, or another seed."""
    model, seed = answering()[pdg], 5
    own = np.flatnonzero(run["particle"] == pdg)
    assert len(own) >= 3
    number, energy = run["number"][own].astype(np.int64), run["energy"][own]
    assert (number == run["event"][own].astype(np.int64) * 2**20 + run["track"][own].astype(np.int64)).all()
    assert model.record is not None
    along = (
        None
        if model.record.valid.direction is None
        else np.stack([run[k][own] for k in "xyz"], axis=1).astype(np.float32)
    )
    conditions = Conditions(energy, pdg, number, np.zeros_like(number), along)
    python = sample_showers(model, conditions, generation_streams(seed)).showers
    assert isinstance(python, Showers)
    row = np.repeat(np.arange(len(run["number"])), run["lengths"])
    deposits = np.zeros((len(run["number"]), python.deposits.shape[1]))
    np.add.at(deposits, (row, run["hits"][:, 5].astype(int)), run["hits"][:, 3])
    deposits = deposits[own]
    assert (np.abs(deposits - python.deposits).max(axis=1) < 1e-5 * energy).all()
    assert not ((deposits > 0.02) & (python.deposits == 0)).any()
    assert not ((python.deposits > 0.02) & (deposits == 0)).any()


def test_hits_lie_where_the_particle_flies(run: dict[str, Any]) -> None:
    """Local x, y, z are the world's z, -y, x; mutation: to_local, no inclination, or one of electrons, too."""
    readout = load_model("calogan-gamma").detector.readout
    row = np.repeat(np.arange(len(run["event"])), run["lengths"])
    voxel = run["hits"][:, 5].astype(int)
    spot = readout.centres()[voxel]
    assert (run["hits"][:, 4] == np.repeat(np.arange(3), readout.layer_sizes)[voxel]).all()
    # gflash knows inclined electrons itself.
    slopes = [np.where(run["particle"] == 22, run[name] / run["z"], 0.0)[row] for name in "xy"]
    local = [spot[:, 0] + spot[:, 2] * slopes[0], spot[:, 1] + spot[:, 2] * slopes[1], spot[:, 2]]
    entry = run["steps"][row, 2:5]
    expected = entry + np.stack([local[2], -local[1], local[0]], axis=1)
    np.testing.assert_allclose(run["hits"][:, :3], expected, atol=1e-9)
    # The direction of a photon is that of the pi0's decay, 300 mm before the face.
    photon = run["particle"] == 22
    flown = (run["steps"][:, 2:5] - np.array([100.0, 20.0, -30.0]))[photon]
    assert run["x"][photon] == pytest.approx(flown[:, 2] / np.linalg.norm(flown, axis=1), abs=1e-3)
    assert run["y"][photon] == pytest.approx(-flown[:, 1] / np.linalg.norm(flown, axis=1), abs=1e-3)
