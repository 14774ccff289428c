"""The example application of an export: with a double of Geant4, the package's own showers come out of it."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from adapter_build import SOURCES, STUBS, compiled
from runtime_built import Built
from test_export import DIRECTIONS, cloud_model, saved

from caloforge.deployment import export_model
from caloforge.detectors import load_detector
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions, load_model, ready_model
from caloforge.showers import ShowerPoints, Showers


@pytest.fixture(scope="module")
def application(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("application") / "shower"
    sources = [built.export / "geant4" / "main.cpp", SOURCES / "application_double.cpp"]
    compiled(sources, program, "-O1", f'-DCALOFORGE_MODEL="{built.export / "model"}"', runtime=built.build)
    return program


def run(application: Path, *arguments: str) -> tuple[int, list[dict[str, str]], str]:
    done = subprocess.run([application, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, list(csv.DictReader(done.stdout.splitlines())), done.stderr


def test_events_hold_the_showers_of_the_package(application: Path) -> None:
    """Every hit lands in the plate at its depth. Mutation: another seed, a face elsewhere, lead without its detector."""
    code, rows, said = run(application, "gamma", "20", "6", "9")
    assert code == 0, said
    model = load_model("calogan-gamma")
    number = (np.arange(6) << 20) + 1
    made = sample_showers(
        model, Conditions(np.full(6, 2e4), 22, number, np.zeros_like(number)), generation_streams(9)
    ).showers
    assert isinstance(made, Showers)
    energy = np.array([float(row["energy_MeV"]) for row in rows])
    assert energy == pytest.approx(made.total_energy(), rel=1e-4)
    # Each layer's energy sits in the plate in its middle: 45, 263.5 and 458.5 mm.
    layers = np.stack([made.deposits[:, layer].sum(axis=1) for layer in (slice(288), slice(288, 432), slice(432, 504))])
    depth = np.array([float(row["mean_depth_mm"]) for row in rows])
    assert depth == pytest.approx((layers.T @ [45.0, 261.0, 459.0]) / energy, rel=1e-3)
    assert "6 answered" in said
    assert "of which 0 MeV in no sensitive detector" in said


def test_point_clouds_come_out_of_it_too(application: Path, tmp_path: Path) -> None:
    """Of a model that is told the direction. Mutation: too little room for the points, or another direction."""
    model = cloud_model("caloclouds3", ("trend", "moment-map", "totals-map", "layer-factors"))
    where = saved(tmp_path / "model", model, DIRECTIONS, (1e4, 9e4))
    export_model(where, "cpp", tmp_path / "out", verify=False, showers=1)
    code, rows, said = run(application, "gamma", "20", "3", "5", str(tmp_path / "out" / "model"))
    assert code == 0, said
    assert "3 answered" in said
    number, along = (np.arange(3) << 20) + 1, np.tile(np.array([0, 0, 1], np.float32), (3, 1))
    asked = Conditions(np.full(3, 2e4), 22, number, np.zeros_like(number), along)
    made = sample_showers(load_model(where), asked, generation_streams(5)).showers
    assert isinstance(made, ShowerPoints)
    energy = np.add.reduceat(made.points[:, 3], made.offsets[:-1])
    assert [float(row["energy_MeV"]) for row in rows] == pytest.approx(energy, rel=1e-4)
    depth = model.detector.readout.depths.mean(axis=1)[made.points[:, 2].astype(int)]
    mean = np.add.reduceat(made.points[:, 3] * depth, made.offsets[:-1]) / energy
    assert [float(row["mean_depth_mm"]) for row in rows] == pytest.approx(mean, abs=3.0)  # half a plate


def test_threads_share_the_weights(built: Built, tmp_path: Path) -> None:
    """Mutation: buffers of the adapter that are static."""
    program = tmp_path / "threads"
    compiled([SOURCES / "threads.cpp"], program, "-O1", "-pthread", runtime=built.build)
    done = subprocess.run([program, built.export / "model"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "600 answers, 0 differ\n")


def test_each_species_has_its_model(application: Path, built: Built, tmp_path: Path) -> None:
    """Mutation: the first model only; the report of the last one."""
    electrons = ready_model("gflash", load_detector("calogan"), "e-")
    export_model(electrons, "cpp", tmp_path / "out", verify=False, showers=1)
    models = str(built.export / "model"), str(tmp_path / "out" / "model")
    for particle, pdg, model in (("gamma", 22, load_model("calogan-gamma")), ("e-", 11, electrons)):
        code, rows, said = run(application, particle, "20", "2", "5", *models)
        assert code == 0, said
        assert "2 answered" in said
        number = (np.arange(2) << 20) + 1
        asked = Conditions(np.full(2, 2e4), pdg, number, np.zeros_like(number))
        made = sample_showers(model, asked, generation_streams(5)).showers
        assert isinstance(made, Showers)
        assert [float(row["energy_MeV"]) for row in rows] == pytest.approx(made.total_energy(), rel=1e-4)
    assert "0 answered" in run(application, "e+", "20", "1", "5", *models)[2]


def test_geant4_alone_asks_no_model(application: Path) -> None:
    code, rows, said = run(application, "gamma", "20", "2", "9", "none")
    assert code == 0
    assert [row["energy_MeV"] for row in rows] == ["0", "0"]
    assert "answered" not in said


def test_another_particle_and_energy_are_tracked(application: Path) -> None:
    assert "0 answered" in run(application, "e-", "20", "1")[2]
    code, _, said = run(application, "gamma", "0.5", "1")
    assert code == 0
    assert "1 energy below the model's" in said


def test_what_is_not_there_is_named(application: Path) -> None:
    code, _, said = run(application, "gamma", "20", "1", "1", "/nowhere")
    assert (code, said) == (1, "shower: '/nowhere/runtime.json' cannot be opened\n")
    code, _, said = run(application, "gluon")
    assert (code, said) == (1, "shower: Geant4 does not know the particle 'gluon'\n")


@pytest.mark.parametrize(("version", "fine"), [("11.2.1", True), ("10.6.3", False)])
def test_cmake_finds_what_it_needs(version: str, fine: bool, built: Built, tmp_path: Path) -> None:
    """With a package of Geant4 that has the stubs; it is configured, not built."""
    cmake = shutil.which("cmake")
    assert cmake is not None
    package = tmp_path / "geant4"
    package.mkdir()
    text = f'set(Geant4_INCLUDE_DIRS "{STUBS}")\nset(Geant4_LIBRARIES "")\nset(Geant4_DEFINITIONS "")\n'
    (package / "Geant4Config.cmake").write_text(text)
    agreed = f'set(PACKAGE_VERSION "{version}")\nset(PACKAGE_VERSION_COMPATIBLE TRUE)\n'
    (package / "Geant4ConfigVersion.cmake").write_text(agreed)
    command = [cmake, "-S", str(built.export / "geant4"), "-B", str(tmp_path / "build"), f"-DGeant4_DIR={package}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == fine, done.stderr
    if not fine:
        assert "Geant4 10.6.3 is too old" in done.stderr
