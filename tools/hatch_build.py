"""Hook of hatchling: compile the kernels into the wheel, if there is a C++ compiler.

``CALOFORGE_WHEEL_KERNELS=0`` leaves them out, ``require`` makes it an error if they cannot be compiled (for wheels that
others are to use). ``CALOFORGE_WHEEL_LEVELS=x86-64-v3`` compiles for one kind of processor instead of all. An editable
install carries none: they are compiled for the machine when they are first needed.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Where in the wheel.
PLACE = "caloforge/kernels/compiled/packaged"
#: manylinux policies (PEP 600) as auditwheel knows them: version of the C library, newest symbols of the C++ library.
POLICIES = (
    (17, "GLIBCXX_3.4.19 CXXABI_1.3.7"), (24, "GLIBCXX_3.4.22 CXXABI_1.3.10"), (27, "GLIBCXX_3.4.24 CXXABI_1.3.11"),
    (28, "GLIBCXX_3.4.24 CXXABI_1.3.11"), (31, "GLIBCXX_3.4.28 CXXABI_1.3.12"), (34, "GLIBCXX_3.4.29 CXXABI_1.3.13"),
    (35, "GLIBCXX_3.4.30 CXXABI_1.3.13"), (38, "GLIBCXX_3.4.30 CXXABI_1.3.13"), (39, "GLIBCXX_3.4.33 CXXABI_1.3.15"),
)  # fmt: skip


class KernelHook(BuildHookInterface[Any]):
    """Adds compiled kernels, and the tag of the machines on which they run."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel is put together."""
        wanted = os.environ.get("CALOFORGE_WHEEL_KERNELS", "1")
        if version == "editable" or wanted == "0":
            return
        sys.path.insert(0, str(Path(self.root) / "src"))
        try:
            from caloforge.errors import MissingDependencyError
            from caloforge.kernels.compiled.build import compile_packaged
        finally:
            sys.path.pop(0)
        self.folder = tempfile.TemporaryDirectory(prefix="caloforge-wheel-")
        try:
            levels = os.environ.get("CALOFORGE_WHEEL_LEVELS")
            libraries = compile_packaged(Path(self.folder.name), levels.split(",") if levels else None)
        except MissingDependencyError as error:
            if wanted == "require":
                raise
            self.app.display_warning(
                f"no compiled kernels in this wheel, it will compile them where it is used: {error}"
            )
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag(libraries)}"
        for library in libraries:
            build_data["force_include"][str(library)] = f"{PLACE}/{library.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clear up when the wheel is there."""
        if hasattr(self, "folder"):
            self.folder.cleanup()


def platform_tag(libraries: list[Path]) -> str:
    """The oldest manylinux on which the libraries run, by the versions of symbols that they use."""
    names = rb"\0(GLIBC|GLIBCXX|CXXABI)_([0-9.]+)(?=\0)"
    used = {found for library in libraries for found in re.findall(names, library.read_bytes())}
    newest = {}
    for name, version in used:
        numbers = tuple(map(int, version.decode().split(".")))
        newest[name.decode()] = max(newest.get(name.decode(), (0,)), numbers)
    if "GLIBC" in newest:  # else another C library
        for minor, others in POLICIES:
            allowed = dict(other.split("_") for other in f"GLIBC_2.{minor} {others}".split())
            if all(newest.get(name, (0,)) <= tuple(map(int, most.split("."))) for name, most in allowed.items()):
                return f"manylinux_2_{minor}_{platform.machine()}"
    return f"linux_{platform.machine()}"
