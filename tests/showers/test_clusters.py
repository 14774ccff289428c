"""Merging deposits in sub-cells."""

from __future__ import annotations

import numpy as np
import pytest

from caloforge.errors import UsageError
from caloforge.random import Streams
from caloforge.showers import ShowerPoints
from caloforge.showers.clusters import Position, merge_in_subcells

PITCH = (5.0, 4.0)
STREAMS = Streams(3, "test")


def deposits(n: int = 6, each: int = 800, columns: int = 4) -> ShowerPoints:
    generator = np.random.default_rng(1)
    points = np.zeros((n * each, columns), dtype=np.float32)
    points[:, :2] = generator.normal(0, 6, (n * each, 2))
    points[:, 2] = generator.integers(0, 3, n * each)
    points[:, 3] = generator.exponential(0.2, n * each)
    if columns == 5:
        points[:, 4] = generator.random(n * each)
    return ShowerPoints(np.arange(n + 1) * each, points, np.full(n, 1e4), 22)


@pytest.mark.parametrize("position", ["highest", "centre"])
def test_energy_of_every_layer_is_kept_and_points_are_in_order(position: Position) -> None:
    showers = deposits()
    merged = merge_in_subcells(showers, PITCH, 6, STREAMS, position=position)
    assert len(merged.points) < len(showers.points)
    for k in range(len(showers)):
        before = showers.points[showers.offsets[k] : showers.offsets[k + 1]]
        after = merged.points[merged.offsets[k] : merged.offsets[k + 1]]
        assert (np.diff(after[:, 2]) >= 0).all()
        for layer in range(3):
            assert after[after[:, 2] == layer, 3].sum() == pytest.approx(
                before[before[:, 2] == layer, 3].sum(), rel=1e-5
            )


def test_no_two_points_share_a_sub_cell_and_each_is_its_highest_deposit() -> None:
    showers = deposits()
    merged = merge_in_subcells(showers, PITCH, 6, STREAMS)
    width = np.asarray(PITCH) / 6
    shift = STREAMS.uniform(np.arange(len(showers)), 2) * width
    keys = np.floor((merged.points[:, :2] - shift[merged.shower_index]) / width)
    whole = np.column_stack([merged.shower_index, merged.points[:, 2], keys])
    assert len(np.unique(whole, axis=0)) == len(whole)
    raw_keys = np.floor((showers.points[:, :2] - shift[showers.shower_index]) / width)
    raw = np.column_stack([showers.shower_index, showers.points[:, 2], raw_keys])
    for point, key in list(zip(merged.points, whole, strict=True))[::97]:
        inside = showers.points[(raw == key).all(axis=1)]
        assert np.array_equal(point[:2], inside[inside[:, 3].argmax(), :2])


def test_centres_lie_on_a_grid_that_is_shifted_for_every_shower() -> None:
    merged = merge_in_subcells(deposits(), PITCH, 5, STREAMS, position="centre")
    width = np.asarray(PITCH) / 5
    phases = set()
    for k in range(len(merged)):
        x = merged.points[merged.offsets[k] : merged.offsets[k + 1], 0] / width[0]
        assert np.ptp((x - x[0] + 0.5) % 1) < 1e-4
        phases.add(round(float(x[0] % 1), 4))
    assert len(phases) == len(merged)


def test_blocks_give_the_same_as_the_whole() -> None:
    showers = deposits()
    whole = merge_in_subcells(showers, PITCH, 6, STREAMS)
    part = merge_in_subcells(showers[2:5], PITCH, 6, STREAMS, first_row=2)
    assert np.array_equal(part.points, whole[2:5].points)


def test_the_time_is_that_of_the_highest_deposit() -> None:
    points = np.array([[0.1, 0.1, 0, 1.0, 7.0], [0.11, 0.1, 0, 2.0, 9.0]], dtype=np.float32)
    merged = merge_in_subcells(ShowerPoints(np.array([0, 2]), points, np.array([1e4]), 22), (500.0, 500.0), 1, STREAMS)
    assert np.allclose(merged.points, [[0.11, 0.1, 0, 3.0, 9.0]])


def test_empty_showers_stay_and_points_without_energy_go() -> None:
    points = np.array([[0, 0, 0, 0.0], [9, 9, 0, 1.0]], dtype=np.float32)
    merged = merge_in_subcells(ShowerPoints(np.array([0, 0, 2, 2]), points, np.full(3, 1e4), 22), PITCH, 6, STREAMS)
    assert merged.offsets.tolist() == [0, 0, 1, 1]
    nothing = ShowerPoints(np.array([0, 0]), points[:0], np.array([1e4]), 22)
    assert merge_in_subcells(nothing, PITCH, 6, STREAMS).offsets.tolist() == [0, 0]


def test_impossible_sub_cells_are_refused() -> None:
    with pytest.raises(UsageError, match="positive pitch"):
        merge_in_subcells(deposits(), PITCH, 0, STREAMS)
