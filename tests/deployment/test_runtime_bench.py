"""``caloforge bench runtime`` times what it has verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_samples import toy_detector
from runtime_built import Built

from caloforge.bench import runtime as bench
from caloforge.cli.main import main
from caloforge.conditions import ConditionRange
from caloforge.deployment.targets import cpp
from caloforge.models import build_model, save_model


def test_both_are_timed_in_turns(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (bench, cpp):
        monkeypatch.setattr(module, "built_runtime", lambda: built.build)
    monkeypatch.setattr(bench, "_ROUNDS", 2)
    out = tmp_path / "times.json"
    command = ["bench", "runtime", "--model", "calogan-gamma", "--model", "caloclouds3-tiny", "--events", "2"]
    assert main([*command, "--json", str(out)]) == 0
    assert "calogan-gamma" in capsys.readouterr().out
    photons, clouds = json.loads(out.read_text())["rows"]
    for row in (photons, clouds):
        assert 0 < row["placing_ms"] < row["ms"]
        assert 0 < row["ratio_lowest"] <= row["ratio"] <= row["ratio_highest"]
        assert 0 < row["open_s"] < row["first_s"]
        assert row["python_ms"] > 0
    assert 20 < photons["spots"] < 504  # lit voxels
    assert clouds["spots"] > 504  # random weights make as many points as the sample has
    assert (photons["onnx_ms"], clouds["torchscript_ms"]) == (0, 0)  # no graph carries them
    # Reading and packing need more than nothing, and the weights are not there many times.
    assert 0.5 < photons["memory_mb"] / photons["weights_mb"] < 3


def test_graphs_are_timed_where_they_carry_a_model(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bench, cpp):
        monkeypatch.setattr(module, "built_runtime", lambda: built.build)
    monkeypatch.setattr(bench, "_ROUNDS", 1)
    torch.manual_seed(3)
    model = build_model("caloinn", {"flow": {"blocks": 2, "hidden_features": 8}, "energy_scale": 1.2}, toy_detector())
    save_model(tmp_path / "m", model.eval(), ConditionRange(particle=22, incident_energy=(1e3, 9e4)))
    (row,) = bench.bench_runtime([tmp_path / "m"], showers=2, say=lambda _: None)
    assert row.onnx_ms > 0
    assert row.torchscript_ms > 0


def test_an_energy_that_was_not_trained_is_refused(
    built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (bench, cpp):
        monkeypatch.setattr(module, "built_runtime", lambda: built.build)
    assert main(["bench", "runtime", "--model", "calogan-gamma", "--energy", "900", "--events", "1"]) != 0
    assert "trained from" in capsys.readouterr().err
