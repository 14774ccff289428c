"""The presets of the package: valid, true to what their titles say, for any detector that suits their kind."""

from __future__ import annotations

import pytest
from model_samples import lead_argon, toy_detector

from caloforge.detectors import Detector, load_detector
from caloforge.errors import ConfigError
from caloforge.models import ShowerModel, load_preset, model_class, preset_names, profile_settings
from caloforge.stage import GradientStage, MilestoneSchedule, OneCycleSchedule

PRESETS = {name: load_preset(name) for name in preset_names()}
PUBLISHED = [name for name, preset in PRESETS.items() if preset.like == "published"]
TINY = [name for name in PRESETS if name.endswith("-tiny")]


def suitable(kind: str) -> list[Detector]:
    """Detectors as different as a kind allows."""
    equal = [toy_detector(*[(15, 15)] * 20), toy_detector((2, 2), (2, 2))]
    if kind == "gflash":  # a stack
        return [load_detector("calogan"), load_detector("ild-ecal/10x10"), lead_argon()]
    if kind.startswith("icaloflow"):  # layers of equally many voxels
        return equal
    if kind.startswith("caloclouds"):  # depths of the layers, and cells of one size
        return [load_detector("ild-ecal"), load_detector("ild-ecal/10x10")]
    return [toy_detector(), toy_detector((1, 1), (3, 1)), *equal]


def build(name: str, detector: Detector) -> ShowerModel:
    """A model with narrow networks."""
    preset = PRESETS[name]
    sized = [key for key, value in preset.model.items() if isinstance(value, dict) and "hidden_features" in value]
    model = load_preset(name, [f"model.{key}.hidden_features=2" for key in sized]).build(detector)
    assert model.profile == preset.like
    assert [aid.describe()["kind"] for aid in model.helpers()] == preset.aid_names
    return model


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_names_its_stages_rightly(name: str) -> None:
    preset = PRESETS[name]
    model_class(preset.kind).Config.model_validate(preset.settings())
    assert preset.title
    # Which stages there are can depend on whether layers look alike.
    detectors = suitable(preset.kind) if preset.detector is None else [load_detector(preset.detector)]
    models = [build(name, detector) for detector in detectors]
    stages = {stage.name for model in models for stage in model.training_stages(preset.training)}
    assert set(preset.training.stages) <= stages


@pytest.mark.parametrize("name", PRESETS)
def test_a_title_that_says_published_belongs_to_the_published_profile(name: str) -> None:
    assert ("publish" in PRESETS[name].title) <= (PRESETS[name].like == "published")


def test_every_paper_has_a_preset_like_it() -> None:
    kinds = {PRESETS[name].kind for name in PUBLISHED}
    # The paper of L2LFlows gives no sizes, and none describes CaloINN in two steps.
    assert {preset.kind for preset in PRESETS.values()} - kinds == {"l2lflows", "caloinn-factorised"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_preset_is_the_paper_and_nothing_else(name: str) -> None:
    """No aid, no augmentation by symmetries that no paper uses, no switch set otherwise than its profile says."""
    preset = PRESETS[name]
    assert preset.aids == []
    model = build(name, load_detector(preset.detector or "calogan"))
    for stage in model.training_stages(preset.training):
        augmentation = preset.training.for_stage(stage.name).augmentation
        # Data set 3: the authors of convolutional L2LFlows turn every shower at random.
        expected = "rotations" if name.startswith("l2lflows-conv-par04") else "none"
        assert augmentation == expected or not isinstance(stage, GradientStage)
    assert not preset.model.keys() & profile_settings(model_class(preset.kind).differences, "published").keys()
    assert model.described_profile() == "published"


def test_every_kind_has_a_tiny_preset_for_any_detector_that_suits_it() -> None:
    kinds = {PRESETS[name].kind for name in TINY if PRESETS[name].detector is None}
    assert kinds == {preset.kind for preset in PRESETS.values()}
    assert all(f"{kind}-tiny" in TINY for kind in kinds)


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_preset_for_one_detector_says_why(name: str) -> None:
    preset = PRESETS[name]
    if preset.detector is None:
        assert preset.detector_reason == ""
        return
    assert preset.detector_reason
    with pytest.raises(ConfigError, match=preset.detector_reason):
        preset.build(toy_detector())


def test_icaloflow_tiny_takes_twenty_layers_of_15_x_15_cells() -> None:
    """Mutation: let the preset name a detector; ``par04-ds2`` alone was allowed before."""
    detector = toy_detector(*[(15, 15)] * 20)
    for name in ("icaloflow-tiny", "icaloflow-student-tiny"):
        model = load_preset(name).build(detector)
        stages = [stage.name for stage in model.training_stages(load_preset(name).training)]
        assert stages[-2:] == ["first", "following"]


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
