"""Signs of mode collapse on showers that have or have not collapsed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from caloforge.detectors.readout import Axis, LayerGroup, Readout
from caloforge.evaluation.collapse import average_images, lit_voxels, nearest_neighbours, neighbour_groups
from caloforge.random import Streams
from caloforge.showers import Showers

READOUT = Readout(layers=(LayerGroup(x=Axis(bins=5, range=(0, 1)), y=Axis(bins=4, range=(0, 1))),))
STREAMS = Streams(1, "t")


def showers(n: int, seed: int, energy: float | None = None) -> Showers:
    rng = np.random.default_rng(seed)
    incident = rng.uniform(1e3, 1e5, n) if energy is None else np.full(n, energy)
    deposits = rng.exponential(size=(n, 20)) * (rng.random((n, 20)) < np.linspace(0.05, 0.9, 20))
    return Showers((deposits * incident[:, None] / 20).astype(np.float32), incident, 22, READOUT)


def changed(original: Showers, voxel: int, values: np.ndarray | float) -> Showers:
    deposits = original.deposits.copy()
    deposits[:, voxel] = values
    return Showers(deposits, original.incident_energy, 22, READOUT)


def test_images_are_means() -> None:
    one, two = showers(10, 1), showers(20, 2)
    images = average_images(one, two)
    assert_allclose(images.generated, one.deposits.mean(axis=0), rtol=1e-5)
    assert_allclose(images.reference, two.deposits.mean(axis=0), rtol=1e-5)


def test_voxels_lit_never_rarely_and_too_often() -> None:
    reference, generated = showers(3000, 3), showers(3000, 4)
    clean = lit_voxels(generated, reference)
    assert clean.never_lit == clean.under_lit == clean.over_lit == ()
    # Voxel 0 is lit by 150 of 3,000 showers: with 30 showers nobody would notice its death.
    assert lit_voxels(changed(generated, 0, 0.0), reference).never_lit == (0,)
    assert lit_voxels(changed(generated[:30], 0, 0.0), reference).never_lit == ()
    half = generated.deposits[:, 19] * (np.arange(3000) % 2)
    damaged = lit_voxels(changed(changed(generated, 19, half), 0, 1.0), reference)
    assert damaged.under_lit == (19,)
    assert damaged.over_lit == (0,)


@pytest.mark.parametrize("same", [False, True])
def test_neighbours_against_all_pairs(same: bool) -> None:
    targets = showers(25, 5).deposits
    candidates = targets if same else showers(30, 6).deposits
    index, distance = nearest_neighbours(targets, candidates, exclude_same_row=same)
    for k, target in enumerate(targets):
        every = np.linalg.norm(candidates.astype(float) - target, axis=1)
        if same:
            every[k] = np.inf
        assert index[k] == every.argmin()
        assert distance[k] == pytest.approx(every.min())


def test_neighbours_at_the_energies_of_the_paper() -> None:
    reference, generated = showers(5000, 7), showers(4000, 8)
    groups = neighbour_groups(generated, reference, streams=STREAMS)
    assert [g.energy for g in groups] == [5e3, 1e4, 2e4, 5e4, 9.5e4]
    for group in groups:
        assert group.how == "window"
        assert abs(group.example.energy / group.energy - 1) <= 0.02
        assert abs(group.example.neighbour_energy / group.energy - 1) <= 0.02
    assert groups[0].reference_distance is None  # 5 targets have too few neighbours among themselves
    # Few showers lie within 2 % of 5 GeV, so the large energies tell more.
    assert groups[-1].matched_distance == pytest.approx(groups[-1].reference_distance, rel=0.2)
    assert groups == neighbour_groups(generated, reference, streams=STREAMS)


def test_a_sampler_is_asked_for_two_thousand_showers() -> None:
    asked = []

    def sampler(energy: float, count: int) -> Showers:
        asked.append((energy, count))
        return showers(count, 9, energy)

    groups = neighbour_groups(showers(10, 1), showers(3000, 10), energies=(5e4,), sampler=sampler, streams=STREAMS)
    assert asked == [(5e4, 2000)]
    assert groups[0].how == "sampled"
    assert groups[0].candidates == 2000
    assert groups[0].median_distance < groups[0].matched_distance


def test_a_collapsed_generator_repeats_itself_far_away() -> None:
    reference = showers(4000, 11)
    one = showers(1, 12, 5e4)
    collapsed = Showers(np.repeat(one.deposits, 200, axis=0), np.full(200, 5e4), 22, READOUT)
    group = neighbour_groups(collapsed, reference, energies=(5e4,), streams=STREAMS)[0]
    assert group.repeated == group.targets
    assert group.matched_distance > 1.3 * group.reference_distance


def test_other_spectra_get_energies_of_their_own() -> None:
    reference = Showers(showers(300, 1).deposits, np.repeat([256e3, 512e3, 1024e3], 100), 22, READOUT)
    groups = neighbour_groups(reference, reference, streams=STREAMS)
    assert {g.energy for g in groups} <= {256e3, 512e3, 1024e3}
    assert all(g.median_distance == 0 for g in groups)  # compared with itself
