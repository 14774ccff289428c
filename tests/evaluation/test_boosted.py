"""Boosted trees between samples whose difference is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from caloforge import datasets
from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.evaluation import plan_evaluation
from caloforge.evaluation.cells import cells_of
from caloforge.evaluation.classifiers import boosted, boosted_test, expected_boosted_seconds
from caloforge.evaluation.observables import cells_as_points
from caloforge.evaluation.results import ClassifierResult
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers

DETECTOR = load_detector("calogan")


def photons(split: str, n: int) -> Showers:
    showers = datasets.load("calogan-gamma-sample", split=split)
    assert isinstance(showers, Showers)
    return replace(showers, overflow=None)[:n].above(DETECTOR.analysis_threshold)


def told(
    one: ShowerPoints, two: ShowerPoints, seed: int = 1, threshold: float = 0.01, slices: int = 2
) -> ClassifierResult:
    return boosted_test(one, two, threshold=threshold, slices=slices, streams=Streams(seed, "t"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer trees: what is tested here does not need many."""
    monkeypatch.setattr(boosted, "_ITERATIONS", 40)


@pytest.mark.usefixtures("small")
def test_a_scaled_layer_is_found_and_named() -> None:
    """Layer 2 holds 0.2 % of the energy. Mutation: importances under the names of other columns."""
    damaged = photons("floor", 500)
    factor = np.where(DETECTOR.readout.voxel_layers == 2, np.float32(2), np.float32(1))
    one, two = (
        cells_as_points(replace(damaged, deposits=damaged.deposits * factor)),
        cells_as_points(photons("test", 600)),
    )
    result = told(one, two)
    assert result.auc.error is not None
    assert result.auc.mean - 0.5 > 6 * result.auc.error
    assert {i.name.split("/")[-1] for i in result.importance[:3]} <= {"2", "response"}
    assert result.importance[0].drop.value > 3 * result.importance[0].drop.error
    assert result.families[0].drop.value > 0.01
    shifts = {i.name: i.shift for i in result.importance}
    assert shifts["energy/2"] is not None
    assert shifts["energy/2"].value == pytest.approx(np.log(2) / 2.0, abs=0.25)
    assert result.settings["showers of each class"] == 500
    assert len(result.auc.values) == boosted.FOLDS
    assert result.roc.reference[50] > 0.6
    assert sum(s.showers for s in result.slices) == 1000
    assert all(s.auc.mean > 0.6 for s in result.slices)
    assert result.jsd.mean > 0.05
    # Equal seeds, equal results, and the trees are those of the seed.
    assert told(one, two) == result
    assert told(one, two, seed=2).auc != result.auc


@pytest.mark.usefixtures("small")
def test_geant4_against_geant4_is_not_told_apart() -> None:
    result = told(cells_as_points(photons("floor", 600)), cells_as_points(photons("test", 600)))
    # DeLong's of 600 + 600 showers, folds correlated, and what the trainings scatter.
    assert 1.34 * 0.0167 * 0.97 < result.auc.error < 1.7 * 0.0167
    assert abs(result.auc.mean - 0.5) < 2 * result.auc.error
    assert abs(result.jsd.mean) < 0.01
    assert result.statistical_error == pytest.approx(0.0373, rel=0.05)  # of one fold


@pytest.mark.usefixtures("small")
def test_nobody_knows_a_copy_by_heart() -> None:
    """The same showers twice: each stands in one fold with its copy. Mutation: folds drawn by row."""
    cells = cells_as_points(photons("test", 200))
    result = told(cells, cells)
    assert result.auc.values == pytest.approx([0.5] * boosted.FOLDS, abs=1e-12)
    assert result.auc.error == pytest.approx(0, abs=1e-12)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["par04-ds2", "ds1-pions"])
def test_any_voxel_readout(name: str) -> None:
    readout = load_detector(name).readout
    rng = np.random.default_rng(3)
    samples = []
    for scale in (1.0, 1.3):
        deposits = rng.lognormal(0, 1, (90, readout.n_voxels)) * (rng.random((90, readout.n_voxels)) < 0.02)
        deposits[:, readout.voxel_layers == 1] *= scale
        samples.append(Showers(deposits.astype(np.float32), np.full(90, 1e4), 211, readout))
    result = told(*(cells_as_points(s) for s in samples), threshold=0.0, slices=1)
    assert len(result.importance) == 100  # of the families that matter most
    assert result.slices == ()  # fewer than 20 showers of a class in each fold
    assert all(np.isfinite(i.drop.value) for i in (*result.importance, *result.families))


@pytest.mark.usefixtures("small")
def test_points_in_cells() -> None:
    detector = load_detector("ild-ecal")
    rng = np.random.default_rng(4)
    samples = []
    for width in (10.0, 14.0):
        counts = rng.poisson(40, 100)
        points = np.column_stack([
            rng.normal(0, width, (counts.sum(), 2)), rng.integers(8, 11, counts.sum()), rng.exponential(1.0, counts.sum())
        ]).astype(np.float32)  # fmt: skip
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        raw = ShowerPoints(offsets, points, np.full(100, 1e4), 22, detector.readout)
        samples.append(cells_of(raw, detector, Streams(1, "cells")))
    result = told(*samples, threshold=detector.analysis_threshold)
    assert result.auc.mean > 0.8
    assert {f.name for f in result.families[:2]} <= {"x-width", "y-width", "lit", "x-centroid", "y-centroid"}
    bare = [ShowerPoints(s.offsets, s.points, s.incident_energy, 22) for s in samples]
    assert told(*bare, threshold=detector.analysis_threshold).auc.mean > 0.8


def test_expected_time_follows_the_amount_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.0, 12.0] * 2)  # 10 more iterations take 10 s
    monkeypatch.setattr(boosted.time, "monotonic", lambda: next(clock))
    cells = cells_as_points(photons("test", 2))
    assert expected_boosted_seconds(cells, 1000) == pytest.approx(2 * 5 * 150)
    assert expected_boosted_seconds(cells, 3000) == pytest.approx(3 * 2 * 5 * 150)


def test_too_few_showers_are_refused_or_left_out_with_a_word() -> None:
    few = photons("test", 49)
    with pytest.raises(UsageError, match="49 showers of each class, expected at least 50"):
        told(cells_as_points(few), cells_as_points(few))
    plan = plan_evaluation(few, few, suite="caloclouds", skip=["caloclouds-features"], measure_time=False)
    assert "boosted" not in plan.measures
    assert any("needs at least 50 showers of each sample, and there are 49" in note for note in plan.notes)
    many = photons("test", 60)
    with pytest.raises(UsageError, match="there are 40"):
        plan_evaluation(many, many, only=["boosted"], max_showers=40, measure_time=False)
