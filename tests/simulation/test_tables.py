from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caloforge.errors import MissingDependencyError, SimulationError, UsageError
from caloforge.simulation import packages, tables
from caloforge.simulation.nucleons import capture, elastic, ion_inelastic, nucleon_inelastic
from caloforge.simulation.tables import DATASETS, TableSource, atomic_number, find_official, find_tables, write_tables

LEAD, TUNGSTEN, SILICON = 82, 74, 14


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("geant4"), [LEAD, TUNGSTEN, SILICON])


def read_vector(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Geant4's text form: 'Emin Emax n', 'n', then n pairs."""
    lines = path.read_text().splitlines()
    low, high, count = lines[0].split()
    assert int(count) == int(lines[1]) == len(lines) - 2
    pairs = np.array([line.split() for line in lines[2:]], dtype=float)
    assert pairs[0, 0] == float(low)
    assert pairs[-1, 0] == float(high)
    return pairs[:, 0], pairs[:, 1]


def test_all_folders_that_calzone_checks_are_there(directory):
    assert all((directory / name).is_dir() for name in DATASETS)
    assert (directory / "G4ENSDFSTATE3.0/ENSDFSTATE.dat").read_text() == ""


def test_only_wanted_elements_and_hydrogen_for_the_vacuum(directory):
    names = {path.name for path in (directory / "G4EMLOW8.8/brem_SB").iterdir()}
    assert names == {"br1", "br14", "br74", "br82"}


def test_bremsstrahlung_form_and_radiation_length(directory):
    lines = (directory / "G4EMLOW8.8/brem_SB/br82").read_text().splitlines()
    assert lines[0].split() == ["0", "32", "57"]
    fraction = np.array(lines[1].split(), dtype=float)
    log_energy = np.array(lines[2].split(), dtype=float)
    chi = np.array([line.split() for line in lines[3:]], dtype=float)
    assert (fraction[0], fraction[-1]) == (0.0, 1.0)
    assert np.exp(log_energy[[0, -1]]) == pytest.approx([1e-3, 1e4])
    assert chi.shape == (57, 32)
    # At high energy an electron loses its energy over a radiation length: 1/X0 = N_A/A Z^2 int chi dk, 6.37 g/cm2.
    loss = 6.022e23 / 207.2 * 82**2 * np.trapezoid(chi[-1], fraction) * 1e-27
    assert 1 / loss == pytest.approx(6.37, rel=0.05)


def test_photoelectric_edges_and_fit_join(directory):
    folder = directory / "G4EMLOW8.8/epics2017/phot"
    energy, scaled = read_vector(folder / "pe-cs-82.dat")
    assert np.all(np.diff(energy) > 0)
    sigma = scaled / energy**3  # barn
    edge = int(np.flatnonzero(np.diff(energy) / energy[1:] < 1e-4)[-1])  # the last pair of points
    assert energy[edge] == pytest.approx(0.0880045, rel=1e-4)  # the K shell of lead
    assert sigma[edge + 1] / sigma[edge] == pytest.approx(4.8, rel=0.05)  # its published jump ratio
    assert np.sum(np.diff(sigma) > 0) >= 4  # K and three L edges at least
    first, shell = (folder / "pe-high-82.dat").read_text().splitlines()
    assert first.split() == ["1", "1", "0.25"]
    binding, *a = map(float, shell.split())
    assert binding == 1e-4
    assert len(a) == 5

    def fitted(e):
        return sum(c / e ** (k + 1) for k, c in enumerate(a))

    table = np.interp([0.26, 0.4, 0.6], energy, scaled) / np.array([0.26, 0.4, 0.6]) ** 3
    assert [fitted(e) for e in (0.26, 0.4, 0.6)] == pytest.approx(table.tolist(), rel=0.02)
    assert fitted(100.0) > 0
    assert (folder / "pe-low-82.dat").read_text() == (folder / "pe-high-82.dat").read_text()


def test_rayleigh_is_in_square_millimetres(directory):
    energy, scaled = read_vector(directory / "G4EMLOW8.8/epics2017/rayl/re-cs-82.dat")
    sigma = np.interp(0.1, energy, scaled) / 0.1**2 / 1e-22  # barn
    assert sigma == pytest.approx(71.0, rel=0.15)  # at 100 keV


def test_photonuclear_tables_are_zero_and_exist_for_every_element(directory):
    for z in (1, 40, 97):
        energy, sigma = read_vector(directory / f"G4PARTICLEXS4.2/gamma/inel{z}")
        assert energy.tolist() == list(range(131))
        assert not sigma.any()


def test_hadronic_tables_for_all_elements_on_logarithmic_grids(directory):
    for name in ("neutron/inel", "neutron/el", "neutron/cap", "proton/inel", "alpha/inel", "he3/inel", "triton/inel"):
        for z in (1, 2, LEAD, 92):
            energy, sigma = read_vector(directory / f"G4PARTICLEXS4.2/{name}{z}")
            steps = np.diff(np.log(energy))
            assert steps == pytest.approx(np.full(len(steps), steps[0]), rel=1e-5)
            assert np.all(sigma >= 0)


def test_writing_again_changes_nothing_and_adds_elements(tmp_path):
    write_tables(tmp_path, [LEAD], hadronic=False)
    file = tmp_path / "G4EMLOW8.8/brem_SB/br82"
    stamp = file.stat().st_mtime_ns
    write_tables(tmp_path, [LEAD, SILICON], hadronic=False)
    assert file.stat().st_mtime_ns == stamp
    assert (tmp_path / "G4EMLOW8.8/brem_SB/br14").exists()
    assert not (tmp_path / "G4PARTICLEXS4.2/neutron").exists()


def test_several_processes_at_once_write_the_same_files(tmp_path, directory):
    code = (
        "import sys, pathlib; from caloforge.simulation.tables import write_tables; "
        f"write_tables(pathlib.Path(sys.argv[1]), [{LEAD}, {TUNGSTEN}, {SILICON}])"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]

    def contents(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert contents(tmp_path) == contents(directory)


def test_unwritable_cache_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SimulationError, match="set CALOFORGE_CACHE"):
        write_tables(tmp_path / "file" / "below", [LEAD])


def test_elements_outside_the_tables_are_refused(tmp_path):
    with pytest.raises(UsageError, match="1 to 92, not Z = 94"):
        write_tables(tmp_path, [94])
    assert [atomic_number(s) for s in ("H", "W", "Pb", "U")] == [1, 74, 82, 92]
    with pytest.raises(SimulationError, match="'Xx' is not the symbol"):
        atomic_number("Xx")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A home without official tables, and a cache of our own."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CALOFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GEANT4_DATA_DIR", raising=False)
    return tmp_path


def test_builtin_tables_are_the_default_without_official_ones(elsewhere):
    assert find_official() is None
    source = find_tables("auto", [SILICON], hadronic=False)
    assert source.kind == "builtin"
    assert source.path.is_relative_to(elsewhere / "cache")
    assert source.fingerprint in str(source.path)
    assert source.approximate_nucleons
    stated = source.provenance()
    assert stated["fingerprint"] == source.fingerprint
    assert str(elsewhere) not in str(stated)


def test_official_tables_are_preferred_where_they_are_complete(elsewhere, directory, monkeypatch):
    monkeypatch.setenv("GEANT4_DATA_DIR", str(directory))
    assert find_official() == directory
    source = find_tables("auto", [SILICON])
    assert (source.kind, source.path) == ("official", directory.resolve())
    assert not source.approximate_nucleons
    assert find_tables("builtin", [SILICON], hadronic=False).kind == "builtin"


def test_a_named_but_incomplete_directory_is_an_error_not_a_fallback(elsewhere, tmp_path, monkeypatch):
    monkeypatch.setenv("GEANT4_DATA_DIR", str(tmp_path))
    with pytest.raises(SimulationError, match=r"'G4NDL4\.7\.1' is missing"):
        find_tables("auto", [SILICON])


def test_missing_official_tables_name_the_two_ways_out(elsewhere):
    with pytest.raises(SimulationError, match=r"--fetch-geant4-data.*builtin"):
        find_tables("official", [SILICON])
    with pytest.raises(SimulationError, match=r"holds no complete Geant4 11\.4 data"):
        find_tables(elsewhere / "nowhere", [SILICON])


def test_a_given_directory_is_used_and_named_as_such(elsewhere, directory):
    assert find_tables(str(directory), [SILICON]) == TableSource("directory", directory.resolve())


def test_download_is_calzones_own(elsewhere, monkeypatch):
    calls = []

    def run(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(tables.subprocess, "run", run)
    target = tables.fetch_official()
    assert calls == [[sys.executable, "-m", "calzone", "download", str(target)]]
    assert target == elsewhere / "home/.local/share/calzone/data"


def test_failed_download_is_one_sentence(elsewhere, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, stderr="Traceback\nOSError: dns error")

    monkeypatch.setattr(tables.subprocess, "run", run)
    with pytest.raises(SimulationError, match="failed: OSError: dns error"):
        tables.fetch_official()


def test_without_calzone_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "caloforge\[calzone\]"'):
        packages.need_engine("calzone")


def test_importing_the_room_does_not_import_calzone():
    code = "import sys, caloforge.simulation, caloforge.simulation.worker; sys.exit('calzone' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- cross sections of nucleons: measured values, quoted where they are used


@pytest.mark.parametrize(
    ("z", "a", "interaction_length"), [(6, 12.011, 85.8), (13, 26.98, 107.2), (26, 55.845, 132.1), (82, 207.2, 199.6)]
)
def test_high_energy_limit_is_the_nuclear_interaction_length(z, a, interaction_length):
    sigma = nucleon_inelastic(np.array([2000.0]), z, a, charged=False)[0]
    assert a / (0.6022 * sigma) == pytest.approx(interaction_length, rel=0.015)  # g/cm2, PDG


def test_neutrons_on_lead():
    energy = np.array([0.3, 14.0, 100.0])
    inelastic = nucleon_inelastic(energy, 82, 207.2, charged=False)
    assert inelastic[0] < 0.1  # below the first level almost nothing
    assert inelastic[1] == pytest.approx(2.5, rel=0.1)  # non-elastic at 14 MeV
    assert inelastic[2] == pytest.approx(1.7, rel=0.1)
    # As large as the inelastic one with all channels open.
    assert elastic(energy, 82, 207.2)[1:] == pytest.approx(inelastic[1:])
    assert elastic(energy, 82, 207.2)[0] > 1.0


def test_neutrons_on_protons():
    measured = {1.0: 4.25, 10.0: 0.94, 20.0: 0.483}
    assert elastic(np.array(list(measured)), 1, 1.008).tolist() == pytest.approx(list(measured.values()), rel=0.03)


def test_coulomb_barrier_and_capture():
    assert nucleon_inelastic(np.array([1.0]), 82, 207.2, charged=True)[0] == 0.0
    assert ion_inelastic(np.array([5.0]), 82, 207.2, "alpha")[0] == 0.0
    assert ion_inelastic(np.array([300.0]), 82, 207.2, "alpha")[0] == pytest.approx(2.5, rel=0.2)
    slow, fast = capture(np.array([2.53e-8, 2.53e-6]), 18.3)
    assert (slow, fast) == pytest.approx((18.3, 1.83))
    assert capture(np.array([1.0]), float("nan"))[0] == 0.0
