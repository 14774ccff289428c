"""Build the C++ sources of this package into a shared library in a per-user cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from caloforge.errors import MissingDependencyError

__all__ = ["build_library", "cache_folder"]

#: Results must follow IEEE arithmetic: nothing here lets the compiler reorder sums, contract products or assume finite numbers.
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-ffp-contract=off",
    "-fno-trapping-math",
    "-fno-math-errno",
)
_COMPILERS = ("c++", "g++", "clang++")
#: Half a minute of work, on a machine that may be busy with much else.
_TIMEOUT_SECONDS = 900


def cache_folder() -> Path:
    """Folder for built files; see the package docstring."""
    if chosen := os.environ.get("CALOFORGE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "caloforge"


def _compiler() -> list[str]:
    if chosen := os.environ.get("CXX"):
        return shlex.split(chosen)
    for name in _COMPILERS:
        if path := shutil.which(name):
            return [path]
    raise MissingDependencyError("no C++ compiler was found (looked for $CXX, c++, g++, clang++); install g++ or clang")


def _processor() -> str:
    """What the machine can do: a home folder may be shared by machines of different kinds."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return f"{platform.machine()} {platform.processor()}"


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependencyError(f"the C++ compiler '{command[0]}' could not be run: {error}") from error


def build_library() -> Path:
    """Path of the shared library for this processor, compiler and version of the sources; built if not there.

    The file is written under a temporary name and renamed, so that processes starting together do no harm.

    Raises:
        MissingDependencyError: If there is no compiler, or it fails.
        OSError: If the cache folder cannot be written.
    """
    folder = Path(__file__).parent / "sources"
    sources = sorted(folder.glob("*.cpp"))
    compiler = _compiler()
    tune = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    digest = hashlib.sha256()
    for source in (*sources, *sorted(folder.glob("*.hpp"))):
        digest.update(source.read_bytes())
    for text in (*compiler, tune, *_FLAGS, _run([*compiler, "--version"]).stdout, _processor(), platform.platform()):
        digest.update(text.encode())
    cache = cache_folder()
    library = cache / f"kernels-{digest.hexdigest()[:24]}.so"
    if library.exists():
        return library
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=cache, suffix=".so.part")
    os.close(handle)
    try:
        done = _run([*compiler, *_FLAGS, tune, *map(str, sources), "-o", temporary])
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise MissingDependencyError(f"the C++ compiler '{compiler[0]}' failed: {last[0]}")
        os.chmod(temporary, 0o700)
        os.replace(temporary, library)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return library
