"""A Slurm of one node, with Debian's ``slurm-wlm``, for as long as a test takes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "sbatch", "sinfo")

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort={one}
SlurmdPort={two}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def available() -> bool:
    """Whether it can be started here: it is installed, and this is root."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in NEEDED)


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """Yields the configuration that ``SLURM_CONF`` must name."""
    conf = folder / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    conf.write_text(CONF.format(folder=folder, host=host, one=free_port(), two=free_port(), cpus=os.cpu_count()))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    environment = os.environ | {"SLURM_CONF": str(conf)}
    daemons = [
        subprocess.Popen(
            [name, "-D", "-f", str(conf)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for name in ("slurmctld", "slurmd")
    ]
    try:
        for _ in range(300):
            said = subprocess.run(
                ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False
            )
            if said.stdout.strip() in ("idle", "mixed"):
                break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"no Slurm: {said.stdout}{said.stderr} {(folder / 'd.log').read_text()[-500:]}")
        yield conf
    finally:
        # The steps of its jobs are processes of their own, which end with the jobs.
        subprocess.run(["scancel", "--user", "root", "--full"], env=environment, capture_output=True, check=False)
        for _ in range(50):
            left = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True, check=False)
            if not left.stdout.strip():
                break
            time.sleep(0.2)
        for daemon in daemons:
            daemon.kill()
            daemon.wait()


def free_port() -> int:
    """A port of the loopback that nobody listens to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
