"""A Dask cluster of this machine, in processes of its own: ``python -m caloforge.scaleout.local N``.

Dask starts its workers through ``multiprocessing``, which imports the user's script again in each of them; here the script is
this module, so that neither a guard nor anything else is asked of the user's. The cluster ends when standard input does, and
therefore with the process that started it, whatever happens to that one.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from caloforge.scaleout.state import ClusterError
from caloforge.stopping import deaf, held_back

__all__ = ["LocalCluster", "main"]

#: Seconds until the scheduler of a busy machine is there.
_PATIENCE = 120.0
#: How often a cluster is begun whose workers die while they start.
_ATTEMPTS = 5
#: Seconds between two looks whether workers are missing.
_RENEW = 5.0
#: What Dask does in every process all the time beside the work, fifty to a hundred times a second: samples of where its threads
#: are, and looks whether its loops are late. The processors are for the work here.
_CALM = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "60s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.scheduler.work-stealing": False,
}


class LocalCluster:
    """A scheduler and workers of one slot each, on the loopback.

    Args:
        workers: how many; one that dies is started anew.
        threads: slots of each.

    Attributes:
        address: of the scheduler.
        pid: of its process, whose children the workers are.

    Raises:
        ClusterError: if it cannot be started.
    """

    def __init__(self, workers: int, threads: int = 1) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
        # What the script has put on its path must be found by the workers, too.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with held_back():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "caloforge.scaleout.local", str(workers), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._output,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            assert self._process.stdout is not None  # a pipe, see above
            line = b""
            if select.select([self._process.stdout], [], [], _PATIENCE)[0]:
                line = self._process.stdout.readline()
            if not line:
                raise ClusterError(f"the local Dask cluster could not be started{self._said()}")
            self.address: str = json.loads(line)["address"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it; workers own no files, so nothing is lost."""
        assert self._process.stdin is not None  # pipes, see above
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._output.close()

    def _said(self) -> str:
        self._output.seek(0)
        lines = [line.strip() for line in self._output.read().decode(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1].rstrip('.')}" if lines else ""


def main(workers: int, threads: int) -> None:
    """Serve until standard input ends."""
    deaf()  # stopping is the business of the process that we work for
    import dask
    from distributed import LocalCluster as Cluster

    # Pictures of what goes on need bokeh; without it there is nothing to look at.
    page = "127.0.0.1:0" if find_spec("bokeh") else None
    with (
        tempfile.TemporaryDirectory(prefix="caloforge-dask-") as folder,
        # A worker whose children compute may be late with its heartbeat.
        dask.config.set({"distributed.comm.timeouts.connect": "60s", "distributed.worker.daemon": True} | _CALM),
        _started(
            Cluster,
            n_workers=workers,
            threads_per_worker=threads,
            host="127.0.0.1",
            dashboard_address=page,
            memory_limit=0,
            local_directory=folder,
        ) as cluster,
    ):
        print(json.dumps({"address": cluster.scheduler_address}), flush=True)
        # Who starts a worker anew gives up if it dies once more while it starts; then another one is started here.
        while not select.select([sys.stdin], [], [], _RENEW)[0]:
            cluster.scale(workers)


def _started(kind: type[Any], **settings: Any) -> Any:
    """A cluster of Dask's, which gives up altogether if one of its workers dies while it starts; then it is begun anew."""
    for attempt in range(_ATTEMPTS):
        try:
            return kind(**settings)
        except RuntimeError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("there is at least one attempt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
