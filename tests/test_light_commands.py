"""What only lists or describes waits for no torch, and the front door opens at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from caloforge import datasets

HEAVY = ("torch", "sklearn", "matplotlib", "scipy")
SAMPLE = datasets.path("calogan-gamma-sample", split="test")


def modules_of(program: str, folder: Path) -> set[str]:
    """Which heavy modules a program of its own imports; the program must end well."""
    code = f"import sys\n{program}\nprint('LOADED', *(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "command",
    [
        ["models"],
        ["models", "--json"],
        ["detectors"],
        ["datasets"],
        ["plugins"],
        ["info", "calogan", "--no-drawing"],
        ["info", "calogan-gamma"],
        ["info", str(SAMPLE)],
        ["evaluate", "--help"],
    ],
    ids=lambda command: " ".join(command[:2]).rsplit("/", 1)[-1],
)
def test_a_command_that_only_describes_imports_no_torch(command: list[str], tmp_path: Path) -> None:
    """Mutation: import the classes of models at the top of ``caloforge.models`` or ``models.preset``."""
    program = f"from caloforge.cli.main import main\nassert main({command!r}) == 0"
    assert modules_of(program, tmp_path) == set()


def test_help_imports_no_torch(tmp_path: Path) -> None:
    program = "from caloforge.cli.main import main\nassert main(['--help']) == 0"
    assert modules_of(program, tmp_path) == set()
