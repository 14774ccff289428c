"""Distances against analytic values, scipy and slow definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from caloforge.detectors import load_detector
from caloforge.detectors.readout import Axis, LayerGroup, Readout
from caloforge.errors import UsageError
from caloforge.evaluation.distances import (
    chi2,
    compare_correlations,
    compare_observable,
    compare_spectrum,
    expected_separation,
    js_distance,
    js_divergence,
    ks_distance,
    pearson_correlation,
    separation_power,
    wasserstein_distance,
)
from caloforge.evaluation.histograms import (
    Binning,
    adapted_binning,
    calochallenge_binning,
    caloclouds_binning,
    caloflow_binning,
    fill,
    fill_spectrum,
    radial_edges,
    response_binning,
    voxel_energy_binning,
)
from caloforge.evaluation.observables import Observable
from caloforge.random import Streams
from caloforge.showers import Showers

STREAMS = Streams(1, "test")
UNIT = Binning(np.linspace(0, 1, 11))

counts = st.lists(st.integers(0, 50), min_size=3, max_size=3).map(np.asarray)


def observable(values: np.ndarray, family: str = "x", layer: int | None = None) -> Observable:
    return Observable(f"{family}", family, layer, "x", "mm", values)


def test_a_histogram_counts_what_lies_outside() -> None:
    histogram = fill(Binning(np.array([0.0, 1.0, 2.0])), np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 2.1, 9.0]))
    assert histogram.counts.tolist() == [1, 2, 2, 2]  # the upper edge belongs to the last bin
    assert histogram.inside.tolist() == [2, 2]
    assert histogram.total == 7


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=50))
def test_the_bins_inside_agree_with_numpy(values: list[float]) -> None:
    edges = np.array([-1.0, 0.0, 0.5, 2.0])
    assert fill(Binning(edges), np.asarray(values)).inside.tolist() == np.histogram(values, edges)[0].tolist()


def test_edges_must_rise() -> None:
    with pytest.raises(UsageError, match="do not rise"):
        Binning(np.array([0.0, 1.0, 1.0]))


@given(counts, counts)
def test_distances_of_histograms_lie_between_nothing_and_everything(one: np.ndarray, two: np.ndarray) -> None:
    for measure in (separation_power, js_divergence, js_distance):
        value = float(measure(one, two))
        assert 0 <= value <= 1 + 1e-12
        assert value == pytest.approx(float(measure(two, one)), abs=1e-15)
        # The square root of a rounding error is 1e-8.
        assert float(measure(one, 3 * one)) == pytest.approx(0, abs=1e-7)


def test_distances_of_histograms_by_hand() -> None:
    one, two = np.array([1, 3]), np.array([2, 2])
    assert float(separation_power(one, two)) == pytest.approx(0.5 * (1 / 16 / (3 / 4) + 1 / 16 / (5 / 4)))
    assert float(separation_power(np.array([5, 0]), np.array([0, 7]))) == 1
    assert float(js_divergence(np.array([5, 0]), np.array([0, 7]))) == pytest.approx(1)
    scipys = scipy.spatial.distance.jensenshannon(one, two)  # a distance, in nats
    assert math.sqrt(float(js_divergence(one, two, base=math.e))) == pytest.approx(scipys)
    assert float(js_distance(one, two, base=math.e)) == pytest.approx(scipys)


def test_overflow_counts_in_the_separation_power() -> None:
    one, two = fill(UNIT, np.full(100, 0.55)), fill(UNIT, np.r_[np.full(50, 0.55), np.full(50, 7.0)])
    assert float(separation_power(one.inside, two.inside)) == 0  # as published: blind
    assert float(separation_power(one.counts, two.counts)) > 0.1


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_values_against_scipy(shift: float) -> None:
    rng = np.random.default_rng(0)
    # Rounding makes ties, within and between the samples.
    one, two = np.round(rng.normal(size=300), 1), np.round(rng.normal(shift, 1.1, size=200), 1)
    assert ks_distance(one, two) == pytest.approx(scipy.stats.ks_2samp(one, two).statistic, abs=1e-12)
    assert wasserstein_distance(one, two) == pytest.approx(scipy.stats.wasserstein_distance(one, two), abs=1e-12)


def test_a_distance_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one value"):
        ks_distance(np.zeros(0), np.ones(3))


def test_wasserstein_of_a_shift_is_the_shift() -> None:
    values = np.random.default_rng(1).normal(size=1000)
    assert wasserstein_distance(values, values + 0.25) == pytest.approx(0.25)
    assert wasserstein_distance(values, values) == 0


def test_chi2_and_separation_of_equal_truths_match_their_expectation() -> None:
    rng = np.random.default_rng(2)
    squares, powers, expected = [], [], []
    for _ in range(200):
        one, two = rng.multinomial(4000, np.full(20, 0.05)), rng.multinomial(1000, np.full(20, 0.05))
        square, ndf = chi2(one, two)
        squares.append(square / ndf)
        powers.append(float(separation_power(one, two)))
        expected.append(expected_separation(one, two))
    assert ndf == 19
    # Standard errors: sqrt(2/19/200) = 0.023 of the mean.
    assert np.mean(squares) == pytest.approx(1, abs=0.1)
    assert np.mean(powers) / np.mean(expected) == pytest.approx(1, abs=0.1)


def test_a_comparison_sees_a_shift_and_its_errors_are_those_of_repetition() -> None:
    def compare(seed: int, shift: float) -> object:
        rng = np.random.default_rng(seed)
        one, two = observable(rng.normal(0.5 + shift, 0.15, 2000)), observable(rng.normal(0.5, 0.15, 2000))
        return compare_observable(one, two, UNIT, STREAMS, prefix="t")

    shifted = [compare(k, 0.05) for k in range(30)]
    for name in ("separation", "ks", "wasserstein", "js_divergence"):
        values = [getattr(result, name).value for result in shifted]
        errors = [getattr(result, name).error for result in shifted]
        assert np.mean(errors) / np.std(values) == pytest.approx(1, abs=0.45), name
    same = compare(99, 0.0)
    assert same.separation.value < 3 * same.separation_expected  # type: ignore[attr-defined]
    assert shifted[0].separation.value > 5 * shifted[0].separation_expected  # type: ignore[attr-defined]
    assert shifted[0].wasserstein.value == pytest.approx(0.05, abs=0.015)  # type: ignore[attr-defined]
    assert shifted[0].chi2_ndf > 3 > same.chi2_ndf  # type: ignore[attr-defined]
    assert compare(99, 0.0) == same  # seeded


def test_spectra_resample_whole_showers() -> None:
    # Every shower has ten equal voxels, so the spectrum of n showers is as uncertain as n values, not as 10 n.
    readout = Readout(layers=(LayerGroup(x=Axis(bins=10, range=(0, 1)), y=Axis(bins=1, range=(0, 1))),))
    rng = np.random.default_rng(3)
    binning = Binning(np.linspace(0.01, 3, 10))

    def spectrum(n: int) -> tuple[np.ndarray, np.ndarray]:
        energy = rng.uniform(0.1, 2.5, n).astype(np.float32)
        showers = Showers(np.repeat(energy[:, None], 10, axis=1), np.ones(n), 22, readout)
        return energy.astype(np.float64), fill_spectrum(binning, showers)

    (one, rows_one), (two, rows_two) = spectrum(800), spectrum(800)
    assert rows_one.sum() == 8000
    single = compare_observable(observable(one), observable(two), binning, STREAMS, prefix="t")
    many = compare_spectrum(rows_one, rows_two, binning, STREAMS, key="t/voxel-energy", label="E")
    assert many.separation.value == pytest.approx(single.separation.value)
    assert many.separation.error == pytest.approx(single.separation.error, rel=0.5)
    assert many.chi2_ndf is None
    assert many.counts == tuple(10 * n for n in single.counts)
    empty = Showers(np.zeros((2, 10), np.float32), np.ones(2), 22, readout)
    assert fill_spectrum(binning, empty).sum() == 0


def test_correlations() -> None:
    rng = np.random.default_rng(4)
    common = rng.normal(size=5000)
    one = np.stack([common + rng.normal(size=5000), common + rng.normal(size=5000), np.full(5000, 3.0)], axis=1)
    matrix = pearson_correlation(one)
    assert_allclose(matrix[:2, :2], np.corrcoef(one[:, :2].T))
    assert matrix[2].tolist() == [0, 0, 1]
    weights = rng.integers(0, 3, 5000)
    assert_allclose(pearson_correlation(one, weights), pearson_correlation(np.repeat(one, weights, axis=0)))
    shuffled = np.stack([one[:, 0], rng.permutation(one[:, 1]), one[:, 2]], axis=1)
    result = compare_correlations(one, shuffled, ("0", "1", "2"), STREAMS)
    assert result.largest_difference.value == pytest.approx(0.5, abs=0.05)
    assert result.largest_difference.error == pytest.approx(0.0178, rel=0.5)  # sqrt((1 - r^2)^2/N + 1/N)
    assert result.rms_difference.value == pytest.approx(0.5 / math.sqrt(3), abs=0.05)


def test_published_binnings() -> None:
    energies = np.geomspace(2e2, 5e4, 50)
    published = caloflow_binning(observable(energies, "layer-energy", 0), energies)
    assert (published.bins, published.log, published.source) == (99, True, "arXiv:2106.05285")
    assert_allclose(published.edges[[0, -1]], [10.0, 1e5])
    # Pions leave a seventh of their energy in the last layer; the electrons' range would hold none of that.
    fractions = np.random.default_rng(5).uniform(0, 0.5, 500)
    adapted = caloflow_binning(observable(fractions, "layer-fraction", 2), fractions)
    assert adapted.source == "adapted"
    assert adapted.edges[-1] == pytest.approx(0.5, abs=0.01)
    assert caloflow_binning(observable(fractions, "unheard-of"), fractions).source == "adapted"


@pytest.mark.parametrize(
    ("name", "layer", "eta", "width", "r", "r_width"),
    [
        ("par04-ds2", 3, 30, 30, 42, 20),
        ("par04-ds3", 44, 30, 30, 42, 20),
        ("ds1-photons", 1, 100, 100, 500, 500),
        ("ds1-photons", 3, 100, 100, 500, 500),
        ("ds1-pions", 4, 500, 400, 1500, 1500),
        ("ds1-pions", 6, 500, 400, 1500, 1500),
    ],
)
def test_challenge_ranges(name: str, layer: int, eta: float, width: float, r: float, r_width: float) -> None:
    where = load_detector(name).readout.layers[layer]
    values = np.ones(3)
    for family, low, high in (
        ("eta-centre", -eta, eta),
        ("phi-width", 0, width),
        ("r-centre", 0, r),
        ("r-width", 0, r_width),
    ):
        binning = calochallenge_binning(observable(values, family, layer), where, 1.0, values)
        assert binning.bins == 100
        assert binning.edges[[0, -1]].tolist() == [low, high]


def test_challenge_energies() -> None:
    values = np.array([0.0, 2.0, 5000.0])
    binning = calochallenge_binning(observable(values, "layer-energy", 0), None, 1.0, values)
    assert binning.bins == 39
    assert binning.edges[[0, -1]].tolist() == [1.0, 5000.0]
    assert fill(binning, values).counts[[0, -1]].tolist() == [1, 0]
    assert calochallenge_binning(observable(values, "response"), None, 1.0, values).bins == 100
    assert calochallenge_binning(observable(values, "empty-fraction", 0), None, 1.0, values).bins == 20
    with pytest.raises(UsageError, match="no published"):
        calochallenge_binning(observable(values, "eta-centre"), None, 1.0, values)
    assert response_binning(3, 22).edges[0] == 0.4
    assert response_binning(4, 22).edges[0] == 0.9
    assert response_binning(4, 211).edges[0] == 0.4


def test_other_binnings() -> None:
    assert_allclose(radial_edges(5.0, 17.0), [0, 2.5, 7.5, 12.5, 17.5])
    assert caloclouds_binning(observable(np.ones(3), "hit-count"), np.full(5, 200.0)).bins == 50
    constant = adapted_binning(np.full(5, 7.0))
    assert fill(constant, np.full(5, 7.0)).inside.sum() == 5
    assert adapted_binning(np.geomspace(1, 1e6, 1000)).log
    with pytest.raises(UsageError, match="no values"):
        adapted_binning(np.zeros(0))
    readout = Readout(layers=(LayerGroup(x=Axis(bins=2, range=(0, 1)), y=Axis(bins=1, range=(0, 1))),))
    showers = Showers(np.array([[0.5, 40.0]], np.float32), np.ones(1), 22, readout)
    spectrum = voxel_energy_binning(showers, 0.1)
    assert spectrum.bins == 49
    assert_allclose(spectrum.edges[[0, -1]], [0.1, 40.0])
    assert voxel_energy_binning(showers, 0.0).edges[0] == pytest.approx(0.5)
