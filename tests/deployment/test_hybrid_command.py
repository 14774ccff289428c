"""``caloforge hybrid`` as people use it: killed, on a full disk, and with what does not fit together."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hybrid_files import arrays

from caloforge.cli.main import main

PLATE = "gap = 100.0\n[[plates]]\nmaterial = 'G4_Al'\nthickness = 10.0\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("command")
    (made / "al10.toml").write_text(PLATE)
    return made


def command(folder, out, *more, jobs=1):
    return [
        "hybrid", "--detector", "calogan", "--upstream", str(folder / "al10.toml"), "--particle", "pi0", "--energy", "15",
        "--events", "150", "--model", "calogan-gamma", "--engine", "calzone", "--geant4-data", "builtin", "--seed", "5",
        "--jobs", str(jobs), "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(folder):
    """The events in two processes, undisturbed."""
    assert main(command(folder, folder / "whole.h5", jobs=2)) == 0
    return arrays(folder / "whole.h5")


def started(arguments, largest=None):
    """The command in a process of its own, whose files may not become larger than so many bytes."""
    limit = None if largest is None else (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest)))
    return subprocess.Popen(
        [sys.executable, "-m", "caloforge", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=limit,
    )  # fmt: skip


def events_in(path: Path) -> int:
    with h5py.File(path) as file:
        return len(file["showers"]) if "showers" in file else 0


@pytest.mark.geant4
def test_killed_by_the_system_and_gone_on_with(folder, whole, capsys):
    """SIGKILL to the command itself: what it finished is a readable file, and --resume makes the file of an undisturbed run.

    Mutation: a block answered in another company (``blocks_together`` of the tasks that are left) changes last bits.
    """
    out = folder / "killed.h5"
    with started(command(folder, out)) as process:
        deadline = time.monotonic() + 300
        while not (out.exists() and events_in(out)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert events_in(out) in (50, 100)
    capsys.readouterr()
    assert main(command(folder, out)) == 1
    assert "exists already" in capsys.readouterr().err
    changed = [word if word != "calogan-gamma" else "gamma=gflash" for word in command(folder, out, "--resume")]
    assert main(changed) == 1
    assert "begun with" in capsys.readouterr().err
    assert main(command(folder, out, "--resume", jobs=2)) == 0
    for name, values in arrays(out).items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)
    assert not (folder / "killed.h5.parts").exists()


@pytest.mark.geant4
def test_no_space_for_the_whole_file_is_one_sentence_and_loses_nothing(folder, whole):
    """Each part fits, the file of all of them does not."""
    out = folder / "full.h5"
    largest = (folder / "whole.h5").stat().st_size * 2 // 3
    with started(command(folder, out), largest) as process:
        _, said = process.communicate(timeout=600)
    assert process.returncode == 1
    sentence = said.strip().splitlines()[-1]
    assert "cannot be written" in sentence
    assert "150 finished showers are kept" in sentence
    assert "Traceback" not in said
    assert events_in(out) == 150
    assert main(command(folder, out, "--resume")) == 0
    for name, values in arrays(out).items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)


@pytest.mark.parametrize(
    ("change", "text", "message"),
    [
        ({"--upstream": "no.toml"}, PLATE, "no.toml: there is no such file"),
        ({}, PLATE + "thicknes = 3\n", "plates[0].thicknes"),
        pytest.param({}, PLATE.replace("'G4_Al'", "'G4_Aluminum'"), "G4_Aluminum", marks=pytest.mark.geant4),
        ({}, "gap = [", "is not TOML"),
        ({"--detector": "ild-ecal"}, PLATE, "'calogan-gamma' makes showers for the readout of 'calogan'"),
        ({"--detector": "ds1-photons"}, PLATE, "'ds1-photons'"),
        ({"--model": "e-=calogan-gamma"}, PLATE, "makes showers of gamma, not of e-"),
        ({"--model": "photino=gflash"}, PLATE, "photino"),
        ({"--model": "no-such-model"}, PLATE, "no-such-model"),
        ({"--model": "gflash"}, PLATE, "has to be told for what it stands"),
        ({"--energy": "twenty"}, PLATE, "twenty"),
        ({"--particle": "pi7"}, PLATE, "pi7"),
        ({"--max-angle": "2000"}, PLATE, "--max-angle"),
        ({"--engine": "geant5"}, PLATE, "--engine is 'geant5', expected calzone or geant4-pybind"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_one_sentence(tmp_path, monkeypatch, capsys, change, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "al10.toml").write_text(text)
    words = command(tmp_path, tmp_path / "h.h5")
    for flag, value in change.items():
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    assert main(words) in (1, 2)
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "Traceback" not in said
    # What Geant4 itself refuses is known when work has begun, of which there may be a line of progress.
    assert len([line for line in said.splitlines() if line.strip() and not line.startswith("simulating")]) == 1, said
    assert not list(tmp_path.glob("h.h5*"))
