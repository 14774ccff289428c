from __future__ import annotations

import math

import numpy as np
import pytest

from caloforge.detectors import CartesianGrid, load_detector
from caloforge.errors import SimulationError
from caloforge.simulation.engines import Deposits
from caloforge.simulation.scoring import Scorer, check_energy_balance, released_energy
from caloforge.units import ELECTRON_MASS, GeV


def random_deposits(detector, n_showers: int, count: int, seed: int = 0) -> Deposits:
    """Deposits in and around the detector, inside the plates that record them."""
    rng = np.random.default_rng(seed)
    stack = detector.stack
    recording = [p for p in stack.plates if p.active or stack.deposits == "all"]
    chosen = rng.integers(len(recording), size=count)
    start = np.array([p.start for p in recording])[chosen]
    thickness = np.array([p.thickness for p in recording])[chosen]
    return Deposits(
        shower=rng.integers(n_showers, size=count),
        plate=np.array([p.index for p in recording])[chosen],
        x=rng.normal(0, 120, size=count),
        y=rng.normal(0, 120, size=count),
        z=start + thickness * rng.uniform(0.001, 0.999, size=count),
        energy=rng.exponential(0.01, size=count),
    )


def slow_voxels(detector, deposits: Deposits, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The obvious way: one deposit, one layer, one cell after the other."""
    readout = detector.readout
    voxels, overflow = np.zeros((n, readout.n_voxels)), np.zeros((n, readout.n_layers))
    for k in range(len(deposits.energy)):
        x, y, z = deposits.x[k], deposits.y[k], deposits.z[k]
        for number, layer in enumerate(readout.layers):
            if not layer.depth[0] <= z < layer.depth[1]:
                continue
            if isinstance(layer.grid, CartesianGrid):
                outer, inner = x, y
                outer_edges, inner_edges = layer.grid.x_edges, layer.grid.y_edges
            else:
                outer, inner = math.atan2(y, x), math.hypot(x, y)
                outer_edges = [-math.pi + 2 * math.pi * j / layer.grid.n_alpha for j in range(layer.grid.n_alpha + 1)]
                inner_edges = layer.grid.r_edges
            for i in range(len(outer_edges) - 1):
                for j in range(len(inner_edges) - 1):
                    if outer_edges[i] <= outer < outer_edges[i + 1] and inner_edges[j] <= inner < inner_edges[j + 1]:
                        cell = i * (len(inner_edges) - 1) + j
                        voxels[deposits.shower[k], readout.layer_slices[number].start + cell] += deposits.energy[k]
                        break
                else:
                    continue
                break
            else:
                overflow[deposits.shower[k], number] += deposits.energy[k]
    return voxels, overflow


@pytest.mark.parametrize("name", ["calogan", "par04-ds2", "ild-ecal"])
def test_voxels_against_a_slow_loop(name):
    detector = load_detector(name)
    deposits = random_deposits(detector, 3, 400)
    fast = Scorer(detector).voxels(deposits, 3)
    slow = slow_voxels(detector, deposits, 3)
    assert fast[0] == pytest.approx(slow[0])
    assert fast[1] == pytest.approx(slow[1])
    assert fast[1].sum() > 0  # the deposits reach beyond the cells
    assert fast[0].sum() + fast[1].sum() == pytest.approx(deposits.energy.sum())


@pytest.mark.parametrize("name", ["calogan", "ild-ecal"])
def test_points_are_the_same_deposits_ordered_by_shower(name):
    detector = load_detector(name)
    deposits = random_deposits(detector, 4, 300)
    points, counts = Scorer(detector).points(deposits, 5)
    assert counts.tolist() == [*np.bincount(deposits.shower, minlength=4), 0]
    offset = 0
    for shower in range(4):
        mine = points[offset : offset + counts[shower]]
        offset += counts[shower]
        expected = [
            (
                x,
                y,
                next(k for k, layer in enumerate(detector.readout.layers) if layer.depth[0] <= z < layer.depth[1]),
                e,
            )
            for s, x, y, z, e in zip(deposits.shower, deposits.x, deposits.y, deposits.z, deposits.energy, strict=True)
            if s == shower
        ]
        assert mine == pytest.approx(np.array(expected, dtype=np.float32))


def test_points_outside_all_layers_are_left_out_and_energies_are_scaled():
    detector = load_detector("par04-ds2")
    zeros = np.zeros(3, dtype=np.int64)
    z = np.array([-1.0, 1.0, 1e3])
    deposits = Deposits(zeros, zeros, np.zeros(3), np.zeros(3), z, np.array([1.0, 2.0, 4.0]))
    points, counts = Scorer(detector).points(deposits, 1)
    assert counts.tolist() == [1]
    assert points == pytest.approx(np.array([[0.0, 0.0, 0.0, 2.0 / 0.033]]))


def test_threshold_comes_before_the_sampling_fraction_and_spares_the_overflow():
    detector = load_detector("par04-ds2")
    raw = np.zeros((1, detector.readout.n_voxels))
    raw[0, :3] = [0.00049, 0.0005, 0.02]
    overflow = np.full((1, 45), 1e-6)
    voxels, beyond = Scorer(detector).finish_voxels(raw, overflow)
    assert voxels[0, :4].tolist() == pytest.approx([0.0, 0.0005 / 0.033, 0.02 / 0.033, 0.0])
    assert beyond == pytest.approx(np.full((1, 45), 1e-6 / 0.033))
    assert voxels.dtype == beyond.dtype == np.float32


def test_no_deposits_at_all():
    detector = load_detector("calogan")
    empty = np.zeros(0)
    nothing = Deposits(empty.astype(np.int64), empty.astype(np.int64), empty, empty, empty, empty)
    scorer = Scorer(detector)
    voxels, overflow = scorer.voxels(nothing, 2)
    assert voxels.shape == (2, 504)
    assert not voxels.any()
    assert not overflow.any()
    points, counts = scorer.points(nothing, 2)
    assert points.shape == (0, 4)
    assert counts.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("pdg", "extra"),
    [
        (11, 0.0),
        (22, 0.0),
        (-11, 2 * ELECTRON_MASS),
        (-13, 105.658 + ELECTRON_MASS),
        (211, 139.570 + ELECTRON_MASS + 21.0),
        (2212, 21.0),
        (-2212, 2 * 938.272 + 21.0),
    ],
)
def test_energy_that_can_be_released(pdg, extra):
    assert released_energy(pdg) == pytest.approx(extra, abs=1e-2)


def test_energy_balance():
    kinetic = np.array([1.0, 2.0]) * GeV
    check_energy_balance(kinetic, kinetic, 11)
    check_energy_balance(kinetic + 2 * ELECTRON_MASS, kinetic, -11)
    with pytest.raises(SimulationError, match=r"shower 31: Geant4 deposited 2.001 GeV of a 2 GeV e-"):
        check_energy_balance(kinetic + np.array([0.0, 1.0]), kinetic, 11, first=30)
    with pytest.raises(SimulationError, match="shower 0"):
        check_energy_balance(np.array([np.nan]), kinetic[:1], 22)
