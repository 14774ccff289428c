"""Named features against loops over single cells, on Cartesian, polar and point readouts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from caloforge.detectors import load_detector
from caloforge.evaluation.features import FeatureTable, energy_steps, feature_table
from caloforge.evaluation.observables import cells_as_points
from caloforge.showers import ShowerPoints, Showers


def sparse_showers(name: str, n: int, seed: int) -> Showers:
    """Showers with a few bright and many dark voxels, and the first one empty."""
    readout = load_detector(name).readout
    rng = np.random.default_rng(seed)
    deposits = rng.lognormal(0, 3, (n, readout.n_voxels)) * (rng.random((n, readout.n_voxels)) < 0.1)
    deposits[0] = 0
    return Showers(deposits.astype(np.float32), rng.uniform(1e3, 1e5, n), 22, readout)


def slow_features(cells: ShowerPoints, steps: tuple[float, ...], labels: tuple[str, ...]) -> list[dict[str, float]]:
    """Every feature of every shower from the definition, one cell at a time."""
    found = []
    for k in range(len(cells)):
        points = cells.points[cells.offsets[k] : cells.offsets[k + 1]].astype(np.float64)
        row = {
            "incident-energy": math.log(cells.incident_energy[k]),
            "response": points[:, 3].sum() / cells.incident_energy[k],
        }
        if cells.direction is not None:
            row |= {f"direction-{axis}": float(cells.direction[k, j]) for j, axis in enumerate("xyz")}
        for number, label in enumerate(labels):
            x, y, _, e = points[points[:, 2] == number].T
            row[f"lit/{label}"] = len(e)
            row |= {f"above-{t:g}MeV/{label}": int((e >= t).sum()) for t in steps}
            ranked = [*sorted(e, reverse=True), 0.0, 0.0, 0.0]
            for rank in range(3):
                row[f"brightest-{rank + 1}/{label}"] = ranked[rank] / e.sum() if len(e) else math.nan
            row[f"energy/{label}"] = math.log(e.sum()) if len(e) else math.nan
            for axis, q in (("x", x), ("y", y)):
                mean = (q * e).sum() / e.sum() if len(e) else math.nan
                row[f"{axis}-centroid/{label}"] = mean
                row[f"{axis}-width/{label}"] = math.sqrt((e * (q - mean) ** 2).sum() / e.sum()) if len(e) else math.nan
        found.append(row)
    return found


@pytest.mark.parametrize("name", ["calogan", "ds1-photons"])
def test_features_of_voxels_by_hand(name: str) -> None:
    cells = cells_as_points(sparse_showers(name, 6, 1))
    assert cells.readout is not None
    labels = tuple(layer.label for layer in cells.readout.layers)
    steps = (1.0, 20.0)
    table, expected = feature_table(cells, steps, labels), slow_features(cells, steps, labels)
    assert set(table.names) == set(expected[0])
    assert len(set(table.names)) == len(table.names) == 2 + (9 + len(steps)) * len(labels)
    for column, key in enumerate(table.names):
        # Positions of voxels are float32 in a point; the widths keep its digits even where the layer is narrow.
        assert_allclose(table.values[:, column], [row[key] for row in expected], rtol=1e-9, atol=1e-9, err_msg=key)
    # An empty shower has no layer energies, but counts of nothing.
    assert np.isnan(table.values[0]).sum() == 8 * len(labels)
    assert table.families[-1] == "above-20MeV"


def test_inclined_showers_are_looked_at_along_their_axis() -> None:
    """Mutation: positions that are not relative to the axis."""
    readout = load_detector("ild-ecal").readout
    depth = readout.depths.mean(axis=1)
    direction = np.float32([[0.6, 0, 0.8]])
    layers = np.arange(readout.n_layers)
    points = np.stack([0.75 * depth + 1, np.zeros(len(depth)), layers, np.ones(len(depth))], axis=1).astype(np.float32)
    showers = ShowerPoints(np.array([0, len(points)]), points, np.array([1e4]), 22, readout, direction)
    table = feature_table(showers, (), tuple(map(str, layers)))
    values = dict(zip(table.names, table.values[0], strict=True))
    assert_allclose([values[f"x-centroid/{k}"] for k in layers], 1, atol=1e-4)
    assert values["direction-x"] == pytest.approx(0.6)
    expected = slow_features(replace(showers, points=points - np.float32([1, 0, 0, 0])), (), tuple(map(str, layers)))
    assert values["response"] == pytest.approx(expected[0]["response"])


def test_steps_rise_from_the_threshold_as_far_as_showers_reach() -> None:
    cells = cells_as_points(sparse_showers("calogan", 400, 2))
    steps = energy_steps(cells, 0.1)
    assert steps[:6] == pytest.approx((0.2, 0.4, 0.8, 1.6, 6.4, 25.6))
    brightest = np.maximum.reduceat(cells.points[:, 3], cells.offsets[1:-1])
    assert (brightest >= steps[-1]).mean() >= 0.01 > (brightest >= 4 * steps[-1]).mean()
    # Without a threshold the dust of Geant4 is left out.
    assert energy_steps(cells, 0.0)[0] == pytest.approx(2 * np.quantile(cells.points[:, 3], 0.01))
    assert energy_steps(cells[:1], 0.01) == ()
    assert FeatureTable(("a", "b/0"), np.zeros((1, 2))).families == ("a", "b")
