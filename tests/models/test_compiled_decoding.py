"""All that follows the flow of CaloClouds: the compiled kernel against the same step by step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, point_showers
from torch import Tensor

from caloforge.detectors import load_detector
from caloforge.models import Conditions, build_model, load_preset
from caloforge.models.caloclouds3 import CaloClouds3
from caloforge.models.cloud_parts import CORRECTIONS
from caloforge.models.pointclouds import PointCloudModel
from caloforge.nn import compiled_clouds, compiled_decoding
from caloforge.nn.native import native_library
from caloforge.random import Streams
from caloforge.stage import TrainingConfig

ILD = load_detector("ild-ecal")
SEEDS = Streams(5, "decoding")
KINDS = ["caloclouds2", "caloclouds3"]
DTYPES = [torch.float32, torch.float64]
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "box, linear, polynomials": {
        "positions": "box", "point_energy": "linear", "profiles": "linear", "occupancy": "polynomial", "box": 90.0,
    },
    "standard, logarithm": {"positions": "standard", "point_energy": "log", "profiles": "sqrt", "box": 60.0},
    "asinh, linear": {"positions": "asinh", "point_energy": "linear", "profiles": "sqrt", "box": 200.0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def kernels() -> None:
    if native_library() is None:
        pytest.skip("no C++ compiler here")


def new_model(kind: str, dtype: torch.dtype = torch.float64, **changes: Any) -> PointCloudModel:
    """A model that knows the scales of some showers, with a network and factors unlike those of a new one."""
    torch.manual_seed(6)
    model = build_model(kind, load_preset(f"{kind}-tiny").model | {"sampler": "consistency"} | changes, ILD)
    assert isinstance(model, PointCloudModel)
    stage = model.stages(TrainingConfig())[0]
    stage.load_state(stage.fit(Rows(point_showers(ILD, 40)), SEEDS))  # type: ignore[attr-defined]
    if dtype == torch.float64:
        model.double()
    with torch.no_grad():
        for parameter in model.target.parameters():
            parameter.mul_(3)
        for factors in (model.layer_factors.points, model.layer_factors.energy, model.calibration.occupancy):
            factors.copy_(0.7 + 0.6 * torch.rand(factors.shape, dtype=torch.float64))
        model.calibration.energy.mul_(1.1)
        if model.calibration.polynomial:
            model.calibration.polynomials[0] = torch.tensor([[1e-7, -1e-4, 0.9, 5.0], [1e-7, -1e-4, 1.2, 9.0]])
    return model.eval()


def disturb(model: PointCloudModel) -> None:
    """Corrections of moments and totals unlike those of a new model."""
    generator = torch.Generator().manual_seed(8)
    for name in CORRECTIONS:
        value = getattr(model.layer_factors, name)
        value += 0.05 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    model.layer_factors.total_scale.fill_(0.02)
    model.layer_factors.real_total[0] = model.layer_factors.made_total[0] = 1.0
    model.layer_factors.real_total_variance[0] = 0.5
    model.scales.variance[0], model.scales.variance[1] = 0.7, 0.6


def inputs(model: PointCloudModel, showers: int) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Conditions of any direction, what a flow may say, and latents."""
    generator = np.random.default_rng(3)
    direction = generator.normal(0, 0.3, (showers, 3)).astype(np.float32)
    direction[:, 2] = 1
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    conditions = Conditions.first(generator.uniform(1e4, 9e4, showers), 22, direction=direction)
    latents = model.latents(conditions, SEEDS)
    return conditions.tensors(), latents["profile"].to(model.dtype), latents


def both(model: PointCloudModel, conditions: Mapping[str, Tensor], raw: Tensor, latents: Mapping[str, Tensor]) -> Any:
    with torch.no_grad():
        fast = model._decode_compiled(conditions, raw, latents)
        assert fast is not None
        return fast, model.decode_reference(conditions, raw, latents)


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
def test_the_kernel_gives_the_showers_of_plain_pytorch(
    kind: str, variant: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        monkeypatch.setattr(compiled_clouds, "native_library", lambda: None)
        with torch.no_grad():
            agree(fast, model.decode_reference(*case))


@pytest.mark.parametrize("kind", KINDS)
def test_a_shower_has_the_same_bits_in_every_batch_and_with_any_number_of_threads(kind: str) -> None:
    model = new_model(kind, torch.float32)
    conditions, raw, latents = inputs(model, 40)
    threads = torch.get_num_threads()
    with torch.no_grad():
        (together, valid) = model._decode_compiled(conditions, raw, latents)  # type: ignore[misc]
        try:
            torch.set_num_threads(3)
            again, _ = model._decode_compiled(conditions, raw, latents)  # type: ignore[misc]
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(again["points"], together["points"])
        starts, offsets = latents["starts"], together["offsets"]
        for first, end in ((0, 1), (7, 8), (9, 30)):
            own = {"points": latents["points"], "starts": starts[first : end + 1]}
            some = {name: value[first:end] for name, value in conditions.items()}
            alone, good = model._decode_compiled(some, raw[first:end], own)  # type: ignore[misc]
            assert torch.equal(good, valid[first:end])
            assert torch.equal(alone["points"], together["points"][offsets[first] : offsets[end]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_showers(kind: str, dtype: torch.dtype) -> None:
    model = new_model(kind, dtype, profiles="linear")
    conditions, raw, latents = inputs(model, 9)
    totals, layers = model.flow.features - 2 * model.layers, model.layers
    mean, std = model.scales.mean_of(conditions), model.scales.std_of(conditions)
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


def test_plain_pytorch_does_what_the_kernel_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model("caloclouds3")
    conditions, raw, latents = inputs(model, 4)
    fast, _ = both(model, conditions, raw, latents)
    assert model._decode_compiled(conditions, raw, latents) is None  # gradients
    with torch.no_grad():
        agree(model.decode_tensors(conditions, latents), model.decode_reference(
            conditions, model.flow_outputs(conditions, latents["profile"]), latents))  # fmt: skip
        few = latents | {"starts": latents["starts"] // 50}  # fewer numbers than points
        assert model._decode_compiled(conditions, raw, few) is None
        assert model._decode_compiled(conditions, raw, latents | {"points": latents["points"][:5]}) is None
        assert model._decode_compiled(conditions, raw[:, :-1], latents) is None
        monkeypatch.setattr(compiled_decoding, "native_library", lambda: None)
        assert model._decode_compiled(conditions, raw, latents) is None
        agree(fast, model.decode_reference(conditions, raw, latents))
        monkeypatch.undo()
        model.adjust({"sampler": "edm"})
        assert model._decode_compiled(conditions, raw, latents) is None


def test_constants_follow_every_change_and_every_copy() -> None:
    model = new_model("caloclouds3")
    case = inputs(model, 6)
    before = both(model, *case)[0][0]["points"]
    twin = copy.deepcopy(model)
    model.calibration.energy.mul_(2)  # in place
    twin.scales.std = twin.scales.std * 0.5  # another tensor
    twin.points.mean.data = twin.points.mean + 0.1  # other memory
    agree(*both(model, *case))
    agree(*both(twin, *case))
    torch.testing.assert_close(both(model, *case)[0][0]["points"][:, 3], 2 * before[:, 3])
    model.adjust({"max_negative": 0})
    fast, plain = both(model, *case)
    agree(fast, plain)
    assert not bool(fast[1].all())


def test_a_model_of_another_class_may_have_other_profiles() -> None:
    class Other(CaloClouds3):
        pass

    assert vars(CaloClouds3)["compiled_totals"] == 0
    model = new_model("caloclouds3")
    case = inputs(model, 2)
    model.__class__ = Other
    with torch.no_grad():
        assert model._decode_compiled(*case) is None
