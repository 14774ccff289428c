"""What ``--cluster`` means: processes of this machine, the address of a scheduler, or a file that describes a batch system."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caloforge.errors import MissingDependencyError, UsageError
from caloforge.executor import Executor, LocalProcesses
from caloforge.scaleout.batch import Batch, batch_cluster, read_batch
from caloforge.scaleout.dask_executor import DaskExecutor
from caloforge.scaleout.state import ClusterError, Rules

__all__ = ["check_choice", "open_cluster", "open_executor"]

_FORMS = "expected local:N, tcp://HOST:PORT, or a YAML file"
#: Seconds to reach a scheduler.
_TIMEOUT = 20.0


def check_choice(jobs: int, cluster: str | None) -> None:
    """Look at what was asked for before any work is done.

    Args:
        jobs: processes of this machine.
        cluster: see :func:`open_cluster`.

    Raises:
        UsageError: if both processes and a cluster were asked for, or the cluster is none.
        MissingDependencyError: if Dask is wanted and not installed.
    """
    if cluster is None:
        return
    if jobs > 1:
        raise UsageError("expected either a number of jobs or a cluster, which has its own number of workers")
    _parse(cluster)
    _need_dask()


@contextmanager
def open_executor(
    executor: Executor | None, jobs: int, cluster: str | None, *, rules: Rules | None = None
) -> Iterator[Executor | None]:
    """Who does the work of a verb.

    Args:
        executor: what a caller brought along; wins.
        jobs: processes of this machine.
        cluster: see :func:`open_cluster`.
        rules: when something is wrong with a worker of a cluster.

    Yields:
        An executor; None for this process alone.

    Raises:
        UsageError: if there are both processes and a cluster, or the cluster is none.
        MissingDependencyError: if Dask is wanted and not installed.
        ClusterError: if the cluster cannot be started or reached.
    """
    check_choice(jobs, cluster)
    if executor is not None or cluster is None:
        yield executor if executor is not None or jobs == 1 else LocalProcesses(jobs)
        return
    with open_cluster(cluster, rules=rules) as opened:
        yield opened


@contextmanager
def open_cluster(cluster: str, *, isolated: bool = True, rules: Rules | None = None) -> Iterator[DaskExecutor]:
    """Start or join a Dask cluster; what was started here ends with the block.

    Args:
        cluster: ``local:N`` for N workers of this machine, ``tcp://HOST:PORT`` or ``tls://HOST:PORT`` for a scheduler that runs
            already, or a YAML file (docs/clusters.md).
        isolated: see ``DaskExecutor``.
        rules: likewise.

    Raises:
        UsageError: if the text means nothing.
        ConfigError: if the file is wrong.
        MissingDependencyError: if Dask is not installed.
        ClusterError: if the cluster cannot be started or reached.
    """
    wanted = _parse(cluster)
    _need_dask()
    with _quiet(), ExitStack() as stack:
        if isinstance(wanted, _Local):
            from caloforge.scaleout.local import LocalCluster

            address = stack.enter_context(LocalCluster(wanted.workers, wanted.slots)).address
            client, jobs = stack.enter_context(_client(address, direct=True)), wanted.workers * wanted.slots
        elif isinstance(wanted, Batch):
            client = stack.enter_context(_client(stack.enter_context(batch_cluster(wanted)), direct=None))
            jobs = wanted.slots
        else:
            client = stack.enter_context(_client(wanted, direct=None))
            jobs = max(1, sum(client.nthreads().values()))
        here = isinstance(wanted, _Local)
        yield DaskExecutor(client, jobs, name=cluster, here=here, isolated=isolated, rules=rules)


@dataclass(frozen=True)
class _Local:
    """Workers of this machine."""

    workers: int
    slots: int


def _parse(cluster: str) -> _Local | Batch | str:
    """What a text means: workers of this machine, jobs of a batch system, or the address of a scheduler."""
    if local := re.fullmatch(r"local:(\d+)(?:x(\d+))?", cluster):
        workers, slots = int(local[1]), int(local[2] or 1)
        if workers < 1 or slots < 1:
            raise UsageError(f"the cluster is '{cluster}', expected at least one worker")
        return _Local(workers, slots)
    if re.fullmatch(r"(tcp|tls|ucx|ws|wss)://[^/\s]+:\d+", cluster):
        return cluster
    if cluster.lower().endswith((".yaml", ".yml")):
        return read_batch(Path(cluster))
    raise UsageError(f"the cluster is '{cluster}', {_FORMS}")


@contextmanager
def _client(address: Any, *, direct: bool | None, **security: Any) -> Iterator[Any]:
    from distributed import Client
    from distributed.security import Security

    # Dask would notice it half way, and leave a client behind that cannot be closed.
    if str(address).startswith("tls://") and Security().get_connection_args("client")["ssl_context"] is None:  # type: ignore[no-untyped-call]
        raise ClusterError(
            f"the Dask scheduler at {address} cannot be reached: Dask's configuration names no certificate of the client "
            "(distributed.comm.tls)"
        )
    try:
        client = Client(  # type: ignore[no-untyped-call]
            address, timeout=_TIMEOUT, set_as_default=False, direct_to_workers=direct, name="caloforge", **security
        )
    except (OSError, TimeoutError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".") or "no answer"
        raise ClusterError(f"the Dask scheduler at {address} cannot be reached: {reason}") from None
    try:
        yield client
    finally:
        client.close(timeout=5)  # type: ignore[no-untyped-call]


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask tells of lost workers at length; we do so ourselves."""
    import dask

    loggers = [logging.getLogger(name) for name in ("distributed", "asyncio", "tornado", "dask_jobqueue")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with dask.config.set(
            {"distributed.admin.large-graph-warning-threshold": "100GB", "distributed.comm.timeouts.connect": "10s"}
        ):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _need_dask() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise MissingDependencyError('Dask is not installed: pip install "caloforge[cluster]"') from None
