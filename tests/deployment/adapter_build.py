"""Compile sources of the Geant4 adapter against the stubs, with warnings as errors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from caloforge.deployment import build

HERE = Path(__file__).parent
STUBS, SOURCES = HERE / "geant4_stubs", HERE / "geant4_sources"
RUNTIME = Path(build.__file__).parent / "runtime"

_FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")


def compiled(
    sources: Sequence[Path], out: Path | None, *options: str, runtime: Path | None = None, stubs: bool = True
) -> Path | None:
    """A program or library; without ``out`` the sources are only looked at.

    Args:
        sources: C++ files.
        out: what to make.
        options: more of them, of the compiler.
        runtime: folder of the shared library, to link with.
        stubs: whether the stubs stand in for Geant4's headers.
    """
    command = [os.environ.get("CXX", "g++"), *_FLAGS, f"-I{RUNTIME / 'include'}", *options]
    command += [f"-I{STUBS}"] if stubs else []
    command += ["-fsyntax-only"] if out is None else ["-o", str(out)]
    command += map(str, sources)
    if runtime is not None:
        command += [f"-L{runtime}", "-lcaloforge", f"-Wl,-rpath,{runtime}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return out
