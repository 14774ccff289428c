"""The exact fast inverse against D full passes, over random networks of every shape and by every route."""

from __future__ import annotations

import contextlib
import copy
import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caloforge.errors import UsageError
from caloforge.kernels.ops.autoregressive import solve_autoregressive
from caloforge.kernels.ops.registry import plain_only
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.nn.permutations import random_all
from caloforge.nn.splines import SplineSettings

ROUTES = ["modules", "plain", "tile", "single"]

pytestmark = pytest.mark.usefixtures("kernels")


def random_flow(seed, *, features, hidden, layers, bins=8, context=2, masks="even", blocks=2, dtype=torch.float64):
    torch.manual_seed(seed)
    flow = MaskedAutoregressiveFlow(
        features=features, context_features=context, blocks=blocks, hidden_features=hidden, hidden_layers=layers,
        splines=SplineSettings(bins), masks=masks,
        permutations=[random_all(features, seed=seed, stream=k) for k in range(blocks - seed % 2)],
        dropout=0.3,
    )  # fmt: skip
    return flow.to(dtype)


def random_points(flow, count, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(count, flow.features, generator=generator, dtype=torch.float64)
    if not flow.context_features:
        return z.to(dtype), None
    return z.to(dtype), torch.randn(count, flow.context_features, generator=generator, dtype=torch.float64).to(dtype)


def invert(route, flow, z, context, threads=1):
    """The slow direction: from the modules, from packed weights by the plain twin, or by one of two kernels."""
    if route == "modules":
        return flow.solve_plainly(z, context)
    shape, before = flow.blocks[0].spline_shape, torch.get_num_threads()
    with plain_only() if route == "plain" else contextlib.nullcontext():
        packed, plan = flow.packed(single=route == "single")
        torch.set_num_threads(threads)
        try:
            return solve_autoregressive(packed, plan, z, context, shape, single=route == "single")
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("route", ROUTES)
@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    seed=st.integers(0, 10**6), features=st.integers(1, 40), hidden=st.integers(1, 60), layers=st.integers(0, 3),
    bins=st.integers(1, 9), context=st.integers(0, 3), masks=st.sampled_from(["even", "published"]),
    count=st.integers(1, 40),
)  # fmt: skip
def test_equals_full_passes_in_float64(route, seed, features, hidden, layers, bins, context, masks, count):
    flow = random_flow(seed, features=features, hidden=hidden, layers=layers, bins=bins, context=context, masks=masks)
    z, conditions = random_points(flow, count, seed)
    x, logdet = invert(route, flow, z, conditions)
    flow.eval()
    with torch.no_grad():
        expected, expected_logdet = flow.inverse_reference(z, conditions)
        again, forward_logdet = flow(x, conditions)
        reference_error = (flow(expected, conditions)[0] - z).abs().max()
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(logdet, expected_logdet, rtol=0, atol=1e-9)
    assert (again - z).abs().max() <= 1e-9 + 10 * reference_error  # slopes may reach 1e6 in the narrowest networks
    torch.testing.assert_close(forward_logdet, -logdet, rtol=0, atol=1e-7)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("masks", ["even", "published"])
def test_float32_is_within_rounding_of_float64(route, masks):
    flow = random_flow(1, features=60, hidden=45, layers=1, masks=masks, blocks=3)
    z, context = random_points(flow, 37, 1)
    expected, expected_logdet = flow.eval().inverse_reference(z, context)
    flow.float()
    x, logdet = invert(route, flow, z.float(), context.float())
    assert x.dtype == logdet.dtype == torch.float32
    torch.testing.assert_close(x.double(), expected.detach(), rtol=0, atol=3e-5)
    torch.testing.assert_close(logdet.double(), expected_logdet.detach(), rtol=0, atol=3e-4)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("scale", [1.0, 3.0, 12.0])
def test_rough_networks_come_back_as_well_as_by_full_passes(route, scale):
    """Flat bins, slopes down to 1e-6 and inputs beyond the spline: judged by the way back, as nothing else is exact."""
    flow = random_flow(2, features=24, hidden=30, layers=1, dtype=torch.float32).eval()
    with torch.no_grad():
        for block in flow.blocks:
            block.conditioner.output_layer.bias += scale * torch.randn(24 * 23)
    z, context = random_points(flow, 300, 2, torch.float32)
    exact = copy.deepcopy(flow).double()
    with torch.no_grad(), plain_only() if route == "plain" else contextlib.nullcontext():
        z *= 3
        x, logdet = invert(route, flow, z, context)
        reference, _ = flow.inverse_reference(z, context)

        def errors(found):
            yield (exact(found.double(), context.double())[0] - z).abs()
            yield (flow(found, context)[0] - z).abs().double()

        # The exact function is missed by as much. Full passes share the rounding of the float32 forward pass, which
        # flatters them there.
        for error, reference_error, factor in zip(errors(x), errors(reference), (1.3, 3), strict=True):
            assert error.mean() <= factor * reference_error.mean() + 1e-6
            assert error.median() <= factor * reference_error.median() + 1e-6
            assert error.quantile(0.9) <= factor * reference_error.quantile(0.9) + 1e-6
    assert torch.isfinite(logdet).all()
    assert (z.abs() > 14).any()


@pytest.mark.parametrize("route", ["tile", "single"])
def test_batches_and_threads_change_nothing(route):
    flow = random_flow(3, features=50, hidden=64, layers=2, dtype=torch.float32)
    z, context = random_points(flow, 333, 3, torch.float32)
    x, logdet = invert(route, flow, z, context)
    for threads in (2, 3, 7):
        again, logdet_again = invert(route, flow, z, context, threads)
        assert torch.equal(again, x)
        assert torch.equal(logdet_again, logdet)
    for first, end in ((0, 1), (5, 20), (100, 333)):
        part, part_logdet = invert(route, flow, z[first:end], context[first:end], 2)
        assert torch.equal(part, x[first:end])
        assert torch.equal(part_logdet, logdet[first:end])


def test_routes_agree():
    flow = random_flow(4, features=50, hidden=64, layers=1, dtype=torch.float32)
    z, context = random_points(flow, 20, 4, torch.float32)
    expected, _ = invert("plain", flow, z, context)
    for route in ("tile", "single"):
        x, _ = invert(route, flow, z, context)
        assert ((x - expected).abs() <= 1e-4 * expected.abs() + 1e-5).all()


@pytest.mark.parametrize("route", ROUTES)
def test_broken_weights_give_no_plausible_numbers(route):
    flow = random_flow(5, features=6, hidden=8, layers=1)
    with torch.no_grad():
        flow.blocks[1].conditioner.input_layer.bias[0] = torch.nan
    z, context = random_points(flow, 3, 5)
    x, logdet = invert(route, flow, z, context)
    assert torch.isnan(logdet).all()
    assert torch.isnan(x).any(dim=1).all()


def test_packed_weights_follow_every_change():
    flow = random_flow(6, features=10, hidden=12, layers=1).eval()
    other = random_flow(8, features=10, hidden=12, layers=1).eval()
    z, context = random_points(flow, 5, 6)

    def check(model):
        for count in (1, 5):
            torch.testing.assert_close(
                model.inverse(z[:count], context[:count])[0],
                model.inverse_reference(z[:count], context[:count])[0].detach(),
                rtol=0,
                atol=1e-9,
            )

    check(flow)
    with torch.no_grad():
        flow.blocks[0].conditioner.output_layer.bias[-1] += 1.0
    check(flow)
    for ours, theirs in zip(flow.parameters(), other.parameters(), strict=True):
        ours.data.lerp_(theirs.data, 0.5)  # weight averaging: no version counter moves
    check(flow)
    flow.load_state_dict(other.state_dict())
    check(flow)
    flow.permutations[0].set_index(torch.arange(10))
    check(flow)
    flow.blocks[1] = copy.deepcopy(flow.blocks[0])
    check(flow)
    flow.blocks[1].conditioner.input_layer = copy.deepcopy(flow.blocks[0].conditioner.input_layer)
    with torch.no_grad():
        flow.blocks[1].conditioner.input_layer.bias += 1
    check(flow)
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.1)
    (-flow.log_prob(z, context).mean()).backward()
    optimiser.step()
    check(flow)
    check(copy.deepcopy(flow))


def test_weights_are_packed_once_and_released_with_the_flow():
    flow = random_flow(8, features=10, hidden=12, layers=1)
    first, _ = flow.packed(single=False)
    assert flow.packed(single=False)[0] is first
    assert flow.packed(single=True)[0] is not first
    gone = weakref.ref(first), weakref.ref(flow)
    del first, flow
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_inverse_of_an_empty_batch_and_of_other_dtypes():
    flow = random_flow(9, features=5, hidden=6, layers=1)
    empty = torch.zeros(0, 5, dtype=torch.float64)
    x, logdet = flow.inverse(empty, torch.zeros(0, 2, dtype=torch.float64))
    assert x.shape == (0, 5)
    assert logdet.shape == (0,)
    assert not flow.inverse(empty, torch.zeros(0, 2, dtype=torch.float64))[0].requires_grad


def test_weights_of_another_kernel_are_refused():
    """Fails if a kernel reads packed numbers without looking how many there are."""
    flow = random_flow(9, features=5, hidden=6, layers=1)
    z, context = random_points(flow, 3, 1)
    packed, plan = flow.packed(single=True)
    with pytest.raises(ValueError, match="packed by another kernel"):
        solve_autoregressive(packed, plan, z, context, flow.blocks[0].spline_shape, single=False)
    with plain_only(), pytest.raises(ValueError, match="packed by another kernel"):
        solve_autoregressive(packed, plan, z, context, flow.blocks[0].spline_shape, single=True)


def test_more_bins_than_the_kernels_know():
    flow = random_flow(10, features=5, hidden=6, layers=1, bins=70)
    z, context = random_points(flow, 3, 1)
    torch.testing.assert_close(flow.inverse(z, context)[0], flow.eval().inverse_reference(z, context)[0].detach())


def test_shapes_that_do_not_fit_are_refused():
    flow = random_flow(0, features=4, hidden=5, layers=1)
    with pytest.raises(UsageError):
        flow.inverse(torch.zeros(3, 5, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(UsageError):
        flow.inverse(torch.zeros(3, 4, dtype=torch.float64), None)
