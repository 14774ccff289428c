"""The C++ runtime with one model: sources, model, test vectors, an example."""

from __future__ import annotations

import shutil
from pathlib import Path

from caloforge.atomic import output_error, replace_file
from caloforge.deployment.build import built_runtime, copy_runtime
from caloforge.deployment.parity import ParityResult, run_parity
from caloforge.deployment.runtime_files import write_runtime_files
from caloforge.deployment.vectors import write_vectors
from caloforge.errors import OutputError
from caloforge.generation import generation_streams
from caloforge.models import ShowerModel
from caloforge.units import format_energy

__all__ = ["write"]

_README = """\
# {name} for C++

A CaloForge model ({kind}, detector {detector}, {low} to {high}) with the library that makes its showers. It needs g++ 11
or later (or a clang with its standard library), CMake 3.16 and nothing else.

    cmake -S . -B build && cmake --build build --parallel
    build/parity          # compares {showers} showers with the Python package's; prints PASS
    build/example > spots.csv

In a project of your own: `add_subdirectory(...)` of this folder, or `cmake --install build --prefix ...` and
`find_package(CaloForge)`; then `target_link_libraries(yours CaloForge::caloforge)`. Ship the folder `model/` with your
program, which opens `runtime.json` and `runtime.safetensors` in it. `model.json` and `model.safetensors` beside them are for
Python (`caloforge generate model ...`); a program does without. `include/caloforge/runtime.h` is the C interface and says what
every function does, `runtime.hpp` a C++ one on top of it; `example/` is a program of sixty lines.

For Geant4 `include/caloforge/geant4.hpp` is a fast-simulation model (header only), `geant4/` a whole application with
it; `dd4hep/` is a plug-in of DDG4. Their READMEs say what they need.

The library is compiled for x86-64-v3 (AVX2, processors since 2013); `-DCALOFORGE_MARCH=x86-64-v2` is for older ones.
Licence of the sources: Apache-2.0; of the weights: {licence}.
"""


def write(
    folder: Path, where: str | Path, model: ShowerModel, showers: int, seed: int, verify: bool
) -> ParityResult | None:
    """Fill the folder of an export.

    Args:
        folder: an empty folder.
        where: the model.
        model: the same, loaded.
        showers: number of test vectors.
        seed: of them.
        verify: build the runtime and compare.

    Raises:
        UsageError: if the runtime does not know such a model.
        MissingDependencyError: if it cannot be built.
        OutputError: if something cannot be written.
    """
    record = model.record
    assert record is not None  # loaded from a directory
    name = Path(where).name
    try:
        (folder / "model").mkdir()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from None
    write_runtime_files(folder / "model", model, name)
    _copy_model(model, folder / "model")
    copy_runtime(folder)
    write_vectors(folder, where, model, showers=showers, seed=seed, streams=generation_streams(seed))
    low, high = map(format_energy, record.valid.incident_energy)
    text = _README.format(
        name=name, kind=model.kind, detector=model.detector.name, low=low, high=high, showers=showers,
        licence=record.licence,
    )  # fmt: skip
    replace_file(folder / "README.md", text)
    return run_parity(built_runtime() / "parity", folder) if verify else None


def _copy_model(model: ShowerModel, folder: Path) -> None:
    """The model as the package itself stores it, so that a folder serves both.

    Raises:
        OutputError: if it cannot be written.
    """
    assert model.directory is not None  # loaded from there
    for name in ("model.safetensors", "model.json"):
        try:
            shutil.copyfile(model.directory / name, folder / name)
        except OSError as error:
            raise output_error(folder / name, error) from None
