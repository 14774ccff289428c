"""Schedulers that somebody else started: behind TLS, and as the example for Kubernetes starts them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

GENERATE = ["generate", "calogan-gamma", "--energy", "1:100", "--seed", "3", "--events", "1200", "--threads", "1"]
EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster" / "kubernetes.yaml"


@contextmanager
def running(command, folder):
    """A program in a session of its own, which ends with the block and takes its children along."""
    assert command[0] == "dask"
    command = [sys.executable, "-m", f"distributed.cli.dask_{command[1]}", *command[2:]]
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def environment(**more):
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"} | more


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(port, folder):
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail((folder / "log").read_text())


def caloforge(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "caloforge", *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=300,
    )


def equal(one, two):
    with h5py.File(one) as a, h5py.File(two) as b:
        for name in ("showers", "incident_energies"):
            np.testing.assert_array_equal(a[name][:], b[name][:])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_cluster_behind_tls(tmp_path):
    """As docs/clusters.md says. Mutation: leave the certificate out, and the last sentence comes first."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "365",
         "-subj", "/CN=caloforge", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    files = ["--tls-ca-file", "cert.pem", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    port = free_port()
    address = f"tls://127.0.0.1:{port}"
    mine = {
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(tmp_path / "cert.pem"),
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": str(tmp_path / "cert.pem"),
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": str(tmp_path / "key.pem"),
    }
    scheduler = [
        "dask",
        "scheduler",
        "--protocol",
        "tls",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-dashboard",
        *files,
    ]
    worker = ["dask", "worker", address, "--nworkers", "1", "--nthreads", "1", "--no-dashboard", *files]
    assert caloforge(*GENERATE, "--out", str(tmp_path / "one.h5")).returncode == 0
    with running(scheduler, tmp_path):
        wait_for(port, tmp_path)
        with running(worker, tmp_path):
            done = caloforge(*GENERATE, "--cluster", address, "--out", str(tmp_path / "two.h5"), **mine)
            assert done.returncode == 0, done.stderr
            refused = caloforge(*GENERATE, "--cluster", address, "--out", str(tmp_path / "three.h5"))
    equal(tmp_path / "one.h5", tmp_path / "two.h5")
    assert refused.returncode == 1
    assert (
        f"the Dask scheduler at {address} cannot be reached: Dask's configuration names no certificate"
        in refused.stderr
    )
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_what_the_example_for_kubernetes_starts(tmp_path):
    """Its names and ports fit each other, and its commands, run here, are a cluster that works."""
    service, scheduler, workers = yaml.safe_load_all(EXAMPLE.read_text())
    pods = [deployment["spec"]["template"] for deployment in (scheduler, workers)]
    for deployment, pod in zip((scheduler, workers), pods, strict=True):
        assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert service["spec"]["selector"] == pods[0]["metadata"]["labels"]
    (inside,), (worker,) = (pod["spec"]["containers"] for pod in pods)
    port = service["spec"]["ports"][0]["port"]
    assert service["spec"]["ports"][0]["targetPort"] == port == inside["ports"][0]["containerPort"]
    assert f"tcp://{service['metadata']['name']}:{port}" in worker["command"]
    here = free_port()
    host = {f"tcp://{service['metadata']['name']}:{port}": f"tcp://127.0.0.1:{here}", str(port): str(here), "4": "1"}
    with ExitStack() as stack:
        stack.enter_context(running([host.get(word, word) for word in inside["command"]], tmp_path))
        wait_for(here, tmp_path)
        stack.enter_context(running([host.get(word, word) for word in worker["command"]], tmp_path))
        out = tmp_path / "two.h5"
        done = caloforge(*GENERATE, "--cluster", f"tcp://127.0.0.1:{here}", "--out", str(out))
        assert done.returncode == 0, done.stderr
    assert caloforge(*GENERATE, "--out", str(tmp_path / "one.h5")).returncode == 0
    equal(tmp_path / "one.h5", tmp_path / "two.h5")
