"""geant4-pybind beside calzone: the same physics, and what only one of them can do. Workers run them: one per process."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from caloforge.cli.main import main
from caloforge.detectors import Detector, detector_from_toml, load_detector, particle_id, particle_mass
from caloforge.errors import MissingDependencyError, SimulationError, UsageError
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.files import open_showers
from caloforge.simulation import simulate, tables
from caloforge.simulation.packages import choose_engine
from caloforge.units import GeV

pytestmark = pytest.mark.geant4

ENGINES = ["calzone", "geant4-pybind"]

#: Half a metre of vacuum in front of a foil of silicon, and a field across the beam.
VACUUM = """
name = "vacuum"
field = [3.5, 0.0, 0.0]
[gun]
particles = ["mu+"]
energy = "1"
[stack]
kind = "planar"
lateral = [2000.0, 2000.0]
world = [2000.0, 2000.0, 1200.0]
deposit_point = "start"
[[stack.groups]]
plates = [{ material = "G4_Galactic", thickness = 500.0 }, { material = "G4_Si", thickness = 0.01, active = true }]
[[readout.layers]]
depth = [500.0, 500.01]
"""


def made(detector: Detector | str, particle: str, energy: str, events: int, **options) -> Showers | ShowerPoints:
    detector = load_detector(detector) if isinstance(detector, str) else detector
    options = {"seed": 5, "tables": "builtin"} | options
    seed = options.pop("seed")
    with simulate(detector, particle, energy, events, seed, **options) as production:
        blocks = sorted(production, key=lambda block: block.number)
    return type(blocks[0].showers).concatenate([block.showers for block in blocks])


def deflection(particle: str, field: tuple[float, float, float], energy: float, length: float = 500.0) -> np.ndarray:
    """Where a particle that starts along z hits a plane: the helix that the Lorentz force makes, step by step."""
    mass = particle_mass(particle_id(particle))
    momentum = math.sqrt(energy * (energy + 2 * mass))
    charge = 1 if particle.endswith("+") else -1
    position, direction, step = np.zeros(3), np.array([0.0, 0.0, 1.0]), 0.5
    while position[2] < length:
        turn = charge * 0.299792458 * np.cross(direction, field) / momentum * step  # MeV, mm, T
        middle = direction + turn / 2
        turn = charge * 0.299792458 * np.cross(middle / np.linalg.norm(middle), field) / momentum * step
        position = position + step * middle
        direction = (direction + turn) / np.linalg.norm(direction + turn)
    return position - direction * (position[2] - length) / direction[2]


#: The same for particles from the axis of a cylinder.
CYLINDER = (
    VACUUM.replace('"planar"', '"cylindrical"\ninner_radius = 100.0')
    .replace("lateral = [2000.0, 2000.0]\nworld = [2000.0, 2000.0, 1200.0]", "lateral = [2000.0]")
    .replace('energy = "1"', 'energy = "1"\nposition = [0.0, 0.0, -100.0]')
    .replace("thickness = 500.0", "thickness = 400.0")
    .replace("[500.0, 500.01]", "[400.0, 400.01]")
)
TWO_TESLA = (0.0, -2.0, 0.0)


@pytest.mark.parametrize(
    ("text", "particle", "field"),
    [
        (VACUUM, "mu+", (3.5, 0.0, 0.0)),
        (VACUUM, "mu-", (3.5, 0.0, 0.0)),
        (VACUUM, "e+", TWO_TESLA),
        (VACUUM, "e-", TWO_TESLA),
        (CYLINDER, "mu+", (3.5, 0.0, 0.0)),
    ],
    ids=["mu+", "mu-", "e+", "e-", "cylinder"],
)
def test_charged_particles_follow_the_helix(text, particle, field):
    # Fails for a field in the wrong unit, frame or sign, or without one. The helix deflects by more than 70 mm.
    detector = detector_from_toml(text.replace("[3.5, 0.0, 0.0]", str(list(field))), where="test")
    points = made(detector, particle, "1", 3, points=True)
    expected = deflection(particle, field, 1 * GeV)
    assert np.abs(expected[:2]).max() > 70
    first = points.points[points.offsets[:-1]]  # the primary's own step comes first
    assert first[:, :2] == pytest.approx(np.tile(expected[:2], (3, 1)), abs=0.02)


def test_a_field_along_the_flight_bends_nothing():
    detector = detector_from_toml(VACUUM.replace("[3.5, 0.0, 0.0]", "[0.0, 0.0, 3.5]"), where="test")
    points = made(detector, "mu+", "1", 2, points=True)
    assert np.abs(points.points[points.offsets[:-1], :2]).max() < 1e-6


def test_a_slow_electron_comes_back_to_the_plate_that_it_left():
    # Half a circle in vacuum behind a foil, as between the plates of ild-ecal. Fails without field, or where it turns slow
    # particles less.
    text = VACUUM.replace('energy = "1"', 'energy = "1"\nposition = [0.0, 0.0, -0.1]').replace('"mu+"', '"e-"')
    foil, vacuum = (
        f'{{ material = "{name}", thickness = {thickness} }}'
        for name, thickness in (("G4_Si", "0.001, active = true"), ("G4_Galactic", 500.0))
    )
    text = text[: text.index("plates")] + f"plates = [{foil}, {vacuum}]\n[[readout.layers]]\ndepth = [0.0, 0.001]\n"
    points = made(detector_from_toml(text, where="test"), "e-", "0.001", 20, points=True)
    radius = math.sqrt(1.0 * (1.0 + 2 * particle_mass(11))) / (0.299792458 * 3.5)  # 1.36 mm
    # It flies along z, so that the plane of the foil cuts its circle at both ends of a diameter; then it goes round on.
    there, back = (np.abs(points.points[points.offsets[:-1] + k, 1]) for k in (0, 1))
    assert np.median(there) < 0.01
    assert np.median(back) == pytest.approx(2 * radius, rel=0.01)


def facts(points: ShowerPoints) -> dict[str, np.ndarray]:
    """Of each shower: response, share of the energy before a fixed depth, width across the axis, number of deposits."""
    x, y, layer, energy = points.points.T.astype(float)
    row, n = points.shower_index, len(points)
    total = np.bincount(row, energy, n)
    early = np.bincount(row, energy * (layer < points.readout.n_layers / 5), n)
    width = np.sqrt(np.bincount(row, energy * (x**2 + y**2), n) / total)
    counts = np.bincount(row, minlength=n).astype(float)
    return {"response": total / points.incident_energy, "early": early / total, "width": width, "deposits": counts}


@pytest.mark.parametrize(("name", "particle"), [("calogan", "e+"), ("ild-ecal", "gamma")])
def test_without_a_field_the_engines_agree(name, particle):
    # Fails where production cuts are set before geant4-pybind's initialisation, which forgets them: 3 % fewer deposits.
    detector = load_detector(name)
    detector = detector if detector.field is None else detector.with_field(0.0)
    one, two = (
        facts(made(detector, particle, "0.5", 300, engine=engine, points=True, jobs=2, seed=k))
        for k, engine in enumerate(ENGINES)
    )
    for fact, values in one.items():
        error = math.sqrt((values.var() + two[fact].var()) / len(values))
        assert error < 0.05 * values.mean()
        assert values.mean() == pytest.approx(two[fact].mean(), abs=4 * error), fact


def test_every_deposit_counts_and_the_number_of_jobs_changes_nothing():
    one = made("calogan", "e-", "0.1:0.5", 25, engine="geant4-pybind")
    raw = one.total_energy() + one.overflow.sum(axis=1)
    assert np.all(raw <= one.incident_energy * (1 + 1e-6))
    assert (raw / one.incident_energy).mean() > 0.97
    two = made("calogan", "e-", "0.1:0.5", 25, engine="geant4-pybind", jobs=2)
    assert np.array_equal(one.deposits, two.deposits)
    assert np.array_equal(one.overflow, two.overflow)
    other = made("calogan", "e-", "0.1:0.5", 10, engine="geant4-pybind", seed=6)
    assert not np.array_equal(one.deposits[:10], other.deposits)
    resumed = made("calogan", "e-", "0.1:0.5", 25, engine="geant4-pybind", skip={0})
    assert np.array_equal(one.deposits[10:], resumed.deposits)


def test_calzone_refuses_a_field_and_a_field_chooses_its_engine():
    detector = detector_from_toml(VACUUM, where="test")
    assert choose_engine(detector, None) == "geant4-pybind"
    assert choose_engine(detector.with_field(0.0), None) == "calzone"
    with pytest.raises(
        UsageError, match=r"calzone knows no magnetic field, and the detector 'vacuum' has one of 3.5 T"
    ):
        simulate(detector, "mu+", "1", 1, 1, points=True, engine="calzone")
    with pytest.raises(UsageError, match=r"'geant5' is not known, expected calzone or geant4-pybind"):
        simulate(detector, "mu+", "1", 1, 1, points=True, engine="geant5")


def test_a_missing_table_and_an_unknown_material_are_one_sentence(tmp_path):
    directory = tables.write_tables(tmp_path, [82, 18], hadronic=False)
    (directory / "G4EMLOW8.8/brem_SB/br82").unlink()
    with pytest.raises(SimulationError, match=r"ended by SIGABRT: Bremsstrahlung data file .*br82.*; finished blocks"):
        made("calogan", "e-", "0.1", 1, engine="geant4-pybind", tables=str(directory))
    text = load_detector("calogan").to_toml().replace("G4_lAr", "G4_lXr")
    with pytest.raises(SimulationError, match="Geant4 does not know the material 'G4_lXr'"):
        made(detector_from_toml(text, where="test"), "e-", "1", 1, engine="geant4-pybind")


def test_missing_system_libraries_are_named(tmp_path, monkeypatch):
    (tmp_path / "geant4_pybind.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingDependencyError, match=r"\(libGL.so.1: .*\).*apt-get install libgl1 libx11-6 libxext6 libsm6 libice6"
    ):
        made("calogan", "e-", "0.1", 1, engine="geant4-pybind")


def test_no_download_begins_in_continuous_integration():
    # The package downloads 2 GB when it is imported with CI=true, unless it is told where its tables are.
    code = "import caloforge.simulation.engines.geant4_parts"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "must not be imported before its tables are in place" in result.stderr
    code = "import sys, caloforge.simulation.engines, caloforge.simulation.worker; sys.exit('geant4_pybind' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line_has_field_engine_steps_and_directions(tmp_path, capsys):
    common = ["simulate", "--detector", "ild-ecal", "--events", "6", "--points", "--jobs", "1", "--seed", "1"]
    steps = ["--energy", "0.1:0.3:0.1", "--direction", "random"]
    facts = {}
    for name, options in (
        ("as-it-is", [*steps]),
        ("weaker", [*steps, "--field", "2"]),
        ("none", ["--energy", "0.1", "--field", "0", "--direction", "angles"]),
    ):
        out = tmp_path / f"{name}.h5"
        assert main([*common, *options, "--out", str(out)]) == 0
        with open_showers(out) as reader:
            facts[name] = reader.provenance
            hash_, energies = reader.detector.hash, reader.read().incident_energy.tolist()
        assert facts[name]["detector_hash"] == hash_
        assert energies == pytest.approx([100] * 6 if name == "none" else [100, 200, 300] * 2)
    assert [facts[name]["field"].partition(" T")[0] for name in facts] == [
        "uniform, (3.5, 0, 0)",
        "uniform, (2, 0, 0)",
        "none",
    ]
    assert [facts[name]["engine"] for name in facts] == ["geant4-pybind", "geant4-pybind", "calzone"]
    assert [facts[name]["directions"] for name in facts] == ["barrel", "barrel", "angles"]
    assert len({fact["detector_hash"] for fact in facts.values()}) == 3
    assert facts["as-it-is"]["production_cut_mm"] == 0.1
    capsys.readouterr()
    for options, message in (
        (["--detector", "calogan", "--field", "1"], "the detector 'calogan' names no direction of a magnetic field"),
        (["--detector", "ild-ecal", "--points", "--engine", "calzone"], "calzone knows no magnetic field"),
        (["--detector", "calogan", "--direction", "barrel"], "random directions need 'gun.directions'"),
        (["--detector", "calogan", "--energy", "1:10:4"], "the step of '1:10:4' does not lead"),
    ):
        assert main(["simulate", *options, "--events", "1", "--out", str(tmp_path / "no.h5")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no.h5").exists()


def test_the_interpreter_ends_without_a_crash():
    # Fails where production cuts are set by a call instead of a command.
    code = """
import numpy as np
from caloforge.detectors import load_detector
from caloforge.simulation.engines import make_engine
engine = make_engine("geant4-pybind", load_detector("calogan"), 22, "builtin")
(group,) = engine.run(np.array([100.0]), np.array([[0.0, 0.0, 1.0]]))
assert 90 < group.deposits.energy.sum() < 100.1
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
