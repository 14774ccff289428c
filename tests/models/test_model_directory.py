"""Model directories: whole, or clear about what they lack."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import fit, sparse_showers, toy_detector
from safetensors.torch import load_file, save_file

import caloforge.models.directory as directory_module
from caloforge.errors import ModelFileError, OutputError
from caloforge.models import (
    ConditionRange,
    ShowerModel,
    assemble_model,
    build_model,
    load_model,
    missing_stages,
    planned_model,
    pretrained_names,
    read_plan,
    read_record,
    read_stage,
    save_model,
    stage_directory,
    training_row_hashes,
    write_plan,
    write_stage,
)
from caloforge.nn.made import StaircaseLinear
from caloforge.showers.hashes import row_hashes
from caloforge.stage import TrainingConfig

TRAINING = TrainingConfig(epochs=3)
CONFIG: dict[str, Any] = {
    "energies": {"blocks": 1, "hidden_features": 6},
    "shapes": {"blocks": 1, "hidden_features": 6},
}
SCALE = "energies.representation.scale.value"
RANGE = ConditionRange.of(22, [1e3, 1e5])


@pytest.fixture
def model() -> ShowerModel:
    torch.manual_seed(0)
    made = build_model("caloflow", CONFIG, toy_detector(), profile="published", aids=[{"kind": "marginal-start"}])
    fit(made, sparse_showers(toy_detector(), 20))
    return made


def finish_stages(folder: Path, model: ShowerModel, *, without: tuple[str, ...] = ()) -> None:
    for stage in model.training_stages(TRAINING):
        if stage.name not in without:
            write_stage(folder, stage, {"epoch": 2, "loss": 1.5})


def damaged(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestUnfinished:
    def test_missing_stages_are_named(self, model: ShowerModel, tmp_path: Path) -> None:
        write_plan(tmp_path, model, 22, TRAINING)
        assert missing_stages(tmp_path) == ["scale", "energies", "shapes"]
        finish_stages(tmp_path, model, without=("shapes",))
        with pytest.raises(ModelFileError, match=r"not finished, these stages are missing: 'shapes'; .*--resume"):
            load_model(tmp_path)
        with pytest.raises(ModelFileError, match=r"cannot be assembled, these stages are missing: 'shapes'"):
            assemble_model(tmp_path, RANGE)

    def test_trained_but_not_assembled_is_said(self, model: ShowerModel, tmp_path: Path) -> None:
        write_plan(tmp_path, model, 22, TRAINING)
        finish_stages(tmp_path, model)
        with pytest.raises(ModelFileError, match="trained but not assembled"):
            read_record(tmp_path)

    def test_a_plan_builds_the_same_model(self, model: ShowerModel, tmp_path: Path) -> None:
        written = write_plan(tmp_path, model, -11, TRAINING, details={"data": "g.h5"})
        plan = read_plan(tmp_path)
        assert plan == written
        assert plan.training == TRAINING
        assert (plan.particle, plan.details) == (-11, {"data": "g.h5"})
        again = planned_model(plan)
        assert again.config == model.config
        assert again.detector == model.detector
        assert again.profile == "published"
        assert [helper.describe() for helper in again.helpers()] == [{"kind": "marginal-start"}]

    def test_a_foreign_directory_is_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match=r"no model directory: it has no model\.json"):
            load_model(tmp_path)
        with pytest.raises(ModelFileError, match=r"there is no model directory '.*nowhere'"):
            load_model(tmp_path / "nowhere")


class TestStages:
    def test_a_result_comes_back_with_its_metrics(self, model: ShowerModel, tmp_path: Path) -> None:
        finish_stages(tmp_path, model)
        fresh = build_model("caloflow", CONFIG, toy_detector(), profile="published")
        for stage in fresh.training_stages(TRAINING):
            assert read_stage(tmp_path, stage) == {"epoch": 2, "loss": 1.5}
        expected = model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in fresh.state_dict().items())

    def test_a_result_of_another_size_is_refused_by_name(self, model: ShowerModel, tmp_path: Path) -> None:
        finish_stages(tmp_path, model)
        wider = build_model("caloflow", CONFIG | {"shapes": {"blocks": 1, "hidden_features": 7}}, toy_detector())
        deeper = build_model("caloflow", CONFIG | {"shapes": {"blocks": 2, "hidden_features": 6}}, toy_detector())
        with pytest.raises(ModelFileError, match=r"'shapes\.blocks\.0\..*' of stage 'shapes' has shape"):
            read_stage(tmp_path, wider.training_stages(TRAINING)[2])
        with pytest.raises(ModelFileError, match="lacks the tensor"):
            read_stage(tmp_path, deeper.training_stages(TRAINING)[2])

    def test_no_result_yet(self, model: ShowerModel, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match=r"stage 'scale' .* has no result yet"):
            read_stage(tmp_path, model.training_stages(TRAINING)[0])

    def test_a_failed_write_keeps_the_result_before(
        self, model: ShowerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stage = model.training_stages(TRAINING)[1]
        write_stage(tmp_path, stage, {"epoch": 1})

        def full_disk(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(directory_module, "save_file", full_disk)
        with pytest.raises(OutputError, match="no space left"):
            write_stage(tmp_path, stage, {"epoch": 2})
        assert read_stage(tmp_path, stage) == {"epoch": 1}
        assert [path.name for path in stage_directory(tmp_path, stage.name, "best").iterdir()] == ["state.safetensors"]


class TestFinished:
    def test_assembled_model_records_where_it_comes_from(self, model: ShowerModel, tmp_path: Path) -> None:
        write_plan(tmp_path, model, 22, TRAINING, details={"data": "g.h5"})
        finish_stages(tmp_path, model)
        showers = sparse_showers(toy_detector(), 20)
        assemble_model(tmp_path, RANGE, row_hashes=row_hashes(showers), training={"seed": 4}, metrics={"auc": 0.7})
        record = read_record(tmp_path)
        assert record.kind == "caloflow"
        assert record.training["data"] == "g.h5"
        assert record.training["seed"] == 4
        assert record.training["settings"]["epochs"] == 3
        assert record.training["stages"]["shapes"] == {"epoch": 2, "loss": 1.5}
        assert record.metrics == {"auc": 0.7}
        assert record.profile == "published"
        assert record.aids == [{"kind": "marginal-start"}]
        assert record.representation["noise"]["voxels"] == {"transform": "uniform noise", "width_MeV": 0.001}
        assert record.representation == model.describe_representation()
        assert record.training_rows == 20
        assert np.array_equal(training_row_hashes(tmp_path), np.sort(row_hashes(showers)))
        loaded = load_model(tmp_path)
        assert (loaded.profile, list(loaded.aids)) == ("published", ["marginal-start"])
        expected = model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
        assert not any(parameter.requires_grad for parameter in loaded.parameters())

    def test_nothing_in_a_model_directory_is_a_pickle(self, model: ShowerModel, tmp_path: Path) -> None:
        save_model(tmp_path, model, RANGE)
        for path in tmp_path.iterdir():
            start = path.read_bytes()[:64]
            assert not start.startswith((b"PK", b"\x80")), path.name
        json.loads((tmp_path / "model.json").read_text())

    def test_half_precision_halves_the_weights_but_keeps_fitted_constants(
        self, model: ShowerModel, tmp_path: Path
    ) -> None:
        save_model(tmp_path / "full", model, RANGE)
        save_model(tmp_path / "half", model, RANGE, weights=torch.float16)
        loaded = load_model(tmp_path / "half")
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded.state_dict()[SCALE], model.state_dict()[SCALE])
        for (name, half), full in zip(loaded.named_parameters(), model.parameters(), strict=True):
            assert torch.allclose(half, full, rtol=1e-3, atol=1e-6), name
        sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full")]
        assert sizes[0] < 0.65 * sizes[1]

    def test_masked_weights_take_no_room_and_come_back_as_zeros(self, model: ShowerModel, tmp_path: Path) -> None:
        """Mutations: store whole matrices; put the row back column by column; take a row of any length."""
        save_model(tmp_path, model, RANGE, weights=torch.float16)
        stored = load_file(tmp_path / "model.safetensors")
        masked = [name for name, module in model.named_modules() if isinstance(module, StaircaseLinear)]
        assert len(masked) == 6  # two flows of an input layer, a hidden and an output layer
        loaded = load_model(tmp_path)
        for name in masked:
            layer = model.get_submodule(name)
            assert isinstance(layer, StaircaseLinear)
            assert stored[f"{name}.weight"].shape == (int(layer.mask.sum()),)
            found = loaded.get_submodule(name)
            assert isinstance(found, StaircaseLinear)
            assert torch.equal(found.weight, layer.weight.half().float())
            assert float(found.weight[~layer.mask].abs().sum()) == 0
        stored[f"{masked[1]}.weight"] = stored[f"{masked[1]}.weight"][1:]
        save_file(stored, tmp_path / "model.safetensors")
        digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
        damaged(tmp_path, weights_sha256=digest)
        with pytest.raises(
            ModelFileError, match=f"the tensor '{masked[1]}.weight' is missing, unknown or of another shape"
        ):
            load_model(tmp_path)

    def test_double_precision_is_kept(self, model: ShowerModel, tmp_path: Path) -> None:
        save_model(tmp_path, model.double(), RANGE)
        assert load_model(tmp_path).dtype == torch.float64

    def test_weights_that_were_exchanged_are_noticed(self, model: ShowerModel, tmp_path: Path) -> None:
        save_model(tmp_path / "a", model, RANGE)
        with torch.no_grad():
            next(model.parameters()).add_(1)
        save_model(tmp_path / "b", model, RANGE)
        shutil.copy(tmp_path / "b" / "model.safetensors", tmp_path / "a")
        with pytest.raises(ModelFileError, match="its hash differs"):
            load_model(tmp_path / "a")

    def test_an_interrupted_replacement_leaves_no_mixture(
        self, model: ShowerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_model(tmp_path, model, RANGE)

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(directory_module, "replace_file", killed)
        with pytest.raises(KeyboardInterrupt):
            save_model(tmp_path, model, RANGE)
        assert not (tmp_path / "model.json").exists()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": 99}, "has format 99, this version reads format 2"),
            ({"kind": "no-such-model"}, "kind 'no-such-model' is not known"),
            ({"surprise": 1}, "the key 'surprise' is not known"),
            ({"profile": "mine"}, "profile"),
            ({"aids": [{"kind": "no-such-aid"}]}, "aids: the aid 'no-such-aid' is not known, expected one of emphasis"),
            ({"aids": [{"kind": "emphasis"}]}, "aids, 'emphasis': the key 'factor' is missing"),
            ({"detector": "name = 3"}, "detector"),
            ({"config": {"shapes": {"blocks": 0, "hidden_features": 6}}}, "shapes.blocks"),
            ({"config": {"shapes": {"blocks": 2, "hidden_features": 6}}}, "does not fit the weights"),
        ],
    )
    def test_damaged_descriptions_say_what_is_wrong(
        self, model: ShowerModel, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        save_model(tmp_path, model, RANGE)
        damaged(tmp_path, **changes)
        with pytest.raises(ModelFileError, match=message):
            load_model(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
    def test_a_description_that_is_no_json_object(self, model: ShowerModel, tmp_path: Path, content: bytes) -> None:
        save_model(tmp_path, model, RANGE)
        (tmp_path / "model.json").write_bytes(content)
        with pytest.raises(ModelFileError, match=r"model\.json"):
            read_record(tmp_path)

    def test_truncated_weights(self, model: ShowerModel, tmp_path: Path) -> None:
        save_model(tmp_path, model, RANGE)
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
        with pytest.raises(ModelFileError, match="hash differs"):
            load_model(tmp_path)
        with pytest.raises(ModelFileError, match="cannot be read as safetensors"):
            training_row_hashes(tmp_path)

    def test_shipped_models_load_by_name(self) -> None:
        for name in pretrained_names():
            assert load_model(name).record == read_record(name)
