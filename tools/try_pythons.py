"""What works in other versions of Python without torch: the wheel, ``info``, ``detectors``, ``convert``, the compiled kernels.

Run with: python tools/try_pythons.py python3.12 python3.13
For each interpreter: a new environment, the wheel with its dependencies but torch (which is large, and whose versions are its own
affair), and a few commands. Interpreters that are not there are named and left out. It needs a package index.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Lines that the program in the other Python prints when all is well.
_PROGRAM = """
import ctypes, os, sys
from pathlib import Path
from caloforge.cli.main import main
from caloforge import datasets
from caloforge.kernels.compiled import loader
os.chdir(sys.argv[1])
sample = datasets.path("calogan-gamma-sample", split="test")
for words in (
    ["detectors"], ["info", "par04-ds2", "--drawing", "a.png"], ["info", str(sample)], ["models"], ["datasets"],
    ["convert", str(sample), "a.h5", "--to", "calogan"], ["convert", "a.h5", "b.h5", "--to", "native"],
    ["convert", str(sample), "c.h5", "--to", "calochallenge"],
):
    assert main(words) == 0, words
from caloforge.showers import open_showers
with open_showers(sample) as one, open_showers("b.h5") as two:
    assert (one.read().deposits == two.read().deposits).all()
kernels = [kernel for kernel in loader.packaged_kernels() if kernel.runs]
assert kernels, "no kernels in the wheel that run here"
for kernel in kernels:
    ctypes.CDLL(str(kernel.path))
assert "torch" not in sys.modules
print("WORKS", sys.version.split()[0], *(kernel.name for kernel in kernels))
"""


def main(interpreters: list[str]) -> int:
    """Try every interpreter that is there; the number of those in which something fails."""
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), str(ROOT)])
        (wheel,) = folder.glob("*.whl")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        needs = [need for need in project["dependencies"] if not need.startswith("torch>")]
        assert len(needs) == len(project["dependencies"]) - 1
        for interpreter in interpreters:
            found = shutil.which(interpreter)
            # A shim of pyenv is there for every version that somebody has installed, and starts only the chosen ones.
            if found is None or subprocess.run([found, "-V"], capture_output=True, check=False).returncode:
                print(f"{interpreter}: is not on this machine, left out")
                continue
            home = folder / Path(found).name
            _run([found, "-m", "venv", str(home)])
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            _run([*pip, *needs])
            _run([*pip, "--no-deps", str(wheel)])
            (home / "work").mkdir()
            done = subprocess.run(
                [str(home / "bin" / "python"), "-c", _PROGRAM, str(home / "work")],
                capture_output=True,
                text=True,
                check=False,
            )
            last = (done.stdout.strip().splitlines() or [""])[-1]
            if done.returncode or not last.startswith("WORKS"):
                failed += 1
                print(f"{interpreter}: FAILED\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
            else:
                print(f"{interpreter}: {last}")
    return failed


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["python3.11", "python3.12", "python3.13"]))
