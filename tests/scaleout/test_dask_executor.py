"""Tasks on a Dask cluster of real processes: every result once, whatever happens to workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cluster_tasks import prepare_block, prepare_fault, prepare_where

from caloforge.errors import CaloForgeWarning, SimulationError
from caloforge.scaleout import ClusterError, DaskExecutor, Rules, coordinator, local, node, open_cluster
from caloforge.scaleout.local import LocalCluster
from caloforge.workers import WorkerDiedError

# Workers of this cluster come and go; notes of that are not what most tests are about.
quiet = pytest.mark.filterwarnings("ignore::caloforge.errors.CaloForgeWarning")


def pids(executor):
    """Process of each Dask worker, by address."""
    return executor.client.run(os.getpid)


def all_there(executor, number=2, gone=()):
    """Wait until workers that were killed are known to be, and others are in their place."""
    for _ in range(600):
        present = executor.client.nthreads()
        if len(present) >= number and not set(gone) & set(present):
            return
        time.sleep(0.1)
    pytest.fail("workers do not come back")


def hit(executor, number):
    """Send a signal to one of the workers; its address."""
    address, pid = next(iter(pids(executor).items()))
    os.kill(pid, number)
    return address


def test_every_task_once_and_the_order_prepared_once_in_each_child(executor):
    found = list(executor.run(prepare_where, "here", list(range(40))))
    assert sorted(task for task, _ in found) == list(range(40))
    processes = {result for _, result in found}
    assert 1 <= len(processes) <= 2  # a child for each slot, prepared once
    assert not processes & set(pids(executor).values())
    described = executor.describe()
    assert described["workers"] == 2
    assert sum(described["processors"].values()) == 2
    assert described["tasks_redone"] == described["workers_lost"] == 0


def test_children_end_with_their_run(executor):
    children = {result for _, result in executor.run(prepare_where, "here", [1, 2, 3, 4])}
    stopped = executor.run(prepare_where, "here", list(range(100)))
    children.add(next(stopped)[1])
    stopped.close()
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in children):
            return
        time.sleep(0.1)
    pytest.fail("a child is still there")


@quiet
def test_a_killed_worker_costs_nothing(executor):
    found, killed = [], []
    for task, result in executor.run(prepare_block, (0.05, 1000), list(range(120))):
        found.append(task)
        assert (result == task).all()
        if len(found) in (10, 60):  # the second time, it may be one that was started anew
            killed.append(hit(executor, signal.SIGKILL))
    assert sorted(found) == list(range(120))
    assert executor.describe()["workers_lost"] == len(killed) == 2
    all_there(executor, gone=killed)


@quiet
def test_a_frozen_worker_is_given_up(executor):
    """Without ``_look_for_hanging`` this never ends: the scheduler waits five minutes for such a worker."""
    found, before, frozen = [], pids(executor), ""
    for task, _ in executor.run(prepare_block, (0.02, 10), list(range(60))):
        found.append(task)
        if len(found) == 10:
            frozen = hit(executor, signal.SIGSTOP)
    os.kill(before[frozen], signal.SIGKILL)
    assert sorted(found) == list(range(60))
    all_there(executor, gone=[frozen])


@quiet
def test_a_task_that_hangs_is_done_once_more(executor, tmp_path):
    with pytest.warns(CaloForgeWarning, match="takes longer than 2 s on the worker"):
        found = dict(executor.run(prepare_fault, (str(tmp_path), "hang", 5, 1), list(range(30))))
    assert sorted(found) == list(range(30))
    assert executor.describe()["tasks_redone"] >= 1
    # The child that hung was killed, so that its slot serves again: nothing is left of it.
    (mark,) = tmp_path.iterdir()
    assert not Path(f"/proc/{mark.name.partition('-')[2]}").exists()


@quiet
def test_a_task_that_hangs_twice_is_given_up(executor, tmp_path):
    with pytest.raises(ClusterError, match="longer than 2 s for the second time"):
        dict(executor.run(prepare_fault, (str(tmp_path), "hang", 5, 2), list(range(30))))


@quiet
def test_what_aborts_is_done_once_more(executor, tmp_path):
    with pytest.warns(CaloForgeWarning, match="Stuck in a wall; the task is done once more"):
        found = dict(executor.run(prepare_fault, (str(tmp_path), "abort", 3, 1), list(range(10))))
    assert sorted(found) == list(range(10))


@quiet
def test_what_aborts_twice_says_why(executor, tmp_path):
    with pytest.raises(WorkerDiedError, match=r"a worker process died \(.*Stuck in a wall"):
        dict(executor.run(prepare_fault, (str(tmp_path), "abort", 3, 2), list(range(10))))


@quiet
def test_errors_of_the_work_arrive_as_they_are(executor, tmp_path):
    with pytest.raises(SimulationError, match=r"^the shower left the world$"):
        dict(executor.run(prepare_fault, (str(tmp_path), "fail", 3, 1), list(range(10))))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: one by none"):
        dict(executor.run(prepare_fault, (str(tmp_path), "bug", 3, 9), list(range(10))))


@quiet
def test_a_full_disk_takes_one_worker_out(executor, tmp_path):
    with pytest.warns(
        CaloForgeWarning, match=r"gets no work: its disk refuses to be written \(no space left on device\)"
    ):
        found = dict(executor.run(prepare_fault, (str(tmp_path), "disk", 3, 1), list(range(20))))
    assert sorted(found) == list(range(20))
    assert len(executor.facts.refused) == 1


@quiet
def test_full_disks_everywhere_end_the_work(executor, tmp_path):
    with pytest.raises(ClusterError, match=r"no worker of local:2 can take part.*no space left"):
        dict(executor.run(prepare_fault, (str(tmp_path), "disk", 3, 99), list(range(20))))


@quiet
def test_a_worker_of_another_version_is_refused(executor, tmp_path):
    """A real worker process, whose CaloForge says that it is another one."""
    info = tmp_path / "caloforge-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: caloforge\nVersion: 9.9\n")
    scheduler = executor.client.scheduler.address
    stranger = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--nthreads", "1", "--no-nanny", "--no-dashboard",
         "--local-directory", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        all_there(executor, 3)
        with pytest.warns(CaloForgeWarning, match=r"gets no work: it is of another version: caloforge 9\.9, expected"):
            found = dict(executor.run(prepare_where, "there", list(range(20))))
        assert sorted(found) == list(range(20))
        assert executor.describe()["workers"] == 2
    finally:
        stranger.kill()
        stranger.wait()


@quiet
def test_nobody_of_the_right_version(executor, monkeypatch):
    monkeypatch.setattr(node, "versions", lambda: {"caloforge": "77"})
    with pytest.raises(ClusterError, match=r"no worker of local:2 can take part; the last one, .*expected 77"):
        dict(executor.run(prepare_where, "there", [1, 2]))


def test_results_wait_with_the_workers(executor):
    """The consumer is slow: no more than a few tasks are done meanwhile, however many there are."""
    done = executor.run(prepare_block, (0.0, 10), list(range(200)))
    next(done)
    time.sleep(2)
    client = executor.client
    on_workers = [key for keys in client.has_what().values() for key in keys if str(key).startswith("task-")]
    assert len(on_workers) <= 4  # two workers of one slot, each with one task and one to come
    done.close()


def test_tasks_in_the_threads_of_workers(cluster):
    executor = DaskExecutor(cluster.client, 2, name="local:2", here=True, isolated=False)
    found = dict(executor.run(prepare_where, "here", list(range(10))))
    assert set(found.values()) <= set(pids(executor).values())


def test_a_scheduler_that_is_gone():
    with LocalCluster(1) as here, open_cluster(here.address) as executor:
        found = executor.run(prepare_block, (0.02, 10), list(range(1000)))
        next(found)
        os.kill(here.pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match=r"scheduler of tcp://.* does not answer any more"):
            list(found)


def test_numbers_equal_those_of_this_process(executor):
    here = prepare_block((0.0, 7))
    for task, result in executor.run(prepare_block, (0.0, 7), [1, 5, 9]):
        np.testing.assert_array_equal(result, here(task))


def test_rules_have_what_the_documentation_says():
    assert Rules() == Rules(patience=60.0, factor=20.0, wait=20.0)


@quiet
def test_what_is_large_travels_once_and_comes_from_here_if_its_holder_stands_still(executor, monkeypatch):
    monkeypatch.setattr(coordinator, "_SMALL", 10)
    found = list(executor.run(prepare_where, "x" * 5_000_000, list(range(10))))
    assert sorted(task for task, _ in found) == list(range(10))
    # Nobody ever gets what Dask was to bring: without asking directly this never ends.
    submit = executor.client.submit

    def lost(function, *arguments, **options):
        if function is bytes:
            return submit(time.sleep, 1000, key=options["key"], workers=["tcp://127.0.0.1:1"], pure=False)
        return submit(function, *arguments, **options)

    monkeypatch.setattr(executor.client, "submit", lost)
    found = list(executor.run(prepare_where, "x" * 1000, list(range(10))))
    assert sorted(task for task, _ in found) == list(range(10))


def test_workers_that_die_while_they_start_are_started_again():
    """Dask gives the whole cluster up then. Mutation: one attempt."""
    begun = []

    def kind(**settings):
        begun.append(settings)
        if len(begun) < 3:
            raise RuntimeError("Nanny failed to start.")
        return "a cluster"

    assert local._started(kind, n_workers=2) == "a cluster"
    assert begun == [{"n_workers": 2}] * 3

    def never(**settings):
        raise RuntimeError("Nanny failed to start.")

    with pytest.raises(RuntimeError, match="Nanny"):
        local._started(never)
