"""Generation: the same showers whatever the batches, workers and interruptions; nothing endless, nothing unsaid."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import toy_model
from executors import Backwards
from toy_model import Toy, ToyConfig, toy_detector, toy_file, toy_showers

from caloforge.cli.main import main
from caloforge.detectors import EnergySpectrum, load_detector
from caloforge.errors import GenerationError, Interrupted, OutputError, UsageError
from caloforge.executor import InThisProcess, LocalProcesses
from caloforge.generation import (
    ListedConditions,
    SpectrumConditions,
    conditions_of_file,
    generate,
    generation_streams,
    sample_showers,
    workers,
)
from caloforge.generation.generate import _Job, block_rows
from caloforge.generation.sampling import _chosen
from caloforge.models import ConditionRange, Conditions, load_model, load_preset, save_model
from caloforge.showers import ShowerPoints, create_showers, open_showers
from caloforge.showers.portions import PortionMaker
from caloforge.units import GeV

N = 1730


def toy(**settings):
    torch.manual_seed(1)  # the weights play no part in a toy's showers, but they are its identity
    return Toy(ToyConfig(**settings), toy_detector()).eval()


def spectrum(n=N, seed=3):
    return SpectrumConditions(EnergySpectrum.parse("1:10"), n, seed, 22)


def contents(path):
    with open_showers(path) as reader:
        assert reader.complete
        return reader.read(), reader.provenance


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "g.h5"
    result = generate(toy(reject=0.3), spectrum(), out, seed=7, show=False)
    return contents(out)[0], result


@pytest.mark.parametrize("batch_size", [1, 97, 1000, 5000])
def test_showers_do_not_depend_on_the_batch_size(reference, tmp_path, batch_size):
    n = 600 if batch_size == 1 else N
    generate(toy(reject=0.3), spectrum(n), tmp_path / "g.h5", seed=7, batch_size=batch_size, show=False)
    showers, _ = contents(tmp_path / "g.h5")
    np.testing.assert_array_equal(showers.incident_energy, reference[0].incident_energy[:n])
    np.testing.assert_allclose(showers.deposits, reference[0].deposits[:n], rtol=1e-5)


@pytest.mark.slow
def test_showers_do_not_depend_on_the_number_of_workers(reference, tmp_path):
    result = generate(toy(reject=0.3), spectrum(), tmp_path / "g.h5", seed=7, jobs=2, batch_size=300, show=False)
    showers, provenance = contents(tmp_path / "g.h5")
    np.testing.assert_array_equal(showers.incident_energy, reference[0].incident_energy)
    np.testing.assert_allclose(showers.deposits, reference[0].deposits, rtol=1e-5)
    assert result.redrawn == reference[1].redrawn == provenance["redrawn"]


def test_another_seed_gives_other_showers(reference, tmp_path):
    generate(toy(reject=0.3), spectrum(), tmp_path / "g.h5", seed=8, show=False)
    showers, _ = contents(tmp_path / "g.h5")
    np.testing.assert_array_equal(showers.incident_energy, reference[0].incident_energy)
    assert (showers.deposits != reference[0].deposits).mean() > 0.99


def test_rejected_showers_are_drawn_again_and_counted(reference):
    _, result = reference
    # The number of redraws of a shower is geometric: 0.3 / 0.7 on average.
    expected = N * 0.3 / 0.7
    assert abs(result.redrawn - expected) < 5 * np.sqrt(N * 0.3) / 0.7
    streams = generation_streams(7)
    first = streams.uniform(np.arange(N), 1)[:, 0] < 0.3
    plain = sample_showers(toy(), spectrum().block(0, N), streams).showers
    same = (plain.deposits == reference[0].deposits).all(axis=1)
    np.testing.assert_array_equal(same, ~first)


@pytest.mark.parametrize(("n", "batch_size"), [(33, 1000), (200, 1000), (200, 45)])
def test_the_last_ones_are_drawn_several_times_at_once(monkeypatch, n, batch_size):
    """As one attempt after the other gives them, in fewer calls; mutation: take the last valid attempt instead of the first."""

    def drawn():
        calls.clear()
        return sample_showers(toy(reject=0.8), spectrum().block(0, n), generation_streams(7), batch_size=batch_size)

    calls, latents = [], Toy.own_latents

    def counted(model, conditions, streams):
        calls.append(len(conditions))
        return latents(model, conditions, streams)

    monkeypatch.setattr(Toy, "own_latents", counted)
    together, fewer = drawn(), len(calls)
    assert max(calls) <= max(n, batch_size)
    monkeypatch.setattr("caloforge.generation.sampling._COMPANY", 1)
    one_by_one = drawn()
    assert (together.showers.deposits == one_by_one.showers.deposits).all()
    assert together.redrawn == one_by_one.redrawn > 2 * n
    assert fewer < 0.7 * len(calls)


@pytest.mark.parametrize("most", [3, 20, 60])
def test_no_attempt_beyond_the_last_counts(monkeypatch, most):
    """Mutation: forget the limit where several attempts are made at once."""

    def outcome():
        try:
            return sample_showers(
                toy(reject=0.8), spectrum().block(0, 33), generation_streams(7), max_attempts=most
            ).redrawn
        except GenerationError as error:
            return str(error).partition("times")[2]

    together = outcome()
    monkeypatch.setattr("caloforge.generation.sampling._COMPANY", 1)
    assert outcome() == together


def test_a_model_that_rejects_everything_ends_with_an_error(tmp_path):
    with pytest.raises(GenerationError, match=r"rejected shower 0 \(.* GeV\) 20 times"):
        generate(toy(reject=1.1), spectrum(5), tmp_path / "g.h5", max_attempts=20, show=False)
    assert not (tmp_path / "g.h5").exists()


@pytest.mark.parametrize("reject", [0.3, 1.1])
def test_a_worker_answers_with_showers_or_an_error(reference, reject):
    threads = torch.get_num_threads()
    maker = PortionMaker("g.h5", "native", toy_detector(), 22, "voxels", 20)
    settings = workers.WorkerSettings(
        toy(reject=reject), spectrum(), generation_streams(7), 1000, 20, "cpu", 1, portions=maker
    )
    tasks = [workers.Task(0, 20), workers.Task(40, 50)]
    try:
        if reject > 1:
            with pytest.raises(GenerationError):
                list(InThisProcess().run(workers.prepare, settings, tasks))
            return
        (_, first), (_, second) = InThisProcess().run(workers.prepare, settings, tasks)
    finally:
        torch.set_num_threads(threads)
    for answer, rows in ((first, slice(0, 20)), (second, slice(40, 50))):
        with h5py.File(io.BytesIO(answer.portion.content)) as part:
            np.testing.assert_array_equal(part["showers"][:], reference[0].deposits[rows])
    assert [run.position for run in second.portion.runs] == [2]


def dies(settings):
    """What a worker does that is killed at its first task."""
    return lambda task: os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_worker_is_noticed(monkeypatch):
    monkeypatch.setattr(workers, "prepare", dies)
    settings = workers.WorkerSettings(toy(), spectrum(), generation_streams(7), 1000, 20, "cpu", 1)
    run = workers.run_tasks(LocalProcesses(1), settings, [workers.Task(0, 5)])
    with pytest.raises(
        GenerationError, match=r"a worker process died \(killed by hand, or .*memory\); finished showers"
    ):
        list(run)


def test_an_executor_of_ones_own_makes_the_same_showers(reference, tmp_path):
    """Mutation: write results in the order in which they come."""
    threads = torch.get_num_threads()
    try:
        generate(toy(reject=0.3), spectrum(), tmp_path / "g.h5", seed=7, executor=Backwards(), show=False)
    finally:
        torch.set_num_threads(threads)
    with open_showers(tmp_path / "g.h5") as reader:
        np.testing.assert_array_equal(reader.read().deposits, reference[0].deposits)


@pytest.mark.parametrize("block", [0, 2])
def test_interrupted_and_resumed(reference, tmp_path, monkeypatch, block):
    out = tmp_path / "g.h5"
    original, calls = Toy.decode_tensors, 0

    def interrupting(self, conditions, latents):
        nonlocal calls
        if len(conditions["incident_energy"]) == 500:  # the first attempt of a block
            calls += 1
            if calls == block + 1:
                os.kill(os.getpid(), signal.SIGINT)
        return original(self, conditions, latents)

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "decode_tensors", interrupting)
        message = rf"g.h5 holds {500 * block} of {N} showers, resume=True" if block else "no block was finished"
        with pytest.raises(Interrupted, match=message):
            generate(toy(reject=0.3), spectrum(), out, seed=7, batch_size=500, show=False)
    if block:
        with pytest.raises(OutputError, match="begun with seed = 7, now it is 8"):
            generate(toy(reject=0.3), spectrum(), out, seed=8, resume=True, show=False)
        with pytest.raises(OutputError, match="exists already"):
            generate(toy(reject=0.3), spectrum(), out, seed=7, show=False)
    result = generate(toy(reject=0.3), spectrum(), out, seed=7, resume=True, show=False)
    assert (result.made, result.showers) == (N - 500 * block, N)
    showers, provenance = contents(out)
    np.testing.assert_array_equal(showers.deposits, reference[0].deposits)
    assert provenance["redrawn"] == reference[1].redrawn
    assert generate(toy(reject=0.3), spectrum(), out, seed=7, resume=True, show=False).made == 0


@pytest.mark.slow
def test_killed_and_resumed(reference, tmp_path):
    out = tmp_path / "g.h5"
    script = f"""
import os, signal, sys
sys.path[:0] = [{str(Path(toy_model.__file__).parent)!r}, {str(Path(__file__).parent)!r}]
from test_generate import *
original, calls = Toy.decode_tensors, 0
def deadly(self, conditions, latents):
    global calls
    calls += len(conditions["incident_energy"]) == 500
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, conditions, latents)
Toy.decode_tensors = deadly
generate(toy(reject=0.3), spectrum(), {str(out)!r}, seed=7, batch_size=500, show=False)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    with h5py.File(out) as file:
        assert len(file["showers"]) == 1000
        assert not file.attrs["complete"]
    result = generate(toy(reject=0.3), spectrum(), out, seed=7, resume=True, show=False)
    assert result.made == N - 1000
    np.testing.assert_array_equal(contents(out)[0].deposits, reference[0].deposits)


def saved(tmp_path, **settings):
    model = toy(**settings)
    save_model(tmp_path / "model", model, ConditionRange(particle=22, incident_energy=(1 * GeV, 10 * GeV)))
    return load_model(tmp_path / "model")


def test_conditions_outside_the_range_are_refused_or_flagged(tmp_path):
    model = saved(tmp_path)
    wide = SpectrumConditions(EnergySpectrum.parse("1:20"), 30, 0, 22)
    with pytest.raises(UsageError, match="trained from 1 GeV to 10 GeV, an energy of 20 GeV is outside"):
        generate(model, wide, tmp_path / "g.h5", show=False)
    with pytest.raises(UsageError, match=r"trained for gamma, showers of e\+"):
        generate(model, SpectrumConditions(EnergySpectrum.parse("2"), 3, 0, -11), tmp_path / "g.h5", show=False)
    with pytest.raises(UsageError, match="outside"):
        generate(model, ListedConditions(np.asarray([2e3, 2e4]), 22), tmp_path / "g.h5", show=False)
    assert not (tmp_path / "g.h5").exists()
    assert generate(model, wide, tmp_path / "wide.h5", extrapolate=True, show=False).extrapolated
    assert contents(tmp_path / "wide.h5")[1]["extrapolated"] is True
    generate(model, spectrum(30), tmp_path / "inside.h5", show=False)
    provenance = contents(tmp_path / "inside.h5")[1]
    assert provenance["extrapolated"] is False
    identity = model.record.weights_sha256
    assert provenance["model"] == {"kind": "toy", "profile": "improved", "aids": [], "sha256": identity}
    assert (provenance["energy"], provenance["seed"], provenance["redrawn"]) == ("1.0:10.0", 0, 0)


def test_conditions_of_another_file(tmp_path):
    toy_file(tmp_path / "reference.h5", 40, seed=2)
    asked = conditions_of_file(tmp_path / "reference.h5")
    generate(toy(), asked, tmp_path / "g.h5", show=False)
    np.testing.assert_array_equal(contents(tmp_path / "g.h5")[0].incident_energy, toy_showers(40, 2).incident_energy)
    assert len(conditions_of_file(tmp_path / "reference.h5", showers=7)) == 7
    with pytest.raises(UsageError, match="has 40 showers, 41 were asked for"):
        conditions_of_file(tmp_path / "reference.h5", showers=41)


def test_random_directions_come_from_the_gun():
    gun = load_detector("ild-ecal").gun
    asked = SpectrumConditions(EnergySpectrum.parse("20"), 50, 1, 22, gun, "random")
    block = asked.block(10, 20)
    np.testing.assert_allclose(np.linalg.norm(block.direction, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(block.direction, asked.block(0, 50).direction[10:20])
    with pytest.raises(UsageError, match="no range of directions"):
        SpectrumConditions(EnergySpectrum.parse("20"), 50, 1, 22, load_detector("calogan").gun, "random")


@pytest.mark.parametrize(
    ("energies", "message"), [([], "list of energies is empty"), ([1.0, -1.0], "energy 1"), ([np.nan], "energy 0")]
)
def test_bad_lists_are_refused(energies, message):
    with pytest.raises(UsageError, match=message):
        ListedConditions(np.asarray(energies, dtype=float), 22)


@pytest.mark.parametrize("bad", [{"jobs": 0}, {"batch_size": 0}, {"device": "abacus"}])
def test_nonsense_is_refused(tmp_path, bad):
    with pytest.raises(UsageError):
        generate(toy(), spectrum(5), tmp_path / "g.h5", show=False, **bad)


def test_timing_adds_up(reference):
    _, result = reference
    assert set(result.timing) == {"latents", "decode", "assembly", "packing", "writing", "loading"}
    assert all(seconds >= 0 for seconds in result.timing.values())
    assert 0 < sum(result.timing.values()) <= result.seconds
    assert result.milliseconds_per_shower == pytest.approx(1000 * result.seconds / N)


def test_blocks_are_small_enough_to_lose_and_large_enough_to_write():
    assert block_rows(load_detector("calogan")) == 500
    assert block_rows(load_detector("par04-ds3")) == 50
    assert block_rows(load_detector("ild-ecal/points")) == 200


def test_chosen_points_are_those_of_their_showers():
    offsets = np.asarray([0, 2, 2, 5, 6])
    points = np.zeros((6, 4), dtype=np.float32)
    points[:, 3] = np.arange(6)
    showers = ShowerPoints(offsets, points, np.arange(4.0) + 1, 22)
    chosen = _chosen(showers, np.asarray([3, 1, 2, 0]))
    assert chosen.offsets.tolist() == [0, 1, 1, 4, 6]
    assert chosen.points[:, 3].tolist() == [5, 2, 3, 4, 0, 1]
    assert chosen.incident_energy.tolist() == [4, 2, 3, 1]


def test_caloflow_is_independent_of_batches():
    """Rounding apart; a threshold may flip once in a thousand voxels."""
    model = load_preset("caloflow-tiny", ["model.energy_scale=1.0"]).build(load_detector("calogan")).eval()
    asked = Conditions.first(np.linspace(1e3, 1e5, 60), 22)
    whole = sample_showers(model, asked, generation_streams(5), batch_size=60).showers
    single = sample_showers(model, asked, generation_streams(5), batch_size=7).showers
    alike = np.isclose(whole.deposits, single.deposits, rtol=1e-4, atol=0)
    assert (~alike).mean() <= 1e-3


@pytest.mark.parametrize("detector", ["calogan", None])
def test_conditions_of_a_plain_file(tmp_path, detector):
    """A CaloChallenge file says neither particle nor (here) detector: the model's own count. Fails if the file must say."""
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["showers"] = np.ones((30, 504 if detector else 77), "f4")
        file["incident_energies"] = np.linspace(2e3, 9e3, 30)[:, None]
    with pytest.raises(UsageError, match="does not say which particle"):
        conditions_of_file(tmp_path / "plain.h5")
    asked = conditions_of_file(tmp_path / "plain.h5", particle="gamma")
    assert asked.particle == 22
    np.testing.assert_array_equal(asked.energies, np.linspace(2e3, 9e3, 30))
    assert asked.direction is None
    out = str(tmp_path / "g.h5")
    assert main(["generate", "calogan-gamma", "--conditions-from", str(tmp_path / "plain.h5"), "-o", out]) == 0
    showers, _ = contents(out)
    np.testing.assert_array_equal(showers.incident_energy, asked.energies)


def test_conditions_of_another_particle_are_refused(tmp_path, capsys):
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["showers"], file["incident_energies"] = np.ones((3, 504), "f4"), np.full((3, 1), 5e3)
        file.attrs["particle"] = "pi+"
    words = ["generate", "calogan-gamma", "--conditions-from", str(tmp_path / "plain.h5"), "-o", str(tmp_path / "g.h5")]
    assert main(words) == 2
    assert "pi+" in capsys.readouterr().err


def test_tasks_of_workers_grow_with_the_work(tmp_path):
    """Mutation: tasks of one process grow, too, and a kill costs more."""
    writer = create_showers(tmp_path / "g.h5", detector=toy_detector(), particle=22, expected=100_000)
    job = _Job(writer, spectrum(100_000), 500, {}, 0)
    for jobs, elsewhere, blocks in ((1, False, 2), (1, True, 8), (2, True, 6), (20, True, 2), (1000, True, 1)):
        tasks = job._tasks(1000, jobs, elsewhere=elsewhere)
        assert tasks[0].stop == 500 * blocks
        assert sum(task.stop - task.start for task in tasks) == 100_000
        assert [task.start for task in tasks[1:]] == [task.stop for task in tasks[:-1]]
    writer.abort()
