"""The wheel: it carries kernels that run where there is no compiler, and give the showers of those built on the machine."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from caloforge.kernels.compiled import build

ROOT = Path(__file__).parents[2]
#: Hashes of showers by kernel; in one process, since importing takes longer than everything else.
_COMPARE = """
import hashlib, json, numpy as np, torch, caloforge
from caloforge.generation.sampling import generation_streams, sample_showers
from caloforge.kernels.compiled import loader
from caloforge.models import Conditions, load_model
torch.set_num_threads(1)
model = load_model("calogan-gamma").eval()
conditions = Conditions.first(np.geomspace(1e3, 1e5, 40), 22)
found = {"package": caloforge.__file__, "made": {}}
for kernels in [*loader.packaged_kernels(), None]:
    if kernels is not None and not kernels.runs:
        continue
    path = kernels.path if kernels else loader.build_for_user()
    loader._loaded = loader._Loaded()
    loader.use_choice(loader.Choice("user", "", path, "as the test wants"))
    assert loader.compiled_library() is not None, path
    for batch in (1, 40):
        made = sample_showers(model, conditions, generation_streams(1), batch_size=batch).showers.deposits
        hashed, name = hashlib.sha256(made.tobytes()).hexdigest(), kernels.name if kernels else "user"
        found["made"][f"{name} {batch}"] = hashed, made.sum(axis=1).astype(float).tolist(), int((made > 0).sum())
print(json.dumps(found))
"""


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, cwd=environment.get("PWD")
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def build_wheel(folder: Path, **environment: str) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    run([*pip, "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)], **environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def best_level(folder: Path) -> str:
    """The best kernels that this processor runs: compiling all of them would take minutes."""
    folder.mkdir()
    (library,) = build.compile_packaged(folder, [])
    level = ctypes.CDLL(str(library)).caloforge_processor_level()
    return next(name for name, least, _ in build.LEVELS[platform.machine()] if level >= least)


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
def test_a_wheel_serves_machines_without_a_compiler(tmp_path: Path) -> None:
    """Fails if the wheel lacks kernels, its tag promises too much, or its kernels make other showers than a build here.

    ``CALOFORGE_WHEEL_LEVELS=`` (empty) builds and compares the kernels for all processors.
    """
    levels = os.environ.get(
        "CALOFORGE_WHEEL_LEVELS", best_level(tmp_path / "processor")
    )  # the empty text is all of them
    wheel = build_wheel(tmp_path, CALOFORGE_WHEEL_KERNELS="require", CALOFORGE_WHEEL_LEVELS=levels)
    tag = re.fullmatch(r"caloforge-[0-9.]+-py3-none-manylinux_2_(\d+)_(\w+)\.whl", wheel.name)
    assert tag, wheel.name
    assert int(tag[1]) <= 34
    site = tmp_path / "site"
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index",
         "--target", str(site), str(wheel)])  # fmt: skip
    bare = {
        "PYTHONPATH": str(site), "PWD": str(tmp_path), "PATH": "/nowhere", "CXX": "/bin/false",
        "CALOFORGE_CACHE": str(tmp_path / "cache"), "HOME": "/nowhere",
    }  # fmt: skip
    command = [sys.executable, "-W", "error", "-m", "caloforge"]
    state = json.loads(run([*command, "kernels", "--json"], **bare))
    assert state["use"] == "packaged"
    run(
        [
            *command,
            "generate",
            "calogan-gamma",
            "--energy",
            "1:100",
            "--events",
            "3000",
            "--seed",
            "1",
            "--out",
            "a.h5",
        ],
        **bare,
    )
    assert not (tmp_path / "cache").exists()

    found = json.loads(run([sys.executable, "-c", _COMPARE], PYTHONPATH=str(site), PWD=str(tmp_path)))
    assert Path(found["package"]).is_relative_to(site)
    made = found["made"]
    assert len(made) == 2 * (1 + (len(levels.split(",")) if levels else 3))
    for name, (hashed, totals, lit) in made.items():
        expected = made[f"user {name.split()[1]}"]
        if name.startswith("x86-64-v2"):  # without fused products
            assert totals == pytest.approx(expected[1], rel=1e-4)
            assert lit == pytest.approx(expected[2], rel=1e-3)
        else:
            assert hashed == expected[0], name


def test_without_a_compiler_there_is_a_wheel_without_kernels(tmp_path: Path) -> None:
    """Fails if a build without a compiler fails."""
    assert build_wheel(tmp_path, CXX="/bin/false").name.endswith("-py3-none-any.whl")
