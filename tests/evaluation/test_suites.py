"""Suites on real showers: a clean floor, and damages that move exactly the measures they should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caloforge import datasets
from caloforge.detectors import load_detector
from caloforge.errors import ShowerFileError, UsageError
from caloforge.evaluation import EvaluationResult, evaluate, plan_evaluation
from caloforge.evaluation.classifiers import boosted
from caloforge.evaluation.observables import cells_as_points
from caloforge.evaluation.results import ObservableResult
from caloforge.showers import Showers, row_hashes

DETECTOR = load_detector("calogan")
FAST = ("response", "caloflow-observables", "voxel-energy", "correlations", "fpd", "voxels")


@pytest.fixture(scope="module")
def test_split() -> Showers:
    return _load("test")


@pytest.fixture(scope="module")
def floor_split() -> Showers:
    return _load("floor")


def _load(split: str) -> Showers:
    showers = datasets.load("calogan-gamma-sample", split=split)
    assert isinstance(showers, Showers)
    return showers


@pytest.fixture(scope="module")
def clean(test_split: Showers, floor_split: Showers) -> EvaluationResult:
    return evaluate(floor_split, test_split, detector=DETECTOR, only=FAST)


def damaged(showers: Showers, factor: np.ndarray) -> Showers:
    """The showers above threshold, with every deposit multiplied."""
    return replace(showers, deposits=(showers.above(DETECTOR.analysis_threshold).deposits * factor).astype(np.float32))


def observables(result: EvaluationResult) -> dict[str, ObservableResult]:
    return {r.key: r for r in result.generated.observables}


def significance(result: ObservableResult) -> float:
    return result.ks.value * np.sqrt(sum(result.counts) / 2)


def test_geant4_against_geant4_is_clean(clean: EvaluationResult) -> None:
    for result in clean.generated.observables:
        if result.chi2_ndf is not None:
            # 1.95 is the critical value of the KS test at 1e-3; 38 observables are looked at.
            assert significance(result) < 2.2, result.key
            assert result.chi2_ndf < 2, result.key
            assert result.separation.value < 2 * result.separation_expected + 2 * result.separation.error, result.key
    voxels = clean.generated.voxels
    assert voxels is not None
    assert voxels.never_lit == voxels.under_lit == voxels.over_lit == ()
    assert clean.generated.fpd is not None
    assert clean.generated.fpd.value < 0.003
    assert clean.floor is None
    assert any("no number has its floor" in note for note in clean.notes)


def test_a_layer_scaled_by_five_per_cent(clean: EvaluationResult, test_split: Showers, floor_split: Showers) -> None:
    factor = np.where(DETECTOR.readout.voxel_layers == 0, 1.05, 1.0)
    result = evaluate(damaged(floor_split, factor), test_split, detector=DETECTOR, only=FAST)
    before, after = observables(clean), observables(result)
    assert significance(after["shower/response"]) > 3
    shift = after["caloflow/layer-energy/0"].wasserstein.value
    assert shift == pytest.approx(0.05 * floor_split.layer_energies()[:, 0].mean(), rel=0.5)
    # What does not look at the layer's energy stays as it was, to the last digit.
    for key in ("layer-energy/1", "layer-energy/2", "filled-fraction/0", "brightest/1", "eta-width/2"):
        assert after[f"caloflow/{key}"].ks == before[f"caloflow/{key}"].ks
        assert after[f"caloflow/{key}"].separation == before[f"caloflow/{key}"].separation
    assert after["caloflow/eta-width/0"].ks.value == pytest.approx(before["caloflow/eta-width/0"].ks.value, abs=1e-3)
    assert result.generated.voxels == clean.generated.voxels


def test_a_dead_voxel(clean: EvaluationResult, test_split: Showers, floor_split: Showers) -> None:
    voxel = 288 + 2 * 12 + 6  # lit in most showers, but poor in energy
    factor = np.ones(504)
    factor[voxel] = 0
    result = evaluate(damaged(floor_split, factor), test_split, detector=DETECTOR, only=FAST)
    assert result.generated.voxels is not None
    assert result.generated.voxels.never_lit == (voxel,)
    before, after = observables(clean), observables(result)
    for key in ("layer-energy/0", "filled-fraction/2", "energy-ratio/0"):
        assert after[f"caloflow/{key}"] == before[f"caloflow/{key}"]
    assert (
        after["caloflow/filled-fraction/1"].wasserstein.value > before["caloflow/filled-fraction/1"].wasserstein.value
    )


def test_smeared_voxels(clean: EvaluationResult, test_split: Showers, floor_split: Showers) -> None:
    factor = np.exp(np.random.default_rng(0).normal(0, 0.3, floor_split.deposits.shape))
    result = evaluate(damaged(floor_split, factor), test_split, detector=DETECTOR, only=FAST)
    before, after = observables(clean), observables(result)
    assert significance(after["caloflow/energy-ratio/1"]) > 3
    assert significance(after["shower/response"]) > 3
    assert result.generated.fpd is not None
    assert clean.generated.fpd is not None
    assert result.generated.fpd.value > 5 * clean.generated.fpd.value
    # Threshold and smearing can darken a dim voxel, never light a dark one.
    assert result.generated.voxels is not None
    assert result.generated.voxels.over_lit == ()
    assert after["caloflow/filled-fraction/0"].ks.value == pytest.approx(
        before["caloflow/filled-fraction/0"].ks.value, abs=0.08
    )


def _keys(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*path, key), value
            yield from _keys(value, (*path, key))
    elif isinstance(tree, list):
        for value in tree:
            yield from _keys(value, path)


def test_a_whole_evaluation_with_floor(
    tmp_path: Path, test_split: Showers, floor_split: Showers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosted, "_ITERATIONS", 20)  # few trees are enough to be counted
    few, other = test_split[:400], floor_split[:400]
    progress: list[int] = []
    settings: dict[str, Any] = {
        "detector": DETECTOR, "floor": floor_split[400:800], "retrainings": 2, "epochs": 2, "keep": tmp_path,
        "skip": ["fpd", "kpd", "prdc", "voxel-energy", "correlations"],
    }  # fmt: skip
    result = evaluate(other, few, advance=lambda amount, note: progress.append(amount), **settings)
    plan = plan_evaluation(
        other, few, retrainings=2, epochs=2, with_floor=True, skip=settings["skip"], measure_time=False
    )
    assert sum(progress) == plan.units
    assert set(result.measures) == set(plan.measures)
    assert result.floor is not None
    assert (
        result.floor.classifiers.keys()
        == result.generated.classifiers.keys()
        == {"boosted", "high-level", "caloflow-dnn-unnormalised"}
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["floor", "generated"]
    # The contract of report.json: pooled AUCs under keys that end so, slices elsewhere, nothing lost on the way.
    tree = json.loads(result.model_dump_json())
    pooled = [v for path, v in _keys(tree) if path[-1].endswith("auc") and "slices" not in path]
    assert len(pooled) == 2 * 3 * 2
    assert all({"mean", "std"} <= v.keys() for v in pooled)
    assert any("slices" in path and path[-1] == "auc" for path, _ in _keys(tree))
    assert EvaluationResult.model_validate_json(result.model_dump_json()) == result
    again = evaluate(other, few, **(settings | {"keep": None}))
    assert again.model_copy(update={"seconds": {}}) == result.model_copy(update={"seconds": {}})


def test_calochallenge_suite_with_several_files(test_split: Showers, floor_split: Showers) -> None:
    result = evaluate(
        floor_split[:150], test_split[:150], detector=DETECTOR, suite="calochallenge", retrainings=1, epochs=1,
        others={"half": floor_split[150:300]}, skip=["fpd", "kpd", "calochallenge-low-normalised"],
    )  # fmt: skip
    assert result.generated.log_posterior is not None
    assert set(result.generated.log_posterior.on_reference) == {"generated", "half"}
    assert any("3D ResNet: needs layers of equal shape" in note for note in result.notes)
    families = {r.family for r in result.generated.observables}
    assert {"response", "eta-centre", "r-width", "empty-fraction", "voxel-energy"} <= families


def test_discrete_energies_get_a_response_each(test_split: Showers) -> None:
    rng = np.random.default_rng(1)
    energy = rng.choice([4096.0, 8192.0], 200)
    deposits = (rng.random((200, 504)) * energy[:, None] / 252).astype(np.float32)
    showers = Showers(deposits, energy, 22, DETECTOR.readout)
    result = evaluate(
        showers[:100], showers[100:], detector=DETECTOR, suite="calochallenge", only=["calochallenge-observables"]
    )
    assert {"calochallenge/response-at/4096", "calochallenge/response-at/8192"} <= observables(result).keys()


def test_caloclouds_suite_on_voxels_and_on_points(test_split: Showers, floor_split: Showers) -> None:
    on_voxels = evaluate(floor_split[:200], test_split[:200], detector=DETECTOR, suite="caloclouds")
    points = [cells_as_points(s[:200], cut=DETECTOR.analysis_threshold) for s in (floor_split, test_split)]
    on_points = evaluate(points[0], points[1], detector=DETECTOR, suite="caloclouds")
    assert on_points.generated == on_voxels.generated
    assert {"caloclouds/hit-count", "caloclouds/cell-energy"} <= observables(on_points).keys()
    with pytest.raises(UsageError, match="needs voxels"):
        evaluate(points[0], points[1], detector=DETECTOR, only=["fpd"])


def test_the_threshold_is_applied_to_both_alike(test_split: Showers, floor_split: Showers) -> None:
    half = Showers(  # dust far below the threshold in one of the files
        floor_split.deposits[:300] + np.float32(0.004), floor_split.incident_energy[:300], 22, DETECTOR.readout
    )
    result = evaluate(half, test_split[:300], detector=DETECTOR, only=["voxels"])
    assert result.samples["generated"].cut_deposits > 10_000
    assert result.generated.voxels is not None
    assert len(result.generated.voxels.over_lit) < 5


def test_uncut_files_are_compared_as_they_are(test_split: Showers, floor_split: Showers) -> None:
    """CaloFlow's table 3: a model's showers are cut, Geant4's are not. Mutations: a threshold left on the reference, or in
    the binning of the spectrum."""
    # 10 keV hardly matters to photons (0.2 % of the lit voxels), so a higher threshold is taken.
    detector = DETECTOR.model_copy(update={"analysis_threshold": 0.5})
    cut, raw = floor_split[:300].above(0.5), test_split[:300]
    settings: dict[str, Any] = {
        "detector": detector, "floor": floor_split[300:600], "suite": "calochallenge",
        "only": ["voxel-energy", "boosted"],
    }  # fmt: skip
    uncut, both = (evaluate(cut, raw, uncut=u, **settings) for u in (True, False))
    assert uncut.uncut
    assert not both.uncut
    assert [s.cut_deposits for s in uncut.samples.values()] == [0, 0, 0]
    assert both.samples["generated"].cut_deposits == 0 < both.samples["reference"].cut_deposits
    assert uncut.detector == both.detector  # it is described as it is
    for result, told in ((uncut, True), (both, False)):
        trees = result.generated.classifiers["boosted"].auc
        assert trees.error is not None
        assert (trees.mean > 0.9) == told
        assert result.floor is not None
        assert result.floor.classifiers["boosted"].auc.mean < 0.6
    spectra = [observables(result)["shower/voxel-energy"] for result in (uncut, both)]
    assert spectra[0].edges[0] < 0.01 < 0.5 == spectra[1].edges[0]
    assert any("without the analysis threshold" in note for note in uncut.notes)


def test_what_cannot_be_evaluated(test_split: Showers, floor_split: Showers) -> None:
    with pytest.raises(UsageError, match="suite 'fast' is not known, expected one of quick"):
        evaluate(floor_split, test_split, detector=DETECTOR, suite="fast")
    with pytest.raises(UsageError, match="measure 'fid' is not known"):
        evaluate(floor_split, test_split, detector=DETECTOR, only=["fid"])
    with pytest.raises(UsageError, match="no measure is left"):
        evaluate(floor_split, test_split, detector=DETECTOR, only=["fpd"], skip=["fpd"])
    with pytest.raises(UsageError, match="used to train this model"):
        evaluate(floor_split, test_split, detector=DETECTOR, trained_on=row_hashes(test_split[:2]))
    broken = replace(floor_split, deposits=floor_split.deposits.copy())
    broken.deposits[7, 3] = np.nan
    with pytest.raises(ShowerFileError, match="NaN"):
        evaluate(broken, test_split, detector=DETECTOR, only=["voxels"])


def test_a_sample_compared_with_itself_is_named(test_split: Showers) -> None:
    copies = Showers.concatenate([test_split[:200], test_split[:5]])
    result = evaluate(test_split[:200], copies, detector=DETECTOR, only=["voxels"])
    (shared,) = result.shared
    assert shared.showers == 200
    assert result.spoiled
    assert any("5 of the 205 reference showers are copies" in note for note in result.notes)


@pytest.mark.slow
def test_classifiers_find_nothing_between_geant4_and_geant4(test_split: Showers, floor_split: Showers) -> None:
    result = evaluate(
        floor_split, test_split, detector=DETECTOR, only=["high-level", "caloflow-dnn-unnormalised"], retrainings=1
    )
    for classifier in result.generated.classifiers.values():
        assert classifier.auc.mean == pytest.approx(0.5, abs=3 * classifier.statistical_error)
        assert abs(classifier.jsd.mean) < 0.03
