"""What every registered model promises, whatever it is inside."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, point_showers, sparse_showers, toy_detector, training_batch
from variants import DENSITIES, KINDS, NO_INTEGRAL, TEACHERS, build_variant, cases, contract_detector, teacher_variant

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
from caloforge.parts.point_model import PointCloudModel
from caloforge.parts.profile_flow import ProfileScaleStage
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import GradientStage, TrainingConfig

CASES = cases()
SEEDS = Streams(3, "contract")


def showers_for(model: ShowerModel, rows: int = 40) -> Showers | ShowerPoints:
    if model.shower_kind == "voxels":
        return sparse_showers(model.detector, rows)
    return point_showers(model.detector, rows)


def new_model(kind: str, variant: str) -> ShowerModel:
    return copy.deepcopy(_fitted(kind, variant))


@cache
def _fitted(kind: str, variant: str) -> ShowerModel:
    torch.manual_seed(5)
    inputs = {"teacher": new_model(TEACHERS[kind], teacher_variant(kind, variant))} if kind in TEACHERS else {}
    model = build_variant(kind, variant, inputs)
    fit(model, showers_for(model))
    if getattr(model.config, "profile_scale", "") == "constants":
        # An untrained flow in fixed units makes showers of thousands of points that are all refused. So its units are made
        # those of the data, as if it had learnt what these are.
        assert isinstance(model, PointCloudModel)
        scales = ProfileScaleStage(model, own_units=False)
        scales.load_state(scales.fit(Rows(showers_for(model)), Streams(0, "scales")))
    return model.eval()


@pytest.fixture(params=CASES, ids=[f"{kind} ({name})" for kind, name in CASES])
def model(request: pytest.FixtureRequest) -> ShowerModel:
    return new_model(*request.param)


def conditions_for(model: ShowerModel, rows: int = 60) -> Conditions:
    return Conditions.first(np.linspace(2e3, 9e4, rows), 22, start=100)


def numbers(made: Showers | ShowerPoints) -> np.ndarray:
    return made.deposits if isinstance(made, Showers) else made.points


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_tiny_preset(kind: str) -> None:
    assert f"{kind}-tiny" in preset_names()


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_key_is_refused_by_name(kind: str) -> None:
    with pytest.raises(ConfigError, match="'no_such_key' is not known"):
        build_model(kind, {**load_preset(f"{kind}-tiny").settings(), "no_such_key": 1}, contract_detector(kind))


def test_configuration_is_frozen_and_survives_json(model: ShowerModel) -> None:
    again = type(model).Config.model_validate(json.loads(model.config.model_dump_json()))
    assert again == model.config
    with pytest.raises(ValueError, match="frozen"):
        setattr(model.config, next(iter(type(model.config).model_fields)), None)


def test_every_tensor_of_the_state_belongs_to_exactly_one_stage(model: ShowerModel) -> None:
    owned = [name for stage in model.training_stages(TrainingConfig()) for name in stage.state()]
    assert sorted(owned) == sorted(model.state_dict())


def test_stages_come_after_those_that_they_need(model: ShowerModel) -> None:
    seen: set[str] = set()
    for stage in model.training_stages(TrainingConfig()):
        assert set(stage.needs) <= seen
        assert stage.name not in seen
        seen.add(stage.name)


def test_losses_and_gradients_are_finite_and_reach_every_parameter(model: ShowerModel) -> None:
    showers = showers_for(model)
    for stage in model.training_stages(TrainingConfig()):
        if not isinstance(stage, GradientStage):
            continue
        model.train()
        for player in stage.players:
            model.zero_grad()
            losses = stage.loss(player.name, training_batch(showers), SEEDS.child(stage.name))
            assert all(value.ndim == 0 and bool(torch.isfinite(value)) for value in losses.values())
            losses["loss"].backward()
            assert len(player.parameters) > 0
            for parameter in player.parameters:
                assert parameter.grad is not None
                assert bool(torch.isfinite(parameter.grad).all())
        model.eval()
        with torch.no_grad():
            metrics = stage.validate(training_batch(showers), SEEDS.child(stage.name))
        assert bool(torch.isfinite(metrics[stage.metric]))


def test_a_stage_trains_its_own_parameters_only(model: ShowerModel) -> None:
    for stage in model.training_stages(TrainingConfig()):
        if isinstance(stage, GradientStage):
            own = {id(p) for part in stage.parts.values() for p in part.parameters()}
            model.zero_grad()
            for player in stage.players:
                stage.loss(player.name, training_batch(showers_for(model)), SEEDS)["loss"].backward()
            assert all(p.grad is None or id(p) in own for p in model.parameters())


def test_a_loss_depends_on_rows_epoch_and_seed_but_not_on_calls_before(model: ShowerModel) -> None:
    showers = showers_for(model)
    for stage in model.training_stages(TrainingConfig()):
        if isinstance(stage, GradientStage):
            with torch.no_grad():
                first, again, later = (
                    stage.validate(training_batch(showers, epoch), SEEDS)[stage.metric] for epoch in (0, 0, 1)
                )
            assert torch.equal(first, again)
            assert not torch.equal(first, later)


def test_showers_have_the_right_shape_and_non_negative_energies_in_mev(model: ShowerModel) -> None:
    conditions = conditions_for(model)
    made, valid = model.decode(conditions, model.latents(conditions, SEEDS))
    assert valid.shape == (len(conditions),)
    assert valid.dtype == np.bool_
    assert len(made) == len(conditions)
    assert np.array_equal(made.incident_energy, conditions.incident_energy)
    assert made.particle == 22
    assert made.readout == model.detector.readout
    made.check_values()
    assert made.total_energy().max() > 1  # MeV: an untrained model spreads its energy, but GeV would be 1000 times less


def of_rows(latents: dict[str, torch.Tensor], start: int, stop: int, rows: int) -> dict[str, torch.Tensor]:
    """The latents of some of the rows; those that a row has a number of its own of lie between its ``starts``."""
    starts = latents.get("starts")
    found = {}
    for name, value in latents.items():
        if name == "starts":
            found[name] = value[start : stop + 1] - value[start]
        elif value.shape[0] == rows:
            found[name] = value[start:stop]
        else:
            assert starts is not None, f"nothing says to which rows the latents '{name}' belong"
            assert (len(starts), int(starts[-1])) == (rows + 1, value.shape[0])
            found[name] = value[int(starts[start]) : int(starts[stop])]
    return found


def test_latents_are_bit_equal_for_any_batch_size(model: ShowerModel) -> None:
    conditions = conditions_for(model)
    together = model.latents(conditions, SEEDS)
    for start, stop in ((0, 1), (13, 31), (59, 60)):
        alone, expected = model.latents(conditions[start:stop], SEEDS), of_rows(together, start, stop, len(conditions))
        assert alone.keys() == expected.keys()
        for name, value in alone.items():
            assert value.numel(), name
            assert torch.equal(value, expected[name]), name


def test_showers_are_the_same_for_any_batch_size(model: ShowerModel) -> None:
    conditions = conditions_for(model)
    together, valid = model.decode(conditions, model.latents(conditions, SEEDS))
    for size in (1, 17):
        parts = [conditions[k : k + size] for k in range(0, len(conditions), size)]
        made = [model.decode(part, model.latents(part, SEEDS)) for part in parts]
        assert np.array_equal(np.concatenate([good for _, good in made]), valid)
        one = numbers(together)
        other = np.concatenate([numbers(showers) for showers, _ in made])
        assert one.shape == other.shape
        # A voxel that gets what the others leave is rounded like the shower as a whole.
        rounding = 1e-6 * one.sum(axis=1, keepdims=True) if isinstance(together, Showers) else 1e-6
        assert (np.abs(one - other) > 1e-4 * np.abs(one) + rounding).mean() <= 1e-3


def test_the_next_attempt_and_another_seed_give_other_showers(model: ShowerModel) -> None:
    conditions = conditions_for(model, rows=3)
    first = model.latents(conditions, SEEDS)
    for other in (model.latents(conditions.again(), SEEDS), model.latents(conditions, Streams(4, "contract"))):
        assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_saved_model_makes_the_same_showers_bit_for_bit(model: ShowerModel, tmp_path: Path) -> None:
    conditions = conditions_for(model, rows=5)
    save_model(tmp_path / "m", model, ConditionRange.of(22, [1e3, 1e5]))
    loaded = load_model(tmp_path / "m")
    assert loaded.config == model.config
    assert loaded.detector == model.detector
    assert loaded.record is not None
    assert loaded.record.parameters == model.parameter_count()
    assert not loaded.training
    made, _ = model.decode(conditions, model.latents(conditions, SEEDS))
    again, _ = loaded.decode(conditions, loaded.latents(conditions, SEEDS))
    assert np.array_equal(numbers(made), numbers(again))
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["model.json", "model.safetensors"]


def test_likelihood_is_finite_seeded_and_independent_of_blocks(model: ShowerModel) -> None:
    showers = showers_for(model)[:12]  # of those to which the energy scale was fitted
    if not model.has_likelihood:
        with pytest.raises(UsageError, match="no likelihood"):
            model.log_prob(showers, SEEDS)
        return
    together = model.log_prob(showers, SEEDS, draws=2)
    assert together.dtype == torch.float64
    assert bool(torch.isfinite(together).all())
    behind = model.log_prob(showers[5:12], SEEDS, draws=2, first_row=5)
    assert torch.allclose(behind, together[5:], rtol=1e-5, atol=1e-3)
    assert not torch.equal(model.log_prob(showers, Streams(4, "contract"), draws=2), together)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if model_class(kind).has_likelihood and kind not in NO_INTEGRAL]
)
def test_likelihood_of_the_deposits_integrates_to_one(kind: str) -> None:
    taught = TEACHERS.get(kind, kind)
    assert taught in DENSITIES, (
        "a model with a likelihood names the settings under which it is a density of the deposits"
    )
    detector = toy_detector((2, 1), threshold=0.0)
    torch.manual_seed(1)
    settings = load_preset(f"{taught}-tiny").settings() | DENSITIES[taught]
    if taught == kind:
        model = build_model(kind, settings, detector).double().eval()
    else:
        own = load_preset(f"{kind}-tiny").settings()
        model = build_model(kind, own | {"teacher": settings}, detector).double().eval()
    # The integral over both deposits, with a grid that is fine near the edges, where an untrained flow is steep:
    # dd1 dd2 = E dE dx for d1 = E x, d2 = E (1 - x), and E = 100 sigmoid(s), x = sigmoid(t).
    incident = 100.0
    points = np.linspace(-13.5, 13.5, 301)
    s, t = (grid.ravel() for grid in np.meshgrid(points, points))
    total, share = incident / (1 + np.exp(-s)), 1 / (1 + np.exp(-t))
    weights = total * (total * (1 - total / incident)) * (share * (1 - share)) * (points[1] - points[0]) ** 2
    deposits = np.stack([total * share, total * (1 - share)], axis=1).astype(np.float32)
    showers = Showers(deposits, np.full(len(deposits), incident), 22, detector.readout)
    density = model.log_prob(showers, SEEDS).exp().numpy()
    assert float((density * weights).sum()) == pytest.approx(1.0, abs=0.01)
