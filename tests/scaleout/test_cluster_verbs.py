"""What ``--cluster`` does on the command line: the same files as one process, and what is wrong in one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from caloforge.cli.main import main
from caloforge.datasets import open_named
from caloforge.detectors import EnergySpectrum
from caloforge.errors import CaloForgeWarning
from caloforge.generation import SpectrumConditions, generate
from caloforge.scaleout import ClusterError, Rules, clusters, open_cluster
from caloforge.showers import create_showers
from caloforge.showers.blocks import BlockWriter

GENERATE = ["generate", "calogan-gamma", "--energy", "1:100", "--seed", "3"]


def equal(one, other):
    """Whether all datasets of two files are equal bit by bit; the provenance of the first."""
    with h5py.File(one) as a, h5py.File(other) as b:
        assert sorted(a) == sorted(b)
        for name in a:
            np.testing.assert_array_equal(a[name][:], b[name][:])
        assert a.attrs["complete"]
        return json.loads(a.attrs["provenance"])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "g.h5"
    assert main([*GENERATE, "--events", "2500", "--threads", "1", "--out", str(out)]) == 0
    return out


@pytest.fixture
def address(cluster):
    return cluster.client.scheduler.address


def test_generate_equals_one_process(reference, address, tmp_path):
    out = tmp_path / "g.h5"
    assert main([*GENERATE, "--events", "2500", "--cluster", address, "--threads", "1", "--out", str(out)]) == 0
    told = equal(out, reference)["cluster"]
    assert told["workers"] == 2
    assert list(told["processors"].values()) == [2]
    assert "cluster" not in json.loads(h5py.File(reference).attrs["provenance"])


def test_workers_write_parts(reference, address, tmp_path, monkeypatch):
    """By a name that is relative here: workers are somewhere else. Mutation: take in no part."""
    monkeypatch.chdir(tmp_path)
    arguments = [*GENERATE, "--events", "2500", "--cluster", address, "--threads", "1", "--out", "g.h5"]
    assert main([*arguments, "--batch-size", "500", "--parts"]) == 0
    assert equal(tmp_path / "g.h5", reference)["cluster"]["workers"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["g.h5"]


def test_workers_that_do_not_see_the_folder_get_no_work(address, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(BlockWriter, "shared_folder", lambda self: ("/not/here", "mark.tmp"))
    out = tmp_path / "g.h5"
    conditions = SpectrumConditions(EnergySpectrum.parse("1:100"), 600, 3, 22)
    with (
        open_cluster(address, rules=Rules(wait=1.0)) as executor,
        pytest.warns(CaloForgeWarning, match="gets no work"),
        pytest.raises(ClusterError, match=r"can take part; .*: it does not see '/not/here', which parts are"),
    ):
        generate("calogan-gamma", conditions, out, executor=executor, parts=True, show=False)
    assert main([*GENERATE, "--events", "10", "--parts", "--out", str(out)]) == 2
    assert "--parts is for the workers of a cluster, and none was named (--cluster)" in capsys.readouterr().err
    assert not out.exists()


def test_likelihood_equals_one_process(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # workers are somewhere else
    assert main(["generate", "calogan-gamma", "--energy", "5", "--events", "60", "--out", "g.h5"]) == 0
    arguments = ["likelihood", "calogan-gamma", "g.h5", "--batch-size", "20", "--threads", "1"]
    assert main([*arguments, "--out", "one.csv"]) == 0
    assert main([*arguments, "--out", "two.csv", "--cluster", address]) == 0
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()


def test_a_killed_coordinator_is_resumed(reference, address, tmp_path):
    out = tmp_path / "g.h5"
    arguments = [*GENERATE, "--events", "2500", "--threads", "1", "--batch-size", "500", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "caloforge", *arguments, "--cluster", address],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    present = 0
    while present < 500 and process.poll() is None:
        time.sleep(0.02)
        present = showers_present(out)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 500 <= present < 2500
    assert main([*arguments, "--cluster", address, "--resume"]) == 0
    with h5py.File(out) as a, h5py.File(reference) as b:
        np.testing.assert_array_equal(a["incident_energies"][:], b["incident_energies"][:])
        np.testing.assert_allclose(a["showers"][:], b["showers"][:], rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_generate_with_a_worker_killed_again_and_again(tmp_path):
    # Enough that a fast machine is still at work when a worker goes.
    out, alone, events = tmp_path / "g.h5", tmp_path / "alone.h5", "30000"
    assert main([*GENERATE, "--events", events, "--threads", "1", "--out", str(alone)]) == 0
    with subprocess.Popen(
        [sys.executable, "-m", "caloforge", *GENERATE, "--events", events, "--cluster", "local:2", "--threads", "1",
         "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        killed, last = 0, 0.0
        while process.poll() is None:
            time.sleep(0.05)
            workers = dask_workers(process.pid)
            if showers_present(out) and workers and time.monotonic() - last > 3 and killed < 3:
                os.kill(workers[killed % len(workers)], signal.SIGKILL)
                killed, last = killed + 1, time.monotonic()
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert killed >= 1
    assert equal(out, alone)["cluster"]["workers_lost"] >= 1
    assert "is gone" in said
    assert "Traceback" not in said


def showers_present(out):
    """Showers that are safe in a file that is being written."""
    if not out.exists():
        return 0
    with h5py.File(out) as file:
        return int(file.attrs["showers_present"])


def dask_workers(coordinator):
    """Processes of the Dask workers that belong to a coordinator."""
    parents, names = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                parents[int(pid)] = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{pid}/cmdline") as file:
                names[int(pid)] = file.read()
        except OSError:
            continue
    clusters = [pid for pid, parent in parents.items() if parent == coordinator and "scaleout.local" in names[pid]]
    return [pid for pid, parent in parents.items() if parent in clusters and "spawn_main" in names[pid]]


@pytest.mark.parametrize(
    ("given", "code", "sentence"),
    [
        (["--cluster", "lokal:4"], 2, "the cluster is 'lokal:4', expected local:N, tcp://HOST:PORT, or a YAML file"),
        (["--cluster", "local:0"], 2, "the cluster is 'local:0', expected at least one worker"),
        (["--cluster", "local:2", "--jobs", "2"], 2, "expected either a number of jobs or a cluster"),
        (["--cluster", "tcp://127.0.0.1:9"], 1, "the Dask scheduler at tcp://127.0.0.1:9 cannot be reached"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(given, code, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(clusters, "_TIMEOUT", 1.0)
    out = tmp_path / "g.h5"
    assert main([*GENERATE, "--events", "10", "--out", str(out), *given]) == code
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("caloforge: ") == 1
    assert not out.exists()


def test_without_dask(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main([*GENERATE, "--events", "10", "--out", str(tmp_path / "g.h5"), "--cluster", "local:2"]) == 1
    assert 'Dask is not installed: pip install "caloforge[cluster]"' in capsys.readouterr().err


def test_stages_of_a_training_equal_those_of_one_process(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # workers are somewhere else
    with open_named(["calogan-gamma-sample:train"]) as reader:
        showers = reader.read(0, 300)
        with create_showers("g.h5", detector=reader.detector, particle=22) as writer:
            writer.write(showers)
    arguments = ["train", "l2lflows-tiny", "--data", "g.h5", "--threads", "1", "--set=training.epochs=1"]
    arguments += ["--set=training.stages.energies.epochs=1"]
    assert main([*arguments, "--out", "one", "--stage", "scale", "--stage", "energies", "--stage", "layer_01"]) == 0
    assert main([*arguments, "--out", "two", "--cluster", address]) == 0
    one, two = (
        {path.parent.parent.name: load_file(path) for path in (tmp_path / name).glob("stages/*/best/*.safetensors")}
        for name in ("one", "two")
    )
    assert len(one) == 3
    for stage, state in one.items():
        for name, tensor in state.items():
            assert torch.equal(tensor, two[stage][name]), f"{stage} {name}"
    assert (tmp_path / "two" / "model.json").exists()


@pytest.mark.geant4
def test_simulate_equals_one_process(address, tmp_path):
    arguments = [
        "simulate",
        "--detector",
        "calogan",
        "--particle",
        "gamma",
        "--energy",
        "1:2",
        "--events",
        "40",
        "--seed",
        "5",
    ]
    assert main([*arguments, "--jobs", "1", "--out", str(tmp_path / "one.h5")]) == 0
    assert main([*arguments, "--cluster", address, "--out", str(tmp_path / "two.h5")]) == 0
    told = equal(tmp_path / "two.h5", tmp_path / "one.h5")
    assert told["cluster"]["workers"] == 2
    assert told["tables"] == equal(tmp_path / "one.h5", tmp_path / "two.h5")["tables"]


@pytest.mark.geant4
def test_hybrid_equals_one_process(address, tmp_path):
    arguments = [
        "hybrid",
        "--detector",
        "calogan",
        "--particle",
        "pi0",
        "--energy",
        "3",
        "--events",
        "60",
        "--seed",
        "5",
    ]
    arguments += ["--model", "calogan-gamma", "--engine", "calzone"]
    assert main([*arguments, "--jobs", "1", "--out", str(tmp_path / "one.h5")]) == 0
    assert main([*arguments, "--cluster", address, "--out", str(tmp_path / "two.h5")]) == 0
    with h5py.File(tmp_path / "one.h5") as one, h5py.File(tmp_path / "two.h5") as two:
        for name in ("showers", "overflow", "incident_energies", "face/counts", "face/energy", "face/reason"):
            np.testing.assert_array_equal(one[name][:], two[name][:], err_msg=name)
        assert json.loads(two.attrs["provenance"])["cluster"]["workers"] == 2


def test_evaluate_equals_one_process(address, tmp_path):
    arguments = [
        "evaluate", "calogan-gamma-sample:floor", "calogan-gamma-sample:test", "--only", "caloflow-dnn", "--retrainings", "2",
        "--epochs", "1", "--max-showers", "200", "--format", "json", "--threads", "1",
    ]  # fmt: skip
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert main([*arguments, "--cluster", address, "--out", str(tmp_path / "two")]) == 0
    one, two = (json.loads((tmp_path / name / "report.json").read_text())["generated"] for name in ("one", "two"))
    assert one == two
