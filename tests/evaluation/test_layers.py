"""Mean energy and lit cells of each layer, with their errors."""

from __future__ import annotations

import numpy as np
import pytest

from caloforge.detectors import load_detector
from caloforge.evaluation.layers import compare_layers, largest_deviation
from caloforge.evaluation.observables import cells_as_points
from caloforge.showers import Showers

READOUT = load_detector("calogan").readout
LABELS = tuple(layer.label for layer in READOUT.layers)


def sample(seed: int, n: int = 400, *, uniform: bool = False, trend: float = 0.0) -> Showers:
    """Showers whose layers hold shares of the incident energy that fluctuate by 30 %, in a random tenth of the voxels.

    Incident energies of 1 to 100 GeV are uniform or log-uniform; the share of the first layer falls with their logarithm.
    """
    rng = np.random.default_rng(seed)
    incident = rng.uniform(1e3, 1e5, n) if uniform else np.exp(rng.uniform(np.log(1e3), np.log(1e5), n))
    deposits = np.zeros((n, READOUT.n_voxels), np.float32)
    for where, share in zip(READOUT.layer_slices, (0.2, 0.795, 0.005), strict=True):
        width = where.stop - where.start
        weights = rng.random((n, width)) * (rng.random((n, width)) < 0.1)
        weights[:, 0] += 0.01
        energy = share * incident * rng.normal(1, 0.3, n).clip(0.1)
        if where.start == 0:
            energy *= 1 - trend * np.log(incident / 1e4)
        deposits[:, where] = weights * (energy / weights.sum(axis=1))[:, None]
    return Showers(deposits, incident, 22, READOUT)


def test_a_layer_that_is_too_bright_is_found_exactly() -> None:
    reference = sample(1)
    deposits = reference.deposits.copy()
    deposits[:, READOUT.layer_slices[1]] *= 1.05
    deposits[:, READOUT.layer_slices[2]] *= 2
    deposits[:, READOUT.layer_slices[0].start] = 0
    damaged = Showers(deposits, reference.incident_energy, 22, READOUT)
    means = compare_layers(damaged, reference, LABELS)
    assert means.energy[1] is not None
    assert means.energy[1].value == pytest.approx(1.05, rel=1e-6)
    assert means.energy[2] is not None
    assert means.energy[2].value == pytest.approx(2, rel=1e-6)
    lit = [np.count_nonzero(s.deposits[:, READOUT.layer_slices[0]]) for s in (damaged, reference)]
    assert means.lit[0] is not None
    assert means.lit[0].value == pytest.approx(lit[0] / lit[1], rel=1e-12)
    # The third layer is twice too bright but holds half a per cent.
    worst = largest_deviation(means, means.energy)
    assert worst is not None
    assert worst.value == pytest.approx(0.05, abs=1e-2)


def test_points_are_compared_like_voxels() -> None:
    one, two = sample(1), sample(2)
    voxels = compare_layers(one, two, LABELS)
    points = compare_layers(cells_as_points(one), cells_as_points(two), LABELS)
    for name in ("energy", "lit"):
        for a, b in zip(getattr(voxels, name), getattr(points, name), strict=True):
            assert a.value == pytest.approx(b.value, rel=1e-5)
            assert a.error == pytest.approx(b.error, rel=1e-4)


def test_the_errors_are_the_scatter_of_independent_samples() -> None:
    means = [compare_layers(sample(2 * k), sample(2 * k + 1), LABELS) for k in range(80)]
    for name in ("energy", "lit"):
        ratios = np.asarray([[r.value for r in getattr(m, name)] for m in means])
        errors = np.asarray([[r.error for r in getattr(m, name)] for m in means]).mean(axis=0)
        # The standard deviation of 80 values is known to 8 %.
        assert ratios.std(axis=0, ddof=1) == pytest.approx(errors, rel=0.35)
        assert np.abs(ratios.mean(axis=0) - 1).max() < 4 * errors.max() / 80**0.5


def test_the_error_of_the_energy_is_that_of_one_shower_over_the_root_of_their_number() -> None:
    means = compare_layers(sample(1, 4000), sample(2, 4000), LABELS)
    for ratio in means.energy:
        assert ratio is not None
        # Fluctuations of 30 % at any energy. In a ratio of sums they would weigh with the energy and give 1.5 times this.
        assert ratio.error == pytest.approx(0.3 * (2 / 4000) ** 0.5, rel=0.08)


def test_a_spectrum_that_differs_by_accident_or_otherwise_does_not_move_a_layer() -> None:
    one, two = sample(1, 4000, uniform=True, trend=0.15), sample(2, 4000, trend=0.15)
    plain = [float((s.layer_energies()[:, 0] / s.incident_energy).mean()) for s in (one, two)]
    ratio = compare_layers(one, two, LABELS).energy[0]
    assert ratio is not None
    assert plain[0] / plain[1] < 0.9
    assert abs(ratio.value - 1) < 3 * ratio.error
    assert ratio.error < 0.02


@pytest.mark.parametrize("energies", [(1e4,), (5e3, 2e4)])
def test_few_energies_will_do(energies: tuple[float, ...]) -> None:
    def discrete(seed: int) -> Showers:
        made = sample(seed)
        incident = np.resize(np.asarray(energies), len(made))
        factor = (incident / made.incident_energy)[:, None]
        return Showers((made.deposits * factor).astype(np.float32), incident, 22, READOUT)

    one, two = discrete(1), discrete(2)
    ratio = compare_layers(one, two, LABELS).energy[1]
    shares = [s.layer_energies()[:, 1] / s.incident_energy for s in (one, two)]
    assert ratio is not None
    assert ratio.value == pytest.approx(shares[0].mean() / shares[1].mean(), rel=1e-5)
    expected = [
        np.mean([x[s.incident_energy == e].var(ddof=1) for e in energies]) / len(x)
        for x, s in zip(shares, (one, two), strict=True)
    ]
    assert ratio.error == pytest.approx((sum(expected) / shares[1].mean() ** 2) ** 0.5, rel=0.02)


def test_a_layer_that_is_dark_in_the_reference_has_no_ratio() -> None:
    full = sample(1)
    deposits = full.deposits.copy()
    deposits[:, READOUT.layer_slices[2]] = 0
    dark = Showers(deposits, full.incident_energy, 22, READOUT)
    means = compare_layers(full, dark, LABELS)
    assert means.energy[2] is None
    assert means.lit[2] is None
    assert means.energy[0] is not None
    nothing = Showers(np.zeros_like(deposits), full.incident_energy, 22, READOUT)
    means = compare_layers(full, nothing, LABELS)
    assert largest_deviation(means, means.energy) is None
