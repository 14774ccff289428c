"""Presets by name and by file, overrides, and the training section."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_samples import toy_detector
from pydantic import ValidationError

from caloforge.errors import ConfigError, UsageError
from caloforge.models import load_preset
from caloforge.stage import MilestoneSchedule, OneCycleSchedule, TrainingConfig
from caloforge.zoo.caloflow import CaloFlowConfig

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


def test_the_reason_why_a_preset_is_for_one_detector_is_in_the_sentence(preset_file: Path) -> None:
    preset_file.write_text(FILE + "detector: calogan\ndetector_reason: its numbers suit three layers\n")
    with pytest.raises(ConfigError, match=r"of 'calogan' \(its numbers suit three layers\), the data come from 'toy'"):
        load_preset(preset_file).build(toy_detector())


class TestProfileAndAids:
    def test_a_file_that_says_nothing_is_improved_and_has_no_aids(self, preset_file: Path) -> None:
        preset = load_preset(preset_file)
        assert (preset.like, preset.aids) == ("improved", [])
        model = preset.build(toy_detector())
        assert (model.profile, list(model.aids)) == ("improved", [])
        assert model.described_profile() == "improved"

    def test_like_published_sets_the_switches(self, preset_file: Path) -> None:
        preset = load_preset(preset_file, ["like=published"])
        assert preset.settings()["masks"] == "published"
        assert "masks" not in preset.model
        model = preset.build(toy_detector())
        assert isinstance(model.config, CaloFlowConfig)
        assert (model.profile, model.config.masks, model.config.cut_first) == ("published", "published", False)
        assert model.described_profile() == "published"

    def test_a_switch_in_the_model_section_wins_and_is_named(self, preset_file: Path) -> None:
        model = load_preset(preset_file, ["like=published", "model.masks=even"]).build(toy_detector())
        assert model.described_profile() == "published, but masks=even"

    def test_aids_are_built_in_their_order(self, preset_file: Path) -> None:
        aids = "aids=[{kind: emphasis, factor: 3.0}, {kind: marginal-start}]"
        preset = load_preset(preset_file, [aids])
        assert preset.aid_names == ["emphasis", "marginal-start"]
        model = preset.build(toy_detector())
        assert list(model.aids) == ["emphasis", "marginal-start"]

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("like=publishd", "'like' .*'published' or 'improved'"),
            ("aids=marginal-start", "aids"),
            ("model.start=random", "section 'model': the key 'start' is not known"),
        ],
    )
    def test_what_is_wrong_is_named_when_the_file_is_read(self, preset_file: Path, override: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_preset(preset_file, [override])


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
