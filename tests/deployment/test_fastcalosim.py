"""The double of FastCaloSim against hand-made graphs, where positions and energies are known; then our export in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
import torch
from model_samples import fit, sparse_showers, toy_detector
from onnx import TensorProto, helper

from caloforge.cli.main import main
from caloforge.conditions import ConditionRange
from caloforge.deployment import export_model
from caloforge.deployment.hosts.fastcalosim import FastCaloSim
from caloforge.detectors import detector_from_toml
from caloforge.errors import GenerationError, UsageError
from caloforge.models import build_model, save_model

BOUNDARIES, LAYERS = [0, 4, 6], [1, 12]
SIZES = {"inn_einc_in": 1, "cfm_z_shape": 6, "inn_z_energy": 2}
POLAR = """
name = "polar"
analysis_threshold = 0.010

[gun]
particles = ["gamma"]
energy = "1:100"

[[readout.layers]]
labels = ["1"]
r_edges = [0.0, 5.0, 10.0]
alpha = 4

[[readout.layers]]
labels = ["12"]
r_edges = [0.0, 20.0, 30.0]
"""


def write_metadata(path: Path, without: str = "") -> Path:
    """Layer 1: four sectors from -pi on, of radius 10 to 20 mm; layer 12: two rings."""
    sector = np.pi / 2
    content = {
        "binstart_radius_layer_1": [10.0] * 4, "binsize_radius_layer_1": [10.0] * 4,
        "binstart_alpha_layer_1": [-np.pi + k * sector for k in range(4)], "binsize_alpha_layer_1": [sector] * 4,
        "binstart_radius_layer_12": [0.0, 5.0], "binsize_radius_layer_12": [5.0, 5.0],
        "binstart_alpha_layer_12": [-np.pi] * 2, "binsize_alpha_layer_12": [2 * np.pi] * 2,
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if name != without:
                file[name] = np.array(values, dtype=np.float32)
    return path


def graph(
    path: Path, *, sizes: dict[str, int] = SIZES, types: Sequence[int] = (1,) * 9, outputs: int = 1, weights: Any = None
) -> Path:
    """voxels = energy * weights + 0 * all else, as a network that lights one voxel."""
    weights = np.eye(6)[2] if weights is None else weights
    kind = types[0]
    inputs = [helper.make_tensor_value_info(n, types[k], [1, s]) for k, (n, s) in enumerate(sizes.items())]
    first = next(iter(sizes))
    constant = helper.make_tensor("w", kind, [1, len(weights)], np.asarray(weights, dtype=float).tolist())
    nodes = [helper.make_node("Mul", [first, "w"], ["voxels"])]
    made = [helper.make_tensor_value_info("voxels", kind, [1, len(weights)])]
    for k in range(1, outputs):
        nodes.append(helper.make_node("Identity", ["voxels"], [f"more_{k}"]))
        made.append(helper.make_tensor_value_info(f"more_{k}", kind, [1, len(weights)]))
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, made, [constant]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.save(model, str(path))
    return path


def host(tmp_path: Path, **changes: Any) -> FastCaloSim:
    metadata = write_metadata(tmp_path / "v.h5", changes.pop("without", ""))
    name = changes.pop("name", "g.onnx")
    return FastCaloSim(graph(tmp_path / name, **changes), metadata, BOUNDARIES, LAYERS)


NORMAL = np.zeros(8)


def test_one_hot_voxel_becomes_hits_at_its_place(tmp_path: Path) -> None:
    """Mutation: alpha and radius exchanged, sine and cosine exchanged, or hits of another number."""
    double = host(tmp_path)
    voxels = double.voxel_energies(42.0, -0.5, NORMAL)
    assert voxels.tolist() == [0, 0, 42, 0, 0, 0]
    hits = double.hits(voxels, np.random.default_rng(0))
    assert (hits.energy == 4.2).all()  # one for every 4 MeV, rounded down
    assert len(hits.energy) == 10
    assert (hits.layer == 1).all()
    # The third sector of four from -pi on: 0 to 90 degrees.
    assert (hits.place > 0).all()
    radius = np.hypot(*hits.place.T)
    assert ((radius >= 10) & (radius <= 20)).all()


@pytest.mark.parametrize(("energy", "hits"), [(0.1, 1), (8.1, 2), (1e5, 100)])
def test_a_voxel_has_one_to_a_hundred_hits(tmp_path: Path, energy: float, hits: int) -> None:
    double = host(tmp_path)
    made = double.hits(double.voxel_energies(energy, 0.0, NORMAL), np.random.default_rng(0))
    assert len(made.energy) == hits
    assert made.energy.sum() == pytest.approx(energy, rel=1e-6)


def test_the_last_layer_has_its_own_number(tmp_path: Path) -> None:
    double = host(tmp_path, weights=np.eye(6)[5])
    made = double.hits(double.voxel_energies(10.0, 0.0, NORMAL), np.random.default_rng(0))
    assert set(made.layer.tolist()) == {12}
    assert (np.hypot(*made.place.T) >= 5).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outputs": 2}, "2 outputs"),
        ({"sizes": {"inn_einc_in": 1, "noise": 6}}, "knows no input 'noise'"),
        ({"sizes": {"inn_einc_in": 1, "cfm_z_shape": 5}}, "has 5 numbers, the host writes 6"),
        ({"sizes": {"inn_einc_in": 1, "inn_z_energy": 6}}, "has 6 numbers, the host writes 2"),
        ({"types": (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT)}, "one type"),
        ({"name": "g.net"}, "does not end in .onnx"),
        ({"without": "binsize_alpha_layer_12"}, "no 'binsize_alpha_layer_12'"),
    ],
)
def test_what_the_host_would_misuse_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(GenerationError, match=words):
        host(tmp_path, **changes)


def test_outputs_of_another_size_and_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match="gives 5 numbers for 6 voxels"):
        host(tmp_path, weights=np.ones(5)).voxel_energies(1.0, 0.0, NORMAL)
    with pytest.raises(GenerationError, match="no number"):
        host(tmp_path, weights=np.full(6, np.nan)).voxel_energies(1.0, 0.0, NORMAL)


def test_our_export_runs_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mutation: random numbers in the order layers, voxels; metadata with alpha and radius exchanged; GeV for MeV."""
    torch.manual_seed(3)
    detector = detector_from_toml(POLAR, where="polar")
    model = build_model("caloinn", {"flow": {"blocks": 2, "hidden_features": 8}}, detector)
    fit(model, sparse_showers(detector, 60))
    save_model(tmp_path / "m", model.eval(), ConditionRange(particle=22, incident_energy=(1e3, 9e4)))
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "m"), "--target", "fastcalosim", "--out", str(out), "--showers", "20"]) == 0
    assert "hits outside their voxel" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.onnx", "parity.json", "voxels.h5"]
    assert "0, 8, 10" in (out / "README.md").read_text()
    double = FastCaloSim(out / "model.onnx", out / "voxels.h5", [0, 8, 10], [1, 12])
    assert double.names == ["inn_einc_in", "cfm_z_shape", "inn_z_energy"]
    with pytest.raises(GenerationError, match="the host writes"):
        FastCaloSim(out / "model.onnx", out / "voxels.h5", [0, 8, 11], [1, 12])


def test_detectors_that_it_cannot_have_are_refused(tmp_path: Path) -> None:
    model = build_model("caloinn", {"flow": {"blocks": 2, "hidden_features": 8}}, toy_detector())
    fit(model, sparse_showers(toy_detector(), 60))
    save_model(tmp_path / "m", model.eval(), ConditionRange(particle=22, incident_energy=(1e3, 9e4)))
    with pytest.raises(UsageError, match="voxels are polar"):
        export_model(tmp_path / "m", "fastcalosim", tmp_path / "out")


def test_a_model_that_leaves_voxels_out_says_how_to_train_another(tmp_path: Path) -> None:
    """As the tiny preset does; mutation: say what else carries it, and nothing more."""
    detector = detector_from_toml(POLAR, where="polar")
    settings = {"flow": {"blocks": 2, "hidden_features": 8}, "drop_voxel": True, "noise_on": "deposits"}
    model = build_model("caloinn", settings | {"energy_noise_per": "voxel"}, detector)
    fit(model, sparse_showers(detector, 60))
    save_model(tmp_path / "m", model.eval(), ConditionRange(particle=22, incident_energy=(1e3, 9e4)))
    with pytest.raises(UsageError, match=r"12, this model takes 10;.*'drop_voxel' false takes as many"):
        export_model(tmp_path / "m", "fastcalosim", tmp_path / "out")
