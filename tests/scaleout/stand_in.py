"""HTCondor's ``condor_submit`` and ``condor_rm``, as far as dask-jobqueue asks for them: jobs are processes of this machine."""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
from pathlib import Path

SUBMIT = """#!{python}
import os, re, subprocess, sys
text = open(sys.argv[-1]).read()
if "RefuseMe" in text:
    sys.exit("ERROR: Unknown submit command RefuseMe")
quoted = re.search(r'^Arguments = "(.*)"$', text, re.M)[1].replace('""', '"')
words = [w.replace("\\0", "'") for w in re.findall(r"'([^']*)'|(?<!\\S)([^'\\s]+)", quoted.replace("''", "\\0")) for w in w if w]
program = re.search(r"^Executable = (.*)$", text, re.M)[1]
job = subprocess.Popen([program, *words], start_new_session=True, stdin=subprocess.DEVNULL,
                       stdout=open("{folder}/out", "ab"), stderr=subprocess.STDOUT)
open("{folder}/jobs", "a").write(f"{{job.pid}}\\n")
print(f"1 job(s) submitted to cluster {{job.pid}}.")
"""
REMOVE = """#!{python}
import os, signal, sys
for word in sys.argv[1:]:
    try:
        os.killpg(int(word.split(".")[0]), signal.SIGKILL)
    except (ProcessLookupError, ValueError):
        pass
"""


def install(folder: Path) -> None:
    """Write both programs into a folder."""
    for name, text in (("condor_submit", SUBMIT), ("condor_rm", REMOVE)):
        path = folder / name
        path.write_text(text.format(python=sys.executable, folder=folder))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


def jobs(folder: Path) -> list[int]:
    """Process groups of all jobs that were submitted."""
    path = folder / "jobs"
    return [int(word) for word in re.findall(r"\d+", path.read_text())] if path.exists() else []


def kill_all(folder: Path) -> None:
    """End what is left."""
    for pid in jobs(folder):
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
