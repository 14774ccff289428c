"""Voxel numbering, centres, volumes and neighbours, against slow loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caloforge.detectors import PolarGrid, Readout, load_detector
from caloforge.errors import DetectorError

edges = st.lists(
    st.floats(-100, 100, allow_nan=False).map(lambda v: round(v, 2)), min_size=2, max_size=6, unique=True
).map(sorted)
radii = st.lists(st.floats(0, 100).map(lambda v: round(v, 2)), min_size=2, max_size=6, unique=True).map(sorted)
cartesian = st.fixed_dictionaries({"x_edges": edges, "y_edges": edges})
polar = st.fixed_dictionaries({"r_edges": radii, "alpha": st.integers(1, 7)})
readouts = st.lists(st.one_of(cartesian, polar), min_size=1, max_size=4).map(
    lambda layers: Readout.model_validate({"layers": layers})
)


def slow_voxel(readout: Readout, x: float, y: float, layer: int) -> int:
    """The voxel of one point by looking at every voxel in turn."""
    number = 0
    for k, one in enumerate(readout.layers):
        outer, inner = one.grid.edges
        if isinstance(one.grid, PolarGrid):
            angle = math.atan2(y, x)
            # The sector is computed, not compared with rounded edges, since -pi and +pi are one direction.
            a = int((angle + math.pi) / (2 * math.pi) * one.grid.n_alpha) % one.grid.n_alpha
            b = math.hypot(x, y)
        for i in range(len(outer) - 1):
            for j in range(len(inner) - 1):
                if isinstance(one.grid, PolarGrid):
                    hit = i == a and inner[j] <= b < inner[j + 1]
                else:
                    hit = outer[i] <= x < outer[i + 1] and inner[j] <= y < inner[j + 1]
                if hit and k == layer:
                    return number
                number += 1
    return -1


@settings(max_examples=60, deadline=None)
@given(readout=readouts, data=st.data())
def test_voxel_index_matches_a_slow_loop(readout, data):
    coordinate = st.one_of(
        st.floats(-120, 120),
        st.sampled_from([e for layer in readout.layers for side in layer.grid.edges for e in side]),
    )
    points = data.draw(
        st.lists(st.tuples(coordinate, coordinate, st.integers(-1, readout.n_layers)), min_size=1, max_size=30)
    )
    x, y, layer = (np.array(column) for column in zip(*points, strict=True))
    expected = [slow_voxel(readout, *point) for point in points]
    assert readout.voxel_index(x, y, layer).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(readout=readouts)
def test_every_voxel_holds_its_own_centre(readout):
    x, y, _ = readout.centres().T
    assert np.array_equal(readout.voxel_index(x, y, readout.voxel_layers), np.arange(readout.n_voxels))


@pytest.mark.parametrize("name", ["calogan", "par04-ds2", "ild-ecal/10x10"])
def test_volumes_add_up_to_the_calorimeter(name):
    readout = load_detector(name).readout
    expected = 0.0
    for layer in readout.layers:
        outer, inner = layer.grid.edges
        area = (
            (outer[-1] - outer[0]) * (inner[-1] - inner[0])
            if not isinstance(layer.grid, PolarGrid)
            else math.pi * inner[-1] ** 2
        )
        expected += area * (layer.depth[1] - layer.depth[0])
    assert readout.volumes().sum() == pytest.approx(expected, rel=1e-12)


def slow_neighbours(readout: Readout) -> set[tuple[int, int]]:
    """Pairs of voxels whose closed boxes share a face, by comparing every pair."""
    boxes = []
    for number, layer in enumerate(readout.layers):
        outer, inner = layer.grid.edges
        periodic = isinstance(layer.grid, PolarGrid)
        for i in range(len(outer) - 1):
            boxes += [
                (number, i, j, outer[i], outer[i + 1], inner[j], inner[j + 1], periodic, len(outer) - 1)
                for j in range(len(inner) - 1)
            ]
    pairs = set()
    for a, one in enumerate(boxes):
        for b, two in enumerate(boxes[a + 1 :], a + 1):
            if one[0] == two[0]:
                step = abs(one[1] - two[1])
                if one[7] and one[8] > 2 and step == one[8] - 1:
                    step = 1
                if step + abs(one[2] - two[2]) == 1:
                    pairs.add((a, b))
            elif two[0] == one[0] + 1:
                wide = min(one[4], two[4]) - max(one[3], two[3])
                high = min(one[6], two[6]) - max(one[5], two[5])
                if wide > 1e-9 and high > 1e-9:
                    pairs.add((a, b))
    return pairs


@settings(max_examples=40, deadline=None)
@given(layers=st.one_of(st.lists(cartesian, min_size=1, max_size=3), st.lists(polar, min_size=1, max_size=3)))
def test_neighbours_match_a_slow_loop(layers):
    readout = Readout.model_validate({"layers": layers})
    pairs = readout.neighbours()
    assert len({tuple(p) for p in pairs.tolist()}) == len(pairs)
    assert {tuple(p) for p in pairs.tolist()} == slow_neighbours(readout)


def test_depth_finds_the_layer_and_the_gaps_between():
    readout = load_detector("calogan").readout
    z = [-1.0, 0.0, 89.999, 90.0, 436.9, 437.0, 479.9, 480.0]
    assert readout.layer_of_depth(z).tolist() == [-1, 0, 0, 1, 1, 2, 2, -1]
    silicon = load_detector("ild-ecal").readout
    assert silicon.layer_of_depth([6.0, 6.7, 8.0, 9.8]).tolist() == [-1, 0, -1, 1]


def test_what_a_readout_does_not_know_is_said():
    with pytest.raises(DetectorError, match="depth of its layers"):
        load_detector("ds1-photons").readout.layer_of_depth([1.0])
    with pytest.raises(DetectorError, match="no volume"):
        load_detector("ds1-photons").readout.volumes()
    with pytest.raises(DetectorError, match="made of points"):
        load_detector("ild-ecal/points").readout.voxel_index([0.0], [0.0], [0])
    mixed = Readout.model_validate({"layers": [{"x_edges": [0, 1], "y_edges": [0, 1]}, {"r_edges": [0, 1]}]})
    with pytest.raises(DetectorError, match="mix Cartesian and polar"):
        mixed.neighbours()


def test_published_order_of_calogan_voxels():
    readout = load_detector("calogan").readout
    # First index x (phi), second y (eta): a step in y is the next voxel, a step in x is 96 voxels on.
    base = readout.voxel_index([-239.0], [-239.0], [0])[0]
    assert base == 0
    assert readout.voxel_index([-239.0], [-233.0], [0])[0] == 1
    assert readout.voxel_index([0.0], [-239.0], [0])[0] == 96
    assert readout.voxel_index([0.0], [0.0], [1])[0] == 288 + 6 * 12 + 6


def test_published_order_of_calochallenge_voxels():
    readout = load_detector("par04-ds2").readout
    # alpha starts at -pi and is the outer index, r the inner one.
    assert readout.voxel_index([-1.0], [-1e-3], [0])[0] == 0
    assert readout.voxel_index([-6.0], [-1e-3], [0])[0] == 1
    assert readout.voxel_index([1.0], [1e-3], [44])[0] == 44 * 144 + 8 * 9
