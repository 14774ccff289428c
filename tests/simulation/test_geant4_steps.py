"""Geant4 in this process: its deposits one by one, against the conventions written out, and the cost of scoring."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from caloforge.detectors import Detector, EnergySpectrum, load_detector
from caloforge.errors import SimulationError, UsageError
from caloforge.simulation import BlockRunner, SimulationPlan
from caloforge.simulation.engines import make_engine
from caloforge.simulation.overhead import measure_overhead
from caloforge.simulation.physics import hadronic_physics

pytestmark = pytest.mark.geant4

E_MINUS, E_PLUS, GAMMA = 11, -11, 22


def runner(detector: Detector, particle: int, energy: str, events: int = 2) -> BlockRunner:
    return BlockRunner(SimulationPlan(detector, particle, EnergySpectrum.parse(energy), events, 3, tables="builtin"))


def raw_deposits(runner: BlockRunner) -> list[tuple[str, int, np.ndarray, np.ndarray, float]]:
    """Calzone's own record of block 0: volume, event, start, end (cm, Geant4's frame), energy."""
    geant4, plan = runner.geant4, runner.plan
    geant4.seed(plan.geant4_seed(0))
    record = geant4.run_detailed(*plan.conditions(0))
    steps = [
        (name, int(d["event"]), d["start"], d["end"], float(d["value"])) for name, v in record.items() for d in v.line
    ]
    ends = [
        (name, int(d["event"]), d["position"], d["position"], float(d["value"]))
        for name, v in record.items()
        for d in v.point
    ]
    return steps + ends


def test_calogan_follows_the_published_conventions_deposit_by_deposit():
    run = runner(load_detector("calogan"), E_PLUS, "0.5")
    voxels = [np.zeros((2, *shape)) for shape in ((3, 96), (12, 12), (12, 6))]
    overflow = np.zeros((2, 3))
    everything = 0.0
    for _, event, start, _, energy in raw_deposits(run):
        x, y, z = start * 10  # booked at the start of the step; mm
        layer = 0 if z < -150 else 1 if z < 197 else 2
        cells = voxels[layer].shape[1:]
        i, j = (math.floor((c + 240) / 480 * n) for c, n in zip((x, y), cells, strict=True))
        if -240 <= x < 240 and -240 <= y < 240:
            voxels[layer][event, i, j] += energy
        else:
            overflow[event, layer] += energy
        everything += energy
    made = run.run(0).showers
    for layer, expected in zip(made.layers(), voxels, strict=True):
        assert layer == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert made.overflow == pytest.approx(overflow, rel=1e-5, abs=1e-7)
    assert everything == pytest.approx(made.total_energy().sum() + overflow.sum(), rel=1e-6)
    assert 0.9 * 1000 < everything < 1000 + 2 * 2 * 0.511


def test_par04_counts_silicon_only_two_plates_to_a_layer_and_books_at_the_middle():
    detector = load_detector("par04-ds2")
    run = runner(detector, E_MINUS, "2", events=1)
    expected = np.zeros((45, 16, 9))
    for name, _, start, end, energy in raw_deposits(run):
        plate = int(name.removeprefix("World.P"))
        assert plate % 2 == 1  # silicon
        x, y, z = (start + end) / 2 * 10
        depth, radius, angle = x - 800, math.hypot(y, z), math.atan2(z, y)
        layer, ring = math.floor(depth / 3.4), math.floor(radius / 4.65)
        if 0 <= layer < 45 and ring < 9:
            expected[layer, math.floor((angle + math.pi) / (2 * math.pi) * 16) % 16, ring] += energy
    kept = np.where(expected >= 0.0005, expected, 0) / 0.033
    made = run.run(0).showers
    assert made.deposits[0] == pytest.approx(kept.ravel(), rel=1e-5, abs=1e-6)
    assert made.deposits[made.deposits > 0].min() >= 0.0005 / 0.033 * (1 - 1e-6)


def test_ild_points_are_the_silicon_steps():
    detector = load_detector("ild-ecal").with_field(0.0)
    plan = SimulationPlan(detector, GAMMA, EnergySpectrum.parse("1"), 2, 3, points=True, tables="builtin")
    run = BlockRunner(plan)
    silicon = {f"World.P{p.index}": p.layer for p in detector.stack.plates if p.active}
    expected = [
        (event, *((start + end) / 2 * 10)[:2], silicon[name], energy)
        for name, event, start, end, energy in raw_deposits(run)
    ]
    made = run.run(0).showers
    got = np.column_stack([made.shower_index, made.points])
    order = np.lexsort(got.T)
    wanted = np.array(expected, dtype=np.float32)
    assert got[order] == pytest.approx(wanted[np.lexsort(wanted.T)], rel=1e-5, abs=1e-5)


def test_energies_are_those_that_geant4_sums_itself():
    run = runner(load_detector("calogan"), E_PLUS, "0.2:0.4", events=5)
    geant4, plan = run.geant4, run.plan
    geant4.seed(plan.geant4_seed(0))
    brief = geant4.run_brief(*plan.conditions(0))
    by_event = np.zeros(5)
    for table in brief.values():
        np.add.at(by_event, table["event"].astype(int), table["value"])
    made = run.run(0).showers
    assert made.total_energy() + made.overflow.sum(axis=1) == pytest.approx(by_event, rel=1e-5)


def test_the_environment_is_left_as_it_was():
    before = os.environ.get("GEANT4_DATA_DIR")
    runner(load_detector("calogan"), E_PLUS, "0.1").run(0)
    assert os.environ.get("GEANT4_DATA_DIR") == before


def test_one_process_has_one_set_of_tables(tmp_path):
    run = runner(load_detector("calogan"), E_PLUS, "0.1")
    run.run(0)
    run.geant4.tables = type(run.geant4.tables)("directory", tmp_path)
    with pytest.raises(SimulationError, match=r"uses the tables in .* already"):
        run.run(0)


def test_energies_out_of_range_are_refused():
    geant4 = make_engine("calzone", load_detector("calogan"), E_PLUS, "builtin")
    with pytest.raises(UsageError, match="an incident energy is 100 keV, expected 1 MeV to 10 TeV"):
        list(geant4.run(np.array([0.1]), np.array([[0.0, 0.0, 1.0]])))


def test_physics_lists():
    assert {hadronic_physics(p) for p in (11, -11, 22)} == {None}
    assert {hadronic_physics(p) for p in (211, -211, 2212)} == {"FTFP_BERT"}


def test_overhead_is_measured_on_the_same_showers():
    # How large it is, 'caloforge bench simulation' says; times do not belong into tests.
    cost = measure_overhead(load_detector("calogan"), "e+", "1:2", 10, tables="builtin")
    assert cost.showers == 10
    assert 10_000 <= cost.incident_energy <= 20_000
    assert cost.bare > 0
    assert cost.full > 0
    assert cost.fraction == pytest.approx(cost.full / cost.bare - 1)
