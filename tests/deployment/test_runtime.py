"""The C++ runtime makes the showers of the Python package, and says so where it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_built import Built
from runtime_library import (
    ARGUMENT,
    DAMAGED,
    EXTRAPOLATE,
    NO_FILE,
    OK,
    OUTSIDE,
    REDRAWN,
    SPACE,
    SUCCESS,
    UNSUPPORTED,
    VERSION,
    Model,
    particles,
    with_changes,
)

from caloforge.deployment.build import build_runtime
from caloforge.deployment.parity import run_parity
from caloforge.errors import MissingDependencyError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions, load_model
from caloforge.random import Streams
from caloforge.showers import Showers

ENERGIES = np.geomspace(1e3, 1e5, 20)
NUMBERS = np.arange(100, 120, dtype=np.uint64)


@pytest.fixture(scope="module")
def model(built: Built) -> Model:
    return built.library.opened(built.export / "model")


def test_the_built_program_prints_pass(built: Built) -> None:
    """Against plain PyTorch in float64; mutation: another constant anywhere in voxels.hpp or flows.cpp."""
    done = subprocess.run([built.parity], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "PASS"
    assert "against the reference: voxels lit in one only" in done.stdout


def test_random_numbers_are_those_of_python(model: Model) -> None:
    """Mutation: another purpose, order of the key's words, or word of the counter for the attempt."""
    attempts = np.arange(20, dtype=np.uint64) % 3
    seed = 2**63 - 1
    found = model.latents(particles(ENERGIES), seed, NUMBERS, attempts)
    conditions = Conditions(ENERGIES, 22, NUMBERS.astype(np.int64), attempts.astype(np.int64))
    expected = load_model("calogan-gamma").latents(conditions, generation_streams(seed))
    for row, own in enumerate(found):
        assert own.tobytes() == b"".join(
            expected[name][row].numpy().tobytes() for name in ("energies", "shapes", "rejection")
        )


def test_showers_are_those_of_generate(model: Model) -> None:
    """The same seed and number, alone and among others; mutation: draw from another stream."""
    python = sample_showers(
        load_model("calogan-gamma"), Conditions.first(ENERGIES, 22, start=100), generation_streams(7)
    ).showers
    assert isinstance(python, Showers)
    batch, status = model.generate(particles(ENERGIES), 7, NUMBERS)
    assert set(status.tolist()) == {OK, REDRAWN}  # some are drawn again by the classifier that judges them
    single = np.concatenate([model.generate(particles([e]), 7, NUMBERS[k : k + 1])[0] for k, e in enumerate(ENERGIES)])
    for other in (python.deposits, single):
        assert (np.abs(batch - other).max(axis=1) < 1e-5 * ENERGIES).all()
        assert not ((batch > 0.02) & (other == 0)).any()
        assert not ((other > 0.02) & (batch == 0)).any()


def test_many_threads_share_a_model(built: Built) -> None:
    """The first one to ask for many showers at once packs the weights; mutation: pack without std::call_once."""
    shared, results = built.library.opened(built.export / "model"), {}

    def work(key: int) -> None:
        results[key] = shared.generate(particles(ENERGIES), 3, NUMBERS)[0]

    threads = [threading.Thread(target=work, args=(key,)) for key in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({found.tobytes() for found in results.values()}) == 1
    shared.close()


def test_what_it_was_not_trained_for_comes_back_empty(model: Model) -> None:
    low, high = model.info.energy
    asked = particles([low, high, low * 0.99, high * 1.01, np.nan, -1.0, np.inf])
    deposits, status = model.generate(asked, 1, np.arange(7, dtype=np.uint64))
    assert (status[:2] <= REDRAWN).all()
    assert (status[2:] == OUTSIDE).all()
    assert (deposits[2:] == 0).all()
    assert (deposits[:2].sum(axis=1) > 0).all()
    assert model.generate(particles([5e4], pdg=11), 1, NUMBERS[:1])[1][0] == OUTSIDE
    tilted = particles([5e4], directions=np.array([[0.6, 0.0, 0.8]]))
    assert model.generate(tilted, 1, NUMBERS[:1])[1][0] == OUTSIDE
    # On request only the impossible is refused.
    status = model.generate(asked, 1, np.arange(7, dtype=np.uint64), EXTRAPOLATE)[1]
    assert (status[:4] <= REDRAWN).all()
    assert (status[4:] == OUTSIDE).all()


def test_it_says_what_it_is(model: Model) -> None:
    record = load_model("calogan-gamma").record
    assert record is not None
    info = model.info
    assert (info.kind, info.weights) == (b"caloflow", record.weights_sha256.encode())
    assert (info.points, info.layers, info.voxels, info.particle) == (0, 3, 504, 22)
    assert tuple(info.energy) == record.valid.incident_energy


@pytest.mark.parametrize("per_voxel", [1, 4])
def test_spots_hold_the_energy_of_their_voxel(model: Model, per_voxel: int) -> None:
    """Exactly, inside the voxel; places are the package's random numbers. Mutation: share the deposit without its rest."""
    deposits, _ = model.generate(particles(ENERGIES), 5, NUMBERS)
    code, spots, offsets = model.place(deposits, per_voxel, 5, NUMBERS, deposits.size * per_voxel)
    assert code == SUCCESS
    readout = load_model("calogan-gamma").detector.readout
    for row, deposit in enumerate(deposits):
        own = spots[offsets[row] : offsets[row + 1]]
        assert len(own) == per_voxel * (deposit > 0).sum()
        sums = np.zeros(len(deposit))
        np.add.at(sums, own["voxel"], own["energy"])
        assert (sums == deposit).all()
        assert (readout.voxel_index(own["x"], own["y"], own["layer"]) == own["voxel"]).all()
        assert (readout.layer_of_depth(own["z"]) == own["layer"]).all()
    if per_voxel == 1:
        np.testing.assert_allclose(np.stack([spots["x"], spots["y"], spots["z"]], axis=1)[: offsets[1]],
                                   readout.centres()[spots["voxel"][: offsets[1]]])  # fmt: skip
    else:
        uniform = Streams(5, "generation/placement").uniform(NUMBERS[:1].astype(np.int64), 3)[0]
        front, back = readout.depths[spots["layer"][0]]
        assert spots["z"][0] == pytest.approx(front + uniform[2] * (back - front), abs=1e-9)


def test_a_small_buffer_says_what_is_needed(model: Model) -> None:
    deposits, _ = model.generate(particles(ENERGIES), 5, NUMBERS)
    code, spots, offsets = model.place(deposits, 2, 5, NUMBERS, 10)
    assert (code, offsets[-1]) == (SPACE, 2 * (deposits > 0).sum())
    assert (spots["energy"] > 0).all()


def test_wrong_arguments_are_codes(model: Model) -> None:
    c, none = model.c, None
    assert c.cf_generate(model.handle, -1, none, 0, none, 0, none, none) == ARGUMENT
    assert c.cf_generate(model.handle, 1, none, 0, none, 0, none, none) == ARGUMENT
    assert c.cf_generate(none, 0, none, 0, none, 0, none, none) == ARGUMENT
    assert c.cf_most_points(model.handle, none, none) == UNSUPPORTED
    assert c.cf_open(none, none, none, 0) == ARGUMENT
    assert c.cf_layer_depth(model.handle, 3, none, none) == ARGUMENT
    c.cf_close(none)


# ---- damaged files --------------------------------------------------------------------------------------------------


def copied(built: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.export / "model", tmp_path / "model"))


@pytest.mark.parametrize("name", ["runtime.json", "runtime.safetensors"])
@pytest.mark.parametrize("share", [0.0, 1e-7, 0.1, 0.9, 0.999])
def test_truncated_files_are_refused(built: Built, tmp_path: Path, name: str, share: float) -> None:
    folder = copied(built, tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    code, _, message = built.library.open(folder)
    assert code in (DAMAGED, NO_FILE)
    assert message


@pytest.mark.parametrize("name", ["runtime.json", "runtime.safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.7])
def test_one_changed_byte_is_noticed(built: Built, tmp_path: Path, name: str, share: float) -> None:
    """Mutation: leave out a digest."""
    folder = copied(built, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[int(share * len(content))] ^= 1
    (folder / name).write_bytes(content)
    assert built.library.open(folder)[0] == DAMAGED


def test_a_model_of_python_says_what_to_do(built: Built, tmp_path: Path) -> None:
    """Mutation: open the runtime's files without a look at the model beside them."""
    folder = copied(built, tmp_path)
    for name in ("runtime.json", "runtime.safetensors"):
        (folder / name).rename(tmp_path / name)
    code, _, message = built.library.open(folder)
    assert code == UNSUPPORTED
    assert f"'caloforge export {folder} --target cpp'" in message
    shutil.copy(tmp_path / "runtime.json", folder)
    shutil.copy(tmp_path / "runtime.safetensors", folder)
    assert built.library.open(folder)[0] == SUCCESS
    # Trained again: other weights under the old files of the runtime.
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(record | {"weights_sha256": "0" * 64}))
    code, _, message = built.library.open(folder)
    assert (code, "trained again after its export" in message) == (DAMAGED, True)
    # A program may do without what only Python reads.
    (folder / "model.json").unlink()
    (folder / "model.safetensors").unlink()
    assert built.library.open(folder)[0] == SUCCESS


@pytest.mark.parametrize("text", ["", "{", '{"weights_sha256": 3}', '{"a": "\\u12"}', "[1]", '{"a": "\\x"}', "null"])
def test_a_damaged_description_of_python_is_an_error(built: Built, tmp_path: Path, text: str) -> None:
    folder = copied(built, tmp_path)
    (folder / "model.json").write_text(text)
    code, _, message = built.library.open(folder)
    assert code in (DAMAGED, NO_FILE)
    assert message


def test_an_export_is_a_model_of_python_too(built: Built) -> None:
    """Mutation: copy the description without the weights."""
    one, other = load_model(built.export / "model"), load_model("calogan-gamma")
    assert one.record == other.record
    assert all((value == other.state_dict()[name]).all() for name, value in one.state_dict().items())


def test_a_missing_file_is_named(built: Built, tmp_path: Path) -> None:
    folder = copied(built, tmp_path)
    (folder / "runtime.safetensors").unlink()
    code, _, message = built.library.open(folder)
    assert code == NO_FILE
    assert "runtime.safetensors" in message
    assert built.library.open(tmp_path / "nothing")[0] == NO_FILE


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 99}, VERSION),
        ({"kind": "bib-ae"}, UNSUPPORTED),
        ({"kind": "caloinn"}, DAMAGED),
        ({"kind": "icaloflow"}, DAMAGED),
        ({"kind": "l2lflows"}, DAMAGED),
        ({"kind": "caloclouds3"}, DAMAGED),
        ({"kind": "gflash"}, DAMAGED),
        ({"kind": "pca-parametrisation"}, DAMAGED),
        ({"kind": "shower-library"}, DAMAGED),
        ({"kind": 3}, DAMAGED),
        ({"layer_sizes": [288, 144]}, DAMAGED),
        ({"layer_sizes": [288, 144, 71]}, DAMAGED),
        ({"incident_energy": [5.0]}, DAMAGED),
        ({"settings": {}}, DAMAGED),
        ({"depths": [[0, 1]]}, DAMAGED),
        ({"direction": [[0, 0, 1]]}, DAMAGED),
    ],
)
def test_a_description_that_fits_nothing_is_refused(
    built: Built, tmp_path: Path, changes: dict[str, Any], expected: int
) -> None:
    folder = copied(built, tmp_path)
    with_changes(folder, **changes)
    code, _, message = built.library.open(folder)
    assert (code, bool(message)) == (expected, True)


def test_a_right_description_with_a_new_digest_opens(built: Built, tmp_path: Path) -> None:
    """So that the tests above fail for the reason that they name."""
    folder = copied(built, tmp_path)
    with_changes(folder)
    assert built.library.open(folder)[0] == SUCCESS


# ---- building -------------------------------------------------------------------------------------------------------


def test_the_example_prints_spots(built: Built) -> None:
    def example(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [built.build / "example", built.export / "model", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    rows = np.loadtxt(example("20", "3").stdout.splitlines(), delimiter=",", skiprows=1)
    energy = np.bincount(rows[:, 0].astype(int), weights=rows[:, 4])
    assert len(energy) == 3
    assert (np.abs(energy - 20e3) < 2e3).all()
    assert (rows[:, 1] >= 1500).all()  # behind the face, along the world's x
    assert "Geant4 has to track it" in example("900", "1").stderr


def test_the_interface_is_plain_c(built: Built) -> None:
    header = built.export / "include" / "caloforge" / "runtime.h"
    command = ["cc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c", header]
    subprocess.run(command, check=True)


def test_a_compiler_that_is_not_there_is_named(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(MissingDependencyError, match=r"could not be built.*/no/such/compiler"):
        build_runtime(built.export, tmp_path / "b")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="CMake was not found"):
        build_runtime(built.export, tmp_path / "b")


USER = """
cmake_minimum_required(VERSION 3.16)
project(user LANGUAGES CXX)
find_package(CaloForge 1 REQUIRED)
add_executable(user user.cpp)
target_link_libraries(user CaloForge::caloforge)
"""
PROGRAM = """
#include "caloforge/runtime.hpp"
int main(int, char** a) { return caloforge::Model(a[1]).info().voxels == 504 ? 0 : 1; }
"""


@pytest.mark.slow
def test_an_installed_library_is_found_by_cmake(built: Built, tmp_path: Path) -> None:
    subprocess.run(["cmake", "--install", built.build, "--prefix", tmp_path / "there"], check=True, capture_output=True)
    (tmp_path / "CMakeLists.txt").write_text(USER)
    (tmp_path / "user.cpp").write_text(PROGRAM)
    build_runtime(tmp_path, tmp_path / "b", options=[f"-DCMAKE_PREFIX_PATH={tmp_path / 'there'}"])
    subprocess.run([tmp_path / "b" / "user", built.export / "model"], check=True)


@pytest.mark.slow
def test_sanitisers_find_nothing(built: Built, sanitised: Path, tmp_path: Path) -> None:
    """Addresses and undefined behaviour, with whole and with damaged files."""
    result = run_parity(sanitised, built.export)
    assert result.passed, result.text
    broken = shutil.copytree(built.export, tmp_path / "broken")
    weights = broken / "model" / "runtime.safetensors"
    content = weights.read_bytes()
    for size in (0, 7, 100, 5000, len(content) - 1):
        weights.write_bytes(content[:size])
        done = subprocess.run([sanitised, broken], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stdout.endswith("FAIL\n")
        assert not done.stderr  # where a sanitiser speaks
