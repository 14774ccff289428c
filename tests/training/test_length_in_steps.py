"""A length in steps: as many epochs as hold them, whatever the number of rows; and metrics that are no means of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import toy_model
from toy_model import toy_file, toy_preset

from caloforge.models import Preset, read_plan
from caloforge.models.preset import read_preset
from caloforge.stage import TrainingBatch
from caloforge.training import loop, train
from caloforge.training.metrics import read_metrics
from caloforge.training.state import read_counters


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "draw_curves", lambda *args, **kwargs: None)


def preset(**game: Any) -> Preset:
    plain = toy_preset(epochs=2).model_dump()
    plain["training"]["stages"] = {"game": game}
    return Preset.model_validate(plain)


def run(out: Path, data: Path, chosen: Preset, **settings: Any) -> Any:
    return train(chosen, data, out, threads=1, show=False, **settings)


@pytest.mark.parametrize(("rows", "epochs"), [(120, 3), (240, 2)])  # 6 or 13 batches of 16 in an epoch
def test_steps_become_epochs(tmp_path: Path, rows: int, epochs: int) -> None:
    """Mutations: round down; count the steps of all players together."""
    data = toy_file(tmp_path / "g.h5", rows)
    found = run(tmp_path / "run", data, preset(steps=14))
    assert [stage.epochs for stage in found.stages] == [0, 2, epochs]
    each = 6 if rows == 120 else 13
    assert read_counters(tmp_path / "run", "game").steps == {"critic": 2 * epochs * each, "maker": epochs * each}
    planned = read_plan(tmp_path / "run").training.for_stage("game")
    assert (planned.steps, planned.epochs) == (14, epochs)


def test_more_steps_go_on(tmp_path: Path) -> None:
    data = toy_file(tmp_path / "g.h5", 120)
    run(tmp_path / "long", data, preset(steps=20))
    run(tmp_path / "run", data, preset(steps=5))
    more = run(tmp_path / "run", data, preset(steps=20), resume=True)
    assert more.stages[-1].epochs == 4
    long, short = (path.read_bytes() for path in (tmp_path / d / "model.safetensors" for d in ("long", "run")))
    assert long == short


def test_epochs_that_a_user_names_count_instead(tmp_path: Path) -> None:
    """Mutation: leave the steps where they are, which then count, without a word."""
    path = tmp_path / "mine.yaml"
    path.write_text("kind: toy\ntraining: {steps: 7, stages: {game: {steps: 9}}}\n")
    assert read_preset(path).training.for_stage("game").steps == 9
    for override in ("training.epochs=3", "training.stages.game.epochs=3"):
        training = read_preset(path, [override]).training
        assert (training.for_stage("game").steps, training.for_stage("game").epochs) == (None, 3)
        assert training.steps == (None if override == "training.epochs=3" else 7)


def test_histograms_of_all_rows_are_concluded_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: let the loop conclude from every batch, and average that."""

    def validate(self: Any, batch: TrainingBatch, streams: Any) -> dict[str, torch.Tensor]:
        return {"shares": torch.stack([(batch.row < 60).double().mean(), (batch.row >= 60).double().mean()])}

    def conclude(self: Any, means: Any) -> dict[str, torch.Tensor]:
        assert means["shares"].shape == (2,)
        return {"distance": means["shares"].prod()}

    monkeypatch.setattr(toy_model._Game, "validate", validate)
    monkeypatch.setattr(toy_model._Game, "conclude", conclude, raising=False)
    run(tmp_path / "run", toy_file(tmp_path / "g.h5", 120), preset(batch_size=5))
    rows = read_metrics(tmp_path / "run" / "stages" / "game" / "metrics.jsonl")
    validation = [row["validation"]["distance"] for row in rows]
    plan = read_plan(tmp_path / "run")
    assert plan.details["data"]["validation_rows"] == 12
    assert all(value == pytest.approx(validation[0]) for value in validation)
    low = round((1 - (1 - 4 * validation[0]) ** 0.5) * 6)
    assert validation[0] == pytest.approx(low * (12 - low) / 144)
    assert validation[0] > 0
