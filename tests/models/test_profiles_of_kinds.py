"""Profiles: what a publication does and what CaloForge does, from one mapping for each kind."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from variants import KINDS, TEACHERS, build_variant, cases, variant_settings

from caloforge.models import (
    PROFILES,
    Difference,
    ShowerModel,
    deviations,
    differences_table,
    load_preset,
    model_class,
    profile_settings,
)
from caloforge.validation import Settings

MASKS = Difference("masks", "of nflows", "even", "inputs are lost", "masks", ("published", "even"))
CUT = Difference("threshold", "none", "0.01 MeV", "cut anyway", "cut", (None, 0.01))
FLOAT = Difference("precision", "float64", "float32", "faster")


class Config(Settings):
    masks: Literal["even", "published"] = "even"
    cut: float | None = 0.01
    size: int = 3


def settings_of(kind: str, profile: Literal["published", "improved"]) -> Settings:
    cls = model_class(kind)
    return cls.Config.model_validate(profile_settings(cls.differences, profile))


def test_a_profile_sets_every_switch_and_nothing_else() -> None:
    rows = (MASKS, CUT, FLOAT)
    assert profile_settings(rows, "published") == {"masks": "published", "cut": None}
    assert profile_settings(rows, "improved") == {"masks": "even", "cut": 0.01}


def test_deviations_are_the_switches_that_differ_and_no_sizes() -> None:
    rows = (MASKS, CUT, FLOAT)
    assert deviations(rows, "improved", Config(size=7)) == []
    assert deviations(rows, "published", Config(masks="published", cut=None)) == []
    assert deviations(rows, "published", Config(masks="published")) == ["cut=0.01"]
    assert deviations(rows, "improved", Config(masks="published", cut=None)) == ["masks=published", "cut=None"]


def test_the_table_has_a_row_for_every_difference() -> None:
    lines = differences_table((MASKS, CUT, FLOAT)).splitlines()
    assert lines[0].split(" | ")[1:3] == ["publication", "`improved`"]
    assert lines[2:] == [
        "| masks | of nflows | even | inputs are lost | `masks`: published / even |",
        "| threshold | none | 0.01 MeV | cut anyway | `cut`: null / 0.01 |",
        "| precision | float64 | float32 | faster | - |",
    ]


@pytest.mark.parametrize("half", [{"switch": "masks"}, {"values": ("published", "even")}])
def test_a_switch_without_values_is_a_mistake(half: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'masks' needs both a switch and its values"):
        Difference("masks", "of nflows", "even", "inputs are lost", **half)


@pytest.mark.parametrize(("kind", "name"), cases(), ids=[f"{kind} ({name})" for kind, name in cases()])
def test_every_model_can_say_how_it_differs_from_its_profile(kind: str, name: str) -> None:
    """Mutation: put the profile's switches into the configuration and validate it; with ``drop_voxel`` they contradict it."""
    settings, profile, _ = variant_settings(kind, name)
    cls = model_class(kind)
    config = cls.Config.model_validate(settings)
    wanted = profile_settings(cls.differences, profile)
    expected = [key for key, value in wanted.items() if settings[key] != value]
    assert [text.partition("=")[0] for text in deviations(cls.differences, profile, config)] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_of_a_kind_are_its_improved_profile(kind: str) -> None:
    """Mutation: change a default without its row in the table, or the other way round."""
    assert settings_of(kind, "improved") == model_class(kind).Config()


@pytest.mark.parametrize("kind", KINDS)
def test_every_switch_is_a_key_of_the_configuration_with_two_values(kind: str) -> None:
    cls = model_class(kind)
    assert cls.differences, "a kind says what it does otherwise than its publication"
    switches = [row.switch for row in cls.differences if row.switch is not None]
    assert len(switches) == len(set(switches))
    assert set(switches) <= set(cls.Config.model_fields)
    published, improved = (settings_of(kind, profile).model_dump() for profile in PROFILES)
    assert {key for key, value in published.items() if value != improved[key]} == set(switches)


@pytest.mark.parametrize("kind", KINDS)
def test_both_profiles_build_and_know_what_they_are(kind: str) -> None:
    inputs: dict[str, ShowerModel] = {}
    if kind in TEACHERS:
        inputs["teacher"] = build_variant(TEACHERS[kind], "tiny", {})
    for name, profile in (("tiny", "improved"), ("published", "published")):
        model = build_variant(kind, name, inputs)
        assert model.profile == profile
        cls, settings = model_class(kind), profile_settings(model_class(kind).differences, model.profile)
        wanted = set(settings) - set(load_preset(f"{kind}-tiny").model if name == "tiny" else {})
        assert (
            not {text.partition("=")[0] for text in deviations(cls.differences, model.profile, model.config)} & wanted
        )


def test_the_profile_of_a_teacher_is_that_of_the_teacher() -> None:
    """A student takes its settings over, whatever profile it has itself."""
    teacher = build_variant("caloflow", "published", {})
    pupil = build_variant("caloflow-student", "tiny", {"teacher": teacher})
    assert pupil.config.teacher["masks"] == "published"  # type: ignore[attr-defined]
    assert pupil.profile == "improved"
