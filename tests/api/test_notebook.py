"""The tutorial notebook runs from top to bottom, and is kept with what came out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "photons.ipynb"


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    """Mutation: rename anything that it calls. About ten seconds of one core."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "run_notebook.py"), str(NOTEBOOK), "--check"],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("runs, 6 results show themselves")


def test_the_notebook_is_kept_executed_and_small() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert NOTEBOOK.stat().st_size < 500_000
