"""Times of point clouds against energy, and of whole models. Nothing here depends on how fast they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from caloforge import datasets
from caloforge.bench import clouds
from caloforge.bench.geant4 import Geant4Showers, geant4_showers
from caloforge.bench.machine import read_rate
from caloforge.bench.models import bench_kind, named_model
from caloforge.bench.sampling import flow_of
from caloforge.cli.main import main
from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.models import ConditionRange, Conditions, save_model
from caloforge.nn.showerflow import ShowerFlow
from caloforge.parts.point_model import PointCloudModel
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, open_showers


def packaged(*arguments: object, **options: object) -> list[Geant4Showers]:
    """In place of Geant4: packaged showers, with times that were not measured."""
    with open_showers(datasets.path("ild-gamma-clouds")) as reader:
        some = [reader.read(0, 30), reader.read(30, 60)]
    assert all(isinstance(part, ShowerPoints) for part in some)
    return [Geant4Showers([100.0, 300.0, 200.0], some[0]), Geant4Showers([500.0, 700.0], some[1])]  # type: ignore[arg-type]


def test_rows_of_point_clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clouds, "geant4_showers", packaged)
    out = tmp_path / "c.json"
    command = ["bench", "sampling", "--model", "caloclouds3-tiny", "--threads", "1", "--energies", "12,25"]
    assert main([*command, "--showers", "2", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [row["energy_GeV"] for row in result["rows"]] == [12, 25]
    assert result["rows"][0]["geant4"] == {"median": 200, "lowest": 100, "highest": 300, "showers": 3}
    assert {"processor", "date"} <= set(result["machine"])
    assert any("field" in note for note in result["notes"])
    for row in result["rows"]:
        assert list(row["models"]) == ["caloclouds3-tiny"]
        times = row["models"]["caloclouds3-tiny"]
        total, parts = times["total"], times["parts"]
        assert list(parts) == ["random_numbers", "flow", "points", "placement"]
        assert min(parts.values()) > 0
        assert max(parts.values()) < total["highest"]
        assert times["network"] > 0
        assert total["lowest"] <= total["median"] <= total["highest"]
        assert times["ratio_geant4"] == pytest.approx(row["geant4"]["median"] / total["median"])
        floor = times["floor"]
        assert floor["total_ms"] == pytest.approx(floor["flow_ms"] + floor["network_ms"])
        assert 0 < floor["flow_megabytes"] < 4 * floor["flow_multiply_adds"]
    first, last = (row["models"]["caloclouds3-tiny"] for row in result["rows"])
    # Twice the energy has twice the points: the scales come from the showers of the run.
    assert last["points"] / first["points"] == pytest.approx(25 / 12, rel=0.35)
    assert last["floor"]["network_multiply_adds"] > first["floor"]["network_multiply_adds"]


def test_a_preset_with_fixed_units_of_its_features_is_timed_with_random_weights() -> None:
    """Mutation: fit the scales as a training does; no shower of random weights is then valid in published units."""
    model = named_model("caloclouds3")
    assert isinstance(model, PointCloudModel)
    assert model.profile_units() is not None
    clouds.fit_scales(model, [packaged()[0].points])  # type: ignore[list-item]
    conditions = Conditions.first(np.full(20, 2e4), 22)
    _, valid = model.decode(conditions, model.latents(conditions, Streams(0, "bench")))
    assert valid.any()


def test_a_trained_model_is_timed_from_its_directory(tmp_path: Path) -> None:
    model = named_model("caloclouds3-tiny")
    assert isinstance(model, PointCloudModel)
    clouds.fit_scales(model, [packaged()[0].points])  # type: ignore[list-item]
    with torch.no_grad():
        model.calibration.occupancy.fill_(0.5)
    save_model(tmp_path / "m", model, ConditionRange.of(22, [1e4, 3e4]))
    result = {}
    for name in ("caloclouds3-tiny", str(tmp_path / "m")):
        found = clouds._times(name, [25.0], [packaged()[0].points, packaged()[1].points], [600.0], 2)  # type: ignore[list-item]
        result[name] = found[0]
    assert result[str(tmp_path / "m")].points < 0.7 * result["caloclouds3-tiny"].points


def test_weights_of_silent_units_do_not_count() -> None:
    flow = ShowerFlow(6, 2, blocks=1, order="caloclouds2", affine_hidden=10, spline_hidden=10)
    z, context = torch.randn(5, 6), torch.rand(5, 2) + 0.1
    every = sum(p.numel() for p in flow.parameters())
    linear = [module for module in flow.modules() if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for module in linear:
            module.weight.fill_(0.01)
            module.bias.fill_(1.0)
        assert clouds._flow_megabytes(flow, z.abs(), context) == pytest.approx(4e-6 * every)
        for module in linear:
            module.bias.fill_(-1.0)
            module.weight.fill_(0.0)
        # First layers, and the biases of the others.
        kept = 6 * (5 * 10 + 10 + 10 + 6) + 2 * 10 + 10 + 10 + 6 * 31
        assert clouds._flow_megabytes(flow, z, context) == pytest.approx(4e-6 * kept)


def test_watching_a_model_leaves_nothing_behind() -> None:
    model = named_model("caloclouds3-tiny")
    assert isinstance(model, PointCloudModel)
    with clouds._watched(model) as seconds, torch.no_grad():
        model.flow.sample(torch.randn(1, 60), torch.randn(1, 4))
    assert min(seconds.values()) > 0
    assert "sample" not in vars(model.flow)


def test_one_published_preset_brings_the_other_along() -> None:
    assert clouds.with_companion(["caloclouds3"]) == ["caloclouds2", "caloclouds3"]
    assert clouds.with_companion(["caloclouds3-tiny"]) == ["caloclouds3-tiny"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "caloclouds3", "--threads", "2"], "one CPU thread"),
        (["--model", "caloclouds3", "--batch", "10"], "one shower at a time"),
        (["--model", "caloclouds3", "--model", "calogan-gamma"], "point clouds"),
        (["--model", "caloclouds3", "--against", "nflows"], "exact inverse"),
        (["--model", "caloclouds3-tiny", "--geant4", "1"], "two Geant4 showers"),
        (["--model", "caloclouds3-tiny", "--energies", "ten"], "numbers such as"),
        (["--model", "nobody"], "no model directory"),
    ],
)
def test_what_makes_no_sense_is_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sampling", *options]) != 0
    assert message in " ".join(capsys.readouterr().err.split())


def test_models_are_timed_as_what_they_are() -> None:
    assert bench_kind(None) == "flow"
    assert bench_kind("calogan-gamma") == "flow"
    assert bench_kind("caloclouds2-tiny") == "points"
    assert bench_kind("icaloflow-student-tiny") == "model"
    with pytest.raises(UsageError, match="no flow to time"):
        flow_of("icaloflow-tiny")


def test_rows_of_a_student_are_of_whole_showers(tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    command = ["bench", "sampling", "--model", "icaloflow-student-tiny", "--batch", "2", "--threads", "1"]
    assert main([*command, "--seconds", "0", "--geant4", "0", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["model"]["kind"] == "icaloflow-student"
    assert result["model"]["parameters"] > 1_000_000
    assert [row["batch"] for row in result["rows"]] == [2]
    for row in result["rows"]:
        assert 0 < row["random_numbers_ms"] < row["ms_highest"]
        assert row["ms_lowest"] <= row["ms_per_shower"] <= row["ms_highest"]
        assert row["ratio_geant4"] is None


@pytest.mark.geant4
def test_each_geant4_shower_has_its_time() -> None:
    one, two = geant4_showers(load_detector("ild-ecal"), 22, ["0.5", "2"], 3, points=True)
    for made, energy in ((one, 500.0), (two, 2000.0)):
        assert len(made.milliseconds) == 3
        assert min(made.milliseconds) > 0
        assert made.points is not None
        assert made.points.incident_energy.tolist() == [energy] * 3
        assert (np.diff(made.points.offsets) > 0).all()
        assert (made.points.total_energy() < energy).all()


def test_reading_has_a_rate() -> None:
    assert read_rate(0.1) > 0
