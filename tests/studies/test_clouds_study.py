"""CaloClouds2 against CaloClouds3: trained, compared, drawn, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from caloforge import datasets
from caloforge.cli.main import main
from caloforge.errors import UsageError
from caloforge.studies import FlowLosses, study_clouds

SMALL = """
kind: {kind}
title: a small one for the tests
detector: ild-ecal
model:
  flow: {{blocks: 1, affine_hidden: 8, spline_hidden: 8}}
  widths: [8]
  positions: asinh
  point_energy: log
  training_points: 16
  distillation_levels: 2
  teacher_steps: 2
  calibration_showers: 4
  edm_steps: 2
training: {{batch_size: 50, epochs: 2}}
"""


def test_numbers_of_a_loss_curve() -> None:
    losses = FlowLosses("flow", 60, (1, 2, 3, 4), (1.0, 0.5, 0.75, 0.25), (1.5, 0.875, 1.0, 1.25))
    assert (losses.best, losses.best_epoch, losses.rise, losses.largest_jump) == (0.875, 2, 0.375, 0.25)


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'caloflow-tiny' is for 'caloflow', expected a CaloClouds model"):
        study_clouds("a.h5", "b.h5", tmp_path, presets=("caloclouds3-tiny", "caloflow-tiny"))
    with pytest.raises(UsageError, match="3 files were given for data, expected one, or one for each of the 2 presets"):
        study_clouds(["a.h5"] * 3, "b.h5", tmp_path)
    with pytest.raises(UsageError, match="1 presets were given, expected two or three"):
        study_clouds("a.h5", "b.h5", tmp_path, presets=("caloclouds3-tiny",))


@pytest.mark.slow
def test_two_models_are_trained_compared_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    presets = [tmp_path / f"{word}.yaml" for word in ("two", "three")]
    for path, kind in zip(presets, ("caloclouds2", "caloclouds3"), strict=True):
        path.write_text(SMALL.format(kind=kind))
    test, floor = (str(datasets.path("ild-gamma-clouds", split=split)) for split in ("test", "floor"))
    out = tmp_path / "out"
    command = [
        "study",
        "clouds",
        "--data",
        floor,
        "--data",
        floor,
        "--reference",
        test,
        "--out",
        str(out),
        "--threads",
        "1",
    ]
    for path in presets:
        command += ["--preset", str(path)]
    assert main(command) == 0
    assert "lowest validation loss" in capsys.readouterr().out
    flows = (out / "flows.md").read_text()
    assert "| two | 65 |" in flows
    assert "| three | 60 |" in flows
    names = ("flows", "energy", "occupancy", "centre-of-gravity", "total-energy")
    assert all((out / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)
    assert "JS divergence, cell energy" in (out / "table.md").read_text()
    model = out / "three" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    assert main(command) == 0
    assert model.stat().st_mtime_ns == before
