"""The ten observables of point clouds: what moves them, cells made from points, and the suite as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cloud_samples import DEPTHS, DETECTOR, PITCH, real_showers, shower_points, toy_showers
from numpy.testing import assert_allclose, assert_array_equal

from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.evaluation import evaluate, plan_evaluation
from caloforge.evaluation.cells import cell_grid, cells_of, in_cells, placed, square_cells
from caloforge.evaluation.classifiers import boosted
from caloforge.evaluation.clouds import cloud_features, compare_clouds, energy_windows, relative_to_axis
from caloforge.evaluation.measures import cut
from caloforge.evaluation.results import CloudObservable, EvaluationResult
from caloforge.random import Streams
from caloforge.report import compare_reports, load_report, write_report
from caloforge.showers import ShowerPoints, voxelise
from caloforge.showers.clusters import merge_in_subcells
from caloforge.showers.projection import CellMap, project

PLACES = Streams(1, "places")

ALL = {
    "total-energy", "cell-energy", "layer-energy", "ring-energy", "occupancy", "layer-occupancy", "ring-occupancy",
    "gravity-x", "gravity-y", "gravity-z",
}  # fmt: skip


@pytest.fixture(scope="module")
def toys() -> ShowerPoints:
    return toy_showers(80, 1)


def compared(generated: ShowerPoints, reference: ShowerPoints) -> Mapping[str, CloudObservable]:
    found = compare_clouds(generated, reference, DETECTOR, Streams(1, "test"))
    return {r.key: r for r in found}


def moved(results: Mapping[str, CloudObservable]) -> set[str]:
    return {key for key, r in results.items() if r.js.divergence.value > 1e-12}


def changed(showers: ShowerPoints, column: int, change: float, *, factor: bool = False) -> ShowerPoints:
    points = showers.points.copy()
    points[:, column] = points[:, column] * change if factor else points[:, column] + change
    return replace(showers, points=points)


def test_identical_samples_give_nothing_at_all(toys: ShowerPoints) -> None:
    results = compared(toys, toys)
    assert results.keys() == ALL
    for result in results.values():
        assert [s.energy for s in result.slices] == [10e3, 20e3]
        for js in (result.js, *(s.js for s in result.slices)):
            assert js.divergence.value == js.distance.value == 0
            assert js.expected_divergence > 0  # shuffled showers are no longer the same
        assert result.generated == result.reference


def test_scaled_energies_move_energies_only(toys: ShowerPoints) -> None:
    # A power of two, so that ratios of energies stay as they are to the last bit.
    assert moved(compared(changed(toys, 3, 2.0, factor=True), toys)) == {"total-energy", "cell-energy"}


def test_a_shift_moves_the_centre_of_gravity(toys: ShowerPoints) -> None:
    # Radii are counted from the true axis, so rings belong to what a shift must move.
    results = compared(changed(toys, 0, PITCH), toys)
    assert moved(results) == {"gravity-x", "ring-energy", "ring-occupancy"}
    x = results["gravity-x"]
    centres = (np.asarray(x.edges[1:]) + np.asarray(x.edges[:-1])) / 2
    means = [np.asarray(values[1:-1]) @ centres for values in (x.generated, x.reference)]
    assert means[0] - means[1] == pytest.approx(PITCH, abs=0.3)


def test_a_shift_in_depth_moves_layers(toys: ShowerPoints) -> None:
    inner = toys.points[:, 2] < 29
    ends = np.concatenate([[0], np.cumsum(inner)])[toys.offsets].astype(np.int64)
    short = replace(toys, offsets=ends, points=toys.points[inner])
    assert moved(compared(changed(short, 2, 1.0), short)) == {"gravity-z", "layer-energy", "layer-occupancy"}


def test_bins_are_fine_enough_for_the_sample(toys: ShowerPoints) -> None:
    narrow = compared(toys, toys)
    assert narrow["occupancy"].binning == "adapted"  # published bins hold 60 cells, and these showers have about 100
    assert narrow["cell-energy"].binning == "arXiv:2511.01460"
    # From 200 to 3800 MeV.
    wanted = np.linspace(200, 3800, 80) / toys.total_energy()
    points = toys.points.copy()
    points[:, 3] *= wanted[toys.shower_index]
    wide = replace(toys, points=points)
    assert compared(wide, wide)["total-energy"].binning == "arXiv:2511.01460"


def test_lost_cells_move_the_occupancy(toys: ShowerPoints) -> None:
    kept = np.arange(len(toys.points)) % 5 > 0
    ends = np.concatenate([[0], np.cumsum(kept)])[toys.offsets].astype(np.int64)
    fewer = replace(toys, offsets=ends, points=toys.points[kept])
    results = compared(fewer, toys)
    assert results["occupancy"].js.divergence.value > 5 * results["occupancy"].js.expected_divergence
    assert results["layer-occupancy"].js.distance.value < results["occupancy"].js.distance.value


def test_independent_samples_differ_by_statistics_only(toys: ShowerPoints) -> None:
    for result in compared(toy_showers(80, 2), toys).values():
        js = result.js
        assert js.distance.value == pytest.approx(np.sqrt(js.divergence.value))
        assert 0 < js.divergence.value < 2.5 * js.expected_divergence, result.key


def test_the_divergence_of_disjoint_samples_is_one_bit() -> None:
    one, two = (
        shower_points([np.array([[2.5, 2.5, 3, e]])] * 30, np.full(30, 10e3)) for e in (100.0, 1000.0)
    )  # fmt: skip
    results = compared(one, two)
    for key in ("total-energy", "cell-energy"):
        assert results[key].js.divergence.value == pytest.approx(1)
        assert results[key].js.distance.value == pytest.approx(1)
    assert results["total-energy"].generated_error == (0.0,) * len(results["total-energy"].generated)
    energy = results["layer-energy"]
    assert energy.edges == (3.0, 4.0)
    assert (energy.generated[1], energy.reference[1]) == (100.0, 1000.0)
    assert moved(results) == {"total-energy", "cell-energy"}


def points_at(x: float) -> ShowerPoints:
    points = np.array([[x, 1, 4, 0.06], [x + 1, 1, 4, 0.06], [x + PITCH, 1, 4, 0.06], [x, 1, 5, 0.2]])
    return replace(shower_points([points], np.array([10e3])), readout=None)


def test_points_become_cells_before_the_cut() -> None:
    x = 40 * PITCH + 1  # far outside the readout's 30 x 30 cells
    grid = cell_grid(DETECTOR, (PITCH, PITCH))
    cells = placed(replace(points_at(x), readout=DETECTOR.readout), grid)
    assert_allclose(cells.points[:, 3], [0.12, 0.06, 0.2], rtol=1e-6)
    assert_allclose(cells.points[0, :2], [40.5 * PITCH, 0.5 * PITCH], rtol=1e-6)
    kept = cut(cells, DETECTOR.analysis_threshold)
    assert isinstance(kept, ShowerPoints)
    assert_allclose(kept.points[:, 3], [0.12, 0.2], rtol=1e-6)
    # What has become cells stays as it is.
    assert in_cells(cells, DETECTOR) == "grid"
    assert_allclose(cells_of(cells, DETECTOR, PLACES).points, cells.points, rtol=1e-6)


def test_each_shower_enters_somewhere_in_a_cell_wherever_it_stands_in_a_file() -> None:
    showers = [points_at(float(x)) for x in np.linspace(-1, 1, 200)]
    made = cells_of(ShowerPoints.concatenate(showers), DETECTOR, PLACES)
    assert made.readout == DETECTOR.readout
    assert made.points[:, 3].sum() == pytest.approx(200 * 0.38)
    alone = [cells_of(s, DETECTOR, PLACES) for s in (showers[7], showers[150])]
    for number, one in zip((7, 150), alone, strict=True):
        assert_array_equal(one.points, made[number : number + 1].points)
    other = cells_of(showers[7], DETECTOR, Streams(2, "places"))
    assert not np.array_equal(other.points[:, :2], alone[0].points[:, :2])
    # The cell of the lone point is known; it lies anywhere around it, by at most half a cell.
    lone = made.points[made.points[:, 2] == 5].astype(np.float64)
    beside = (lone[:, :2] - np.column_stack([np.linspace(-1, 1, 200), np.ones(200)])) / PITCH
    assert np.abs(beside).max() < 0.5 + 1e-6
    assert np.abs(beside.mean(axis=0)).max() < 4 * (1 / 12 / 200) ** 0.5
    assert_allclose(beside.std(axis=0), 12**-0.5, rtol=0.15)
    # Two points 1 mm apart share a cell of 5.09 mm in four of five placements; else the second one joins the third.
    first = made.points[made.offsets[:-1], 3] > 0.1
    assert first.mean() == pytest.approx(1 - 1 / PITCH, abs=4 * (0.16 / 200) ** 0.5)


def test_a_file_that_holds_cells_is_named_beside_one_that_holds_points(toys: ShowerPoints) -> None:
    loose = scattered(toy_showers(80, 2))
    result = evaluate(loose, toys, detector=DETECTOR, suite="caloclouds", only=["layers"])
    assert sum("reference points are at centres of the detector's cells" in note for note in result.notes) == 1
    same = evaluate(toys, toys, detector=DETECTOR, suite="caloclouds", only=["layers"])
    assert not any("the same cells" in note for note in same.notes)
    # The same showers get the same cells, whatever the file.
    again = evaluate(loose, loose, detector=DETECTOR, suite="caloclouds", only=["layers"]).generated.layers
    assert again is not None
    assert all(r is None or r.value == pytest.approx(1, abs=1e-12) for r in (*again.energy, *again.lit))


def scattered(cells: ShowerPoints) -> ShowerPoints:
    """Points anywhere in their cells."""
    places = np.random.default_rng(1).uniform(-PITCH / 2, PITCH / 2, (len(cells.points), 2)).astype(np.float32)
    return replace(cells, points=np.column_stack([cells.points[:, :2] + places, cells.points[:, 2:]]))


def gap_map() -> CellMap:
    """Cells of the detector in wafers of 18 with 1 mm between them, every other layer half a cell aside."""
    strips = {"cells": 90, "pitch": PITCH, "start": -183.66, "group": 18, "gap": 1.0}
    staggered = {"repeat": 30, "x": strips, "y": strips, "shifts": [[0.0, 0.0], [PITCH / 2, 0.0]]}
    return CellMap.model_validate({"layers": [staggered]})


def test_cells_of_a_realistic_map_are_not_placed_again() -> None:
    """Gaps and staggering stay. Mutation: recognising the ideal grid alone."""
    loose = scattered(real_showers(inclined=False))
    assert in_cells(loose, DETECTOR) is None
    entry = np.random.default_rng(2).uniform(0, PITCH, (len(loose), 2))
    for made in (project(loose, gap_map()).cells, project(loose, gap_map(), entry=entry).cells):
        assert in_cells(made, DETECTOR) == "map"
        assert cells_of(made, DETECTOR, PLACES).points is made.points
    # Sub-cells are no cells, and a handful of points could be anything; a file that says so is believed.
    merged = merge_in_subcells(loose, (PITCH, PITCH), 5, Streams(1, "merge"), position="centre")
    assert in_cells(merged, DETECTOR) is None
    few = made[:1]
    few = replace(few, offsets=np.array([0, 3]), points=few.points[:3])
    assert in_cells(few, DETECTOR) is None
    said = replace(few, provenance={"converted": {"cells": "map.toml", "cut_MeV": 0.1}})
    assert in_cells(said, DETECTOR) == "map"


def test_gaps_and_staggering_survive_an_evaluation() -> None:
    """The same showers in a map and on the ideal grid: the energy in the gaps is missing, and columns lie elsewhere."""
    loose = scattered(toy_showers(80, 2))
    real, ideal = project(loose, gap_map()).cells, project(loose, cell_grid(DETECTOR, (PITCH, PITCH))).cells
    result = evaluate(real, ideal, detector=DETECTOR, suite="caloclouds", only=["layers"])
    layers = result.generated.layers
    assert layers is not None
    assert max(r.value for r in layers.energy if r is not None) < 0.99
    assert any("in cells of a map (generated)" in note for note in result.notes)


def test_cells_of_voxels_and_of_other_readouts(toys: ShowerPoints) -> None:
    voxels = voxelise(toys, DETECTOR.readout)
    one, two = (cells_of(s, DETECTOR, PLACES) for s in (voxels, toys))
    assert_array_equal(one.offsets, two.offsets)
    order = [np.lexsort((*s.points[:, :3].T, s.shower_index)) for s in (one, two)]
    assert_allclose(one.points[order[0]], two.points[order[1]], rtol=1e-5)
    plain = DETECTOR.with_readout("points")
    assert cells_of(toys, plain, PLACES).points is toys.points  # no cells are known, so points are taken for them
    assert square_cells(plain.readout) is None
    assert square_cells(load_detector("calogan").readout) is None
    assert square_cells(DETECTOR.readout) == pytest.approx((PITCH, PITCH))


def test_inclined_showers_are_seen_along_their_axis() -> None:
    direction = np.array([0.3, -0.2, 1.0]) / np.linalg.norm([0.3, -0.2, 1.0])
    layer = np.arange(30)
    points = np.column_stack([0.3 * DEPTHS + 2, -0.2 * DEPTHS, layer, np.ones(30)])
    axial = relative_to_axis(shower_points([points], np.array([10e3]), direction[None]))
    assert_allclose(axial.points[:, :2], np.tile([2.0, 0.0], (30, 1)), atol=1e-4)
    upright = shower_points([points], np.array([10e3]))
    assert relative_to_axis(upright) is upright


def test_windows_of_energy() -> None:
    energies = np.repeat([5e3, 50e3], 25)
    assert [w.energy for w in energy_windows(energies, energies)] == [5e3, 50e3]
    assert energy_windows(energies[:10], energies) == []
    smooth = np.linspace(8e3, 31e3, 400)
    windows = energy_windows(smooth, smooth)
    assert [(w.energy, w.low) for w in windows] == [(10e3, 8e3), (20e3, 15e3), (30e3, 25e3)]
    # Every shower is in one window, the last one too.
    assert sum(w.holds(smooth).sum() for w in windows) == 400
    assert windows[1].label == "15 GeV to 25 GeV"


def test_features_of_a_shower_worked_out_by_hand() -> None:
    points = np.array([[3.0, 4.0, 0, 30.0], [-3.0, -4.0, 12, 10.0], [0.0, 20.0, 29, 60.0]])
    features = cloud_features(shower_points([points], np.array([1e4])))
    assert features.shape == (1, 26)
    assert_allclose(features[0, :6], [4, 0.01, 3, 0.6, 12.8, 18.6], rtol=1e-6)
    assert_allclose(features[0, 6:16], [0.3, 0, 0.1, 0, 0, 0, 0, 0, 0, 0.6], atol=1e-7)
    assert_allclose(features[0, 16:], [0.4, 0, 0, 0, 0.6, 0, 0, 0, 0, 0], atol=1e-7)


@pytest.fixture(scope="module")
def report() -> EvaluationResult:
    def tilted(seed: int) -> ShowerPoints:
        toys = toy_showers(80, seed)
        angle = np.random.default_rng(seed).uniform(-0.4, 0.4, 80)
        direction = np.stack([np.sin(angle), np.zeros(80), np.cos(angle)], axis=1)
        points = toys.points.copy()
        points[:, 0] += DEPTHS[points[:, 2].astype(int)] * np.tan(angle)[toys.shower_index]
        return replace(toys, points=points, direction=direction.astype(np.float32))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosted, "_ITERATIONS", 20)  # few trees are enough to be shown
        return evaluate(
            tilted(3), tilted(4), floor=tilted(5), detector=DETECTOR, suite="caloclouds", retrainings=1, epochs=1,
            labels={"generated": "CaloClouds 3"},
        )  # fmt: skip


@pytest.mark.slow
def test_the_whole_suite_on_points(report: EvaluationResult, tmp_path: Path) -> None:
    scores = report.generated
    assert {o.key for o in scores.clouds} == ALL
    assert scores.angles is not None
    assert {b.angle for b in scores.angles.bias} == {"theta"}  # the only angle that varies
    assert scores.diphotons is not None
    assert [c.energy for c in scores.diphotons.curves] == [10e3, 20e3]
    assert set(scores.classifiers) == {"boosted", "caloclouds-features"}
    assert report.floor is not None
    assert len(report.floor.clouds) == 10
    # Histograms of single layers have their own tests; here they would only take time.
    slim = {word: getattr(report, word).model_copy(update={"observables": ()}) for word in ("generated", "floor")}
    report = report.model_copy(update=slim)
    files = write_report(report, tmp_path)
    names = {f.stem for f in files.figures}
    assert {"clouds-energy", "clouds-occupancy", "clouds-centre-of-gravity", "clouds-by-energy"} <= names
    assert {"angle-100", "angle-4", "angle-scan", "angle-bias", "di-photons"} <= names
    assert load_report(tmp_path) == report
    text = files.page.read_text()
    for word in ("Internal angle", "Di-photon separation", "JS divergence, ring occupancy", "JS distance, gravity x"):
        assert word in text, word


def test_two_models_side_by_side(report: EvaluationResult) -> None:
    other = report.model_copy(
        update={"samples": report.samples | {"generated": report.samples["generated"].model_copy(
            update={"label": "CaloClouds 2"})}, "generated": report.floor}
    )  # fmt: skip
    table = compare_reports([other, report])
    assert table.columns[:2] == ["CaloClouds 2", "CaloClouds 3"]
    rows = dict(table.rows)
    for kind in ("divergence", "distance"):
        assert sum(title.startswith(f"JS {kind}, ") and "angle" not in title for title in rows) == 10
    assert all(cell != "–" for cell in rows["JS divergence, total energy"][:2])


def test_what_a_detector_cannot_show(toys: ShowerPoints) -> None:
    plain = DETECTOR.with_readout("points")
    one, two = (replace(s, readout=plain.readout) for s in (toys, toy_showers(80, 2)))
    plan = plan_evaluation(one, two, suite="caloclouds", measure_time=False)
    assert "di-photon" not in plan.measures
    assert any("equal Cartesian cells" in note for note in plan.notes)
    with pytest.raises(UsageError, match="needs photons"):
        plan_evaluation(replace(toys, particle=11), replace(toys, particle=11), only=["di-photon"], measure_time=False)


def test_real_showers() -> None:
    normal, inclined = (cut(real_showers(inclined=k), DETECTOR.analysis_threshold) for k in (False, True))
    assert isinstance(normal, ShowerPoints)
    assert isinstance(inclined, ShowerPoints)
    share = [cloud_features(s)[:, 1].mean() for s in (normal, inclined)]
    assert_allclose(share, 0.025, atol=0.003)  # sampling fraction of the silicon
    # Along the axis an inclined shower is about as narrow as an upright one.
    radius = []
    for showers in (normal, relative_to_axis(inclined)):
        place = showers.points.astype(np.float64)
        radius.append(np.average(np.hypot(place[:, 0], place[:, 1]), weights=place[:, 3]))
    assert radius[0] < 20
    assert radius[1] < 1.5 * radius[0]
