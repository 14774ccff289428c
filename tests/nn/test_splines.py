"""The spline against a slow scalar reference, its inverse, its derivatives, and its behaviour at the edges."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caloforge.errors import ConfigError
from caloforge.kernels.ops.registry import plain_only
from caloforge.kernels.ops.splines import raw_parameter_count, rqs

BOUND, MINIMUM = 14.0, 1e-6


def scalar_spline(x: float, raw: list[float], bound: float = BOUND, minimum: float = MINIMUM) -> tuple[float, float]:
    """One spline at one point in plain Python, straight from arXiv:1906.04032; returns value and log-derivative."""
    bins = (len(raw) + 1) // 3
    if abs(x) > bound:
        return x, 0.0

    def sizes(values: list[float]) -> list[float]:
        largest = max(values)
        weights = [math.exp(v - largest) for v in values]
        return [2 * bound * (minimum + (1 - minimum * bins) * w / sum(weights)) for w in weights]

    widths, heights = sizes(raw[:bins]), sizes(raw[bins : 2 * bins])
    slopes = [1.0, *(minimum + math.log1p(math.exp(-abs(v))) + max(v, 0.0) for v in raw[2 * bins :]), 1.0]
    left, bottom, k = -bound, -bound, 0
    while k < bins - 1 and x >= left + widths[k]:
        left, bottom, k = left + widths[k], bottom + heights[k], k + 1
    t = (x - left) / widths[k]
    s, d0, d1 = heights[k] / widths[k], slopes[k], slopes[k + 1]
    below = s + (d1 + d0 - 2 * s) * t * (1 - t)
    value = bottom + heights[k] * (s * t * t + d0 * t * (1 - t)) / below
    slope = s * s * (d1 * t * t + 2 * s * t * (1 - t) + d0 * (1 - t) ** 2) / below**2
    return value, math.log(slope)


def random_case(count: int, bins: int, scale: float, seed: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    raw = scale * torch.randn(count, raw_parameter_count(bins), generator=generator, dtype=torch.float64)
    x = 32 * torch.rand(count, generator=generator, dtype=torch.float64) - 16
    return x.to(dtype), raw.to(dtype)


@pytest.mark.parametrize("bins", [1, 2, 8, 13])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_agrees_with_the_scalar_reference(bins, scale):
    x, raw = random_case(300, bins, scale, seed=bins)
    values, logs = rqs(x, raw, bound=BOUND)
    expected = np.array([scalar_spline(float(a), b.tolist()) for a, b in zip(x, raw, strict=True)])
    np.testing.assert_allclose(values, expected[:, 0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(logs, expected[:, 1], rtol=0, atol=1e-7)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), bins=st.integers(1, 10), scale=st.floats(0.01, 4.0))
def test_inverse_undoes_forward(seed, bins, scale):
    x, raw = random_case(64, bins, scale, seed)
    y, log_forward = rqs(x, raw, bound=BOUND)
    back, log_inverse = rqs(y, raw, bound=BOUND, inverse=True)
    flatness = torch.exp((-log_forward).clamp_min(0))
    assert ((back - x).abs() <= 1e-12 * flatness + 1e-12).all()
    again, _ = rqs(back, raw, bound=BOUND)
    assert ((again - y).abs() <= 1e-12 * torch.exp(log_forward.clamp_min(0)) + 1e-12).all()
    gentle = log_forward.abs() < 5
    assert ((log_forward + log_inverse).abs()[gentle] <= 1e-8).all()


def test_monotonic_over_the_whole_line():
    _, raw = random_case(50, 8, 3.0, seed=5)
    x = torch.linspace(-16, 16, 4001, dtype=torch.float64)
    y, _ = rqs(x.expand(50, -1), raw[:, None, :].expand(-1, 4001, -1), bound=BOUND)
    assert (y.diff(dim=-1) > 0).all()


def test_log_derivative_is_the_derivative():
    x, raw = random_case(500, 8, 1.0, seed=2)
    x.requires_grad_()
    for inverse in (False, True):
        y, logs = rqs(x, raw, bound=BOUND, inverse=inverse)
        (slope,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(slope.log(), logs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_by_finite_differences(inverse):
    x, raw = random_case(12, 5, 0.8, seed=3)
    x = x.requires_grad_()
    raw = raw.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: rqs(a, b, bound=BOUND, inverse=inverse), (x, raw), eps=1e-6, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_and_beyond(inverse, dtype):
    at = [-1e30, -100.0, -BOUND - 1e-3, -BOUND, BOUND, BOUND + 1e-3, 100.0, 1e30]
    x = torch.tensor(at, dtype=dtype, requires_grad=True)
    raw = torch.randn(8, 23, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y, logs = rqs(x, raw, bound=BOUND, inverse=inverse)
    torch.testing.assert_close(y, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logs, torch.zeros_like(logs), rtol=0, atol=1e-5)
    (grad_x, grad_raw) = torch.autograd.grad(y.sum() + logs.sum(), (x, raw))
    assert torch.isfinite(grad_x).all()
    assert torch.isfinite(grad_raw).all()
    outside = x.detach().abs() > BOUND
    assert (grad_raw[outside] == 0).all()
    assert (grad_x[outside] == 1).all()
    (slope,) = torch.autograd.grad(rqs(x, raw, bound=BOUND, inverse=inverse)[0].sum(), x)
    torch.testing.assert_close(slope, torch.ones_like(slope), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inverse", [False, True])
def test_float32_survives_flat_bins_and_steep_slopes(inverse):
    generator = torch.Generator().manual_seed(8)
    raw = 30 * torch.randn(20_000, 23, generator=generator)
    x = 28 * torch.rand(20_000, generator=generator) - 14
    x.requires_grad_()
    raw.requires_grad_()
    y, logs = rqs(x, raw, bound=BOUND, inverse=inverse)
    assert torch.isfinite(y).all()
    assert torch.isfinite(logs).all()
    assert (y.abs() <= BOUND * (1 + 1e-6)).all()
    grads = torch.autograd.grad(y.sum() + logs.sum(), (x, raw))
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_float32_inverse_lands_on_the_curve():
    x, raw = random_case(20_000, 8, 1.5, seed=4, dtype=torch.float32)
    y, _ = rqs(x, raw, bound=BOUND, inverse=True)
    again, log_forward = rqs(y, raw, bound=BOUND)
    assert ((again - x).abs() <= 1e-5 * torch.exp(log_forward.clamp_min(0)) + 1e-5).all()


def test_bfloat16_inputs_are_computed_in_float32():
    x, raw = random_case(100, 8, 1.0, seed=6, dtype=torch.bfloat16)
    y, logs = rqs(x, raw, bound=BOUND)
    assert y.dtype == logs.dtype == torch.float32
    expected, _ = rqs(x.double(), raw.double(), bound=BOUND)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4)


def test_equal_raw_parameters_give_the_identity():
    raw = torch.zeros(1, 23, dtype=torch.float64)
    raw[:, 16:] = math.log(math.expm1(1 - MINIMUM))
    x = torch.linspace(-15, 15, 100, dtype=torch.float64)
    y, logs = rqs(x, raw.expand(100, -1), bound=BOUND)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(logs, torch.zeros_like(logs), rtol=0, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_agrees_with_nflows(inverse):
    nflows = pytest.importorskip("nflows.transforms.splines.rational_quadratic")
    x, raw = random_case(2000, 8, 1.0, seed=9)
    expected = nflows.unconstrained_rational_quadratic_spline(
        x, raw[:, :8], raw[:, 8:16], raw[:, 16:], inverse=inverse, tail_bound=BOUND,
        min_bin_width=MINIMUM, min_bin_height=MINIMUM, min_derivative=MINIMUM,
    )  # fmt: skip
    found = rqs(x, raw, bound=BOUND, inverse=inverse)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("count", "settings_"),
    [(22, {}), (23, {"min_bin_width": 0.2}), (23, {"min_bin_height": 0.0}), (23, {"min_derivative": 1.0})],
)
def test_impossible_settings_are_refused(count, settings_):
    with pytest.raises(ConfigError):
        rqs(torch.zeros(3), torch.zeros(3, count), bound=BOUND, **settings_)
    with pytest.raises(ConfigError):
        rqs(torch.zeros(3), torch.zeros(3, 23), bound=0.0)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("bins", [1, 2, 8, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_kernels_equal_plain_pytorch(kernels, inverse, bins, dtype):
    x, raw = random_case(1037, bins, 0.7, seed=bins, dtype=dtype)
    x[:3] = torch.tensor([-BOUND, BOUND, 0.0])
    results = []
    for way in (contextlib.nullcontext, plain_only):
        a, b = x.clone().requires_grad_(), raw.clone().requires_grad_()
        with way():
            y, logs = rqs(
                a, b, bound=BOUND, min_bin_width=1e-5, min_bin_height=2e-5, min_derivative=3e-6, inverse=inverse
            )
            assert (y.grad_fn.name() == "_SplineBackward") == (way is not plain_only)
        weights = torch.linspace(-1, 1, len(x), dtype=dtype)
        grads = torch.autograd.grad((weights * y + weights.flip(0) * logs).sum(), (a, b))
        results.append((y, logs, *grads))
    relative, absolute = (1e-11, 1e-12) if dtype == torch.float64 else (1e-3, 1e-3)
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=relative, atol=absolute)


def test_compiled_kernels_for_any_thread_count_and_layout(kernels):
    x, raw = random_case(6000, 8, 1.0, seed=1, dtype=torch.float32)
    expected = rqs(x, raw, bound=BOUND)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for found, wanted in zip(rqs(x, raw, bound=BOUND), expected, strict=True):
            assert torch.equal(found, wanted)
    finally:
        torch.set_num_threads(threads)
    turned = rqs(x.view(60, 100).t(), raw.view(60, 100, 23).transpose(0, 1), bound=BOUND)
    for found, wanted in zip(turned, expected, strict=True):
        assert torch.equal(found, wanted.view(60, 100).t())
    empty, _ = rqs(x[:0], raw[:0], bound=BOUND)
    assert empty.shape == (0,)


def test_tracing_sees_plain_operations_and_function_transforms_work():
    x, raw = random_case(5, 8, 1.0, seed=2)

    class Spline(torch.nn.Module):
        def forward(self, a, b):
            return rqs(a, b, bound=BOUND)

    program = torch.export.export(Spline(), (x, raw))
    for found, expected in zip(program.module()(x, raw), rqs(x, raw, bound=BOUND), strict=True):
        torch.testing.assert_close(found, expected)
    jacobian = torch.func.jacrev(lambda a: rqs(a, raw, bound=BOUND)[0])(x)
    torch.testing.assert_close(jacobian.diagonal().log(), rqs(x, raw, bound=BOUND)[1])


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_of_gradients_and_mapped_splines(kernels, inverse):
    """Fails if the backward pass hands out gradients that nothing can be differentiated through."""
    x, raw = random_case(4, 5, 1.0, seed=4)
    case = x.clamp(-13, 13).requires_grad_(), raw.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a, b: rqs(a, b, bound=BOUND, inverse=inverse), case)
    with torch.no_grad():  # transformed tensors have no memory that a kernel could read
        mapped = torch.func.vmap(lambda a, b: rqs(a, b, bound=BOUND, inverse=inverse)[0], in_dims=(None, 0))(x[0], raw)
        torch.testing.assert_close(mapped, rqs(x[0].expand(4), raw, bound=BOUND, inverse=inverse)[0])


@pytest.mark.parametrize("inverse", [False, True])
def test_broken_parameters_stay_broken(inverse):
    x, raw = random_case(23, 8, 1.0, seed=3)
    x = x.clamp(-13, 13)
    for index in range(16):
        raw[index, index] = torch.nan
    y, logs = rqs(x, raw, bound=BOUND, inverse=inverse)
    assert torch.isnan(y[:16]).all()
    assert torch.isnan(logs[:16]).all()
    assert torch.isfinite(y[16:]).all()
    assert torch.isnan(rqs(torch.tensor([torch.nan]), torch.zeros(1, 23), bound=BOUND, inverse=inverse)[0]).all()
