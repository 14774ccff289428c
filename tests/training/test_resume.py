"""A training that is stopped, however rudely, ends where it would have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_model
from killed_training import PRESET
from toy_model import toy_file, toy_preset

from caloforge.errors import Interrupted, ModelFileError, OutputError, TrainingError
from caloforge.models import load_model
from caloforge.training import loop, train
from caloforge.training.checkpoints import read_checkpoint
from caloforge.training.metrics import read_metrics
from caloforge.training.state import last_state_file, result_file

SCRIPT = Path(__file__).parent / "killed_training.py"


@pytest.fixture(scope="module", autouse=True)
def _no_curves():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw_curves", lambda *args, **kwargs: None)  # seconds that would teach nothing here
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_file(tmp_path_factory.mktemp("data") / "g.h5", 120)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The uninterrupted training that all others are compared with."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(PRESET, data, out, threads=1, show=False)
    return out


def comparable(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in rows]


def assert_same(one, two):
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert comparable(read_metrics(one / "metrics.jsonl")) == comparable(read_metrics(two / "metrics.jsonl"))
    for stage in ("gauss", "game"):
        last, other = (read_checkpoint(last_state_file(run, stage)) for run in (one, two))
        assert last.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(value, other.tensors[name]) for name, value in last.tensors.items())


# 120 showers: 108 to train on, 6 batches of 16 an epoch; the second stage calls its loss three times a batch.
@pytest.mark.slow
@pytest.mark.parametrize(
    "kills",
    [
        ["step:1", "step:4", "step:9", "step:20", "step:40"],
        ["time:0.05", "time:0.2", "time:0.3", "time:0.4", "time:0.5", "time:0.6"],
    ],
    ids=["by-step", "by-time"],
)
def test_kill_9_and_resume_is_bit_equal(data, whole, tmp_path, kills):
    out = tmp_path / "run"
    answer = subprocess.run(
        [sys.executable, str(SCRIPT), str(data), str(out), *kills],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    statuses = [int(line.split()[1]) for line in answer.stdout.splitlines()]
    assert statuses[-1] == 0, answer.stderr
    if kills[0].startswith("step"):
        assert statuses[:-1] == [signal.SIGKILL] * len(kills)
    assert_same(whole, out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("call", [1, 8, 27])
def test_ctrl_c_saves_and_resume_is_bit_equal(data, whole, tmp_path, monkeypatch, number, call):
    original, calls = toy_model._Gauss.loss, 0

    def interrupted(self, player, batch, streams):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return original(self, player, batch, streams)

    with monkeypatch.context() as patch:
        patch.setattr(toy_model._Gauss, "loss", interrupted)
        with pytest.raises(Interrupted, match=r"stopped in stage 'gauss' .* kept in .* resume=True"):
            train(PRESET, data, tmp_path / "run", threads=1, show=False)
    assert signal.getsignal(number) not in (None, signal.SIG_IGN)
    assert last_state_file(tmp_path / "run", "gauss").is_file()
    with pytest.raises(ModelFileError, match=r"not finished, these stages are missing: .*'game'"):
        load_model(tmp_path / "run")
    train(PRESET, data, tmp_path / "run", resume=True, threads=1, show=False)
    assert_same(whole, tmp_path / "run")


def test_resuming_a_finished_training_changes_nothing(data, whole):
    before = (whole / "model.json").read_bytes(), (whole / "model.safetensors").stat().st_mtime_ns
    result = train(PRESET, data, whole, resume=True, threads=1, show=False)
    assert result.stages == ()
    assert result.record is not None
    assert before == ((whole / "model.json").read_bytes(), (whole / "model.safetensors").stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"preset": toy_preset(epochs=4, ema=0.9, gradient_clip=6.0)},
            r"training.scale.gradient_clip = 5\.0, now it is 6",
        ),
        ({"preset": toy_preset(epochs=4, ema=0.9, gradient_clip=5.0, hidden=8)}, "config.hidden = 16, now it is 8"),
        ({"seed": 1}, "seed = 0, now it is 1"),
        ({"val_fraction": 0.2}, r"validation_fraction = 0\.1, now it is 0\.2"),
    ],
)
def test_changed_settings_are_refused_by_name(data, whole, change, message):
    with pytest.raises(OutputError, match=f"another training: it was begun with {message}"):
        train(**({"preset": PRESET, "data": data, "out": whole, "resume": True, "show": False} | change))


def test_changed_data_are_refused(whole, tmp_path):
    with pytest.raises(OutputError, match=r"data.showers = 120, now it is 121"):
        train(PRESET, toy_file(tmp_path / "more.h5", 121), whole, resume=True, show=False)
    with pytest.raises(OutputError, match=r"data\.fingerprint"):
        train(PRESET, toy_file(tmp_path / "other.h5", 120, seed=5), whole, resume=True, show=False)


def test_the_same_data_under_another_name_are_fine(whole, tmp_path):
    assert train(PRESET, toy_file(tmp_path / "copy.h5", 120), whole, resume=True, show=False).missing == ()


def test_nothing_is_overwritten_unasked(data, whole, tmp_path):
    with pytest.raises(OutputError, match="holds a training already, its stage 'scale' has begun"):
        train(PRESET, data, whole, show=False)
    out = tmp_path / "run"
    train(toy_preset(epochs=1), data, out, show=False)
    (out / "notes.txt").write_text("mine")
    train(toy_preset(epochs=2), data, out, overwrite=True, show=False)
    assert [row["epoch"] for row in read_metrics(out / "metrics.jsonl")] == [1, 2, 1, 2]
    assert (out / "notes.txt").read_text() == "mine"


def test_a_loss_that_is_no_number_stops_and_keeps_the_best(data, tmp_path):
    out = tmp_path / "run"
    preset = toy_preset(epochs=5, explode_after=2)
    message = r"the loss of stage 'gauss' is (inf|-inf|nan) in epoch 3, batch 1; the last good weights are kept in .*last'.*best"
    with pytest.raises(TrainingError, match=message):
        train(preset, data, out, show=False)
    good = train(toy_preset(epochs=2), data, tmp_path / "good", stages=["scale", "gauss"], show=False)
    assert good.missing == ("game",)
    best, expected = (read_checkpoint_weights(result_file(run, "gauss")) for run in (out, tmp_path / "good"))
    assert all(torch.equal(value, expected[name]) for name, value in best.items())
    kept = read_checkpoint(last_state_file(out, "gauss"))
    assert kept.state["counters"]["epoch"] == 2
    assert all(bool(value.isfinite().all()) for value in kept.part("weights").values())


def read_checkpoint_weights(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_damaged_checkpoint_is_named(data, tmp_path):
    out = tmp_path / "run"
    train(toy_preset(epochs=1), data, out, show=False)
    path = last_state_file(out, "gauss")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelFileError, match=r"last/state.safetensors' is damaged"):
        train(toy_preset(epochs=1), data, out, resume=True, show=False)


@pytest.mark.slow
def test_full_disk_keeps_the_last_checkpoint(data, tmp_path):
    """A limit on the size of files fails in the same place as a full disk, and needs no disk of its own."""
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from killed_training import PRESET
import toy_model
from caloforge.errors import OutputError
from caloforge.training import train
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
original, calls = toy_model._Gauss.loss, 0
def loss(self, player, batch, streams):
    global calls
    calls += 1
    if calls == 10:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    return original(self, player, batch, streams)
toy_model._Gauss.loss = loss
try:
    train(PRESET, {str(data)!r}, {str(tmp_path / "run")!r}, checkpoint_seconds=0.0, threads=1, show=False)
except OutputError as error:
    print(error)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert "the checkpoint" in answer.stdout, answer.stderr
    assert "file too large" in answer.stdout
    assert "the one written before it is kept" in answer.stdout
    kept = read_checkpoint(last_state_file(tmp_path / "run", "gauss"))
    assert 0 < kept.state["counters"]["batch"] + 6 * kept.state["counters"]["epoch"] < 10
    assert not list((tmp_path / "run").rglob(".*partial"))


def test_full_disk_and_resume_is_bit_equal(data, whole, tmp_path, monkeypatch):
    from caloforge.training import checkpoints

    original, calls = checkpoints.save_file, 0

    def full(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(OutputError, match=r"no space left on device\); the one written before it is kept"):
            train(PRESET, data, tmp_path / "run", checkpoint_seconds=0.0, threads=1, show=False)
    train(PRESET, data, tmp_path / "run", resume=True, threads=1, show=False)
    assert_same(whole, tmp_path / "run")
