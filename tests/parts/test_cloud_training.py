"""What a shower of points trains with does not depend on the showers beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, point_showers, training_batch

from caloforge.detectors import load_detector
from caloforge.models import build_model, load_preset
from caloforge.parts.point_diffusion import training_points
from caloforge.random import Streams
from caloforge.showers import ShowerPoints
from caloforge.stage import FitStage, GradientStage, TrainingBatch, TrainingConfig
from caloforge.zoo.caloclouds3 import CaloClouds3

ILD = load_detector("ild-ecal")
SEEDS = Streams(2, "test")


def scaled(**settings: Any) -> CaloClouds3:
    torch.manual_seed(0)
    model = build_model("caloclouds3", load_preset("caloclouds3-tiny").settings() | settings, ILD)
    assert isinstance(model, CaloClouds3)
    scales = model.stages(TrainingConfig())[0]
    assert isinstance(scales, FitStage)
    scales.load_state(scales.fit(Rows(point_showers(ILD, 8)), SEEDS))
    return model


def rows_of(showers: ShowerPoints, first: int, last: int) -> TrainingBatch:
    return training_batch(showers[first:last], epoch=3, first_row=first)


@pytest.mark.parametrize("training", [None, 256, 60])
def test_a_shower_trains_with_the_same_points_in_any_company(training: int | None) -> None:
    """Fails if numbers are drawn for as many points as the largest shower of the batch has."""
    model, showers = scaled(training_points=training, position_fuzz=2.0), point_showers(ILD, 8)
    sizes = np.diff(showers.offsets)
    assert sizes.min() < 60 < 256 < sizes.max()  # unequal, below and above the numbers wanted
    together = training_points(model, rows_of(showers, 0, 8), SEEDS, 3)
    for row in (0, 5, 7):
        alone = training_points(model, rows_of(showers, row, row + 1), SEEDS, 3)
        own = together.shower[together.group] == row
        assert torch.equal(alone.noise, together.noise[own])
        assert torch.equal(alone.clean, together.clean[own])
        assert torch.equal(alone.group, together.group[own] - 3 * row)


@pytest.mark.parametrize("name", ["diffusion", "distillation"])
def test_losses_of_parts_make_up_that_of_the_batch(name: str) -> None:
    """Means over points, weighted by points; weighted by showers they are off by per cents."""
    model, showers = scaled(training_points=None), point_showers(ILD, 8)
    stage = next(stage for stage in model.stages(TrainingConfig()) if stage.name == name)
    assert isinstance(stage, GradientStage)
    for compute in (lambda batch: stage.loss("main", batch, SEEDS), lambda batch: stage.validate(batch, SEEDS)):
        with torch.no_grad():
            whole, *parts = (compute(rows_of(showers, a, b)) for a, b in ((0, 8), (0, 3), (3, 8)))
        assert float(whole["weight"]) == len(showers.points)
        mean = sum(part["loss"] * part["weight"] for part in parts) / whole["weight"]
        assert float(mean) == pytest.approx(float(whole["loss"]), rel=1e-6)
        by_showers = (3 * parts[0]["loss"] + 5 * parts[1]["loss"]) / 8
        assert float(by_showers) != pytest.approx(float(whole["loss"]), rel=1e-3)


def test_showers_without_points_weigh_nothing_and_leave_the_loss_a_number() -> None:
    model = scaled()
    empty = ShowerPoints(np.zeros(3, np.int64), np.zeros((0, 4), np.float32), np.array([1e4, 2e4]), 22, ILD.readout)
    for stage in model.stages(TrainingConfig()):
        if stage.name in ("diffusion", "distillation"):
            assert isinstance(stage, GradientStage)
            losses = stage.loss("main", training_batch(empty), SEEDS)
            losses["loss"].backward()  # type: ignore[no-untyped-call]
            assert float(losses["loss"].detach()) == float(losses["weight"]) == 0
