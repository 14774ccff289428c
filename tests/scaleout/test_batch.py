"""Workers that a batch system starts: files that describe it, and a stand-in for HTCondor that runs the real script."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
import stand_in
from cluster_tasks import prepare_block, prepare_where

import caloforge
from caloforge.errors import ConfigError, UsageError
from caloforge.scaleout import ClusterError, Rules, batch, open_cluster

CONDOR = "kind: htcondor\njobs: {jobs}\ncores: 1\nmemory: 1GB\ndisk: 1GB\nlocal_directory: {folder}\n"


@pytest.fixture
def condor(tmp_path, monkeypatch):
    stand_in.install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of the jobs
    yield tmp_path
    stand_in.kill_all(tmp_path)


def described(folder, jobs=2, more=""):
    path = folder / "htcondor.yaml"
    path.write_text(CONDOR.format(jobs=jobs, folder=folder) + more)
    return str(path)


def test_jobs_of_a_batch_system_do_the_work(condor):
    with open_cluster(described(condor)) as executor:
        assert executor.jobs == 2
        found = list(executor.run(prepare_where, "there", list(range(20))))
        assert sorted(task for task, _ in found) == list(range(20))
        assert not executor.here
    assert len(stand_in.jobs(condor)) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::caloforge.errors.CaloForgeWarning")
def test_a_lost_job_is_submitted_again(condor, monkeypatch):
    """Without ``_renew`` nobody is left to do the work."""
    monkeypatch.setattr(batch, "_RENEW", 2.0)
    import dask

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        open_cluster(described(condor, jobs=1)) as executor,
    ):
        found = []
        for task, _ in executor.run(prepare_block, (0.05, 10), list(range(60))):
            found.append(task)
            if len(found) == 20:
                os.killpg(stand_in.jobs(condor)[0], signal.SIGKILL)
    assert sorted(found) == list(range(60))
    assert len(stand_in.jobs(condor)) >= 2


@pytest.mark.filterwarnings("ignore::caloforge.errors.CaloForgeWarning")
def test_a_worker_that_lacks_a_module_is_refused(condor, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(caloforge.__file__).parents[1]))
    with (
        pytest.raises(ClusterError, match=r"can take part; the last one, .*: it has no module 'cluster_tasks'"),
        open_cluster(described(condor, jobs=1), rules=Rules(wait=1.0)) as executor,
    ):
        list(executor.run(prepare_where, "there", [1, 2]))


def test_what_the_batch_system_refuses_is_said(condor):
    path = described(condor, more="job_extra_directives: {RefuseMe: yes}\n")
    with (
        pytest.raises(ClusterError, match=r"htcondor takes no jobs: .*Unknown submit command RefuseMe"),
        open_cluster(path),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kind: [", "is not YAML"),
        ("just a text", "expected keys and values such as 'kind: slurm'"),
        ("kind: lxc", "kind is 'lxc', expected one of slurm, htcondor"),
        ("kind: slurm\ncores: 4", "jobs is 'None', expected a number of 1 or more"),
        ("kind: slurm\njobs: 4\ncores: no", "cores is 'False', expected a number"),
        ("kind: slurm\njobs: 4\ncores: 4", "memory is missing"),
        ("kind: htcondor\njobs: 1\ncores: 1\nmemory: 1GB\ndisk: 1GB\nwalfare: 3", "does not take this: .*walfare"),
    ],
)
def test_files_that_mean_nothing(condor, text, sentence):
    path = condor / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence), open_cluster(str(path)):
        pass
    gc.collect()  # nothing half made is left that would complain


def test_a_file_that_is_not_there():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: there is no such file"), open_cluster("nowhere.yaml"):
        pass
    with pytest.raises(UsageError, match="the cluster is 'slurm', expected"), open_cluster("slurm"):
        pass


def test_a_batch_system_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "c.yaml"
    path.write_text("kind: slurm\njobs: 1\ncores: 1\nmemory: 1GB\n")
    sentence = "asks for slurm, but there is no 'sbatch' on this machine"
    with pytest.raises(ClusterError, match=sentence), open_cluster(str(path)):
        pass
