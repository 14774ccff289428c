"""Compile the C++ sources beside this file: for the wheel, and for one user's machine into a per-user cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from caloforge.caches import cache_folder
from caloforge.errors import MissingDependencyError

__all__ = ["LEVELS", "build_for_user", "compile_packaged", "find_compiler", "user_library"]

_log = logging.getLogger(__name__)

#: Results must follow IEEE arithmetic: nothing here lets the compiler reorder sums, contract products or assume finite numbers.
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-pthread", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno")
_COMPILERS = ("c++", "g++", "clang++")
#: Half a minute of work, on a machine that may be busy with much else.
_TIMEOUT_SECONDS = 900
_SOURCES = Path(__file__).parent / "sources"

#: What the wheel carries for each architecture: names of the kernels, best first, the least answer of the processor's test that
#: allows them, and the compiler's option.
LEVELS: Mapping[str, Sequence[tuple[str, int, str]]] = {
    "x86_64": [(f"x86-64-v{level}", level, f"-march=x86-64-v{level}") for level in (4, 3, 2)],
    "aarch64": [("armv8-a", 1, "-march=armv8-a")],
}


def find_compiler() -> list[str]:
    """The command that compiles C++: ``CXX``, or the first of the usual names.

    Raises:
        MissingDependencyError: if there is none.
    """
    if chosen := os.environ.get("CXX"):
        return shlex.split(chosen)
    for name in _COMPILERS:
        if path := shutil.which(name):
            return [path]
    raise MissingDependencyError("no C++ compiler was found (looked for $CXX, c++, g++, clang++)")


def _run(command: Sequence[str]) -> str:
    """What a compiler prints.

    Raises:
        MissingDependencyError: if it cannot be run, or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependencyError(f"the C++ compiler '{command[0]}' could not be run: {error}") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise MissingDependencyError(f"the C++ compiler '{command[0]}' failed: {last[0]}")
    return done.stdout


def _compile(libraries: Mapping[Path, tuple[Sequence[Path], str]], compiler: Sequence[str]) -> None:
    """Make shared libraries, each of some sources with an option of its own; sources are compiled side by side."""
    with tempfile.TemporaryDirectory(prefix="caloforge-") as folder:
        objects = {
            (library, source): os.path.join(folder, f"{number}-{source.stem}.o")
            for number, (library, (sources, _)) in enumerate(libraries.items())
            for source in sources
        }

        def one(key: tuple[Path, Path]) -> None:
            library, source = key
            _run([*compiler, *_FLAGS, libraries[library][1], "-c", str(source), "-o", objects[key]])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, objects))
        for library, (sources, _) in libraries.items():
            files = [objects[library, source] for source in sources]
            _run([*compiler, "-shared", "-pthread", *_linking(), *files, "-o", str(library)])


def _linking() -> list[str]:
    """Only the interface is visible: kernels for several processors may be loaded side by side."""
    return [f"-Wl,--version-script={_SOURCES / 'exports.map'}", "-s"] if platform.system() == "Linux" else []


def _kernel_sources() -> list[Path]:
    return sorted(_SOURCES.glob("*.cpp"))


def compile_packaged(folder: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Compile what the wheel carries for this architecture: the test of the processor, and kernels for its levels.

    Args:
        folder: where the libraries go.
        names: of the levels; None for all.

    Raises:
        MissingDependencyError: if there is no compiler, it fails, or there are no such kernels for this architecture.
    """
    levels = LEVELS.get(platform.machine())
    if levels is None or platform.system() != "Linux":
        raise MissingDependencyError(f"there are no kernels for {platform.system()} on {platform.machine()}")
    options = {name: option for name, _, option in levels}
    if unknown := set(names or ()) - set(options):
        raise MissingDependencyError(f"there are no kernels {unknown.pop()}, only {', '.join(options)}")
    libraries: dict[Path, tuple[Sequence[Path], str]] = {
        folder / f"{name}.so": (_kernel_sources(), options[name]) for name in (options if names is None else names)
    }
    libraries[folder / "processor.so"] = ([_SOURCES / "processor" / "processor.cpp"], "-O1")
    _compile(libraries, find_compiler())
    return list(libraries)


# ---- per user -------------------------------------------------------------------------------------------------------


def _processor() -> str:
    """What the machine can do: a home folder may be shared by machines of different kinds."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return f"{platform.machine()} {platform.processor()}"


def _libc() -> str:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    return ""


def _tuned() -> str:
    return "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


def user_library(compiler: Sequence[str]) -> Path:
    """Where the library for this processor, C library, compiler and version of the sources is, or will be.

    Raises:
        MissingDependencyError: if the compiler does not run.
    """
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.iterdir()):
        if source.is_file():
            digest.update(source.read_bytes())
    for text in (*compiler, _tuned(), *_FLAGS, _run([*compiler, "--version"]), _processor(), _libc()):
        digest.update(text.encode())
    return cache_folder() / f"kernels-{digest.hexdigest()[:24]}.so"


def build_for_user() -> Path:
    """Path of the shared library for this machine, compiled if it is not there.

    Of several processes one compiles and the others wait for it. The file is written under a temporary name and renamed.

    Raises:
        MissingDependencyError: if there is no compiler, it fails, or others may write into the cache folder.
        OSError: if the cache folder cannot be written.
    """
    compiler = find_compiler()
    library = user_library(compiler)
    _check_owner(library)
    if library.exists():
        return library
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owner(library)
    with _alone(library.parent / "kernels.lock"):
        if library.exists():
            return library
        _log.info("compiling kernels for this processor with %s, once", compiler[0])
        handle, temporary = tempfile.mkstemp(dir=library.parent, suffix=".so.part")
        os.close(handle)
        try:
            _compile({Path(temporary): (_kernel_sources(), _tuned())}, compiler)
            os.chmod(temporary, 0o700)
            os.replace(temporary, library)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return library


def _check_owner(library: Path) -> None:
    """What is loaded becomes part of the program, so nobody else may be able to put it there."""
    for path in (library.parent, library):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            if found.st_uid not in (0, os.getuid()) or found.st_mode & 0o002:
                raise MissingDependencyError(
                    f"other users can write to '{path}'; name another folder for kernels with CALOFORGE_CACHE"
                )


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While others hold the lock, wait; a file system without locks does without."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
