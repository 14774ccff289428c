"""Execute a notebook of the documentation, from a folder of its own, and keep or only check what comes out.

Run with: python tools/run_notebook.py docs/photons.ipynb [--check]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TIMEOUT = 600


def execute(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the time of day is no result
    # A version of the interpreter in the file would change with whoever runs it last.
    notebook.metadata.get("language_info", {}).pop("version", None)
    return notebook


def main(arguments: list[str]) -> None:
    path = Path(arguments[0])
    notebook = execute(path)
    shown = sum(
        bool(output.get("data", {}).get("text/html")) for cell in notebook.cells for output in cell.get("outputs", ())
    )
    if "--check" in arguments:
        print(f"{path}: runs, {shown} results show themselves")
        return
    nbformat.write(notebook, path)
    print(f"{path}: written, {path.stat().st_size / 1e3:.0f} kB, {shown} results show themselves")


if __name__ == "__main__":
    main(sys.argv[1:])
