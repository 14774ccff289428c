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


def errors(sources: Sequence[Path], out: Path | None, *options: str, runtime: Path | None = None) -> str:
    """What the compiler says.

    Args:
        sources: C++ files.
        out: the program or library to make; without it the sources are only looked at.
        options: more of them, of the compiler.
        runtime: folder of the shared library, to link with.
    """
    command = [os.environ.get("CXX", "g++"), *_FLAGS, f"-I{RUNTIME / 'include'}", f"-I{STUBS}", *options]
    command += ["-fsyntax-only"] if out is None else ["-o", str(out)]
    command += map(str, sources)
    if runtime is not None:
        command += [f"-L{runtime}", "-lcaloforge", f"-Wl,-rpath,{runtime}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (not done.stderr)
    return done.stderr


def compiled(sources: Sequence[Path], out: Path | None, *options: str, runtime: Path | None = None) -> Path | None:
    """Likewise, without a word of the compiler."""
    said = errors(sources, out, *options, runtime=runtime)
    assert not said, said
    return out
