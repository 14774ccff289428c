"""The command line as a user meets it: what is printed, where, and with which exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from caloforge.cli.main import main
from caloforge.detectors import load_detector
from caloforge.showers import Showers
from caloforge.showers.files import create_showers, open_showers


@pytest.fixture
def shower_file(tmp_path: Path) -> Path:
    detector = load_detector("calogan")
    rng = np.random.default_rng(0)
    deposits = (rng.gamma(0.5, 10.0, (20, 504)) * (rng.random((20, 504)) < 0.5)).astype(np.float32)
    overflow = rng.random((20, 3)).astype(np.float32)
    showers = Showers(deposits, np.linspace(5000, 9000, 20), 22, detector.readout, overflow=overflow)
    with create_showers(tmp_path / "a.h5", detector=detector, particle=22, provenance={"program": "test"}) as writer:
        writer.write(showers)
    return tmp_path / "a.h5"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_detectors_are_listed(capsys):
    code, out, _ = run(capsys, "detectors")
    assert code == 0
    assert all(name in out for name in ("calogan", "par04-ds3", "ild-ecal/10x10", "ds1-pions"))
    code, out, _ = run(capsys, "detectors", "--json")
    assert json.loads(out)["calogan"]["voxels"] == 504


def test_info_describes_and_draws_a_detector(capsys, tmp_path):
    code, out, _ = run(capsys, "info", "par04-ds2", "--drawing", tmp_path / "sub" / "d.png")
    assert code == 0
    assert "6480 voxels" in out
    assert (tmp_path / "sub" / "d.png").read_bytes()[:4] == b"\x89PNG"


def test_info_describes_a_file(capsys, shower_file, tmp_path):
    code, out, _ = run(capsys, "info", shower_file, "--drawing", tmp_path / "f.png")
    assert code == 0
    for text in ("native", "20", "gamma", "5 GeV to 9 GeV", "504 voxels", "overflow"):
        assert text in out
    assert (tmp_path / "f.png").exists()
    code, out, _ = run(capsys, "info", shower_file, "--json")
    assert json.loads(out)["showers"] == 20


def test_info_leaves_out_the_middle_of_many_layers(capsys, tmp_path):
    """Files of the detectors with most layers have a table with more columns than the detectors' own."""
    readout = load_detector("ild-ecal/10x10").readout
    deposits = np.ones((3, readout.n_voxels), np.float32)
    with create_showers(tmp_path / "s.h5", detector=load_detector("ild-ecal/10x10"), particle=22) as writer:
        writer.write(Showers(deposits, np.full(3, 1e4), 22, readout))
    code, out, _ = run(capsys, "info", tmp_path / "s.h5")
    assert code == 0
    assert "…" in out
    assert "mean energy [GeV]" in out  # 3 GeV in 3,000 voxels
    with create_showers(tmp_path / "t.h5", detector=load_detector("ild-ecal/10x10"), particle=22) as writer:
        writer.write(Showers(deposits / 10, np.full(3, 1e4), 22, readout))
    assert "mean energy [MeV]" in run(capsys, "info", tmp_path / "t.h5")[1]


def test_convert_there_and_back(capsys, shower_file, tmp_path):
    code, out, _ = run(capsys, "convert", shower_file, tmp_path / "b.h5", "--to", "calogan")
    assert code == 0
    assert "20 showers" in out
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["layer_0"].shape == (20, 3, 96)
        assert np.allclose(file["energy"][:, 0], np.linspace(5, 9, 20))
    assert run(capsys, "convert", tmp_path / "b.h5", tmp_path / "c.h5")[0] == 0
    with open_showers(shower_file) as one, open_showers(tmp_path / "c.h5") as two:
        assert np.array_equal(one.read().deposits, two.read().deposits)
        assert np.array_equal(one.read().overflow, two.read().overflow)


def test_existing_output_is_not_replaced_unless_asked(capsys, shower_file, tmp_path):
    before = shower_file.read_bytes()
    other = tmp_path / "other.h5"
    assert run(capsys, "convert", shower_file, other)[0] == 0
    code, _, err = run(capsys, "convert", other, shower_file)
    assert code == 1
    assert "exists already" in err
    assert shower_file.read_bytes() == before
    assert run(capsys, "convert", other, shower_file, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("info", "nonsense"), 2, "nothing built in has this name"),
        (("info", "missing.h5"), 1, "missing.h5: there is no such file"),
        (("info", "missing.toml"), 1, "there is no such file"),
        (("convert", "missing.h5", "b.h5"), 1, "missing.h5"),
        (("convert",), 2, "Missing argument"),
        (("nonsense",), 2, "No such command"),
        (("simulate",), 2, "--detector is missing"),
        (("simulate", "--detector", "calogan"), 2, "--out is missing"),
        (("simulate", "--detector", "ds1-photons", "--out", "x.h5"), 1, "readout-only"),
        (("simulate", "--detector", "calogan", "--out", "x.h5", "--particle", "photino"), 2, "photino"),
        (("simulate", "--detector", "calogan", "--out", "x.h5", "--energy", "5:1"), 2, "5:1"),
        (("simulate", "--detector", "calogan", "--out", "x.h5", "--energy", "-3"), 2, "not positive"),
        (("simulate", "--detector", "calogan", "--out", "x.h5", "--direction", "random"), 2, "fixed direction"),
        (("simulate", "--detector", "calogan", "--out", "x.h5", "--events", "0"), 2, "--events"),
        (("simulate", "--detector", "ild-ecal/points", "--out", "x.h5"), 2, "--points"),
    ],
)
def test_mistakes_get_one_sentence(capsys, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    got, out, err = run(capsys, *arguments)
    assert got == code
    assert message in err
    assert "Traceback" not in err + out
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_help_has_an_example_for_every_command(capsys):
    code, listing, _ = run(capsys, "--help")
    assert code == 0
    commands = [line.split()[0] for line in listing.split("Commands:")[1].splitlines() if line.strip()]
    assert {"simulate", "convert", "info", "detectors", "datasets", "demo"} <= set(commands)
    for command in commands:
        code, shown, _ = run(capsys, command, "--help")
        assert code == 0
        assert "Example" in shown, command
        assert "\\b" not in shown, command  # a mark for the formatter, not for people


def test_the_module_is_the_program():
    done = subprocess.run([sys.executable, "-m", "caloforge", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("caloforge ")


@pytest.mark.geant4
def test_simulate_is_the_same_for_any_number_of_jobs(capsys, tmp_path):
    common = (
        "simulate",
        "--detector",
        "calogan",
        "--particle",
        "e+",
        "--energy",
        "1:3",
        "--events",
        "25",
        "--seed",
        "7",
    )
    for jobs in (1, 2):
        assert run(capsys, *common, "--jobs", jobs, "--out", tmp_path / f"{jobs}.h5")[0] == 0
    with open_showers(tmp_path / "1.h5") as one, open_showers(tmp_path / "2.h5") as two:
        first, second = one.read(), two.read()
    assert len(first) == 25
    assert np.array_equal(first.deposits, second.deposits)
    assert np.array_equal(first.incident_energy, second.incident_energy)
    assert np.array_equal(first.overflow, second.overflow)


def wait_for_a_block(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists():
            with h5py.File(path) as file:
                if "showers" in file and len(file["showers"]):
                    return
        time.sleep(0.05)
    pytest.fail("the simulation did not finish a single block")


@pytest.mark.geant4
def test_a_killed_simulation_is_resumed_to_the_same_showers(capsys, tmp_path):
    common = [
        "simulate",
        "--detector",
        "calogan",
        "--particle",
        "gamma",
        "--energy",
        "2",
        "--events",
        "40",
        "--seed",
        "3",
    ]
    killed, whole = tmp_path / "killed.h5", tmp_path / "whole.h5"
    process = subprocess.Popen(
        [sys.executable, "-m", "caloforge", *common, "--jobs", "1", "--out", str(killed)],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_a_block(killed, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    code, out, _ = run(capsys, "info", killed)
    assert code == 0
    assert "INCOMPLETE" in out
    code, _, err = run(capsys, *common, "--jobs", "2", "--out", killed)
    assert code == 1
    assert "resume" in err
    code, _, err = run(capsys, *[a if a != "3" else "4" for a in common], "--out", killed, "--resume")
    assert code == 1
    assert "seed" in err
    assert run(capsys, *common, "--jobs", "2", "--out", killed, "--resume")[0] == 0
    assert run(capsys, *common, "--jobs", "2", "--out", whole)[0] == 0
    with open_showers(killed) as one, open_showers(whole) as two:
        assert one.complete
        assert np.array_equal(one.read().deposits, two.read().deposits)
    assert not (tmp_path / "killed.h5.parts").exists()


@pytest.mark.geant4
def test_ctrl_c_says_what_was_kept(tmp_path):
    out = tmp_path / "c.h5"
    command = [
        "simulate",
        "--detector",
        "calogan",
        "--energy",
        "5",
        "--events",
        "500",
        "--jobs",
        "1",
        "--out",
        str(out),
    ]
    process = subprocess.Popen([sys.executable, "-m", "caloforge", *command], stderr=subprocess.PIPE, text=True)
    wait_for_a_block(out, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "--resume" in err.splitlines()[-1]
