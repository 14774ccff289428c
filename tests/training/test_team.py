"""``train --jobs``: the other processes are started for the first one, and end with it whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_training import packaged_photons, small_preset
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined] # not in its list of names

from caloforge.errors import ShowerFileError, TrainingError, UsageError
from caloforge.models import read_record
from caloforge.training import train
from caloforge.training.metrics import read_metrics
from caloforge.training.processes import Processes
from caloforge.training.team import Seat, team


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packaged_photons(tmp_path_factory.mktemp("data"), 400)


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    return small_preset(tmp_path, epochs=2)


def test_two_processes_make_the_same_model_up_to_rounding(data: Path, preset: Path, tmp_path: Path) -> None:
    """Mutation: give every process the whole batch, or its own seed."""
    for jobs in (1, 2):
        train(preset, data, tmp_path / str(jobs), jobs=jobs, threads=1, show=False)
    losses = [
        [row["training"]["loss"] for row in read_metrics(tmp_path / str(jobs) / "metrics.jsonl")] for jobs in (1, 2)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    one, two = (load_file(tmp_path / str(jobs) / "model.safetensors") for jobs in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-3)
    assert [read_record(tmp_path / str(jobs)).training["processes"] for jobs in (1, 2)] == [1, 2]


def test_what_cannot_be_done_is_refused(preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot train on the one device 'cuda:0', expected cuda"):
        train(preset, "x.h5", tmp_path / "m", jobs=2, device="cuda:0")
    with pytest.raises(ShowerFileError, match="there is no such file"):
        train(preset, "missing.h5", tmp_path / "m", jobs=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun has started several processes already"):
        train(preset, "x.h5", tmp_path / "m", jobs=2)


def test_every_process_has_a_gpu_of_its_own_as_far_as_one_can_tell_without(
    preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins for what needs a GPU; mutations: every process takes the first one; NCCL alone, which sums nothing on a CPU."""
    chosen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with pytest.raises(UsageError, match="2 processes need as many GPUs, and there are 1"):
        train(preset, "x.h5", tmp_path / "m", jobs=2, device="cuda")
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert Processes.local_device("cuda") == torch.device("cuda", rank)
    assert Processes.local_device("cuda:0") == torch.device("cuda", 0)
    assert chosen == [torch.device("cuda", index) for index in (0, 1, 0)]

    began: list[tuple[Any, Any]] = []
    monkeypatch.setattr(distributed, "init_process_group", lambda backend, **place: began.append((backend, place)))
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: began.append(("end", None)))
    store = TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    for device in ("cuda:1", "cpu"):
        with Processes.joined(torch.device(device), Seat(1, 2, store.port)) as processes:
            assert (processes.rank, processes.size, processes.first) == (1, 2, False)
    assert [backend for backend, _ in began] == ["cpu:gloo,cuda:nccl", "end", "gloo", "end"]
    assert (began[0][1]["rank"], began[0][1]["world_size"]) == (1, 2)


def fail(how: str, seat: Any) -> None:
    if how == "error":
        raise UsageError("it is too small")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("error", UsageError, "^it is too small$"),
        ("killed", TrainingError, "a worker process died .killed by hand.*finished epochs are kept"),
    ],
)
def test_why_another_process_is_gone_is_said(how: str, error: type[Exception], message: str) -> None:
    """Mutation: let gloo's "Connection closed by peer" through."""
    with pytest.raises(error, match=message), team(2, "cpu", fail, how):
        raise RuntimeError("connection closed by peer")


SCRIPT = """
import sys
from caloforge.cli.main import main
from caloforge.training import loop
loop.draw_curves = lambda *_, **__: None
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_stops_all_of_them_and_the_training_goes_on_with_them(data: Path, tmp_path: Path) -> None:
    """Mutation: let the others stop by themselves: the first would wait for their gradients."""
    preset = small_preset(tmp_path, epochs=2000)
    out = tmp_path / "m"
    command = [
        sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)" + SCRIPT, "train",
        str(preset), "--data", str(data), "--out", str(out), "--jobs", "2", "--threads", "1",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("stages/*/last*")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "go on with --resume" in errors
    before = len(read_metrics(out / "metrics.jsonl"))
    with subprocess.Popen([*command, "--resume"], stderr=subprocess.PIPE, text=True, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        stage = next(out.glob("stages/*/metrics.jsonl"))
        while len(read_metrics(stage)) <= before and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert len(read_metrics(out / "metrics.jsonl")) > before
