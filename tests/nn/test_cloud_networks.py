"""The networks of CaloClouds: compiled kernels against plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from caloforge.kernels.ops.registry import plain_only
from caloforge.nn.pointwise import PointWiseNet
from caloforge.nn.showerflow import ShowerFlow


@pytest.fixture(autouse=True, scope="module")
def without_gradients(kernels: object) -> Iterator[None]:
    with torch.no_grad():
        yield


def random_flow(
    seed: int, dtype: torch.dtype = torch.float64, features: int = 9, gain: float = 1.5, **changes: object
) -> ShowerFlow:
    torch.manual_seed(seed)
    options = {"blocks": 2, "order": "caloclouds3", "affine_hidden": 24, "spline_hidden": 20, "bins": 8} | changes
    made = ShowerFlow(features, 3, **options).to(dtype)  # type: ignore[arg-type]
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0, gain * parameter.shape[-1] ** -0.5)
    return made


def random_inputs(flow: ShowerFlow, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = next(flow.parameters()).dtype
    # Some values lie outside the splines.
    return 1.5 * torch.randn(count, flow.features, dtype=dtype), torch.randn(count, flow.context_features, dtype=dtype)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    seed=st.integers(0, 10**6), features=st.integers(2, 40), bins=st.integers(1, 9), hidden=st.integers(1, 400),
    order=st.sampled_from(["caloclouds2", "caloclouds3"]), count=st.integers(1, 40),
)  # fmt: skip
def test_flows_equal_plain_pytorch_in_float64(
    seed: int, features: int, bins: int, hidden: int, order: str, count: int
) -> None:
    flow = random_flow(seed, features=features, bins=bins, order=order, affine_hidden=hidden)
    z, context = random_inputs(flow, count)
    expected = flow.sample_reference(z, context)
    torch.testing.assert_close(flow.sample(z, context), expected, rtol=1e-8, atol=1e-8)
    with plain_only():
        torch.testing.assert_close(flow.sample(z, context), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("order", "features"), [("caloclouds2", 65), ("caloclouds3", 60)])
def test_flows_in_float32_are_as_exact_as_plain_pytorch(order: str, features: int) -> None:
    flow = random_flow(1, features=features, gain=0.7, order=order, affine_hidden=None)
    z, context = random_inputs(flow, 200)
    exact = flow.sample_reference(z, context)
    flow.float()
    z, context = z.float(), context.float()
    plain, fast = flow.sample_reference(z, context) - exact, flow.sample(z, context) - exact
    # Any order of summation is as good as another on average.
    assert fast.abs().mean() <= 2 * plain.abs().mean()
    assert fast.abs().quantile(0.99) <= 2 * plain.abs().quantile(0.99)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [9, 60])
def test_a_shower_has_the_same_bits_in_every_batch_and_with_any_number_of_threads(
    dtype: torch.dtype, features: int
) -> None:
    flow = random_flow(2, dtype, features=features)
    z, context = random_inputs(flow, 301)
    together = flow.sample(z, context)
    for start, stop in pairwise([0, 1, 3, 6, 40, 200, 301]):
        assert torch.equal(flow.sample(z[start:stop], context[start:stop]), together[start:stop])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(flow.sample(z, context), together)
    finally:
        torch.set_num_threads(threads)


def packed(net: PointWiseNet, *counts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    dtype = net.frequencies.dtype
    offsets = torch.tensor([0, *counts]).cumsum(0)
    points = torch.randn(int(offsets[-1]), net.features, dtype=dtype)
    context = net.layers[0].gate.in_features - net.time.in_features  # type: ignore[operator,union-attr]
    return points, torch.randn(len(counts), dtype=dtype), torch.randn(len(counts), context, dtype=dtype), offsets


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    seed=st.integers(0, 10**6), widths=st.lists(st.integers(1, 70), min_size=1, max_size=4), context=st.integers(1, 5),
    features=st.integers(1, 5), counts=st.lists(st.integers(0, 150), min_size=1, max_size=4),
)  # fmt: skip
def test_point_networks_equal_plain_pytorch_in_float64(
    seed: int, widths: list[int], context: int, features: int, counts: list[int]
) -> None:
    torch.manual_seed(seed)
    net = PointWiseNet(widths, context, features=features, fourier_std=1.0, time_features=6).double()
    inputs = packed(net, *counts)
    moved = net(*inputs)
    torch.testing.assert_close(moved, net.forward_reference(*inputs), rtol=0, atol=1e-12)
    with plain_only():
        torch.testing.assert_close(net(*inputs), net.forward_reference(*inputs), rtol=0, atol=1e-12)
    if len(moved):
        with torch.enable_grad():
            torch.testing.assert_close(moved, net(*inputs).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("widths", [(32, 64, 128, 64, 32), (128, 256, 512, 256, 128)])
def test_point_networks_in_float32_are_within_rounding(widths: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    net = PointWiseNet(widths, 4)
    inputs = packed(net, 300, 0, 41)
    assert torch.allclose(net(*inputs), net.forward_reference(*inputs), rtol=1e-5, atol=1e-6)


def test_points_have_the_same_bits_in_every_batch_and_with_any_number_of_threads() -> None:
    torch.manual_seed(4)
    net = PointWiseNet((32, 48), 2)
    points, noise, context, offsets = packed(net, 700, 0, 3, 129, 64)
    together = net(points, noise, context, offsets)
    for k in range(5):
        own = points[offsets[k] : offsets[k + 1]]
        alone = net(own, noise[k : k + 1], context[k : k + 1], torch.tensor([0, len(own)]))
        assert torch.equal(alone, together[offsets[k] : offsets[k + 1]])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(net(points, noise, context, offsets), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_step_samples_equal_those_step_by_step(dtype: torch.dtype) -> None:
    torch.manual_seed(9)
    net = PointWiseNet((16, 32), 3).to(dtype)
    counts, rooms = torch.tensor([150, 0, 3, 40]), torch.tensor([200, 10, 3, 60])
    offsets, starts = (torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]) for sizes in (counts, rooms))
    z, context = torch.randn(int(starts[-1]), 4, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    scales = (0.9, 0.05, 0.5)
    made = net.generate(z, starts, offsets, 1.1, context, scales)
    assert made.dtype == torch.float64
    step_by_step = net.generate_reference(z, starts, offsets, 1.1, context, scales)
    torch.testing.assert_close(made, step_by_step, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-6)
    for n in (0, 2, 3):
        own, row = z[starts[n] : starts[n + 1]], slice(n, n + 1)
        alone = net.generate(own, torch.tensor([0]), torch.tensor([0, int(counts[n])]), 1.1, context[row], scales)
        assert torch.equal(alone, made[offsets[n] : offsets[n + 1]])
        first = own[: counts[n]].double()
        moved = net(
            own[: counts[n]] * 0.9, torch.full((1,), 1.1, dtype=dtype), context[row], torch.tensor([0, len(first)])
        )
        torch.testing.assert_close(alone, 0.05 * first + 0.5 * moved.double(), rtol=0, atol=1e-6)


def test_packed_weights_follow_every_change() -> None:
    flow, net = random_flow(5), PointWiseNet((8, 16), 2).double()
    z, context = random_inputs(flow, 5)
    inputs = packed(net, 20, 30)

    def check() -> None:
        for count in (1, 5):
            expected = flow.sample_reference(z[:count], context[:count])
            torch.testing.assert_close(flow.sample(z[:count], context[:count]), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(net(*inputs), net.forward_reference(*inputs), rtol=0, atol=1e-12)

    check()
    for parameter in (*flow.parameters(), *net.parameters()):
        parameter.data.mul_(0.9)  # weight averaging: no version counter moves
    check()
    flow.load_state_dict(random_flow(6).state_dict())
    net.load_state_dict(PointWiseNet((8, 16), 2).double().state_dict())
    check()
    next(layer for layer in flow.layers if hasattr(layer, "set_index")).set_index(torch.arange(9).flip(0))  # type: ignore[operator]
    net.frequencies.mul_(0.5)
    check()


def test_broken_weights_give_no_plausible_numbers() -> None:
    flow, net = random_flow(7), PointWiseNet((8, 16), 2)
    for parameter in (flow.layers[0].network[0].bias, net.layers[0].linear.bias):  # type: ignore[union-attr,index]
        parameter[0] = torch.nan  # type: ignore[index,operator]
    for count in (1, 4):
        assert flow.sample(*random_inputs(flow, count)).isnan().any(dim=1).all()
    assert net(*packed(net, 20)).isnan().all()


def test_kernels_plain_twins_and_gradients_give_the_same() -> None:
    flow, net = random_flow(8), PointWiseNet((8, 16), 2).double()
    z, context = random_inputs(flow, 4)
    inputs = packed(net, 20, 30)
    fast = flow.sample(z, context), net(*inputs)
    with torch.enable_grad():
        slow = flow.sample(z, context), net(*inputs)
        assert all(result.requires_grad for result in slow)
    with plain_only():
        plain = flow.sample(z, context), net(*inputs)
    for one, *others in zip(fast, slow, plain, strict=True):
        assert not one.requires_grad
        for other in others:
            torch.testing.assert_close(one, other.detach(), rtol=1e-9, atol=1e-9)
            assert not torch.equal(one, other)  # else nothing was compiled
