"""Checkpoint files, metrics files, curves, and the wish to stop."""

from __future__ import annotations

import json
import os
import signal
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image
from safetensors import safe_open

from caloforge.atomic import replace_file
from caloforge.errors import ModelFileError, OutputError
from caloforge.models.checksums import CHECKSUM, checksum_of
from caloforge.stage import OptimiserConfig
from caloforge.training.checkpoints import (
    flat_optimiser,
    read_checkpoint,
    restore_optimiser,
    write_checkpoint,
)
from caloforge.training.curves import draw_curves
from caloforge.training.ema import MovingAverage
from caloforge.training.interruption import Interruption
from caloforge.training.metrics import MetricsLog, collect_metrics, read_metrics
from caloforge.training.optimisers import make_optimiser


def test_checkpoints_come_back(tmp_path):
    path = tmp_path / "state.safetensors"
    shared = torch.arange(6.0)
    tensors = {"a.x": torch.randn(3, 4).t(), "a.y": shared, "b": shared[:3], "i": torch.tensor(7), "e": torch.empty(0)}
    write_checkpoint(path, tensors, {"epoch": 3, "best": None, "nested": {"x": [1, 2.5]}})
    saved = read_checkpoint(path)
    assert saved.state == {"epoch": 3, "best": None, "nested": {"x": [1, 2.5]}}
    assert saved.tensors.keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in saved.tensors.items())
    assert set(saved.part("a")) == {"x", "y"}
    assert read_checkpoint(path, tensors=False).tensors == {}
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


@given(st.floats(allow_nan=False))
def test_counters_survive_to_the_last_bit(value):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "s", {}, {"best": value})
        assert read_checkpoint(Path(folder) / "s").state["best"] == value


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    write_checkpoint(path, {"x": torch.ones(2)}, {})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(
        OutputError, match=r"cannot be written \(no space left on device\); the one written before it is"
    ):
        write_checkpoint(path, {"x": torch.zeros(2)}, {})
    assert read_checkpoint(path).tensors["x"].tolist() == [1, 1]
    with pytest.raises(OutputError, match="there is none before it"):
        write_checkpoint(tmp_path / "other", {}, {})
    with pytest.raises(OutputError, match="no space left"):
        replace_file(tmp_path / "text", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_foreign_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ModelFileError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ModelFileError, match="damaged"):
        read_checkpoint(tmp_path / "text")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "foreign")
    with pytest.raises(ModelFileError, match="not a checkpoint of CaloForge"):
        read_checkpoint(tmp_path / "foreign")
    save_file({"x": torch.ones(1)}, tmp_path / "early", metadata={"caloforge": "{}"})
    with pytest.raises(
        ModelFileError, match=r"is damaged \(it has no checksum; the first versions of this program wrote"
    ):
        read_checkpoint(tmp_path / "early")
    write_checkpoint(tmp_path / "good", {"x": torch.ones(1000)}, {})
    whole = (tmp_path / "good").read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match="damaged"):
            read_checkpoint(tmp_path / "cut")
    deep, x = "[" * 60000, {"x": torch.ones(1)}  # RecursionError of the parser
    save_file(x, tmp_path / "deep", metadata={"caloforge": deep, CHECKSUM: checksum_of(x, deep)})
    for tensors in (True, False):
        with pytest.raises(ModelFileError, match="damaged"):
            read_checkpoint(tmp_path / "deep", tensors=tensors)


def test_every_flipped_bit_is_noticed(tmp_path):
    """A flipped bit of a weight is another weight, and the training would go on from it. Fails without the checksum.

    It may fall between two values of the header that mean the same: then what is read is what was written.
    """
    path = tmp_path / "state"
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(7),
        "c": torch.zeros(0),
        "d": torch.tensor([True]),
    }
    write_checkpoint(path, tensors, {"epoch": 3})
    whole = path.read_bytes()
    refused = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except ModelFileError:
            refused += 1
        else:
            assert found.state == {"epoch": 3}
            assert {name: (str(v.dtype), v.tolist()) for name, v in found.tensors.items()} == {
                name: (str(v.dtype), v.tolist()) for name, v in tensors.items()
            }
    assert refused > 0.9 * 8 * len(whole)


@pytest.mark.parametrize("name", ["adam", "adamw", "radam", "sgd"])
def test_optimisers_go_on_where_they_were(name, tmp_path):
    def step(parameters, optimiser, k):
        optimiser.zero_grad()
        sum((p * p * (k + 1)).sum() for p in parameters).backward()
        optimiser.step()

    def fresh():
        return [torch.nn.Parameter(torch.linspace(-1, 1, n)) for n in (5, 7)]

    config = OptimiserConfig(name=name, learning_rate=0.05)
    one = fresh()
    first = make_optimiser(config, one)
    for k in range(3):
        step(one, first, k)
    tensors, plain = flat_optimiser(first, "optimiser.main")
    write_checkpoint(tmp_path / "s", tensors, {"plain": plain})
    two = [torch.nn.Parameter(p.detach().clone()) for p in one]
    second = make_optimiser(config, two)
    saved = read_checkpoint(tmp_path / "s")
    restore_optimiser(second, saved.part("optimiser.main"), saved.state["plain"])
    for k in range(3, 6):
        step(one, first, k)
        step(two, second, k)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_nothing_in_a_checkpoint_is_executable(tmp_path):
    write_checkpoint(tmp_path / "s", {"x": torch.ones(2)}, {"a": 1})
    with safe_open(tmp_path / "s", framework="pt") as file:
        assert json.loads(file.metadata()["caloforge"]) == {"a": 1}


# ---- metrics and curves


def row(epoch, value=1.0):
    return {
        "stage": "s", "epoch": epoch, "training": {"loss": value}, "validation": {"loss": value},
        "learning_rate": {"main": 1e-3},
    }  # fmt: skip


def test_metrics_forget_what_will_come_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, epochs=0)
    for epoch in (1, 2, 3):
        log.write(row(epoch))
    with path.open("a") as file:
        file.write('{"stage": "s", "epo')  # killed while writing
    assert [r["epoch"] for r in read_metrics(path)] == [1, 2, 3]
    again = MetricsLog(path, epochs=2)
    again.write(row(3, float("nan")))
    assert [r["epoch"] for r in again.rows] == [1, 2, 3]
    assert path.read_text().count("\n") == 3
    assert read_metrics(path)[2]["training"]["loss"] is None


@pytest.mark.parametrize("damaged", [b"\xff\xfe", b"[" * 60000, b"[1]", b'{"epoch": "two"}', b"\x00"])
def test_damaged_metrics_end_where_the_damage_is(tmp_path, damaged):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, epochs=0)
    log.write(row(1))
    path.write_bytes(path.read_bytes() + damaged + b"\n" + path.read_bytes())
    assert [r["epoch"] for r in read_metrics(path)] == [1]


def test_metrics_of_all_stages_in_one_file(tmp_path):
    for stage, epochs in (("b", (1, 2)), ("a", (1,))):
        folder = tmp_path / "stages" / stage
        folder.mkdir(parents=True)
        log = MetricsLog(folder / "metrics.jsonl", epochs=0)
        for epoch in epochs:
            log.write(row(epoch) | {"stage": stage})
    collect_metrics(tmp_path, ["a", "missing", "b"])
    assert [(r["stage"], r["epoch"]) for r in read_metrics(tmp_path / "metrics.jsonl")] == [
        ("a", 1),
        ("b", 1),
        ("b", 2),
    ]


@pytest.mark.parametrize("epochs", [1, 60])
def test_curves_are_drawn(tmp_path, epochs):
    rows = [row(k + 1, 1 / (k + 1)) for k in range(epochs)]
    rows[0]["validation"] = {"loss": None}
    draw_curves(rows, tmp_path / "c.png", title="Stage s", selection="loss")
    picture = image.imread(tmp_path / "c.png")
    assert picture.shape[0] > 400
    assert picture.shape[1] > 800
    assert 0.5 < picture[..., :3].mean() < 1  # mostly paper, some ink
    with pytest.raises(OutputError, match="cannot be written"):
        draw_curves(rows, tmp_path / "nowhere" / "c.png", title="", selection=None)


# ---- the rest


def test_the_warm_up_of_an_average_lets_the_first_weights_go() -> None:
    parameter = torch.nn.Parameter(torch.tensor([0.0]))
    average = MovingAverage([parameter], 0.9, warmup=1.0)
    expected = 0.0
    for step in range(12):
        parameter.data = torch.tensor([float(step)])
        average.update(step)
        decay = min(0.9, 1 - 1 / (1 + step))
        expected = decay * expected + (1 - decay) * step
        assert float(average.state()["0"]) == pytest.approx(expected, rel=1e-5)
        if step < 9:  # the plain mean of all weights so far
            assert expected == pytest.approx(step / 2)


def test_moving_average():
    parameter = torch.nn.Parameter(torch.zeros(3))
    average = MovingAverage([parameter], 0.9)
    expected = np.zeros(3)
    for k in range(5):
        with torch.no_grad():
            parameter += k
        average.update()
        expected = 0.9 * expected + 0.1 * parameter.detach().numpy()
    now = parameter.detach().clone()
    with average.applied():
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-6)
    assert torch.equal(parameter.detach(), now)
    other = MovingAverage([parameter], 0.9)
    other.load_state({name: value.clone() for name, value in average.state().items()})
    with other.applied():
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_interrupts_at_once(number):
    before = signal.getsignal(number)
    with Interruption() as wish:
        assert not wish.requested
        os.kill(os.getpid(), number)
        assert wish.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_signals_are_left_alone():
    before, outcome = signal.getsignal(signal.SIGINT), []

    def work():
        with Interruption() as wish:
            outcome.append((wish.requested, signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [(False, True)]
