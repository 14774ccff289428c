"""Presets by name and by file, overrides, and the training section."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_samples import toy_detector
from pydantic import ValidationError

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.models import load_preset, model_class, preset_names
from caloforge.stage import MilestoneSchedule, OneCycleSchedule, TrainingConfig

FILE = """
kind: caloflow
model:
  energies: {blocks: 1, hidden_features: 4}
  shapes: {blocks: 1, hidden_features: 4}
training:
  epochs: 10
  stages:
    shapes: {epochs: 20, optimiser: {learning_rate: 1.0e-3}}
"""


@pytest.fixture
def preset_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_is_valid_and_names_its_stages_rightly(name: str) -> None:
    preset = load_preset(name)
    model_class(preset.kind).Config.model_validate(preset.model)
    assert preset.title
    sized = [key for key, value in preset.model.items() if isinstance(value, dict) and "hidden_features" in value]
    small = [f"model.{key}.hidden_features=2" for key in sized]
    small += ["model.hidden_features=2"] if "hidden_features" in preset.model else []
    # Which stages there are can depend on whether layers look alike.
    any_detector = [toy_detector(), toy_detector((2, 2), (2, 2))]
    detectors = any_detector if preset.detector is None else [load_detector(preset.detector)]
    models = [load_preset(name, small).build(detector) for detector in detectors]
    assert set(preset.training.stages) <= {stage.name for model in models for stage in model.stages(preset.training)}


def test_published_training_of_caloflow() -> None:
    training = load_preset("caloflow-calogan-gamma").training
    energies, shapes = training.for_stage("energies"), training.for_stage("shapes")
    assert (energies.epochs, energies.batch_size, energies.optimiser.learning_rate) == (75, 175, 1e-4)
    assert energies.schedule == MilestoneSchedule(epochs=(5, 15, 40, 60), factor=0.5)
    assert (shapes.epochs, shapes.batch_size) == (100, 175)
    assert shapes.schedule == MilestoneSchedule(epochs=(50,), factor=0.5)


def test_published_training_for_dataset_1() -> None:
    training = load_preset("caloflow-ds1-pions").training
    schedule = training.for_stage("shapes").schedule
    assert schedule == OneCycleSchedule(rise_fraction=0.45, three_phases=True)
    assert training.for_stage("shapes").batch_size == 500
    assert training.for_stage("energies").schedule == OneCycleSchedule(rise_fraction=0.4, three_phases=True)


def test_a_file_works_like_a_name(preset_file: Path) -> None:
    training = load_preset(preset_file).training
    assert training.for_stage("energies").epochs == 10
    assert training.for_stage("shapes").epochs == 20
    assert training.for_stage("shapes").optimiser.learning_rate == 1e-3
    assert training.for_stage("shapes").optimiser.name == "adam"


def test_an_override_counts_for_all_stages_unless_it_names_one(preset_file: Path) -> None:
    everywhere = load_preset(preset_file, ["training.epochs=5", "training.optimiser.learning_rate=1e-2"]).training
    assert {everywhere.for_stage(name).epochs for name in ("energies", "shapes")} == {5}
    assert everywhere.for_stage("shapes").optimiser.learning_rate == 1e-2
    one = load_preset(preset_file, ["training.stages.energies.epochs=7"]).training
    assert [one.for_stage(name).epochs for name in ("energies", "shapes")] == [7, 20]


def test_overrides_reach_the_model_and_read_yaml(preset_file: Path) -> None:
    preset = load_preset(preset_file, ["model.shapes.hidden_features=9", "model.drop_voxel=no", "model.cut=null"])
    assert preset.model["shapes"]["hidden_features"] == 9
    assert preset.model["drop_voxel"] is False
    assert preset.model["cut"] is None


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("training.epoch=5", ConfigError, "'training.epoch' is not known"),
        ("model.shape.blocks=5", ConfigError, "section 'model': the key 'shape' is not known"),
        ("training.epochs=many", ConfigError, "'training.epochs' .* got 'many'"),
        ("training.epochs=0", ConfigError, "greater than or equal to 1, got 0"),
        ("training.stages.shapes.epochs=0", ConfigError, "epochs"),
        ("kind=nothing", ConfigError, "kind 'nothing' is not known"),
        ("training.epochs.more=5", ConfigError, "'epochs' is a value, not a section"),
        ("training.epochs", UsageError, "expected for example training.epochs=5"),
        ("training..epochs=5", UsageError, "not understood"),
        ("training.epochs=[", ConfigError, "is not YAML"),
    ],
)
def test_wrong_overrides_are_named(preset_file: Path, override: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_preset(preset_file, [override])


def test_unknown_names_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'caloflow-huge' is not known, expected one of .*caloflow-tiny"):
        load_preset("caloflow-huge")
    with pytest.raises(UsageError, match="there is no such file"):
        load_preset(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("kind: [caloflow\nmodel: {")
    with pytest.raises(ConfigError, match=r"is not YAML \(line"):
        load_preset(broken)
    broken.write_text("- caloflow")
    with pytest.raises(ConfigError, match="expected keys and values, got list"):
        load_preset(broken)


def test_a_preset_for_another_readout_is_refused() -> None:
    with pytest.raises(ConfigError, match="meant for the readout of 'calogan', the data come from 'toy'"):
        load_preset("caloflow-calogan-gamma").build(toy_detector())


def test_training_settings_are_frozen_and_strict() -> None:
    training = TrainingConfig(stages={"a": {"schedule": {"kind": "cosine"}}})
    assert training.for_stage("a").schedule.kind == "cosine"
    assert training.for_stage("b").schedule.kind == "constant"
    with pytest.raises(ValidationError):
        training.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        TrainingConfig(stages={"a": {"epoch": 3}})


def test_another_kind_of_schedule_replaces_the_whole_one() -> None:
    training = TrainingConfig.model_validate(
        {
            "schedule": {"kind": "one-cycle", "rise_fraction": 0.4},
            "stages": {
                "a": {"schedule": {"kind": "milestones", "epochs": [3]}},
                "b": {"schedule": {"rise_fraction": 0.1}},
            },
        }
    )
    assert training.for_stage("a").schedule == MilestoneSchedule(epochs=(3,))
    assert training.for_stage("b").schedule == OneCycleSchedule(rise_fraction=0.1)
