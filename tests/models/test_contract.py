"""What every registered model promises, whatever it is inside."""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, point_showers, sparse_showers, training_batch
from variants import DENSITIES, KINDS, NO_INTEGRAL, TEACHERS, build_variant, cases, contract_detector, teacher_variant

from caloforge.detectors import Detector
from caloforge.errors import ConfigError, UsageError
from caloforge.models import (
    ConditionRange,
    Conditions,
    ShowerModel,
    build_model,
    load_model,
    load_preset,
    model_class,
    preset_names,
    save_model,
)
from caloforge.parts.bottleneck_model import BottleneckModel
from caloforge.parts.point_model import PointCloudModel
from caloforge.parts.profile_flow import ProfileScaleStage
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import GradientStage, TrainingConfig
from caloforge.testing import MODEL_CHECKS, CheckFailedError, check_model

CASES = cases()
SEEDS = Streams(3, "contract")


def showers_for(model: ShowerModel, rows: int = 40) -> Showers | ShowerPoints:
    if model.shower_kind == "voxels":
        return sparse_showers(model.detector, rows, faint=False)
    return point_showers(model.detector, rows)


def new_model(kind: str, variant: str) -> ShowerModel:
    return copy.deepcopy(_fitted(kind, variant))


def build_untrained(kind: str, variant: str) -> ShowerModel:
    torch.manual_seed(5)
    inputs = {"teacher": new_model(TEACHERS[kind], teacher_variant(kind, variant))} if kind in TEACHERS else {}
    return build_variant(kind, variant, inputs)


@cache
def _fitted(kind: str, variant: str) -> ShowerModel:
    model = build_untrained(kind, variant)
    fit(model, showers_for(model))
    learn_units(model)
    return model.eval()


def learn_units(model: ShowerModel) -> None:
    if isinstance(model, BottleneckModel) and model.config.sampling != "layers":
        # An untrained post-processor that makes cells anew, in MeV, makes next to nothing or less.
        model.post_processor.last.weight.data.abs_().mul_(3e3)
    if getattr(model.config, "profile_scale", "") == "constants":
        # An untrained flow in fixed units makes showers of thousands of points that are all refused. So its units are made
        # those of the data, as if it had learnt what these are.
        assert isinstance(model, PointCloudModel)
        scales = ProfileScaleStage(model, own_units=False)
        scales.load_state(scales.fit(Rows(showers_for(model)), Streams(0, "scales")))


@pytest.fixture(params=CASES, ids=[f"{kind} ({name})" for kind, name in CASES])
def model(request: pytest.FixtureRequest) -> ShowerModel:
    return new_model(*request.param)


@pytest.fixture(params=CASES, ids=[f"{kind} ({name})" for kind, name in CASES])
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


def conditions_for(model: ShowerModel, rows: int = 60) -> Conditions:
    return Conditions.first(np.linspace(2e3, 9e4, rows), 22, start=100)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_tiny_preset(kind: str) -> None:
    assert f"{kind}-tiny" in preset_names()


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_key_is_refused_by_name(kind: str) -> None:
    with pytest.raises(ConfigError, match="'no_such_key' is not known"):
        build_model(kind, {**load_preset(f"{kind}-tiny").settings(), "no_such_key": 1}, contract_detector(kind))


def test_a_loss_depends_on_rows_epoch_and_seed_but_not_on_calls_before(model: ShowerModel) -> None:
    showers = showers_for(model)
    for stage in model.training_stages(TrainingConfig()):
        if isinstance(stage, GradientStage):
            with torch.no_grad():
                first, again, later = (
                    stage.metrics_of(training_batch(showers, epoch), SEEDS)[stage.metric] for epoch in (0, 0, 1)
                )
            assert torch.equal(first, again)
            # The validation of a classifier looks at all showers that were generated, whatever the epoch.
            assert torch.equal(first, later) == (stage.name == "rejection")


def test_every_model_keeps_what_all_models_promise(case: tuple[str, str]) -> None:
    """Mutations: the eight broken toys of ``tests/testing/broken_models.py``."""
    untrained = build_untrained(*case)
    done = check_model(
        untrained,
        showers=fitted_to(untrained, case),
        density=False,
        energy_ratio=RATIOS.get(case, 1.0),
        prepare=learn_units,
    )
    assert done == list(MODEL_CHECKS)


#: What sound models deposit before they are trained, where that is far from what the showers do. Where nothing but the cells says
#: how much energy there is, L2LFlows draws their logarithms around the means of all of them, most of which are dark. It is no
#: nearer after some steps of training: 0.02 of the energy after one, 220 after 20, 430 after 40, 300 after 60, since the few
#: largest cells make the sum. The published network of CaloGAN begins with a hundredth of the energy.
RATIOS = {
    ("l2lflows-conv", "no energy flow"): 0.002,
    ("calo-gan", "published"): 0.01,
    ("calo-gan", "published, three particles"): 0.01,
}


def fitted_to(model: ShowerModel, case: tuple[str, str]) -> Showers | ShowerPoints:
    """Showers for the contract; GFlash makes showers of all of the energy, so those for it have more than a thousandth of it."""
    showers = showers_for(model)
    if case == ("gflash", "points"):
        assert isinstance(showers, ShowerPoints)
        points = showers.points * np.array([1, 1, 1, 500], dtype=np.float32)
        return dataclasses.replace(showers, points=points)
    return showers


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_every_variant_in_the_wrong_unit_is_rejected(
    case: tuple[str, str], factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: let an untrained model be a factor of 100 away, as it was; ten times is not enough for a thousand."""
    untrained = build_untrained(*case)
    showers = fitted_to(untrained, case)
    original = type(untrained).decode

    def wrong(self: ShowerModel, *arguments: Any) -> Any:
        made, valid = original(self, *arguments)
        if isinstance(made, Showers):
            return dataclasses.replace(made, deposits=made.deposits * np.float32(factor)), valid
        return dataclasses.replace(made, points=made.points * np.array([1, 1, 1, factor], dtype=np.float32)), valid

    monkeypatch.setattr(type(untrained), "decode", wrong)
    with pytest.raises(CheckFailedError, match=r"^showers: "):
        check_model(
            untrained, showers=showers, density=False, energy_ratio=RATIOS.get(case, 1.0), prepare=learn_units,
            only=["showers"],
        )  # fmt: skip


def test_showers_answer_the_conditions(model: ShowerModel) -> None:
    conditions = conditions_for(model)
    made, _ = model.decode(conditions, model.latents(conditions, SEEDS))
    assert np.array_equal(made.incident_energy, conditions.incident_energy)
    assert made.particle == 22
    assert made.readout == model.detector.readout


def test_a_saved_model_knows_its_size_and_generates(model: ShowerModel, tmp_path: Path) -> None:
    save_model(tmp_path / "m", model, ConditionRange.of(22, [1e3, 1e5]))
    loaded = load_model(tmp_path / "m")
    assert loaded.record is not None
    assert loaded.record.parameters == model.parameter_count()
    assert not loaded.training


def test_likelihood_is_seeded_or_refused(model: ShowerModel) -> None:
    showers = showers_for(model)[:12]  # of those to which the energy scale was fitted
    if not model.has_likelihood:
        with pytest.raises(UsageError, match="no likelihood"):
            model.log_prob(showers, SEEDS)
        return
    one, other = (model.log_prob(showers, streams, draws=2) for streams in (SEEDS, Streams(4, "contract")))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if model_class(kind).has_likelihood and kind not in NO_INTEGRAL]
)
def test_likelihood_of_the_deposits_integrates_to_one(kind: str) -> None:
    taught = TEACHERS.get(kind, kind)
    assert taught in DENSITIES, (
        "a model with a likelihood names the settings under which it is a density of the deposits"
    )

    def density(detector: Detector) -> ShowerModel:
        settings = load_preset(f"{taught}-tiny").settings() | DENSITIES[taught]
        if taught == kind:
            return build_model(kind, settings, detector)
        own = load_preset(f"{kind}-tiny").settings()
        return build_model(kind, own | {"teacher": settings}, detector)

    assert check_model(build_untrained(kind, "tiny"), density=density, only=["density"]) == ["density"]
