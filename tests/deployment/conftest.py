"""The runtime is built once, from an export, with warnings as errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime_built import Built
from runtime_library import Library

from caloforge.deployment import export_model
from caloforge.deployment.build import build_runtime


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("runtime")
    export_model("calogan-gamma", "cpp", folder / "export", verify=False)
    build_runtime(
        folder / "export", folder / "build", options=["-DCALOFORGE_WERROR=ON"], targets=["parity", "example", "timing"]
    )
    return Built(folder / "export", folder / "build", Library(folder / "build" / "libcaloforge.so"))


@pytest.fixture(scope="session")
def sanitised(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of parity with sanitisers of addresses and of undefined behaviour."""
    folder = tmp_path_factory.mktemp("sanitised")
    options = ["-DCALOFORGE_SANITISE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DCALOFORGE_WERROR=ON"]
    build_runtime(built.export, folder, options=options, targets=["parity"])
    return folder / "parity"
