"""Many models in one table: trained once, teachers before students."""

from __future__ import annotations

from pathlib import Path

import pytest

from caloforge import datasets
from caloforge.cli.main import main
from caloforge.errors import UsageError
from caloforge.studies import study_models

TINY = """
kind: {kind}
title: a small one for the tests
model:
  energy_scale: 1.0
  energies: {{blocks: 1, hidden_features: 8, hidden_layers: 1}}
  shapes: {{blocks: 1, hidden_features: 8, hidden_layers: 1}}
training:
  batch_size: 500
  epochs: 1
"""


@pytest.mark.slow
def test_two_models_in_one_table(tmp_path: Path) -> None:
    """Two presets that differ in seed-independent size; their reports and the table are there, and are kept."""
    names = [tmp_path / "narrow.yaml", tmp_path / "wide.yaml"]
    names[0].write_text(TINY.format(kind="caloflow"))
    names[1].write_text(TINY.format(kind="caloflow").replace("hidden_features: 8", "hidden_features: 16"))
    test, floor = (str(datasets.path("calogan-gamma-sample", split=split)) for split in ("test", "floor"))
    command = ["study", "models", "--data", floor, "--reference", test, "--out", str(tmp_path / "out"), "--no-timing"]
    command += ["--only", "images", "--threads", "1"]
    for name in names:
        command += ["--preset", str(name)]
    assert main(command) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "narrow" in table
    assert "wide" in table
    report = tmp_path / "out" / "wide" / "report" / "report.json"
    before = report.stat().st_mtime_ns
    assert main(command) == 0
    assert report.stat().st_mtime_ns == before


def test_a_student_without_its_teacher_and_a_preset_twice_are_refused(tmp_path: Path) -> None:
    data = datasets.path("calogan-gamma-sample", split="train")
    with pytest.raises(UsageError, match="no preset of that kind stands before it"):
        study_models(["caloflow-student-tiny"], data, data, tmp_path)
    with pytest.raises(UsageError, match="twice"):
        study_models(["caloflow-tiny", "caloflow-tiny"], data, data, tmp_path)
