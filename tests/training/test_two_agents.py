"""``torchrun`` with two rendezvous agents, as on two machines: they find each other and train one model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_training import packaged_photons, small_preset

from caloforge.models import read_record
from caloforge.training import train


@pytest.mark.slow
def test_two_agents_train_one_model(tmp_path: Path) -> None:
    """Each agent stands for a machine. Mutation: no rendezvous; each trains alone, and one is refused."""
    data = packaged_photons(tmp_path, 300)
    preset = small_preset(tmp_path, epochs=1)
    train(preset, data, tmp_path / "alone", threads=1, show=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As in docs/training.md, but for the name of the first machine.
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "photons", "--local-addr", "127.0.0.1",
        "-m", "caloforge", "train", str(preset), "--data", str(data), "--out", str(tmp_path / "m"), "--threads", "1",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
    agents = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    try:
        said = [agent.communicate(timeout=300)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    assert read_record(tmp_path / "m").training["processes"] == 2
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "m"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-3)
