"""No option without a use: each takes at least two values over the variants of its kind, and with each a model is trained."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from model_samples import Rows, point_showers, sparse_showers, training_batch
from variants import KINDS, TEACHERS, VARIANTS, build_variant, contract_detector, teacher_variant

from caloforge import plugins
from caloforge.models import ShowerModel, model_class
from caloforge.random import Streams
from caloforge.stage import FitStage, GradientStage, TrainingConfig
from caloforge.validation import Settings

#: Options of kinds that others have and these kinds do not, since no more than one value would make sense.
ABSENT = [
    ("caloinn", "layer_reference"),
    ("caloinn", "layer_offset"),
    ("icaloflow", "energy_fractions"),
    ("l2lflows", "energy_flow"),
    ("l2lflows-conv", "drop_voxel"),
]


def leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Options by their dotted names, with their values as JSON; a teacher's settings count as one."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and key != "teacher":
            yield from leaves(value, f"{before}{key}.")
        else:
            yield before + key, json.dumps(value)


def options(config: type[Settings]) -> set[str]:
    """Names of all options of a class of settings."""
    found = set()
    for key, field in config.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, Settings)
        found |= {f"{key}.{name}" for name in options(inner)} if nested else {key}  # type: ignore[arg-type]
    return found


@cache
def trained(kind: str, name: str) -> ShowerModel:
    """A variant after one step of every player of every stage."""
    torch.manual_seed(5)
    inputs = {"teacher": trained(TEACHERS[kind], teacher_variant(kind, name))} if kind in TEACHERS else {}
    model = build_variant(kind, name, inputs)
    detector = contract_detector(kind)
    showers = (sparse_showers if model.shower_kind == "voxels" else point_showers)(detector, 24)
    for stage in model.training_stages(TrainingConfig()):
        streams = Streams(1, stage.name)
        if isinstance(stage, FitStage):
            stage.load_state(stage.fit(Rows(showers), streams))
            continue
        assert isinstance(stage, GradientStage)
        model.train()
        with torch.no_grad():
            stage.begin(Rows(showers), streams)
        for player in stage.players:
            optimiser = torch.optim.Adam(player.parameters, 1e-3)
            loss = stage.loss(player.name, training_batch(showers), streams)["loss"]
            loss.backward()
            optimiser.step()
            stage.after_step(player.name, 1)
            assert bool(torch.isfinite(loss)), f"{kind} ({name}), stage {stage.name}"
        assert all(bool(torch.isfinite(value).all()) for value in stage.state().values())
        model.eval()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_of_a_kind_is_trained_with_two_values(kind: str) -> None:
    """Fails with the name of an option that nobody needs, or that nothing tries: it should go, or have a variant."""
    values: dict[str, set[str]] = defaultdict(set)
    for name in ("tiny", *VARIANTS[kind]):
        for option, value in leaves(trained(kind, name).config.model_dump(mode="json")):
            values[option].add(value)
    assert options(model_class(kind).Config) <= values.keys()
    single = sorted(option for option, found in values.items() if len(found) < 2)
    assert not single, f"options of '{kind}' of which one value is tried: {', '.join(single)}"


@pytest.mark.parametrize(("kind", "option"), ABSENT)
def test_an_option_of_one_value_does_not_exist(kind: str, option: str) -> None:
    assert option not in options(model_class(kind).Config)


def test_every_setting_of_every_aid_is_tried_with_two_values() -> None:
    """Fails with the name of an aid that no variant names, or of its setting."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for kind in KINDS:
        for name in ("tiny", *VARIANTS[kind]):
            for helper in trained(kind, name).helpers():
                for option, value in helper.describe().items():
                    values[helper.kind, option].add(json.dumps(value))
    assert {kind for kind, _ in values} == set(plugins.names("aids"))
    assert [aid for aid, found in values.items() if aid[1] != "kind" and len(found) < 2] == []


def test_an_option_that_nothing_tries_is_found() -> None:
    """Of the test itself: an option is found wherever it stands."""
    found = options(model_class("caloinn").Config)
    assert {"noise", "variables", "flow.spline", "flow.least"} <= found
    assert "flow" not in found
    assert dict(leaves({"a": 1, "b": {"c": None}, "teacher": {"d": 2}})) == {
        "a": "1",
        "b.c": "null",
        "teacher": '{"d": 2}',
    }
