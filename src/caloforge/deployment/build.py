"""Build the C++ runtime with CMake: into a folder, and once for each user, to verify what is exported."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from caloforge.arguments import is_typed
from caloforge.caches import cache_folder
from caloforge.cores import available_cores
from caloforge.errors import MissingDependencyError, OutputError

__all__ = ["build_runtime", "built_runtime", "copy_runtime"]

#: Half a minute of work, on a machine that may be busy with much else.
_TIMEOUT_SECONDS = 900
#: Sources of the package that are no part of the runtime's own folder; deployment imports nothing of the kernels.
_KERNELS = ("kernels", "compiled", "sources")


def _package() -> Path:
    return Path(str(resources.files("caloforge")))


def _runtime() -> Path:
    return _package() / "deployment" / "runtime"


def _kernel_sources() -> list[Path]:
    folder = _package().joinpath(*_KERNELS)
    return sorted([*folder.glob("*.hpp"), folder / "normals.cpp"])


def copy_runtime(folder: Path) -> None:
    """Copy the sources of the runtime, and those of the kernels that it shares with the package, into a folder.

    Raises:
        OutputError: if they cannot be written.
    """
    try:
        shutil.copytree(_runtime(), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        kernels = folder / "kernels"
        kernels.mkdir(exist_ok=True)
        for source in _kernel_sources():
            shutil.copyfile(source, kernels / source.name)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from None


def build_runtime(sources: Path, folder: Path, *, options: Sequence[str] = (), targets: Sequence[str] = ()) -> None:
    """Configure and build the runtime.

    Args:
        sources: the folder with its ``CMakeLists.txt``.
        folder: where everything goes that is built.
        options: of CMake, such as ``-DCALOFORGE_WERROR=ON``.
        targets: what to build; all if nothing is named.

    Raises:
        MissingDependencyError: if there is no CMake, or it fails.
    """
    cmake = shutil.which("cmake")
    if cmake is None:
        raise MissingDependencyError(
            "CMake was not found, which builds the C++ runtime to verify an export ('pip install cmake' brings it; "
            f"{'--no-verify' if is_typed() else 'verify=False'} writes without a proof)"
        )
    chosen = [f"--target={name}" for name in targets]
    for command in (
        [cmake, "-S", str(sources), "-B", str(folder), *options],
        # Without a number make starts every compiler at once, each of which takes some hundred megabytes.
        [cmake, "--build", str(folder), "--parallel", str(available_cores()), *chosen],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingDependencyError(f"CMake could not be run: {error}") from None
        if done.returncode:
            why = _reason(done.stderr + done.stdout)
            raise MissingDependencyError(f"the C++ runtime could not be built: {why}")


def _reason(output: str) -> str:
    """The first error that CMake or the compiler speaks of, as one line."""
    if found := re.search(r"CMake Error at [^\n]*\n(.*?)(?:\nCall Stack|\n\n\n|\Z)", output, re.DOTALL):
        return " ".join(found[1].split())
    return next((line for line in output.splitlines() if "error:" in line.lower()), "no reason given")


def built_runtime() -> Path:
    """Folder of the built runtime of this package, made once for each user, machine, compiler and version of the sources.

    Raises:
        MissingDependencyError: if it cannot be built.
        OSError: if the cache folder cannot be written.
    """
    digest = hashlib.sha256()
    for source in sorted(path for path in _runtime().rglob("*") if path.is_file()):
        digest.update(source.read_bytes())
    for source in _kernel_sources():
        digest.update(source.read_bytes())
    digest.update(f"{os.environ.get('CXX')} {os.uname().machine}".encode())
    folder = cache_folder() / f"runtime-{digest.hexdigest()[:24]}"
    if (folder / "parity").exists():
        return folder
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Built beside its place and renamed: of several processes each builds its own, and the first one stays.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="runtime-") as beside:
        work = Path(beside) / "work"
        # Static, so that the programs may be moved.
        build_runtime(_runtime(), work, options=["-DBUILD_SHARED_LIBS=OFF"])
        whole = Path(beside) / "whole"
        whole.mkdir()
        for name in ("parity", "timing"):
            shutil.copy2(work / name, whole / name)
        try:
            whole.rename(folder)
        except OSError:
            if not (folder / "parity").exists():
                raise
    return folder
