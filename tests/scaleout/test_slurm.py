"""Slurm for real, where Debian's ``slurm-wlm`` is installed."""

from __future__ import annotations

import os
import sys

import pytest
import slurm_here
from cluster_tasks import prepare_where

from caloforge.scaleout import open_cluster


@pytest.mark.slow
@pytest.mark.skipif(not slurm_here.available(), reason="needs slurm-wlm, and to be root")
def test_jobs_of_slurm_do_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # jobs get the environment of who submits them
    path = tmp_path / "slurm.yaml"
    path.write_text(
        'kind: slurm\njobs: 1\ncores: 1\nmemory: 1GB\nwalltime: "00:05:00"\n'
        f"local_directory: {tmp_path}\nlog_directory: {tmp_path}\n"
    )
    with slurm_here.running(tmp_path) as conf:
        monkeypatch.setenv("SLURM_CONF", str(conf))
        with open_cluster(str(path)) as executor:
            found = list(executor.run(prepare_where, "there", list(range(10))))
    assert sorted(task for task, _ in found) == list(range(10))
    assert list(tmp_path.glob("dask-worker-*.err"))  # the job's log: it was Slurm that ran it
