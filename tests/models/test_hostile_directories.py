"""Model directories from someone who means harm: nothing is executed, nothing outside the folder is read or written."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from model_samples import toy_detector
from safetensors.torch import load_file, save_file

from caloforge.detectors import detector_from_toml
from caloforge.errors import CaloForgeError, DetectorError, ModelFileError, OutputError
from caloforge.models import ConditionRange, build_model, load_model, read_record, save_model, training_row_hashes
from caloforge.training import train

CONFIG: dict[str, Any] = {
    "energies": {"blocks": 1, "hidden_features": 6},
    "shapes": {"blocks": 1, "hidden_features": 6},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "model", build_model("caloflow", CONFIG, toy_detector()), ConditionRange.of(22, [1e3, 1e5]))
    return tmp_path / "model"


def change(folder: Path, changes: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / "model.json").read_text())
    changes(record)
    (folder / "model.json").write_text(json.dumps(record))


def new_weights(folder: Path, content: bytes) -> None:
    """Other weights, for which model.json has the right hash."""
    import hashlib

    (folder / "model.safetensors").write_bytes(content)
    change(folder, lambda r: r.update(weights_sha256=hashlib.sha256(content).hexdigest()))


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "plan.json"])
def test_nothing_is_unpickled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Fails (a folder appears) with ``torch.load(..., weights_only=False)`` anywhere on the way."""
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"weights": Payload()})
    (new_weights(folder, content) if name == "model.safetensors" else (folder / name).write_bytes(content))
    if name == "plan.json":
        (folder / "model.json").unlink()
    for read in (load_model,) if name == "model.safetensors" else (load_model, read_record):
        with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
            read(folder)
    assert not Path("executed").exists()


@pytest.mark.parametrize("where", ["model.json", "model.safetensors", "stages", "stages/shapes", "stages/shapes/last"])
@pytest.mark.parametrize("absolute", [True, False])
def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path, where: str, absolute: bool) -> None:
    """Fails without ``check_contained``: the message about a secret that is no JSON quotes it."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret: 42")
    path = folder / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    target = secret if where.startswith("stages") else secret / "file"
    path.symlink_to(target if absolute else os.path.relpath(target, path.parent))
    for read in (load_model, read_record, training_row_hashes):
        with pytest.raises(ModelFileError, match="is a link that leads out of its folder") as caught:
            read(folder)
        assert "42" not in str(caught.value)


def test_links_inside_are_fine_and_the_folder_may_be_one(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "v2.safetensors")
    (folder / "model.safetensors").symlink_to("v2.safetensors")
    (tmp_path / "latest").symlink_to("model")
    (folder / "generated.h5").symlink_to("/nowhere")  # not ours
    assert load_model(tmp_path / "latest").kind == "caloflow"


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_pipe_does_not_keep_us_waiting(folder: Path, name: str) -> None:
    """Hangs if the file is simply opened."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelFileError, match=r"is no model directory|is neither a file nor a folder"):
        load_model(folder)


def toy_file(path: Path) -> Path:
    detector = toy_detector()
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["incident_energies"] = rng.uniform(1e3, 1e5, (40, 1))
        file["showers"] = rng.random((40, detector.readout.n_voxels), dtype=np.float32) * 10
        file.attrs["detector"], file.attrs["particle"] = detector.to_toml(), 22
    return path


@pytest.mark.parametrize("where", ["stages", "stages/shapes", "stages/shapes/last", "config.yaml", "metrics.jsonl"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_training_writes_and_clears_nothing_outside(tmp_path: Path, where: str, overwrite: bool) -> None:
    """Fails without ``check_contained``: clearing ``stages`` removes what the link leads to."""
    precious = tmp_path / "precious"
    (precious / "shapes").mkdir(parents=True)
    (precious / "shapes" / "file").write_text("mine")
    run, data = tmp_path / "run", toy_file(tmp_path / "a.h5")
    path = run / where
    path.parent.mkdir(parents=True)
    path.symlink_to(precious if where.startswith("stages") else precious / "shapes" / "file")
    with pytest.raises(OutputError, match="is a link that leads out of its folder"):
        train("caloflow-tiny", data, run, overwrite=overwrite, resume=not overwrite, show=False)
    assert (precious / "shapes" / "file").read_text() == "mine"
    assert sorted(p.name for p in precious.rglob("*")) == ["file", "shapes"]


@pytest.mark.parametrize(
    "changes",
    [
        {"details": {}},
        {"details": {"order": {"block": "x", "pool": 3}}},
        {"details": {"order": {"block": 10**30, "pool": 3}}},
        {"details": {"order": {"block": None, "pool": 1}}},
        {"stages": ["../../x"]},
    ],
)
def test_a_damaged_plan(tmp_path: Path, changes: dict[str, Any]) -> None:
    run, data = tmp_path / "run", toy_file(tmp_path / "a.h5")
    train("caloflow-tiny", data, run, stages=["scale"], show=False)
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | changes))
    with pytest.raises(CaloForgeError, match=r"damaged|holds another training"):
        train("caloflow-tiny", data, run, stages=["scale"], resume=True, show=False)


def edited(section: str, key: str, value: int) -> Callable[[dict[str, Any]], object]:
    return lambda record: record["config"][section].update({key: value})


BOMBS = {
    "layers": edited("shapes", "hidden_layers", 10**9),
    "blocks": edited("energies", "blocks", 10**9),
    "features": edited("shapes", "hidden_features", 10**9),
    "bins": edited("shapes", "bins", 10**12),
    "voxels": lambda record: record.update(detector=record["detector"].replace("bins = 4", "bins = 4000000000")),
    "depth of JSON": lambda record: record.update(metrics=json.loads('{"a":' * 500 + "1" + "}" * 500)),
}

LOAD = """
import resource, sys
from caloforge.errors import ModelFileError
from caloforge.models import load_model
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
try:
    load_model(sys.argv[1])
    print("loaded")
except ModelFileError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_sizes_beyond_reason(folder: Path, name: str) -> None:
    """Fails (with a traceback, or after hours) without ``limited_to`` and the limits of a readout."""
    change(folder, BOMBS[name])
    answer = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout.startswith("loaded" if name == "depth of JSON" else "refused:")
    assert answer.stdout.count("\n") == 1
    assert "Traceback" not in answer.stderr


def test_a_header_beyond_reason(folder: Path) -> None:
    for header in ((2**62).to_bytes(8, "little") + b"{}", (99_000_000).to_bytes(8, "little") + b"{" * 1000):
        new_weights(folder, header)
        with pytest.raises(ModelFileError, match="cannot be read as safetensors"):
            load_model(folder)


@pytest.mark.parametrize("changed", [lambda t: t.to(torch.int32), lambda t: t.reshape(-1), lambda t: t[None]])
def test_tensors_of_another_kind(folder: Path, changed: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Fails for whole numbers if only shapes are compared: torch would convert them without a word."""
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n, t in tensors.items() if t.ndim == 2 and t.is_floating_point())
    save_file(tensors | {name: changed(tensors[name]).contiguous()}, folder / "other")
    new_weights(folder, (folder / "other").read_bytes())
    with pytest.raises(ModelFileError, match=f"the tensor '{name}'"):
        load_model(folder)


def test_a_detector_beyond_reason() -> None:
    layer = "[[readout.layers]]\n{}\nx = {{ bins = {}, range = [0, 1] }}\ny = {{ bins = {}, range = [0, 1] }}\n"
    began = time.monotonic()
    for repeat, x, y in ((10**9, 2, 2), (1, 10**9, 2), (100_000, 1000, 1000), (1, 50_000, 50_000)):
        text = 'name = "a"\n' + layer.format(f"repeat = {repeat}", x, y)
        with pytest.raises(
            DetectorError, match=r"less than or equal to 100000|more than 100,000 layers or 100,000,000 vo"
        ):
            detector_from_toml(text, where="a.toml")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("name", ["stages", "stages/shapes", "stages/scale/last"])
@pytest.mark.parametrize("kind", ["file", "link to itself", "link to nothing"])
def test_what_stands_where_a_folder_should_be(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    """Fails with FileExistsError where a folder is made without a look at what the system says."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.touch()
    else:
        path.symlink_to(path.name if kind == "link to itself" else "nothing")
    with pytest.raises(OutputError, match=rf"{path.name}.*' cannot be (made|used) \("):
        train("caloflow-tiny", toy_file(tmp_path / "a.h5"), folder, resume=True, show=False)
