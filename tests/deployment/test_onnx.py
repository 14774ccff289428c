"""``caloforge export --target onnx``: a graph that makes the showers of its model, in the onnxruntime that users have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_format
import onnxruntime
import pytest
import torch
from model_samples import fit, sparse_showers, toy_detector

from caloforge.cli.main import main
from caloforge.conditions import ConditionRange
from caloforge.deployment import export_model
from caloforge.deployment.targets import onnx
from caloforge.errors import GenerationError, UsageError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions, ShowerModel, build_model, load_model, load_preset, save_model
from caloforge.showers import Showers

SMALL = {"flow": {"blocks": 2, "hidden_features": 8}}


def saved(folder: Path, model: ShowerModel, direction: Any = None) -> Path:
    save_model(folder, model.eval(), ConditionRange(particle=22, incident_energy=(1e3, 9e4), direction=direction))
    return folder


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    model = build_model("caloinn", SMALL, toy_detector())
    fit(model, sparse_showers(toy_detector(), 60))
    return saved(tmp_path_factory.mktemp("inn") / "model", model)


def test_the_graph_makes_the_showers_of_its_model(
    inn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, and read as a host reads it; mutation: inputs in another order, or a number of the model as a constant."""
    out = tmp_path / "out"
    assert main(["export", str(inn), "--target", "onnx", "--out", str(out), "--showers", "20"]) == 0
    assert "difference / energy" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.onnx", "parity.json"]
    record = json.loads((out / "parity.json").read_text())
    assert record["verified"]
    assert [check["passed"] for check in record["checks"]] == [True] * 4

    graph = onnx_format.load(out / "model.onnx")
    assert (graph.ir_version, graph.opset_import[0].version) == (8, 18)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert (facts["caloforge.kind"], facts["caloforge.particle"]) == ("caloinn", "22")
    assert facts["caloforge.layer_sizes"] == "8 9 4"

    model, conditions = load_model(inn), Conditions.first(np.array([2e4, 7e4]), 22, start=5)
    latents = model.latents(conditions, generation_streams(9))
    expected = sample_showers(model, conditions, generation_streams(9)).showers
    assert isinstance(expected, Showers)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("incident_energy", "tensor(double)", [1]),
        ("flow", "tensor(float)", [1, 24]),
    ]
    for row in range(2):
        feed = {
            "incident_energy": conditions.incident_energy[row : row + 1],
            "flow": latents["flow"][row : row + 1].numpy(),
        }
        deposits, valid = session.run(["deposits", "valid"], feed)
        assert valid.tolist() == [True]
        assert expected.deposits[row].sum() > 0
        np.testing.assert_allclose(deposits[0], expected.deposits[row], rtol=1e-4, atol=1e-5 * 2e4)


def test_torchscript_makes_the_showers_of_its_model(
    inn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mutation: trace with the random numbers as constants, or write what was not compared."""
    assert main(["export", str(inn), "--target", "torchscript", "--out", str(tmp_path / "out"), "--showers", "20"]) == 0
    assert "difference / energy" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "model.pt", "parity.json"]

    def constant(self: onnx.Graph, incident_energy: torch.Tensor, *latents: torch.Tensor) -> Any:
        return forward(self, incident_energy, *(value.detach().clone() * 0 for value in latents))

    forward = onnx.Graph.forward
    monkeypatch.setattr(onnx.Graph, "forward", constant)
    with pytest.raises(GenerationError, match="difference / energy"):
        export_model(inn, "torchscript", tmp_path / "other", showers=5)


def test_a_graph_of_another_model_is_not_written(inn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: believe the exporter."""
    export = onnx._export

    def other(path: Path, model: ShowerModel) -> dict[str, int]:
        with torch.no_grad():
            next(p for p in model.parameters() if p.ndim == 1 and p.numel() > 20).add_(0.5)
        return export(path, model)

    monkeypatch.setattr(onnx, "_export", other)
    with pytest.raises(GenerationError, match="difference / energy"):
        export_model(inn, "onnx", tmp_path / "out", showers=5)
    assert not (tmp_path / "out").exists()


def test_what_no_graph_can_carry_is_refused_with_what_can(inn: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"504 features would be 504 passes.*target='cpp'"):
        export_model("calogan-gamma", "onnx", tmp_path / "out")
    preset = load_preset("caloclouds3-tiny")
    from caloforge.detectors import load_detector

    clouds = preset.build(load_detector("ild-ecal"))
    with pytest.raises(UsageError, match=r"fixed number of points.*target='cpp'"):
        onnx.check_carried(clouds)
    tilted = saved(tmp_path / "tilted", load_model(inn), ((-0.1, -0.1, 0.9), (0.1, 0.1, 1.0)))
    with pytest.raises(UsageError, match="several directions"):
        export_model(tilted, "onnx", tmp_path / "out")
    library = build_model("shower-library", {}, toy_detector())
    with pytest.raises(UsageError, match="'shower-library' have not been proven, only those of caloinn"):
        onnx.check_carried(library)
