"""Energy spectra, particles, directions and the random streams under them."""

import math

import numpy as np
import pytest
from scipy import stats

from caloforge.detectors import AngularRange, EnergySpectrum, load_detector, particle_id, particle_mass, particle_name
from caloforge.errors import UsageError
from caloforge.random import Streams

ROWS = np.arange(4000)


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("50", "fixed", (50_000.0,)),
        ("5,10,20", "discrete", (5000.0, 10_000.0, 20_000.0)),
        ("1:100", "uniform", (1000.0, 100_000.0)),
        ("1:1000:log", "log-uniform", (1000.0, 1_000_000.0)),
        ("10:100:30", "steps", (10_000.0, 40_000.0, 70_000.0, 100_000.0)),
        ("0.1:0.7:0.2", "steps", tuple(np.linspace(100, 700, 4))),
    ],
)
def test_spectrum_text(text, kind, values):
    spectrum = EnergySpectrum.parse(text)
    assert (spectrum.kind, spectrum.values) == (kind, values)
    assert EnergySpectrum.parse(spectrum.text()) == spectrum


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1:2:lin",
        "1:2:3:4",
        "5:1",
        "0",
        "-1:3",
        "nan",
        "1:inf",
        "1,2:3",
        "5:5",
        "10:100:7",
        "1:2:0",
        "1:2:5",
        "1:2:-1",
        "1:2:1e-9",
        "1:2:x",
        "1:2,3:1",
    ],
)
def test_bad_spectra(text):
    with pytest.raises(UsageError):
        EnergySpectrum.parse(text)


def test_sampled_energies_follow_the_spectrum():
    streams = Streams(3, "energy")
    uniform = EnergySpectrum.parse("1:100").sample(streams, ROWS)
    assert stats.kstest(uniform, stats.uniform(1000, 99_000).cdf).pvalue > 1e-3
    log = EnergySpectrum.parse("1:1000:log").sample(streams, ROWS)
    assert stats.kstest(np.log(log / 1000), stats.uniform(0, math.log(1000)).cdf).pvalue > 1e-3
    discrete = EnergySpectrum.parse("5,10,20").sample(streams, ROWS)
    counts = np.unique(discrete, return_counts=True)[1]
    assert stats.chisquare(counts).pvalue > 1e-3
    steps = EnergySpectrum.parse("10:100:10").sample(streams, ROWS)
    assert steps[:12].tolist() == [1e4, 2e4, 3e4, 4e4, 5e4, 6e4, 7e4, 8e4, 9e4, 1e5, 1e4, 2e4]
    assert np.unique(steps, return_counts=True)[1].tolist() == [400] * 10
    assert set(EnergySpectrum.parse("7").sample(streams, ROWS)) == {7000.0}


def test_draws_depend_on_the_shower_and_on_nothing_else():
    streams = Streams(5, "x")
    together = streams.normal(ROWS, 7)
    assert np.array_equal(together[[3, 900]], streams.normal(np.array([3, 900]), 7))
    assert np.array_equal(together[11], streams.generator(11).standard_normal(7, dtype=np.float32))
    assert not np.array_equal(together[:1], streams.normal(ROWS[:1], 7, counters=1))
    for other in (Streams(6, "x"), Streams(5, "y"), streams.child("x")):
        assert not np.array_equal(other.normal(ROWS[:5], 7), together[:5])
    assert stats.kstest(together.ravel(), stats.norm.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(together[:-1, 0], together[1:, 0])[0, 1]) < 0.06
    with pytest.raises(UsageError):
        Streams(-1, "x")


@pytest.mark.parametrize(
    ("name", "pdg"),
    [("gamma", 22), ("photon", 22), ("e+", -11), ("e-", 11), ("pi+", 211), ("pi-", -211), ("proton", 2212), ("p+", 2212),
     ("211", 211), ("-11", -11), (22, 22),
     ("pi0", 111), ("K0S", 310), ("K_S0", 310)],
)  # fmt: skip
def test_particles(name, pdg):
    assert particle_id(name) == pdg
    assert particle_id(particle_name(pdg)) == pdg


def test_masses_and_unknown_particles():
    assert particle_mass(11) == pytest.approx(0.511, abs=1e-3)
    assert particle_mass(22) == 0.0
    for name in ("photino", "", "99999999", "--1"):
        with pytest.raises(UsageError):
            particle_id(name)


def test_directions():
    gun = load_detector("ild-ecal").gun
    fixed = gun.sample_directions("fixed", Streams(1, "d"), ROWS[:3])
    assert fixed.tolist() == [[0.0, 0.0, 1.0]] * 3
    random = gun.sample_directions("angles", Streams(1, "d"), ROWS)
    assert np.allclose(np.linalg.norm(random, axis=1), 1)
    theta = np.degrees(np.arccos(random[:, 0]))
    phi = np.degrees(np.arctan2(random[:, 2], random[:, 1]))
    assert stats.kstest(theta, stats.uniform(45, 90).cdf).pvalue > 1e-3
    assert stats.kstest(phi, stats.uniform(79, 30).cdf).pvalue > 1e-3
    with pytest.raises(UsageError, match="fixed direction"):
        load_detector("calogan").gun.sample_directions("random", Streams(1, "d"), ROWS)


@pytest.mark.parametrize("angles", [((45.0, 135.0), (79.0, 109.0)), ((60.0, 100.0), (5.0, 60.0))])
def test_an_even_density_on_the_barrel_is_even_on_its_face(angles):
    # Fails with angles that are even: the density at the ends of the segment is then 0.6 of that in the middle.
    span = AngularRange(theta=angles[0], phi=angles[1])
    u = np.random.default_rng(0).random((40_000, 2))
    direction = span.sample(u, "barrel")
    assert np.allclose(np.linalg.norm(direction, axis=1), 1)
    x, y = (direction[:, :2] / direction[:, 2:]).T  # on a face at distance 1
    theta, phi = np.radians(angles[0]), np.radians(angles[1])
    low, high = 1 / np.tan(phi[1]), 1 / np.tan(phi[0])
    assert low <= y.min() < y.max() <= high
    assert np.abs(np.degrees(np.arccos(direction[:, 0])) - np.mean(angles[0])).max() <= np.ptp(angles[0]) / 2
    # Boxes in x and y that lie inside the segment hold as many as their area says.
    columns = np.linspace(1 / np.tan(theta[1]), 1 / np.tan(theta[0]), 9)
    rows = np.linspace(low, high, 7)
    counts = np.histogram2d(x, y, [columns, rows])[0]
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    edge = np.hypot(1, y)  # the segment reaches further in x where y is far from the middle
    assert np.all((x <= columns[-1] * edge + 1e-12) & (x >= columns[0] * edge - 1e-12))


def test_random_means_what_the_gun_says():
    gun = load_detector("ild-ecal").gun
    assert gun.density_of("fixed") is None
    even = gun.model_copy(update={"directions": AngularRange(theta=(45, 135), phi=(79, 109), density="barrel")})
    assert even.density_of("random") == "barrel"
    assert even.density_of("angles") == "angles"
    one, two = (even.sample_directions(mode, Streams(1, "d"), ROWS) for mode in ("random", "barrel"))
    assert np.array_equal(one, two)
    with pytest.raises(UsageError, match="fixed direction"):
        load_detector("calogan").gun.density_of("barrel")
