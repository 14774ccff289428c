"""Di-photon separation: CLUE against the authors' implementation, blobs at known distances, and Geant4's photons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cloud_samples import DEPTHS, DETECTOR, PITCH, real_showers, shower_points, toy_showers
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.evaluation.clue import ClueSettings, clue
from caloforge.evaluation.diphotons import (
    CellRows,
    PhotonFinder,
    compare_diphotons,
    count_photons,
    numbered_cells,
    overlay,
)
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, voxelise

STREAMS = Streams(1, "diphotons")


def test_clue_agrees_with_the_authors_implementation_point_by_point() -> None:
    """Overlaid Geant4 photons in two dimensions and one in three, clustered by CLUEstering 1.4.0 (coordinates as given)."""
    with np.load(Path(__file__).parent / "clue_reference.npz") as file:
        names = sorted({key.split("_")[0] for key in file.files})
        found = 0
        for name in names:
            distance, density, reach = map(float, file[f"{name}_set"])
            places, energy = (file[f"{name}_{k}"].astype(np.float64) for k in ("places", "energy"))
            event = np.zeros(len(energy), dtype=np.int64)
            labels = clue(places, energy, event, ClueSettings(distance, density, reach))
            assert_array_equal(labels, file[f"{name}_labels"])
            found += labels.max() + 1
    assert found == 12


def test_clue_worked_out_by_hand() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0, 7.0, 8.0, 20.0])
    energy = np.array([1.0, 5.0, 1.0, 1.0, 4.0, 3.0, 1.0])
    event = np.zeros(7, dtype=np.int64)
    # Densities 3.5, 6, 4, 1.5, 5.5, 5, 1: seeds are 1 and 4; 3 follows 2, 6 is alone.
    labels = clue(x[:, None], energy, event, ClueSettings(1.0, 2.0, 3.0))
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, -1]
    assert clue(x[:, None], energy, event, ClueSettings(1.0, 5.8, 3.0)).tolist() == [0, 0, 0, 0, -1, -1, -1]
    assert clue(x[:0, None], energy[:0], event[:0], ClueSettings(1.0, 2.0, 3.0)).tolist() == []
    with pytest.raises(UsageError, match="0 < distance <= reach"):
        ClueSettings(3.0, 1.0, 2.0)


def test_clue_treats_every_event_for_itself() -> None:
    rng = np.random.default_rng(1)
    sizes = [40, 1, 60]
    places = [rng.normal(0, 4, (n, 2)) for n in sizes]
    energies = [rng.random(n) for n in sizes]
    alone = [
        clue(p, e, np.zeros(len(e), dtype=np.int64), ClueSettings(1.5, 1.0, 3.0))
        for p, e in zip(places, energies, strict=True)
    ]
    together = clue(
        np.concatenate(places), np.concatenate(energies), np.repeat([0, 1, 4], sizes),
        ClueSettings(1.5, np.array([1.0, 1.0, 9, 9, 1.0]), 3.0),
    )  # fmt: skip
    start = 0
    for labels in alone:
        own = together[start : start + len(labels)]
        first = own[own >= 0].min() if (own >= 0).any() else 0
        assert_array_equal(np.where(own >= 0, own - first, -1), labels)
        start += len(labels)


def blob(x: int, y: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A round blob of cells that falls off like a shower."""
    i, j = np.meshgrid(np.arange(-6, 7), np.arange(-6, 7), indexing="ij")
    place = np.stack([i.ravel() + x, j.ravel() + y, np.full(i.size, 7)], axis=1)
    return place, 100 * np.exp(-np.hypot(i, j).ravel())


@pytest.mark.parametrize(("distance", "photons"), [(0, 1), (1, 1), (4, 2), (17, 2)])
def test_blobs_at_known_distances(distance: int, photons: int) -> None:
    for dx, dy in ((distance, 0), (0, -distance)):
        parts = [blob(0, 0), blob(dx, dy)]
        rows = [CellRows(np.zeros(len(e), dtype=np.int64), p, e) for p, e in parts]
        both = overlay(rows[0], rows[1], np.zeros((1, 2), dtype=np.int64), 0.0)
        assert both.energy.sum() == pytest.approx(2 * parts[0][1].sum())
        assert count_photons(both, 1).tolist() == [photons]


def test_energies_add_up_before_the_cut() -> None:
    zero = np.zeros(2, dtype=np.int64)
    one = CellRows(zero, np.array([[0, 0, 1], [5, 0, 1]]), np.array([0.06, 0.06]))
    event = overlay(one, one, np.array([[0, 0]]), 0.1)
    assert_allclose(event.energy, [0.12, 0.12])
    event = overlay(one, one, np.array([[5, 0]]), 0.1)
    assert event.place.tolist() == [[5, 0, 1]]
    assert count_photons(CellRows(zero[:0], one.place[:0], one.energy[:0]), 2).tolist() == [0, 0]


def test_a_weak_cluster_is_no_photon() -> None:
    strong, weak = blob(0, 0), blob(12, 0)
    place, energy = np.concatenate([strong[0], weak[0]]), np.concatenate([strong[1], 0.05 * weak[1]])
    rows = CellRows(np.zeros(len(energy), dtype=np.int64), place, energy)
    assert count_photons(rows, 1).tolist() == [1]
    assert count_photons(rows, 1, PhotonFinder(density=0.01, share=0.01)).tolist() == [2]


def test_inclined_showers_are_followed_by_whole_cells() -> None:
    slope = np.array([0.4, -0.3])
    direction = np.array([[*slope, 1.0]]) / np.linalg.norm([*slope, 1.0])
    points = np.column_stack([DEPTHS[:, None] * slope, np.arange(30), np.ones(30)])
    showers = shower_points([points], np.array([10e3]), direction)
    cells, entry = numbered_cells(showers, DETECTOR, STREAMS)
    assert ((entry >= 0) & (entry < 1)).all()
    assert np.ptp(cells.place[:, :2], axis=0).max() <= 2  # two roundings of half a cell
    assert cells.place[:, 2].tolist() == list(range(30))
    on_voxels, where = numbered_cells(voxelise(toy_showers(3, 1), DETECTOR.readout), DETECTOR, STREAMS)
    assert not where.any()
    assert on_voxels.energy.sum() == pytest.approx(toy_showers(3, 1).points[:, 3].sum(), rel=1e-5)


def test_identical_samples_have_identical_curves() -> None:
    toys = toy_showers(60, 2, energies=(10e3,))
    result = compare_diphotons(toys, toys, DETECTOR, STREAMS)
    (curve,) = result.curves
    assert curve.pairs == (30, 30)
    assert [v.value for v in curve.generated] == [v.value for v in curve.reference]
    assert curve.largest_difference.value == curve.mean_difference.value == 0
    assert result.settings["CLUE distance [cells]"] == 1.5


def test_a_generator_of_wide_showers_is_found_out() -> None:
    def narrow(width: float, seed: int) -> ShowerPoints:
        rng = np.random.default_rng(seed)
        made = []
        for _ in range(60):
            layer = rng.integers(5, 20, 400)
            made.append(np.column_stack([rng.normal(0, width, (400, 2)), layer, np.full(400, 1.0)]))
        return shower_points(made, np.full(60, 10e3))

    same = compare_diphotons(narrow(5, 1), narrow(5, 2), DETECTOR, STREAMS).curves[0]
    wide = compare_diphotons(narrow(9, 3), narrow(5, 2), DETECTOR, STREAMS).curves[0]
    assert same.largest_difference.value < 4 * same.largest_difference.error + 0.05
    assert wide.largest_difference.value > 0.4
    # Both see one photon at the same place and two far apart.
    assert wide.reference[0].value == 1
    assert wide.reference[-1].value == 2


def test_what_cannot_be_reconstructed() -> None:
    toys = toy_showers(30, 1)
    with pytest.raises(UsageError, match="20 showers of about one energy"):
        compare_diphotons(toys, toys, DETECTOR, STREAMS)
    detector = load_detector("calogan")
    with pytest.raises(UsageError, match="equal Cartesian cells"):
        compare_diphotons(replace(toys, readout=None), toys, detector, STREAMS)


@pytest.mark.parametrize("inclined", [False, True])
def test_real_photons(inclined: bool) -> None:
    """One photon is found as one, two at the same place as one, two that are far apart as two."""
    showers = real_showers(inclined)
    n = len(showers)
    cells, _ = numbered_cells(showers, DETECTOR, STREAMS)
    alone = cells.of(np.arange(n))
    nothing = CellRows(alone.event[:0], alone.place[:0], alone.energy[:0])
    still = np.zeros((n, 2), dtype=np.int64)
    cut = DETECTOR.analysis_threshold
    assert count_photons(overlay(alone, nothing, still, cut), n).mean() == pytest.approx(1, abs=0.07)
    other = cells.of(np.roll(np.arange(n), 1))
    assert count_photons(overlay(alone, other, still, cut), n).mean() == pytest.approx(1, abs=0.2)
    far = np.tile([round(60 / PITCH), 0], (n, 1))
    assert count_photons(overlay(alone, other, far, cut), n).mean() == pytest.approx(2, abs=0.2)
