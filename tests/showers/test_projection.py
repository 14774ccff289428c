"""Placing points into cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caloforge.detectors import load_detector
from caloforge.errors import DetectorError, UsageError
from caloforge.showers import ShowerPoints, create_showers, open_showers, voxelise
from caloforge.showers.convert import MergePoints, PlacePoints, convert
from caloforge.showers.projection import (
    IdealGrid,
    cell_order,
    cell_order_reference,
    cell_pitch,
    load_cell_map,
    project,
)

MAP = """
[[layers]]
repeat = 4
x = { cells = 6, pitch = 5.0, start = -16.0, group = 3, gap = 2.0 }
y = { cells = 6, pitch = 5.0, start = -15.0 }
shifts = [[0.0, 0.0], [2.5, 0.0]]
"""


def showers(n: int = 5, each: int = 300) -> ShowerPoints:
    generator = np.random.default_rng(2)
    points = np.zeros((n * each, 4), dtype=np.float32)
    points[:, :2] = generator.normal(0, 6, (n * each, 2))
    points[:, 2] = generator.integers(0, 4, n * each)
    points[:, 3] = generator.exponential(0.1, n * each)
    readout = load_detector("ild-ecal").readout
    return ShowerPoints(np.arange(n + 1) * each, points, np.full(n, 1e4), 22, readout)


def test_the_ideal_grid_keeps_all_energy_and_agrees_with_the_voxels_of_the_readout() -> None:
    points = showers()
    readout = load_detector("ild-ecal").readout
    pitch = cell_pitch(readout)
    assert pitch == pytest.approx((5.0883331298828125,) * 2, rel=1e-6)
    corner = readout.layers[0].grid.x_edges[0]  # type: ignore[union-attr]
    placed = project(points, IdealGrid(pitch, (corner, corner)))
    assert np.allclose(placed.cells.total_energy(), points.total_energy(), rtol=1e-6)
    assert not placed.in_gaps.any()
    again = voxelise(placed.cells, readout)
    assert np.allclose(again.deposits, voxelise(points, readout).deposits, rtol=1e-5)
    assert (again.deposits > 0).sum() == len(placed.cells.points)


def test_a_cut_darkens_cells_and_says_how_much_that_was() -> None:
    points = showers()
    placed = project(points, IdealGrid((5.0, 5.0)), cut=0.3)
    assert placed.cells.points[:, 3].min() >= 0.3
    assert (placed.below_cut > 0).all()
    assert np.allclose(placed.cells.total_energy() + placed.below_cut, points.total_energy(), rtol=1e-6)


def test_gaps_swallow_energy_and_layers_are_staggered(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text(MAP)
    cells = load_cell_map(path)
    assert cells.n_layers == 4
    # Layer 0 has its gap at -1 .. 1 mm, layer 1 at 1.5 .. 3.5 mm; layer 9 does not exist.
    table = [
        [0.0, 1, 0, 1.0],
        [1.2, 1, 0, 2.0],
        [0.0, 1, 1, 4.0],
        [2.0, 1, 1, 8.0],
        [0.0, 1, 9, 16.0],
        [90, 1, 0, 32.0],
    ]
    points = ShowerPoints(np.array([0, 6]), np.asarray(table, dtype=np.float32), np.array([1e4]), 22)
    placed = project(points, cells)
    assert placed.in_gaps.tolist() == [1 + 8 + 16 + 32]
    assert np.allclose(placed.cells.points, [[3.5, 2.5, 0, 2.0], [-1.0, 2.5, 1, 4.0]])


def test_the_entry_point_moves_the_cells_under_the_shower() -> None:
    points = showers(n=2)
    entry = np.array([[0.0, 0.0], [2.0, -1.0]])
    placed = project(points, IdealGrid((5.0, 5.0)), entry=entry)
    corners = (placed.cells.points[:, :2] + entry[placed.cells.shower_index]) / 5.0
    assert np.allclose(corners % 1, 0.5, atol=1e-4)
    with pytest.raises(UsageError, match="entry points"):
        project(points, IdealGrid((5.0, 5.0)), entry=entry[:1])


def test_nothing_is_placed_for_showers_without_points() -> None:
    empty = ShowerPoints(np.zeros(3, np.int64), np.zeros((0, 4), np.float32), np.full(2, 1e4), 22)
    assert project(empty, IdealGrid((5.0, 5.0)), cut=0.1).cells.offsets.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("layers = 3", "at 'layers'"), (MAP.replace("gap", "gaap"), "'layers.*gaap' is not known"), ("[[", "not TOML")],
)
def test_a_wrong_map_is_refused_by_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(DetectorError, match=message):
        load_cell_map(path)
    with pytest.raises(DetectorError, match="there is no such file"):
        load_cell_map(tmp_path / "none.toml")


def test_only_equal_cartesian_cells_have_a_pitch() -> None:
    for name in ("calogan", "par04-ds2"):
        with pytest.raises(UsageError, match="must be given"):
            cell_pitch(load_detector(name).readout)


def test_files_are_merged_and_placed_by_convert(tmp_path: Path) -> None:
    detector = load_detector("ild-ecal")
    raw = tmp_path / "raw.h5"
    with create_showers(raw, detector=detector, particle="gamma", kind="points", provenance={}, expected=5) as writer:
        writer.write(showers())
    pitch = cell_pitch(detector.readout)
    done = convert(raw, tmp_path / "merged.h5", change=MergePoints(pitch, 6, seed=4))
    assert done.left_out == 0
    with open_showers(tmp_path / "merged.h5") as reader:
        merged = reader.read()
        assert isinstance(merged, ShowerPoints)
        assert reader.provenance["converted"]["sub_cells_per_cell"] == 36
    assert np.allclose(merged.total_energy(), showers().total_energy(), rtol=1e-5)
    placed = convert(tmp_path / "merged.h5", tmp_path / "cells.h5", change=PlacePoints(IdealGrid(pitch), "ideal", 0.1))
    assert 0 < placed.left_out < placed.energy
    assert placed.energy + placed.left_out == pytest.approx(float(showers().total_energy().sum()), rel=1e-5)
    with pytest.raises(UsageError, match="only points"):
        convert(raw, tmp_path / "x.h5", kind="voxels", change=MergePoints(pitch, 6))


@pytest.mark.parametrize("spread", [1, 30, 10**17])
@pytest.mark.parametrize("points", [0, 1, 2000])
def test_cells_are_ordered_alike_by_one_number_and_by_four(points: int, spread: int) -> None:
    generator = np.random.default_rng(spread)
    numbers = [generator.integers(-3, 4, points) * spread // k for k in (1, 2, 3, 4)]
    for fast, slow in zip(cell_order(*numbers), cell_order_reference(*numbers), strict=True):
        assert np.array_equal(fast, slow)
