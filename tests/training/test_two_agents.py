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

from caloforge import datasets
from caloforge.models import read_record
from caloforge.showers import create_showers, open_showers
from caloforge.training import train

PRESET = """
kind: caloflow
title: a small one for the tests
model:
  energy_scale: 1.0
  energies: {blocks: 1, hidden_features: 8, hidden_layers: 1}
  shapes: {blocks: 1, hidden_features: 8, hidden_layers: 1}
training:
  batch_size: 60
  epochs: 1
"""


@pytest.mark.slow
def test_two_agents_train_one_model(tmp_path: Path) -> None:
    """Each agent stands for a machine. Mutation: no rendezvous; each trains alone, and one is refused."""
    with open_showers(datasets.path("calogan-gamma-sample", split="train")) as reader:
        showers = reader.read(0, 300)
        with create_showers(tmp_path / "g.h5", detector=reader.detector, particle=22) as writer:
            writer.write(showers)
    preset = tmp_path / "small.yaml"
    preset.write_text(PRESET)
    train(preset, tmp_path / "g.h5", tmp_path / "alone", threads=1, show=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As in docs/training.md, but for the name of the first machine.
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "photons", "--local-addr", "127.0.0.1",
        "-m", "caloforge", "train", str(preset), "--data", str(tmp_path / "g.h5"), "--out", str(tmp_path / "m"), "--threads", "1",
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
