"""Workers that a batch system starts, through dask-jobqueue: Slurm, HTCondor and others, described by a YAML file."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from caloforge.errors import ConfigError, MissingDependencyError
from caloforge.scaleout.state import ClusterError
from caloforge.textfiles import read_text

__all__ = ["SYSTEMS", "Batch", "batch_cluster", "read_batch"]

#: Batch systems, and the class of dask-jobqueue that submits to each.
SYSTEMS = {
    "slurm": "SLURMCluster",
    "htcondor": "HTCondorCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
}
#: Seconds between two looks whether jobs are missing, which are then submitted again.
_RENEW = 30.0


@dataclass(frozen=True)
class Batch:
    """What a YAML file asks for.

    Attributes:
        path: the file.
        kind: of batch system, one of ``SYSTEMS``.
        jobs: how many.
        cores: slots of each.
        settings: everything else, as dask-jobqueue takes it.
    """

    path: Path
    kind: str
    jobs: int
    cores: int
    settings: Mapping[str, Any]

    @property
    def slots(self) -> int:
        """Slots of all jobs together."""
        return self.jobs * self.cores


def read_batch(path: Path) -> Batch:
    """What a YAML file asks for.

    Raises:
        ConfigError: if there is no such file, it is no YAML, or something in it has no meaning.
    """
    try:
        found = yaml.safe_load(read_text(path, ConfigError))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: is not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{path}: expected keys and values such as 'kind: slurm'")
    kind = found.pop("kind", None)
    if kind not in SYSTEMS:
        raise ConfigError(f"{path}: kind is '{kind}', expected one of {', '.join(SYSTEMS)}")
    numbers = {}
    for name in ("jobs", "cores"):
        value = found.pop(name, None)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{path}: {name} is '{value}', expected a number of 1 or more")
        numbers[name] = value
    if "memory" not in found:
        raise ConfigError(f"{path}: memory is missing, expected that of a job, such as 16GB")
    return Batch(path, kind, numbers["jobs"], numbers["cores"], found)


@contextmanager
def batch_cluster(batch: Batch) -> Iterator[Any]:
    """A Dask cluster whose scheduler is in this process, and whose workers are jobs of a batch system.

    Jobs that are lost are submitted again; all are cancelled when the block ends.

    Raises:
        MissingDependencyError: if dask-jobqueue is not installed.
        ConfigError: if it does not take what the file says.
        ClusterError: if the batch system is not on this machine, or takes no jobs.
    """
    cluster = _made(batch)
    over = threading.Event()
    try:
        _submit(batch, cluster)
        threading.Thread(target=_renew, args=(batch, cluster, over), daemon=True).start()
        yield cluster
    finally:
        over.set()
        _forget_unsubmitted(cluster)
        with suppress(Exception):  # jobs end by themselves when the scheduler is gone
            cluster.close(timeout=10)


def _made(batch: Batch) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise MissingDependencyError('dask-jobqueue is not installed: pip install "caloforge[cluster]"') from None
    kind = getattr(dask_jobqueue, SYSTEMS[batch.kind])
    submit = kind.job_cls.submit_command.split()[0]
    if shutil.which(submit) is None:
        raise ClusterError(f"{batch.path}: asks for {batch.kind}, but there is no '{submit}' on this machine")
    # Made in two steps, so that what is left half made can be closed.
    cluster = kind.__new__(kind)
    try:
        # Dask's page takes any port that is free, unless the file names one.
        options = {"dashboard_address": ":0"} | dict(batch.settings.get("scheduler_options") or {})
        settings = {"processes": 1} | dict(batch.settings) | {"scheduler_options": options}
        cluster.__init__(cores=batch.cores, **settings)
    except (TypeError, ValueError, KeyError) as error:
        _abandon(cluster)
        raise ConfigError(f"{batch.path}: dask-jobqueue does not take this: {str(error).splitlines()[0]}") from None
    except (OSError, RuntimeError) as error:
        _abandon(cluster)
        raise ClusterError(f"{batch.path}: a scheduler cannot be started ({str(error).splitlines()[0]})") from None
    return cluster


def _abandon(cluster: Any) -> None:
    """Nothing was started, so there is nothing to close."""
    from distributed.core import Status

    cluster.status = Status.closed


def _forget_unsubmitted(cluster: Any) -> None:
    """Jobs that the batch system did not take cannot be cancelled, and would keep the cluster from being closed."""
    from distributed.core import Status

    for name, job in list(cluster.workers.items()):
        if job.status == Status.created:
            job.status = Status.failed
            del cluster.workers[name]


def _submit(batch: Batch, cluster: Any) -> None:
    # As ``scale`` does, which submits in the background and keeps what goes wrong to itself.
    for _ in range(batch.jobs):
        cluster.worker_spec.update(cluster.new_worker_spec())

    async def submitted() -> None:
        await cluster

    try:
        cluster.sync(submitted)
    except Exception as error:  # whatever the batch system has against it
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ClusterError(
            f"{batch.path}: {batch.kind} takes no jobs: {lines[-1].strip(chr(39)) if lines else error!r}"
        ) from None


def _renew(batch: Batch, cluster: Any, over: threading.Event) -> None:
    while not over.wait(_RENEW):
        with suppress(Exception):
            cluster.scale(jobs=batch.jobs)
