"""Write requirements.lock: every package of a fresh environment with all extras and the development group, pinned.

Run with: python tools/make_lock.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
#: The version that CUDA builds of that torch ask for; the newest one would keep them from being installed.
TRITON = "triton==3.7.1"
HEADER = """\
# Every package of the development environment, pinned. Made by tools/make_lock.py.
# Install torch first (the Makefile does): pip install torch==2.13.0 --constraint requirements.lock
"""


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
    ]
    # Extras that join other extras name this package itself.
    for extra in project["project"]["optional-dependencies"].values():
        wanted += [one for one in extra if not one.startswith("caloforge[")]
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/bin/python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        # torch first, so that the ranges of other packages find it there and fetch no other build.
        subprocess.run([*pip, "install", "--quiet", TORCH, TRITON], check=True)
        subprocess.run([*pip, "install", "--quiet", *wanted], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    # A local build tag (2.13.0+cpu) is this machine's, not the project's; so are GPU runtime packages.
    lines = [line.split("+")[0].split(" @ ")[0] for line in frozen.splitlines()]
    kept = [
        TORCH if line.startswith("torch") and "==" not in line else line
        for line in lines
        if not line.startswith("nvidia-")
    ]
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(kept) + "\n")
    print(f"requirements.lock: {len(kept)} packages")


if __name__ == "__main__":
    main()
