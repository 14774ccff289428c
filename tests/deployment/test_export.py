"""``caloforge export``: models of every sort against their reference, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, point_showers, sparse_showers, toy_detector
from runtime_built import Built
from runtime_library import OK, REDRAWN, SPACE, SUCCESS, particles
from safetensors.torch import load_file, save_file

from caloforge.cli.main import main
from caloforge.conditions import ConditionRange
from caloforge.deployment import export_model
from caloforge.deployment.build import built_runtime
from caloforge.deployment.parity import run_parity
from caloforge.deployment.runtime_files import KINDS, aid_support
from caloforge.deployment.targets import cpp
from caloforge.detectors import Detector, load_detector
from caloforge.errors import GenerationError, OutputError, UsageError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions, ShowerModel, aid_kinds, build_model, load_model, load_preset, save_model
from caloforge.showers import ShowerPoints

ILD = load_detector("ild-ecal")
SMALL = {"blocks": 2, "hidden_features": 12, "hidden_layers": 1}
DIRECTIONS = ((-0.3, -0.3, 0.9), (0.3, 0.3, 1.0))


def saved(folder: Path, model: ShowerModel, direction: Any = None, energies: tuple[float, float] = (1e3, 9e4)) -> Path:
    save_model(folder, model, ConditionRange(particle=22, incident_energy=energies, direction=direction))
    return folder


def voxel_model(detector: Detector, aids: Any = (), **settings: Any) -> ShowerModel:
    """A CaloFlow as it begins, but with outputs unlike each other."""
    torch.manual_seed(2)
    model = build_model("caloflow", {"energies": SMALL, "shapes": SMALL} | settings, detector, aids=list(aids))
    fit(model, sparse_showers(detector, 60))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "output_layer" in name:
                parameter.mul_(4)
        for made in (m for m in model.modules() if hasattr(m, "apply_mask")):
            made.apply_mask()
    return model.eval()


def cloud_model(kind: str, aids: Any = (), **settings: Any) -> ShowerModel:
    torch.manual_seed(6)
    chosen = load_preset(f"{kind}-tiny").settings() | {"sampler": "consistency", "max_negative": 30} | settings
    model = build_model(kind, chosen, ILD, aids=[{"kind": aid} for aid in aids])
    for stage in model.training_stages(load_preset(f"{kind}-tiny").training):
        if stage.name in ("scales", "trend"):
            stage.load_state(stage.fit(Rows(point_showers(ILD, 40)), generation_streams(3)))  # type: ignore[attr-defined]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("target."):
                parameter.mul_(2)
            elif name.startswith("flow.") and bool((parameter == 0).all()):
                parameter.normal_(0, 0.02)  # as it begins a ShowerFlow is the identity
    return model.eval()


POLAR = load_detector("ds1-photons")
#: Name: detector and settings.
VOXELS: dict[str, tuple[Detector, Any, dict[str, Any]]] = {
    "single fractions, multiplied": (toy_detector(), (), {"energy_fractions": "single", "postprocessing": "multiply"}),
    "renormalised, published masks": (toy_detector(), (), {"postprocessing": "renormalise", "masks": "published"}),
    "emphasis": (toy_detector(), [{"kind": "emphasis", "factor": 3.0}], {"energy_scale": 1.5, "extra_energy": 7.0}),
    "single voxels": (toy_detector((1, 1), (3, 3), (1, 1)), (), {"noise": 0.0, "energy_noise": 0.0}),
    "deep": (toy_detector(), (), {"shapes": SMALL | {"hidden_layers": 3, "bins": 5}, "alpha": 1e-4, "layer_offset": 0.1}),
    "noise of voxels": (toy_detector(), (), {"energy_noise_per": "voxel", "cut": 0.0}),
    "polar": (POLAR, (), {}),
    "voxels left out": (toy_detector(), (), {"drop_voxel": True, "energy_noise_per": "voxel"}),
    "likewise, renormalised": (
        toy_detector(), (), {"drop_voxel": True, "energy_noise_per": "voxel", "postprocessing": "renormalise"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(VOXELS))
def test_voxel_models_of_every_sort(name: str, built: Built, tmp_path: Path) -> None:
    """Mutation: any of the branches in voxels.hpp as another one."""
    detector, aids, settings = VOXELS[name]
    where = saved(tmp_path / "model", voxel_model(detector, aids, **settings))
    done = export_model(where, "cpp", tmp_path / "out", verify=False, showers=40)
    result = run_parity(built.parity, done.path)
    assert result.passed, result.text


#: Name: kind, aids, settings, and whether any direction was trained.
CLOUDS: dict[str, tuple[str, tuple[str, ...], dict[str, Any], bool]] = {
    "3": ("caloclouds3", ("trend", "moment-map", "totals-map", "layer-factors"), {}, True),
    "3 without aids": ("caloclouds3", (), {"point_energy": "linear", "positions": "box"}, False),
    "2": ("caloclouds2", ("moment-map", "layer-factors"), {}, False),
    "2 with polynomials": ("caloclouds2", (), {"occupancy": "polynomial", "profiles": "sqrt"}, False),
}


@pytest.mark.parametrize("name", list(CLOUDS))
def test_clouds_of_every_sort(name: str, built: Built, tmp_path: Path) -> None:
    kind, aids, settings, tilted = CLOUDS[name]
    where = saved(tmp_path / "model", cloud_model(kind, aids, **settings), DIRECTIONS if tilted else None, (1e4, 9e4))
    done = export_model(where, "cpp", tmp_path / "out", verify=False, showers=40)
    result = run_parity(built.parity, done.path)
    assert result.passed, result.text


def test_rejected_showers_are_drawn_again_as_python_does(built: Built, tmp_path: Path) -> None:
    """Mutation: count attempts otherwise, or draw only the points again."""
    model = cloud_model("caloclouds3", max_negative=0)
    where = saved(tmp_path / "model", model, DIRECTIONS, (1e4, 9e4))
    export_model(where, "cpp", tmp_path / "out", verify=False, showers=1)
    energies, numbers = np.linspace(2e4, 8e4, 12), np.arange(12, dtype=np.uint64)
    directions = np.tile(np.array([0.1, -0.2, 0.0]), (12, 1))
    directions[:, 2] = np.sqrt(1 - (directions**2).sum(axis=1))
    conditions = Conditions.first(energies, 22, direction=directions.astype(np.float32))
    sample = sample_showers(load_model(where), conditions, generation_streams(4))
    assert sample.redrawn > 0
    assert isinstance(sample.showers, ShowerPoints)
    opened = built.library.opened(tmp_path / "out" / "model")
    code, points, offsets, status = opened.generate_points(
        particles(energies, directions=directions), 4, numbers, 10**6
    )
    assert code == SUCCESS
    assert set(status.tolist()) == {OK, REDRAWN}
    assert (offsets == sample.showers.offsets).all()
    expected = sample.showers.points
    assert (points[: offsets[-1], 2] == expected[:, 2]).all()
    np.testing.assert_allclose(points[: offsets[-1]], expected, rtol=1e-3, atol=1e-3)
    needed = opened.generate_points(particles(energies, directions=directions), 4, numbers, 10)
    assert (needed[0], needed[2].tolist()) == (SPACE, offsets.tolist())
    opened.close()


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_exports_and_says_what_was_compared(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpp, "built_runtime", lambda: built.build)
    out = tmp_path / "out"
    command = ["export", "calogan-gamma", "--target", "cpp", "--showers", "5", "--out", str(out)]
    assert main(command) == 0
    assert "voxels lit in one only" in capsys.readouterr().out
    record = json.loads((out / "parity.json").read_text())
    assert record["verified"]
    assert {check["passed"] for check in record["checks"]} == {True}
    assert len(record["checks"]) == 10
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    (tmp_path / "mine").mkdir()
    assert main([*command[:-1], str(tmp_path / "mine"), "--overwrite"]) == 1
    assert "no export of this program" in capsys.readouterr().err


def test_an_export_that_makes_other_showers_is_not_written(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: write whatever parity says."""
    monkeypatch.setattr(cpp, "built_runtime", lambda: built.build)
    write = cpp.write_vectors

    def others(folder: Path, *arguments: Any, **settings: Any) -> None:
        write(folder, *arguments, **settings)
        tensors = load_file(folder / "parity.safetensors")
        brightest = int(tensors["deposits"][2].argmax())
        tensors["deposits"][2, brightest] += 5e-5 * tensors["incident_energy"][2]
        save_file(tensors, folder / "parity.safetensors")

    monkeypatch.setattr(cpp, "write_vectors", others)
    with pytest.raises(GenerationError, match="against the reference: difference / energy"):
        export_model("calogan-gamma", "cpp", tmp_path / "out", showers=5)
    assert not list(tmp_path.iterdir())


def test_another_seed_is_noticed(built: Built, tmp_path: Path) -> None:
    out = export_model("calogan-gamma", "cpp", tmp_path / "out", verify=False, showers=5).path
    tensors = load_file(out / "parity.safetensors")
    tensors["seed"] += 1
    save_file(tensors, out / "parity.safetensors")
    result = run_parity(built.parity, out)
    assert not result.passed
    assert "random numbers: 5, at most 0" in result.reason()


def test_what_the_runtime_does_not_know_is_refused(tmp_path: Path) -> None:
    other = saved(
        tmp_path / "images", build_model("bib-ae", load_preset("bib-ae-tiny").settings(), toy_detector()).eval()
    )
    with pytest.raises(
        UsageError, match=r"no models of the kind 'bib-ae', only caloflow.*shower-library; 'caloforge generate'"
    ):
        export_model(other, "cpp", tmp_path / "out", verify=False)
    sizes = {"steps": 1, "hidden_channels": 2, "levels": 0, "energies": SMALL, "energy_scale": 1.0}
    images = saved(tmp_path / "layers", build_model("l2lflows-conv", sizes, toy_detector()).eval())
    with pytest.raises(UsageError, match=r"'l2lflows-conv'.*target='ddml-l2lflows' carries it"):
        export_model(images, "cpp", tmp_path / "out", verify=False)
    with pytest.raises(UsageError, match=r"no target 'root', expected one of cpp, onnx, .*par04, torchscript"):
        export_model("calogan-gamma", "root", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="is there already"):
        export_model("calogan-gamma", "cpp", tmp_path / "out")


def test_an_aid_that_the_runtime_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: export a model without looking at its aids."""
    from caloforge.deployment import runtime_files

    monkeypatch.setattr(runtime_files, "_KNOWN_AIDS", {})
    helped = voxel_model(toy_detector(), [{"kind": "emphasis", "factor": 2.0}])
    with pytest.raises(UsageError, match="does not know the aid 'emphasis'"):
        export_model(saved(tmp_path / "m", helped), "cpp", tmp_path / "out", verify=False)


def test_the_table_of_aids_in_the_documentation_is_what_the_code_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*)\|$", page, flags=re.MULTILINE))
    assert [
        kind.strip(" `") for kind in re.findall(r"^\| aid \|(.*)\|$", page, flags=re.MULTILINE)[0].split("|")
    ] == list(KINDS)
    for aid in aid_kinds():
        assert [cell.strip() for cell in rows[aid].split("|")] == [aid_support(kind, aid) for kind in KINDS], aid


def test_a_model_without_training_is_exported_for_a_detector(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mutation: leave the description without the range that the formulas have."""
    monkeypatch.setattr(cpp, "built_runtime", lambda: built.build)
    out = tmp_path / "out"
    command = ["export", "gflash", "--target", "cpp", "--out", str(out), "--showers", "10"]
    assert main([*command, "--detector", "calogan", "--particle", "e-"]) == 0
    record = load_model(out / "model").record
    assert record is not None
    assert (record.valid.particle, record.valid.incident_energy) == (11, (1e3, 1e7))
    assert "voxels lit in one only" in capsys.readouterr().out
    assert main([*command[:-3], str(tmp_path / "b")]) == 2
    assert "needs no training, but a detector" in capsys.readouterr().err
    assert main(["export", "calogan-gamma", "--target", "cpp", "--out", str(tmp_path / "b"), "--points"]) == 2
    assert "models that need no training" in capsys.readouterr().err
    bare = build_model("gflash", {}, load_detector("calogan"))
    with pytest.raises(UsageError, match="neither loaded from a directory nor made by 'ready_model'"):
        export_model(bare, "cpp", tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_the_runtime_is_built_once_for_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALOFORGE_CACHE", str(tmp_path))
    folder = built_runtime()
    first = (folder / "parity").stat().st_mtime_ns
    assert built_runtime() == folder
    assert (folder / "parity").stat().st_mtime_ns == first
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
