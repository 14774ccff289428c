"""All that follows the flow of CaloClouds: the compiled kernel against the same step by step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, point_showers
from torch import Tensor

from caloforge.detectors import load_detector
from caloforge.errors import GenerationError
from caloforge.kernels.ops.clouds import CLOUD_ARRAYS, CloudSettings, cloud_constants, decode_clouds
from caloforge.kernels.ops.registry import plain_only
from caloforge.models import Conditions, build_model, load_preset
from caloforge.parts.point_model import PointCloudModel
from caloforge.random import Streams
from caloforge.stage import FitStage, TrainingConfig
from caloforge.zoo.caloclouds3 import CaloClouds3

ILD = load_detector("ild-ecal")
SEEDS = Streams(5, "decoding")
KINDS = ["caloclouds2", "caloclouds3"]
DTYPES = [torch.float32, torch.float64]
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "box, linear, polynomials": {
        "positions": "box", "point_energy": "linear", "profiles": "linear", "occupancy": "polynomial", "box": 90.0,
    },
    "as published": {
        "positions": "box", "point_energy": "linear", "profiles": "linear", "occupancy": "polynomial", "box": 60.0,
        "outside_box": "kept", "condition_units": "published",
    },
    "standard, logarithm": {"positions": "standard", "point_energy": "log", "profiles": "sqrt", "box": 60.0},
    "asinh, linear": {"positions": "asinh", "point_energy": "linear", "profiles": "sqrt", "box": 200.0},
}  # fmt: skip


AIDS = ("trend", "moment-map", "totals-map", "layer-factors")

pytestmark = pytest.mark.usefixtures("kernels")


def new_model(kind: str, dtype: torch.dtype = torch.float64, **changes: Any) -> PointCloudModel:
    """A model that knows the scales of some showers, with a network and factors unlike those of a new one."""
    torch.manual_seed(6)
    settings = load_preset(f"{kind}-tiny").settings() | {"sampler": "consistency"} | changes
    if kind == "caloclouds2" and "outside_box" in changes:
        settings["points_told"] = "calibrated"
    model = build_model(kind, settings, ILD, aids=[{"kind": aid} for aid in AIDS])
    assert isinstance(model, PointCloudModel)
    for stage in model.training_stages(TrainingConfig()):
        if stage.name in ("scales", "trend"):
            assert isinstance(stage, FitStage)
            stage.load_state(stage.fit(Rows(point_showers(ILD, 40)), SEEDS))
    if dtype == torch.float64:
        model.double()
    with torch.no_grad():
        for parameter in model.target.parameters():
            parameter.mul_(3)
        layer_factors = model.aids["layer-factors"]
        for factors in (layer_factors.layer_points, layer_factors.layer_energy, model.calibration.occupancy):
            factors.copy_(0.7 + 0.6 * torch.rand(factors.shape, dtype=torch.float64))
        model.calibration.energy.mul_(1.1)
        if model.calibration.polynomial:
            model.calibration.polynomials[0] = torch.tensor([[1e-7, -1e-4, 0.9, 5.0], [1e-7, -1e-4, 1.2, 9.0]])
    return model.eval()


def disturb(model: PointCloudModel) -> None:
    """Corrections of moments and totals unlike those of a new model."""
    generator = torch.Generator().manual_seed(8)
    totals: Any = model.aids["totals-map"]
    trend: Any = model.aids["trend"]
    for aid in (model.aids["moment-map"], totals):
        for value in aid.buffers():
            value += 0.05 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    totals.total_scale.fill_(0.02)
    totals.real_total[0] = totals.made_total[0] = 1.0
    totals.real_total_variance[0] = 0.5
    trend.variance[0], trend.variance[1] = 0.7, 0.6


def inputs(model: PointCloudModel, showers: int) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Conditions of any direction, what a flow may say, and latents."""
    generator = np.random.default_rng(3)
    direction = generator.normal(0, 0.3, (showers, 3)).astype(np.float32)
    direction[:, 2] = 1
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    conditions = Conditions.first(generator.uniform(1e4, 9e4, showers), 22, direction=direction)
    latents = model.latents(conditions, SEEDS)
    return conditions.tensors(), latents["profile"].to(model.dtype), latents


def constants_of(model: PointCloudModel) -> Tensor:
    constants = model.operator_constants()
    assert constants is not None
    return constants


def decoded(
    model: PointCloudModel, conditions: Mapping[str, Tensor], raw: Tensor, latents: Mapping[str, Tensor]
) -> Any:
    """What one operator makes of the flow's outputs."""
    packed, plan = model.target.packed()
    points, offsets, valid = decode_clouds(
        packed, plan, constants_of(model), raw, conditions["incident_energy"], conditions["direction"],
        latents["points"].to(raw.dtype), latents["starts"],
    )  # fmt: skip
    return {"points": points, "offsets": offsets}, valid


def both(model: PointCloudModel, conditions: Mapping[str, Tensor], raw: Tensor, latents: Mapping[str, Tensor]) -> Any:
    """From the compiled operator, and step by step; its plain twin agrees with both."""
    with torch.no_grad():
        assert model._in_one_operator(raw)
        fast = decoded(model, conditions, raw, latents)
        with plain_only():
            plain, by_steps = decoded(model, conditions, raw, latents), model.decode_reference(conditions, raw, latents)
        if not by_steps[0]["points"].isnan().any():
            agree(plain, by_steps)
        expected = model.decode_reference(conditions, raw, latents)
        return fast, expected


def whole(model: PointCloudModel, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]) -> Any:
    """All of it as users get it, and step by step."""
    with torch.no_grad():
        assert model._ready(2) is not None
        raw = model.flow_outputs(conditions, latents["profile"])
        return model.decode_tensors(conditions, latents), model.decode_reference(conditions, raw, latents)


def agree(fast: Any, plain: Any) -> None:
    assert torch.equal(fast[1], plain[1])
    assert torch.equal(fast[0]["offsets"], plain[0]["offsets"])
    one, other = fast[0]["points"], plain[0]["points"]
    assert one.dtype == other.dtype == torch.float32
    assert torch.equal(one[:, 2], other[:, 2])
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_gives_the_showers_of_plain_pytorch(kind: str, variant: str, dtype: torch.dtype) -> None:
    model = new_model(kind, dtype, **VARIANTS[variant])
    if variant != "asinh, linear":
        disturb(model)
    for showers in (0, 1, 2, 21):
        case = inputs(model, showers)
        fast, plain = both(model, *case)
        agree(fast, plain)
        if showers > 2:
            assert bool(fast[1].any())
            assert len(fast[0]["points"]) > 500
            assert len(fast[0]["points"][:, 2].unique()) > 20
    if dtype == torch.float64:  # without any kernel
        with torch.no_grad(), plain_only():
            agree(fast, model.decode_reference(*case))


@pytest.mark.parametrize("kind", KINDS)
def test_a_shower_has_the_same_bits_in_every_batch_and_with_any_number_of_threads(kind: str) -> None:
    model = new_model(kind, torch.float32)
    conditions, raw, latents = inputs(model, 40)
    threads = torch.get_num_threads()
    with torch.no_grad():
        (together, valid) = decoded(model, conditions, raw, latents)
        try:
            torch.set_num_threads(3)
            again, _ = decoded(model, conditions, raw, latents)
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(again["points"], together["points"])
        starts, offsets = latents["starts"], together["offsets"]
        for first, end in ((0, 1), (7, 8), (9, 30)):
            own = {"points": latents["points"], "starts": starts[first : end + 1]}
            some = {name: value[first:end] for name, value in conditions.items()}
            alone, good = decoded(model, some, raw[first:end], own)
            assert torch.equal(good, valid[first:end])
            assert torch.equal(alone["points"], together["points"][offsets[first] : offsets[end]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_showers(kind: str, dtype: torch.dtype) -> None:
    model = new_model(kind, dtype, profiles="linear")
    conditions, raw, latents = inputs(model, 9)
    totals, layers = model.flow.features - 2 * model.layers, model.layers
    mean, std = model.profiles.scale_of(conditions)
    features = mean + raw.double() * std
    if totals:
        features[:, :2] = torch.tensor([100.0, 50.0])
    features[0, totals : totals + layers] = -1  # no points at all
    features[1, totals:] = 1e-4  # everything in one layer
    features[1, [totals + 4, totals + layers + 4]] = 0.9 if totals else 99.0
    features[2, totals + 3 : totals + layers] = -1  # points in the first three layers only
    features[3, totals + layers + 5] = -1  # one negative energy
    features[4, totals + layers :] = -1  # too many
    features[5, :layers] = 1e6  # too many points
    features[6, 1] = torch.nan
    features[7, -1] = torch.inf
    raw = ((features - mean) / std).to(raw.dtype)
    fast, plain = both(model, conditions, raw, latents)
    agree(fast, plain)
    points = fast[0]["offsets"].diff()
    assert fast[1].tolist()[4:8] == [False] * 4
    assert points[[0, 4, 5, 6, 7]].tolist() == [0] * 5
    assert bool((points[[1, 2, 3, 8]] > 0).all())
    offsets = fast[0]["offsets"]
    assert fast[0]["points"][offsets[1] : offsets[2], 2].unique().tolist() == [4]
    assert float(fast[0]["points"][offsets[2] : offsets[3], 2].max()) <= 2


@pytest.mark.parametrize("positions", ["standard", "asinh"])
def test_points_beyond_the_box_are_reflected_as_often_as_it_takes(positions: str) -> None:
    model = new_model("caloclouds3", positions=positions, box=40.0)
    model.points.scale.mul_(60)  # up to the limits of sinh and exp
    conditions, raw, latents = inputs(model, 5)
    conditions["direction"] = torch.tensor([0.0, 0.0, 1.0]).expand(5, 3).contiguous()
    fast, plain = both(model, conditions, raw, latents)
    # Where sinh is 1e8 mm, the last digit of a place decides about its reflection.
    near = (plain[0]["points"] - fast[0]["points"]).abs().amax(dim=1) < 1e-3
    assert float(near.double().mean()) > (0.999 if positions == "standard" else 0.5)
    assert float(fast[0]["points"][:, :2].abs().max()) <= 20.0
    assert float(fast[0]["points"][:, :2].abs().max()) > 19.9


def test_a_broken_network_gives_no_plausible_numbers() -> None:
    model = new_model("caloclouds3")
    with torch.no_grad():
        model.target.layers[0].linear.bias[0] = torch.nan  # type: ignore[union-attr,index]
    for made, valid in both(model, *inputs(model, 3)):
        assert bool(valid.all())
        assert bool(made["points"][:, [0, 1, 3]].isnan().all())


def test_what_one_operator_cannot_do_goes_step_by_step_and_nonsense_is_refused() -> None:
    model = new_model("caloclouds3")
    conditions, raw, latents = inputs(model, 4)
    assert not model._in_one_operator(raw)  # gradients
    with torch.no_grad():
        fast = model.decode_tensors(conditions, latents)
        agree(fast, model.decode_reference(conditions, model.flow_outputs(conditions, latents["profile"]), latents))
        few = latents | {"starts": latents["starts"] // 50}  # fewer numbers than points
        for way in (contextlib.nullcontext, plain_only):
            with way():
                with pytest.raises(GenerationError, match="needs more random numbers"):
                    decoded(model, conditions, raw, few)
                with pytest.raises(ValueError, match="do not fit"):
                    decoded(model, conditions, raw, latents | {"points": latents["points"][:5]})
                with pytest.raises(ValueError, match="do not fit"):
                    decoded(model, conditions, raw[:, :-1], latents)
        model.adjust({"sampler": "edm"})
        assert not model._in_one_operator(raw)


def without_corrections(totals: int) -> tuple[CloudSettings, dict[str, Tensor]]:
    settings = CloudSettings(
        incident=9e4, points_unit=4000.0, room=1.25, least_factor=0.05, least_variance=0.1, least_total_variance=1e-4,
        most_total=2.0, half_box=100.0, level=1.0, scale=0.9, skip=0.1, out=0.5, core=1.0, least_energy=1e-3,
        layers=30, totals=totals, roots=False, asinh=False, linear_energy=False, max_negative=7,
    )  # fmt: skip
    features = totals + 60
    arrays = {
        "mean": torch.full((features,), 8.0),
        "std": torch.linspace(0.5, 2, features),
        "depths": torch.arange(30.0),
    }
    if totals:
        arrays["mean"][:2] = torch.tensor([200.0, 90.0])
    return settings, arrays


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_core_needs_no_correction_and_neutral_ones_change_nothing(kind: str) -> None:
    """Fails if an operator reads a correction that is not there, or if one that does nothing changes a shower."""
    model = new_model(kind)
    conditions, raw, latents = inputs(model, 6)
    totals = model.flow.features - 2 * model.layers
    settings, arrays = without_corrections(totals)
    features = totals + 60
    same = torch.tensor([1.0, 0.0]).double()
    neutral: dict[str, Tensor] = {
        "point_mean": torch.zeros(4), "point_scale": torch.ones(4), "most_points": torch.tensor([1e9, 0.0]),
        "trend": torch.zeros(7, features), "variance": same[:, None].repeat(1, features),
        "made_mean": torch.zeros(7, features), "real_mean": torch.zeros(7, features),
        "made_variance": same[:, None].repeat(1, features), "real_variance": same[:, None].repeat(1, features),
        "spread": torch.eye(features), "layer_points": torch.ones(30), "layer_energy": torch.ones(30),
        "energy": torch.ones(1), "occupancy": torch.ones(30),
    }  # fmt: skip
    case = (
        raw, conditions["incident_energy"], conditions["direction"], latents["points"].to(raw.dtype), latents["starts"],
    )  # fmt: skip
    for way in (contextlib.nullcontext, plain_only):
        with torch.no_grad(), way():
            network = model.target.packed()
            plain, offsets, valid = decode_clouds(*network, cloud_constants(settings, arrays), *case)
            assert bool(valid.all())
            assert len(plain) > 300
            made = decode_clouds(*network, cloud_constants(settings, arrays | neutral), *case)
            assert torch.equal(made[1], offsets)
            torch.testing.assert_close(made[0], plain, rtol=1e-6, atol=1e-6)
            halved = decode_clouds(
                *network, cloud_constants(settings, arrays | {"energy": torch.full((1,), 0.5)}), *case
            )
            torch.testing.assert_close(halved[0][:, 3], plain[:, 3] / 2)


def test_constants_that_do_not_fit_are_refused() -> None:
    settings, arrays = without_corrections(0)
    assert set(arrays) < set(CLOUD_ARRAYS)
    for wrong, message in (
        ({"spread": torch.eye(60)}, "'spread' needs"),
        ({"polynomials": torch.zeros(2, 4)}, "needs 'occupancy'"),
        ({"made_mean": torch.zeros(7, 60)}, "all are needed, or none"),
        ({"std": torch.ones(59)}, "has 59 numbers, not 60"),
        ({"zork": torch.ones(1)}, "'zork' is no constant"),
    ):
        with pytest.raises(ValueError, match=message):
            cloud_constants(settings, arrays | wrong)


def test_showers_follow_every_change_and_every_copy() -> None:
    """Fails if the look at all tensors together misses the flow, the point network, a fitted part or an aid."""
    model = new_model("caloclouds3")
    conditions, _, latents = inputs(model, 6)
    before = whole(model, conditions, latents)[0][0]["points"]
    twin = copy.deepcopy(model)
    model.calibration.energy.mul_(2)  # in place
    twin.profiles.std = twin.profiles.std * 0.5  # another tensor
    twin.points.mean.data = twin.points.mean + 0.1  # other memory
    agree(*whole(model, conditions, latents))
    agree(*whole(twin, conditions, latents))
    torch.testing.assert_close(whole(model, conditions, latents)[0][0]["points"][:, 3], 2 * before[:, 3])
    model.adjust({"max_negative": 0})
    fast, plain = whole(model, conditions, latents)
    agree(fast, plain)
    assert not bool(fast[1].all())
    model.adjust({"max_negative": 7})
    parts = [model.flow, model.target, *model.aids.values()]
    assert len(parts) > 2
    for part in parts:
        last = [*part.parameters(), *(b for b in part.buffers() if b.is_floating_point())][-1]
        known = whole(model, conditions, latents)[0]
        last.data.mul_(1.2).add_(0.01)  # writes that no version counter tells of
        fast, plain = whole(model, conditions, latents)
        agree(fast, plain)
        same = torch.equal(fast[0]["offsets"], known[0]["offsets"])
        assert not same or not torch.equal(fast[0]["points"], known[0]["points"])


def test_a_model_of_another_class_may_have_other_profiles() -> None:
    class Other(CaloClouds3):
        pass

    assert vars(CaloClouds3)["compiled_totals"] == 0
    model = new_model("caloclouds3")
    case = inputs(model, 2)
    model.__class__ = Other
    with torch.no_grad():
        assert not model._in_one_operator(case[1])
