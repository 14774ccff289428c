"""Whole trainings: what is computed, what is written, what is refused."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_model
import yaml
from safetensors.torch import load_file
from toy_model import Toy, ToyConfig, toy_detector, toy_file, toy_preset, toy_showers

from caloforge.detectors import detector_from_toml
from caloforge.errors import MissingDependencyError, ModelFileError, OutputError, TrainingError, UsageError
from caloforge.models import load_model, load_preset, training_row_hashes
from caloforge.nn.batch_layers import training_step
from caloforge.random import Streams
from caloforge.showers import create_showers, open_showers, row_hashes
from caloforge.stage import CosineSchedule
from caloforge.training import loop, train
from caloforge.training.data import RowOrder, TrainingSet
from caloforge.training.metrics import read_metrics
from caloforge.training.optimisers import scheduled
from caloforge.training.state import result_file

EPOCHS, BATCH = 3, 16


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_file(tmp_path_factory.mktemp("data") / "g.h5", 120)


@pytest.fixture(autouse=True)
def curves(monkeypatch):
    """Curves have a test of their own; drawing them takes longer than training the toy."""
    drawn = []
    monkeypatch.setattr(loop, "draw_curves", lambda rows, path, **words: drawn.append((len(rows), path.name, words)))
    return drawn


def run(data, out, stages=(), **settings):
    options = {k: settings.pop(k) for k in ("seed", "memory", "tensorboard", "resume", "val_fraction") if k in settings}
    return train(toy_preset(**settings), data, out, stages=stages, threads=1, show=False, **options)


def result(out, stage="gauss"):
    return load_file(result_file(out, stage))


# ---- what is computed


@pytest.mark.parametrize("ema", [None, 0.8])
def test_the_loop_is_plain_gradient_descent(data, tmp_path, ema):
    """The same training written down as naively as possible."""
    schedule = {"kind": "cosine", "warmup_fraction": 0.2}
    run(data, tmp_path / "run", ["scale", "gauss"], ema=ema, gradient_clip=0.5, schedule=schedule, selection="last")

    torch.manual_seed(Streams(0, "training/initial weights").integer(0))
    model = Toy(ToyConfig(), toy_detector())
    preset = toy_preset()
    scale, gauss, _ = model.stages(preset.training)
    with open_showers(data) as reader:
        rows = TrainingSet(reader, seed=0, val_fraction=0.1, order=RowOrder(None))
    streams = Streams(0, "training/gauss")
    scale.load_state(scale.fit(rows.for_fit(), streams))
    optimiser = torch.optim.Adam(model.gauss.parameters(), lr=0.01, foreach=False)
    average = [p.detach().clone() for p in model.gauss.parameters()]
    batches = len(rows.training_rows) // BATCH
    step = 0
    for epoch in range(EPOCHS):
        for batch in rows.batches(gauss.training, epoch):
            optimiser.zero_grad()
            with training_step(batch.row, streams.child("dropout"), step):
                gauss.loss("main", batch, streams)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.gauss.parameters(), 0.5)
            optimiser.param_groups[0]["lr"], _ = scheduled(
                CosineSchedule(warmup_fraction=0.2), 0.01, step, steps=EPOCHS * batches, steps_per_epoch=batches
            )
            optimiser.step()
            step += 1
            if ema is not None:
                average = [
                    ema * a + (1 - ema) * p.detach() for a, p in zip(average, model.gauss.parameters(), strict=True)
                ]
    expected = average if ema is not None else list(model.gauss.parameters())
    found = result(tmp_path / "run")
    for (name, _), value in zip(model.gauss.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[f"gauss.{name}"], value, rtol=1e-4, atol=1e-6)


def test_the_best_epoch_is_kept(data, tmp_path):
    run(data, tmp_path / "run", epochs=6, optimiser={"learning_rate": 0.1})
    for stage, metric in (("gauss", "loss"), ("game", "distance")):
        rows = read_metrics(tmp_path / "run" / "stages" / stage / "metrics.jsonl")
        best = min(rows, key=lambda row: row["validation"][metric])
        stored = json.loads((tmp_path / "run" / "model.json").read_text())["training"]["stages"][stage]
        assert stored == best
        assert [row["epoch"] for row in rows] == list(range(1, 7))
    # Epochs up to the best one alone give the same weights.
    epochs = json.loads((tmp_path / "run" / "model.json").read_text())["training"]["stages"]["gauss"]["epoch"]
    run(data, tmp_path / "short", ["scale", "gauss"], epochs=epochs, optimiser={"learning_rate": 0.1})
    one, two = result(tmp_path / "run"), result(tmp_path / "short")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_higher_can_be_better(data, tmp_path, monkeypatch):
    monkeypatch.setattr(toy_model._Gauss, "lower_is_better", False)
    run(data, tmp_path / "run", epochs=4)
    rows = read_metrics(tmp_path / "run" / "stages" / "gauss" / "metrics.jsonl")
    stored = json.loads((tmp_path / "run" / "model.json").read_text())["training"]["stages"]["gauss"]
    assert stored == max(rows, key=lambda row: row["validation"]["loss"])


def test_validation_that_is_never_finite_is_an_error(data, tmp_path, monkeypatch):
    monkeypatch.setattr(toy_model._Gauss, "validate", lambda *_: {"loss": torch.tensor(float("nan"))})
    with pytest.raises(TrainingError, match="metric 'loss' of stage 'gauss' was not a finite number in any of the 3"):
        run(data, tmp_path / "run")


def test_without_validation_the_last_weights_count(data, tmp_path):
    outcome = run(data, tmp_path / "run", val_fraction=0.0)
    assert outcome.stages[1].best is None
    assert outcome.record.training_rows == 120
    assert outcome.record.training["data"]["validation_rows"] == 0


def test_streamed_data_train_the_same_model(data, tmp_path, monkeypatch):
    """Batches from the file give the weights that the same batches from memory give, bit for bit."""
    run(data, tmp_path / "streamed", memory=2.4e-6)
    plan = json.loads((tmp_path / "streamed" / "plan.json").read_text())
    assert plan["details"]["order"]["block"] is not None
    original = TrainingSet._read_all

    def keep(self, progress):
        original(self, progress)
        whole = toy_model.toy_showers(120)
        from caloforge.training.table import Table

        self._table = Table.of(np.arange(120), whole)

    monkeypatch.setattr(TrainingSet, "_read_all", keep)
    run(data, tmp_path / "kept", memory=2.4e-6)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("streamed", "kept"))
    assert one == two


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_other_precisions_come_close(data, tmp_path, precision):
    run(data, tmp_path / "32", dropout=0.0)
    run(data, tmp_path / precision, dropout=0.0, precision=precision)
    one, two = result(tmp_path / "32"), result(tmp_path / precision)
    assert {v.dtype for v in two.values()} == {torch.float64 if precision == "float64" else torch.float32}
    assert all(v.dtype == torch.float32 for v in load_model(tmp_path / precision).gauss.parameters())
    for name in one:
        tolerance = 1e-4 if precision == "float64" else 0.1
        torch.testing.assert_close(one[name].double(), two[name].double(), rtol=tolerance, atol=tolerance)
    if precision == "bfloat16":
        assert any(not torch.equal(one[name], two[name]) for name in one)


def test_players_take_turns_and_leave_each_other_alone(data, tmp_path, monkeypatch):
    seen = []
    original = toy_model._Game.loss

    def spying(self, player, batch, streams):
        if self.model.maker.training:
            seen.append((player, self.model.maker[0].weight.requires_grad, self.model.critic[0].weight.requires_grad))
        return original(self, player, batch, streams)

    steps = []
    monkeypatch.setattr(toy_model._Game, "loss", spying)
    monkeypatch.setattr(toy_model._Game, "after_step", lambda self, player, step: steps.append((player, step)))
    run(data, tmp_path / "run", epochs=1)
    turn = [("critic", False, True)] * 2 + [("maker", True, False)]
    assert seen == turn * 6
    assert steps[:4] == [("critic", 1), ("critic", 2), ("maker", 1), ("critic", 3)]
    assert steps[-1] == ("maker", 6)


def test_other_stages_are_not_touched(data, tmp_path):
    run(data, tmp_path / "run")
    torch.manual_seed(Streams(0, "training/initial weights").integer(0))
    initial = Toy(ToyConfig(), toy_detector()).state_dict()
    run(data, tmp_path / "one", ["scale", "gauss"])
    assert not any(name.startswith(("maker", "critic")) for name in result(tmp_path / "one"))
    whole = load_file(tmp_path / "run" / "model.safetensors")
    assert any(not torch.equal(whole[name], value) for name, value in initial.items() if name.startswith("maker"))
    one, both = result(tmp_path / "one"), result(tmp_path / "run")
    assert all(torch.equal(one[name], both[name]) for name in one)


def test_initial_weights_may_depend_on_the_data_and_are_set_once(data, tmp_path, monkeypatch):
    calls = []

    def prepare(self, rows, streams):
        calls.append((len(rows), torch.is_grad_enabled()))
        self.model.gauss[0].bias.fill_(0.5)

    monkeypatch.setattr(toy_model._Gauss, "prepare", prepare)
    still = {"optimiser": {"learning_rate": 1e-12}, "ema": 0.9, "epochs": 2}
    run(data, tmp_path / "run", ["scale", "gauss"], **still)
    assert calls == [(108, False)]
    torch.testing.assert_close(result(tmp_path / "run")["gauss.0.bias"], torch.full((16,), 0.5))
    run(data, tmp_path / "run", ["scale", "gauss"], resume=True, **still)
    assert len(calls) == 1


def test_a_symmetry_that_the_magnetic_field_breaks_is_left_out_with_a_note(tmp_path):
    changed = 'field = [0.0, 0.0, 2.0]\napproximate_symmetries = ["reflect-x"]'
    text = toy_model.DETECTOR.replace('symmetries = ["reflect-x", "reflect-y"]', changed)
    detector = detector_from_toml(text, where="test")
    with create_showers(tmp_path / "g.h5", detector=detector, particle=22) as writer:
        writer.write(toy_showers(40))
    one = run(tmp_path / "g.h5", tmp_path / "one", ["scale", "gauss"], augmentation="approximate")
    assert one.notes == (
        "not used: reflect-x; the magnetic field of 'toy' breaks what is nearly a symmetry without it",
    )
    two = run(tmp_path / "g.h5", tmp_path / "two", ["scale", "gauss"], augmentation="none")
    assert two.notes == ()
    weights = result(tmp_path / "one"), result(tmp_path / "two")
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# ---- what is written


def test_a_run_leaves_a_model_that_knows_its_story(data, tmp_path, curves):
    outcome = run(data, tmp_path / "run", seed=5)
    out = tmp_path / "run"
    assert [stage.stage for stage in outcome.stages] == ["scale", "gauss", "game"]
    assert outcome.missing == ()
    model = load_model(out)
    low, high = model.record.valid.incident_energy
    assert low < 1100
    assert high > 9900
    np.testing.assert_array_equal(training_row_hashes(out), np.sort(row_hashes(toy_showers(120))))
    story = model.record.training
    assert (story["seed"], story["validation_fraction"]) == (5, 0.1)
    assert story["data"]["file"] == "g.h5"
    assert (story["data"]["training_rows"], story["data"]["validation_rows"]) == (108, 12)
    assert set(story["seconds"]) == {"scale", "gauss", "game"}
    used = yaml.safe_load((out / "config.yaml").read_text())
    assert used["kind"] == "toy"
    assert used["training"]["epochs"] == EPOCHS
    assert load_preset(out / "config.yaml") == toy_preset()
    metrics = read_metrics(out / "metrics.jsonl")
    assert [row["stage"] for row in metrics] == ["gauss"] * EPOCHS + ["game"] * EPOCHS
    assert set(metrics[0]["training"]) == {"loss", "width"}
    assert {"critic loss", "maker loss"} <= set(metrics[-1]["training"])
    assert metrics[0]["learning_rate"] == {"main": 0.01}
    assert [(rows, name) for rows, name, _ in curves] == [(EPOCHS, "losses.png")] * 2
    assert curves[1][2] == {"title": "Stage game", "selection": "distance", "lower": True}
    assert not list(out.rglob("*.partial"))


def test_the_same_seed_gives_the_same_model(data, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(data, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_the_callers_random_state_and_settings_survive(data, tmp_path):
    torch.manual_seed(77)
    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_float32_matmul_precision()
    run(data, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before[1:]


def test_tensorboard(data, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    run(data, tmp_path / "run", tensorboard=True)
    assert list((tmp_path / "run" / "tensorboard" / "gauss").glob("events*"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        run(data, tmp_path / "other", tensorboard=True)


# ---- stages one by one


def test_stages_in_separate_calls_give_the_same_model(data, tmp_path):
    run(data, tmp_path / "whole")
    out = tmp_path / "parts"
    with pytest.raises(UsageError, match="stage 'gauss' needs the stage 'scale', which is not finished"):
        run(data, out, ["gauss"])
    assert run(data, out, ["game"]).missing == ("scale", "gauss")
    with pytest.raises(ModelFileError, match="'scale', 'gauss'"):
        load_model(out)
    assert run(data, out, ["scale"]).missing == ("gauss",)
    assert run(data, out, ["gauss"]).missing == ()
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert read_metrics(out / "metrics.jsonl")[0]["stage"] == "gauss"


def test_one_stage_can_be_trained_anew(data, tmp_path):
    run(data, tmp_path / "run")
    before = result(tmp_path / "run", "game")
    outcome = train(
        toy_preset(), data, tmp_path / "run", stages=["gauss"], overwrite=True, threads=1, show=False
    )  # fmt: skip
    assert [stage.stage for stage in outcome.stages] == ["gauss"]
    assert outcome.missing == ()
    after = result(tmp_path / "run", "game")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_unknown_stages_are_refused(data, tmp_path):
    with pytest.raises(UsageError, match="no stage 'layer_07', its stages are: scale, gauss, game"):
        run(data, tmp_path / "run", ["layer_07"])


def test_two_processes_cannot_train_the_same_stage(data, tmp_path):
    folder = tmp_path / "run" / "stages" / "gauss"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match=r"stage 'gauss' of .* is being trained by another process"):
            run(data, tmp_path / "run")
        with pytest.raises(OutputError, match="is being trained by another process"):
            train(toy_preset(), data, tmp_path / "run", overwrite=True, show=False)
    assert run(data, tmp_path / "run", resume=True).missing == ()


# ---- what is refused


def test_bad_requests(data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="exclude each other"):
        train(toy_preset(), data, out, resume=True, overwrite=True, show=False)
    with pytest.raises(UsageError, match="device 'abacus' is not known"):
        train(toy_preset(), data, out, device="abacus", show=False)
    with pytest.raises(UsageError, match="overrides need a preset by name"):
        train(toy_preset(), data, out, overrides=["training.epochs=1"], show=False)
    with pytest.raises(UsageError, match=r"val_fraction is 1\.5"):
        train(toy_preset(), data, out, val_fraction=1.5, show=False)
    with pytest.raises(UsageError, match="model 'toy' takes no other model as 'teacher'"):
        train(toy_preset(), data, out, inputs={"teacher": tmp_path}, show=False)
    assert not out.exists()


def test_missing_teacher_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "inputs", ("teacher",))
    with pytest.raises(UsageError, match="needs teacher=<model directory>"):
        run(data, tmp_path / "run")


def test_a_teacher_is_attached_and_recorded(data, tmp_path, monkeypatch):
    teacher = run(data, tmp_path / "teacher")
    taken = {}
    monkeypatch.setattr(Toy, "inputs", ("teacher",))
    monkeypatch.setattr(Toy, "attach", lambda self, name, model: taken.update({name: model}))
    out = tmp_path / "student"
    student = train(
        toy_preset(), data, out, inputs={"teacher": tmp_path / "teacher"}, threads=1, show=False
    )  # fmt: skip
    assert isinstance(taken["teacher"], Toy)
    assert student.record.inputs == {"teacher": teacher.record.weights_sha256}


def test_foreign_data_need_a_name(tmp_path):
    path = tmp_path / "foreign.h5"
    import h5py

    showers = toy_showers(30)
    with h5py.File(path, "w") as file:
        file["showers"] = showers.deposits
        file["incident_energies"] = showers.incident_energy[:, None]
    with pytest.raises(UsageError, match="which detector they belong to"):
        train(toy_preset(), path, tmp_path / "run", show=False)
    with pytest.raises(UsageError, match="which particle"):
        train(toy_preset(), path, tmp_path / "run", detector=toy_detector(), show=False)
    outcome = train(
        toy_preset(epochs=1), path, tmp_path / "run", detector=toy_detector(), particle="gamma", show=False
    )  # fmt: skip
    assert outcome.record.valid.particle == 22


def test_unwritable_directory(data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        run(data, tmp_path / "file" / "run")


def test_a_model_without_plan_is_not_overwritten(data, tmp_path):
    run(data, tmp_path / "run")
    (tmp_path / "run" / "plan.json").unlink()
    for stage in ("scale", "gauss", "game"):
        for which in ("last", "best"):
            (tmp_path / "run" / "stages" / stage / which / "state.safetensors").unlink()
    with pytest.raises(OutputError, match="holds a model already"):
        run(data, tmp_path / "run")


# ---- several processes

TORCHRUN = """
import sys
sys.path.insert(0, sys.argv[1])
import toy_model
from caloforge.training import loop, train
loop.draw_curves = lambda *args, **kwargs: None
train(toy_model.toy_preset(gradient_clip=1.0), sys.argv[2], sys.argv[3], threads=1, show=False)
"""


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(data, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TORCHRUN)
    out = tmp_path / "two"
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(script), str(Path(toy_model.__file__).parent), str(data), str(out)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr
    run(data, tmp_path / "one", gradient_clip=1.0)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    first, second = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    for a, b in zip(first, second, strict=True):
        assert a["training"] == pytest.approx(b["training"], rel=1e-4)
        assert a["validation"] == pytest.approx(b["validation"], rel=1e-3)
    assert json.loads((out / "model.json").read_text())["training"]["processes"] == 2
