"""Linear-rational splines."""

from __future__ import annotations

import pytest
import torch

from caloforge.errors import ConfigError
from caloforge.kernels.ops.linear_rational import linear_rational_spline, raw_linear_rational_count

BOUND = 3.0


def case(bins: int = 8, width: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(bins)
    x = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    return x, (width * torch.randn(1, raw_linear_rational_count(bins), dtype=torch.float64)).expand(len(x), -1)


@pytest.mark.parametrize("bins", [1, 2, 8])
def test_rises_through_both_ends_and_is_undone_by_its_inverse(bins: int) -> None:
    x, raw = case(bins)
    y, logdet = linear_rational_spline(x, raw, bound=BOUND)
    again, other = linear_rational_spline(y, raw, bound=BOUND, inverse=True)
    assert bool((y.diff() > 0).all())
    assert torch.allclose(again, x, atol=1e-11)
    assert torch.allclose(other, -logdet, atol=1e-10)
    outside = x.abs() > BOUND
    assert torch.equal(y[outside], x[outside])
    assert not logdet[outside].any()


@pytest.mark.parametrize("inverse", [False, True])
def test_the_derivative_is_that_of_autograd_and_continuous(inverse: bool) -> None:
    x, raw = case()
    x.requires_grad_(True)
    y, logdet = linear_rational_spline(x, raw, bound=BOUND, inverse=inverse)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(slope.log(), logdet, atol=1e-9)
    fine = torch.linspace(-BOUND, BOUND, 200_001, dtype=torch.float64)
    _, logdet = linear_rational_spline(fine, case(8, 0.5)[1][:1].expand(len(fine), -1), bound=BOUND, inverse=inverse)
    assert float(logdet.diff().abs().max()) < 1e-3


def test_raw_zeros_are_the_identity() -> None:
    x, raw = case()
    y, logdet = linear_rational_spline(x, torch.zeros_like(raw), bound=BOUND)
    assert torch.allclose(y, x, atol=1e-12)
    assert torch.allclose(logdet, torch.zeros_like(logdet), atol=1e-12)


def test_gradients_are_finite_at_and_beyond_the_edges_in_float32() -> None:
    x = torch.tensor([-1e30, -BOUND, -BOUND + 1e-6, 0.0, BOUND - 1e-6, BOUND, 1e30], requires_grad=True)
    raw = (10 * torch.randn(7, 31, generator=torch.Generator().manual_seed(0))).requires_grad_(True)
    for inverse in (False, True):
        y, logdet = linear_rational_spline(x, raw, bound=BOUND, inverse=inverse)
        grads = torch.autograd.grad(y.sum() + logdet.sum(), (x, raw))
        assert all(bool(torch.isfinite(value).all()) for value in (y, logdet, *grads))


def test_a_wrong_number_of_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="4K - 1"):
        linear_rational_spline(torch.zeros(3), torch.zeros(3, 30), bound=BOUND)
