"""The runtime is built once, from an export, with warnings as errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from runtime_library import Library

from caloforge.deployment import export_model
from caloforge.deployment.build import build_runtime


@dataclass(frozen=True)
class Built:
    """An export of the packaged model, and what CMake made of it."""

    export: Path
    build: Path
    library: Library

    @property
    def parity(self) -> Path:
        return self.build / "parity"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("runtime")
    export_model("calogan-gamma", "cpp", folder / "export", verify=False)
    build_runtime(
        folder / "export", folder / "build", options=["-DCALOFORGE_WERROR=ON"], targets=["parity", "example", "timing"]
    )
    return Built(folder / "export", folder / "build", Library(folder / "build" / "libcaloforge.so"))
