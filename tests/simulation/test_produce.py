"""Blocks, seeds, jobs, resumption, and what happens when somebody dies. Low energies: nothing here is about physics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from executors import Backwards

from caloforge.detectors import EnergySpectrum, detector_from_toml, load_detector
from caloforge.errors import MissingDependencyError, SimulationError, UsageError
from caloforge.executor import InThisProcess, LocalProcesses
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.files import open_showers
from caloforge.simulation import BLOCK_SIZE, Production, SimulationPlan, packages, simulate, simulate_to_file, tables

pytestmark = pytest.mark.geant4


def plan(name: str = "calogan", particle: int = -11, energy: str = "0.1:0.5", events: int = 25, **others):
    others = {"seed": 5, "tables": "builtin"} | others
    return SimulationPlan(load_detector(name), particle, EnergySpectrum.parse(energy), events, **others)


def make(some_plan: SimulationPlan, *, jobs: int = 1, skip=()) -> Showers | ShowerPoints:
    with Production(some_plan, jobs=jobs, skip=skip) as production:
        blocks = sorted(production, key=lambda block: block.number)
    return type(blocks[0].showers).concatenate([block.showers for block in blocks])


def assert_same(one: Showers, two: Showers) -> None:
    assert np.array_equal(one.deposits, two.deposits)
    assert np.array_equal(one.overflow, two.overflow)
    assert np.array_equal(one.incident_energy, two.incident_energy)


@pytest.fixture(scope="module")
def reference() -> Showers:
    return make(plan())


def test_the_number_of_jobs_changes_nothing(reference):
    assert len(reference) == 25
    assert reference.total_energy().min() > 0
    assert_same(make(plan(), jobs=2), reference)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["calzone", "geant4-pybind"])
def test_the_number_of_jobs_changes_nothing_with_hadrons(engine):
    # Nuclear reactions leave state behind in Geant4: blocks must not see what came before them.
    hadrons = plan(particle=211, energy="5:10", events=40 if engine == "calzone" else 20, engine=engine)
    assert_same(make(hadrons, jobs=2), make(hadrons))


def test_a_longer_production_begins_with_the_same_showers(reference):
    assert_same(make(plan(events=12)), reference[:12])


def test_another_seed_gives_other_showers(reference):
    other = make(plan(seed=6, events=10))
    assert not np.array_equal(other.incident_energy, reference.incident_energy[:10])
    assert not np.array_equal(other.deposits, reference.deposits[:10])


def test_blocks_that_are_there_are_skipped(reference):
    with Production(plan(), jobs=2, skip={1}) as production:
        blocks = {block.number: block for block in production}
    assert sorted(blocks) == [0, 2]
    assert blocks[2].start == 2 * BLOCK_SIZE
    assert_same(blocks[2].showers, reference[20:])


def test_nothing_left_to_do_still_states_provenance():
    with Production(plan(), skip=range(3)) as production:
        assert production.provenance()["geant4"].startswith("11.")
        assert list(production) == []


def test_blocks_can_be_skipped_until_the_first_is_taken(reference):
    with Production(plan()) as production:
        production.skip({0, 2})
        (block,) = production
    assert_same(block.showers, reference[10:20])


def test_points_and_voxels_are_the_same_showers(reference):
    points = make(plan(points=True))
    assert isinstance(points, ShowerPoints)
    assert np.array_equal(points.incident_energy, reference.incident_energy)
    # Points keep what is beside the voxels as well.
    everything = reference.total_energy() + reference.overflow.sum(axis=1)
    assert points.total_energy() == pytest.approx(everything, rel=1e-5)
    points.check_values()
    reference.check_values()


def test_random_directions_are_kept_and_tilt_the_shower():
    made = make(plan("ild-ecal", 22, "2", 30, directions="random", points=True), jobs=2)
    assert made.direction.dtype == np.float32
    assert np.linalg.norm(made.direction, axis=1) == pytest.approx(1.0, abs=1e-6)
    depth = made.readout.depths.mean(axis=1)[made.points[:, 2].astype(int)]
    energy = made.points[:, 3]
    for axis in (0, 1):
        slope = (made.direction[:, axis] / made.direction[:, 2])[made.shower_index]
        # Energy-weighted: transverse position = slope x depth.
        fitted = np.sum(energy * slope * depth * made.points[:, axis]) / np.sum(energy * (slope * depth) ** 2)
        assert fitted == pytest.approx(1.0, abs=0.1)


def test_provenance_says_how_the_showers_were_made():
    with simulate(load_detector("calogan"), "pi+", "1", events=1, seed=3, tables="builtin") as production:
        facts = production.provenance(command="caloforge simulate ...")
        list(production)
    assert facts["geant4"] == "11.4.0"
    assert facts["field"] == "none"
    assert facts["production_cut_mm"] == 0.7
    assert facts["seed"] == 3
    assert facts["particle"] == "pi+"
    assert facts["energy_GeV"] == "1.0"
    assert facts["tables"]["kind"] == "builtin"
    assert "FTFP_BERT" in facts["physics"]
    assert "approximate" in facts["nucleon_cross_sections"]
    assert facts["command"] == "caloforge simulate ..."
    with Production(plan(events=1)) as production:
        facts = production.provenance()
    assert "FTFP_BERT" not in facts["physics"]
    assert "nucleon_cross_sections" not in facts


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"energy": "0.0001"}, UsageError, "leave the range of the simulation, 1 MeV to 10 TeV"),
        ({"energy": "1:20000"}, UsageError, "leave the range"),
        ({"events": 0}, UsageError, "the number of events is 0"),
        ({"particle": 12}, UsageError, r"Geant4 runs are set up for e-, e\+, mu-"),
        ({"name": "ds1-photons"}, SimulationError, "readout-only"),
        ({"name": "ild-ecal/points", "particle": 22}, UsageError, "has no voxels; ask for points"),
        ({"directions": "random"}, UsageError, "random directions"),
        ({"seed": -1}, UsageError, "the seed is -1"),
    ],
)
def test_senseless_requests_are_refused_at_once(request_, error, message):
    with pytest.raises(error, match=message):
        plan(**request_)


def test_jobs_must_be_positive():
    with pytest.raises(UsageError, match="the number of jobs is 0"):
        Production(plan(), jobs=0)


def test_without_calzone_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"caloforge\[calzone\]"):
        Production(plan())


def test_an_unknown_material_is_named():
    text = load_detector("calogan").to_toml().replace("G4_lAr", "G4_lXr")
    with pytest.raises(SimulationError, match="Geant4 does not know the material 'G4_lXr'"):
        list(simulate(detector_from_toml(text, where="test"), "e+", "1", 1, 1, tables="builtin"))


def test_incomplete_tables_name_the_file_that_geant4_misses(tmp_path):
    directory = tables.write_tables(tmp_path, [82, 18], hadronic=False)
    (directory / "G4EMLOW8.8/brem_SB/br82").unlink()
    with pytest.raises(SimulationError, match=r"ended by SIGABRT.*br82.*finished blocks are kept"):
        make(plan(tables=str(directory)))


def children(process: int | str = "self") -> list[int]:
    """Processes that a process has started and that still run."""
    found: list[str] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        # Of a thread that has ended since; what it had started belongs to another one now.
        with suppress(FileNotFoundError):
            found += (task / "children").read_text().split()
    return [int(pid) for pid in found if _running(int(pid))]


@pytest.mark.parametrize("executor", [LocalProcesses(2), InThisProcess()])
def test_a_dying_worker_ends_the_production_with_one_sentence(executor):
    """In this process, Geant4 is in a child of it: fails (the test itself dies) if a task runs Geant4 where it is."""
    before = set(children())
    with Production(plan(energy="5", events=200), executor=executor) as production:
        blocks = iter(production)
        next(blocks)
        workers = set(children()) - before
        assert len(workers) == executor.jobs
        os.kill(min(workers), signal.SIGKILL)
        with pytest.raises(
            SimulationError, match=r"ended by SIGKILL \(by hand, or .*memory\); finished blocks are kept"
        ):
            list(blocks)
    assert not set(children()) & workers


@pytest.mark.parametrize("executor", [InThisProcess(), Backwards()])
def test_who_makes_the_blocks_changes_nothing(reference, executor, tmp_path):
    with Production(plan(), executor=executor) as production:
        blocks = {block.number: block.showers for block in production}
    assert_same(Showers.concatenate([blocks[number] for number in range(3)]), reference)
    out = tmp_path / "e.h5"
    simulate_to_file(
        load_detector("calogan"), out, particle="e+", energy="0.1:0.5", events=25, seed=5, geant4_data="builtin",
        executor=executor,
    )  # fmt: skip
    with open_showers(out) as reader:
        assert_same(reader.read(), reference)


def test_what_geant4_says_of_missing_tables_reaches_those_who_run_it_in_a_child(tmp_path):
    directory = tables.write_tables(tmp_path, [82, 18], hadronic=False)
    (directory / "G4EMLOW8.8/brem_SB/br82").unlink()
    with (
        Production(plan(tables=str(directory)), executor=InThisProcess()) as production,
        pytest.raises(SimulationError, match=r"ended by SIGABRT.*br82.*finished blocks are kept"),
    ):
        list(production)


class Elsewhere:
    """An executor on two machines with different versions of Geant4."""

    jobs = 2

    def run(self, prepare, settings, tasks):
        for number, (task, made) in enumerate(InThisProcess().run(prepare, settings, tasks)):
            facts = replace(made.facts, versions=made.facts.versions | {"geant4": f"11.4.{number}"})
            yield task, replace(made, facts=facts)


def test_workers_with_different_versions_are_refused(tmp_path):
    """Fails (a file of two kinds of showers) if only the facts of the first block are looked at."""
    out = tmp_path / "s.h5"
    with pytest.raises(SimulationError, match=r"not all workers simulate with the same: geant4 11\.4\.0 and 11\.4\.1"):
        simulate_to_file(
            load_detector("calogan"), out, particle="e+", energy="0.1:0.5", events=25, seed=5, geant4_data="builtin",
            executor=Elsewhere(),
        )  # fmt: skip
    with open_showers(out) as reader:
        assert len(reader) == BLOCK_SIZE


def test_there_is_no_file_if_geant4_cannot_be_started(tmp_path):
    """Fails if the file is begun before Geant4 has made anything: an old one would be gone."""
    wrong = detector_from_toml(load_detector("calogan").to_toml().replace("G4_lAr", "G4_lXr"), where="test")
    out = tmp_path / "s.h5"
    out.write_bytes(b"precious")
    with pytest.raises(SimulationError, match="G4_lXr"):
        simulate_to_file(wrong, out, particle="e+", energy="1", events=5, geant4_data="builtin", overwrite=True)
    assert out.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [out]


SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # test runners in the background have it ignored
from caloforge.detectors import load_detector
from caloforge.simulation import simulate
production = simulate(load_detector("calogan"), "e+", "2", 10_000, 1, jobs=2, tables="builtin")
from pathlib import Path
for block in production:
    print(*(pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()), flush=True)
"""


def _running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_production(how):
    # A script on standard input and without a __main__ guard, as people write them.
    with subprocess.Popen(
        [sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdin.write(SCRIPT)
        process.stdin.close()
        process.stdin = None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(process.pid, how)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert ("KeyboardInterrupt" in errors) == (how == signal.SIGINT)
    deadline = time.monotonic() + 20
    while any(_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_running(pid) for pid in pids)


def test_geant4_is_silent(tmp_path):
    code = SCRIPT.replace("10_000", "10").partition("    print(")[0] + "    pass"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == result.stderr == ""
