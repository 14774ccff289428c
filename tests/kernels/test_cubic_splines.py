"""The cubic spline against a slow scalar reference, its inverse, its derivatives, and its behaviour at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caloforge.errors import ConfigError
from caloforge.kernels.ops.cubic_splines import cubic_parameter_count, cubic_spline, raw_end_derivative

BOUND, MINIMUM = 14.0, 1e-3


def scalar_spline(x: float, raw: list[float]) -> tuple[float, float]:
    """One spline at one point: Steffen's derivatives at the knots, then the cubic of the bin in Newton's form."""
    bins = (len(raw) - 2) // 2
    if abs(x) > BOUND:
        return x, 0.0

    def sizes(values: list[float]) -> list[float]:
        weights = [math.exp(v - max(values)) for v in values]
        return [2 * BOUND * (MINIMUM + (1 - MINIMUM * bins) * w / sum(weights)) for w in weights]

    widths, heights = sizes(raw[:bins]), sizes(raw[bins : 2 * bins])
    slopes = [h / w for h, w in zip(heights, widths, strict=True)]
    ends = [
        (1e-3 + (3 - 2e-3) / (1 + math.exp(-v))) * s for v, s in zip(raw[-2:], (slopes[0], slopes[-1]), strict=True)
    ]
    derivatives = [ends[0]]
    for k in range(1, bins):
        mean = (slopes[k - 1] * widths[k] + slopes[k] * widths[k - 1]) / (widths[k - 1] + widths[k])
        sign = math.copysign(1, slopes[k - 1]) + math.copysign(1, slopes[k])
        derivatives.append(sign * min(abs(slopes[k - 1]), abs(slopes[k]), 0.5 * abs(mean)))
    derivatives.append(ends[1])
    left, bottom, k = -BOUND, -BOUND, 0
    while k < bins - 1 and x >= left + widths[k]:
        left, bottom, k = left + widths[k], bottom + heights[k], k + 1
    w, s, d0, d1 = widths[k], slopes[k], derivatives[k], derivatives[k + 1]
    a, b = (d0 + d1 - 2 * s) / w**2, (3 * s - 2 * d0 - d1) / w
    t = x - left
    return bottom + t * (d0 + t * (b + t * a)), math.log(d0 + t * (2 * b + 3 * t * a))


def random_case(count: int, bins: int, scale: float, seed: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    raw = scale * torch.randn(count, cubic_parameter_count(bins), generator=generator, dtype=torch.float64)
    x = 32 * torch.rand(count, generator=generator, dtype=torch.float64) - 16
    return x.to(dtype), raw.to(dtype)


def spline(x, raw, **kwargs):
    return cubic_spline(x, raw, bound=BOUND, min_bin_width=MINIMUM, min_bin_height=MINIMUM, **kwargs)


@pytest.mark.parametrize("bins", [2, 3, 10])
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_agrees_with_the_scalar_reference(bins, scale):
    x, raw = random_case(300, bins, scale, seed=bins)
    values, logs = spline(x, raw)
    expected = np.array([scalar_spline(float(a), b.tolist()) for a, b in zip(x, raw, strict=True)])
    np.testing.assert_allclose(values, expected[:, 0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(logs, expected[:, 1], rtol=0, atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), bins=st.integers(2, 12), scale=st.floats(0.01, 4.0))
def test_inverse_undoes_forward(seed, bins, scale):
    x, raw = random_case(64, bins, scale, seed)
    y, log_forward = spline(x, raw)
    back, log_inverse = spline(y, raw, inverse=True)
    again, _ = spline(back, raw)
    assert ((again - y).abs() <= 1e-12 * torch.exp(log_forward.clamp_min(0)) + 1e-11).all()
    flatness = torch.exp((-log_forward).clamp_min(0))
    assert ((back - x).abs() <= 1e-11 * flatness**2 + 1e-11).all()
    gentle = log_forward.abs() < 3
    assert ((log_forward + log_inverse).abs()[gentle] <= 1e-7).all()


def test_monotonic_over_the_whole_line():
    _, raw = random_case(50, 10, 3.0, seed=5)
    x = torch.linspace(-16, 16, 4001, dtype=torch.float64)
    y, _ = spline(x.expand(50, -1), raw[:, None, :].expand(-1, 4001, -1))
    assert (y.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("inverse", [False, True])
def test_log_derivative_is_the_derivative(inverse):
    x, raw = random_case(500, 10, 1.0, seed=2)
    x.requires_grad_()
    y, logs = spline(x, raw, inverse=inverse)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope.log(), logs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_by_finite_differences(inverse):
    x, raw = random_case(4, 5, 0.8, seed=3)
    x, raw = x.requires_grad_(), raw.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: spline(a, b, inverse=inverse), (x, raw), eps=1e-6, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_and_beyond(inverse, dtype):
    at = [-1e30, -100.0, -BOUND - 1e-3, -BOUND, BOUND, BOUND + 1e-3, 100.0, 1e30]
    x = torch.tensor(at, dtype=dtype, requires_grad=True)
    raw = torch.randn(8, 22, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y, logs = spline(x, raw, inverse=inverse)
    torch.testing.assert_close(y, x, rtol=1e-6, atol=1e-6)
    outside = x.detach().abs() > BOUND
    assert (logs[outside] == 0).all()
    grad_x, grad_raw = torch.autograd.grad(y.sum() + logs.sum(), (x, raw))
    assert torch.isfinite(grad_x).all()
    assert torch.isfinite(grad_raw).all()
    assert (grad_raw[outside] == 0).all()
    assert (grad_x[outside] == 1).all()


@pytest.mark.parametrize("inverse", [False, True])
def test_float32_survives_flat_bins_and_steep_slopes(inverse):
    generator = torch.Generator().manual_seed(8)
    raw = 30 * torch.randn(20_000, 22, generator=generator)
    x = 28 * torch.rand(20_000, generator=generator) - 14
    x.requires_grad_()
    raw.requires_grad_()
    y, logs = cubic_spline(x, raw, bound=BOUND, inverse=inverse)
    assert torch.isfinite(y).all()
    assert torch.isfinite(logs).all()
    assert (y.abs() <= BOUND * (1 + 1e-6)).all()
    grads = torch.autograd.grad(y.sum() + logs.sum(), (x, raw))
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_float32_agrees_with_float64():
    x, raw = random_case(20_000, 10, 1.5, seed=4)
    for inverse in (False, True):
        expected, expected_logs = spline(x, raw, inverse=inverse)
        found, logs = spline(x.float(), raw.float(), inverse=inverse)
        steepness = torch.exp(expected_logs.clamp_min(0))
        assert ((found - expected).abs() <= 2e-5 * steepness).double().mean() > 0.999
        assert ((found - expected).abs() <= 1e-3 * steepness).all()
        assert ((logs - expected_logs).abs() <= 1e-3).double().mean() > 0.99


def test_equal_raw_parameters_give_the_identity():
    raw = torch.zeros(1, 22, dtype=torch.float64)
    raw[:, 20:] = raw_end_derivative(1.0)
    x = torch.linspace(-15, 15, 100, dtype=torch.float64)
    y, logs = spline(x, raw.expand(100, -1))
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(logs, torch.zeros_like(logs), rtol=0, atol=1e-9)


def test_bfloat16_inputs_are_computed_in_float32():
    x, raw = random_case(100, 8, 1.0, seed=6, dtype=torch.bfloat16)
    y, logs = spline(x, raw)
    assert y.dtype == logs.dtype == torch.float32
    expected, _ = spline(x.double(), raw.double())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [4, 21])
def test_impossible_settings_are_refused(count):
    with pytest.raises(ConfigError, match="2K \\+ 2"):
        cubic_spline(torch.zeros(3), torch.zeros(3, count), bound=BOUND)
    with pytest.raises(ConfigError, match="bound"):
        cubic_spline(torch.zeros(3), torch.zeros(3, 22), bound=0.0)
    with pytest.raises(ConfigError, match="bin width"):
        cubic_spline(torch.zeros(3), torch.zeros(3, 22), bound=BOUND, min_bin_width=0.1)


def test_exports():
    x, raw = random_case(5, 8, 1.0, seed=2)

    class Spline(torch.nn.Module):
        def forward(self, a, b):
            return spline(a, b)

    program = torch.export.export(Spline(), (x, raw))
    for found, expected in zip(program.module()(x, raw), spline(x, raw), strict=True):
        torch.testing.assert_close(found, expected)
