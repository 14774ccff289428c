"""Point clouds from the command's side: train all stages briefly, generate into a file, place into cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caloforge import datasets
from caloforge.generation import conditions_of_file, generate
from caloforge.models import load_model
from caloforge.showers import ShowerPoints, create_showers, open_showers
from caloforge.showers.convert import PlacePoints, convert
from caloforge.showers.projection import IdealGrid, cell_pitch
from caloforge.training.run import train

BRIEF = [
    "training.stages.flow.epochs=2",
    "training.stages.diffusion.epochs=1",
    "training.stages.distillation.epochs=1",
    "training.batch_size=16",
]


def read(path: Path) -> tuple[ShowerPoints, dict]:
    with open_showers(path) as reader:
        showers = reader.read()
        assert isinstance(showers, ShowerPoints)
        return showers, reader.provenance


@pytest.mark.slow
def test_all_stages_train_and_the_file_is_the_same_for_any_batch_size(tmp_path: Path) -> None:
    data = tmp_path / "data.h5"
    with open_showers(datasets.path("ild-gamma-clouds")) as reader:
        some, detector = reader.read(0, 48), reader.detector
    with create_showers(data, detector=detector, particle=22, kind="points", provenance={}, expected=48) as writer:
        writer.write(some)
    run = tmp_path / "run"
    train("caloclouds3-tiny", data, run, overrides=BRIEF, stages=["scales", "trend", "flow"], threads=1, show=False)
    result = train("caloclouds3-tiny", data, run, overrides=BRIEF, resume=True, threads=1, show=False)
    assert result.missing == ()
    model = load_model(run)
    assert model.record is not None
    assert model.record.training["stages"]["flow"]["epoch"] >= 1

    asked = conditions_of_file(data)
    first, again, steps = (tmp_path / f"{name}.h5" for name in ("first", "again", "steps"))
    generate(run, asked, first, seed=5, threads=1, show=False)
    generate(run, asked, again, seed=5, batch_size=7, threads=1, show=False)
    generate(run, asked, steps, seed=5, options={"sampler": "edm", "edm_steps": 3}, threads=1, show=False)
    (one, _), (two, _), (three, story) = read(first), read(again), read(steps)
    assert np.array_equal(one.offsets, two.offsets)
    # The points a batch holds change the order in which matrix products add up, and nothing else.
    assert np.allclose(one.points, two.points, rtol=1e-4, atol=1e-4)
    assert not np.array_equal(one.points[:10], three.points[:10])
    assert story["model"]["options"] == {"sampler": "edm", "edm_steps": 3}
    # Even a hardly trained model knows how much energy and how many points there are.
    assert one.total_energy().mean() == pytest.approx(some.total_energy().mean(), rel=0.3)

    assert detector is not None
    placed = convert(
        first, tmp_path / "cells.h5", change=PlacePoints(IdealGrid(cell_pitch(detector.readout)), "ideal", 0.1)
    )
    cells, _ = read(tmp_path / "cells.h5")
    assert cells.points[:, 3].min() >= 0.1
    assert placed.energy + placed.left_out == pytest.approx(float(one.total_energy().sum()), rel=1e-5)
