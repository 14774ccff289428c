"""The last layer of a flow's network and its splines in one, against the two one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from caloforge.kernels.ops.cubic_splines import cubic_spline
from caloforge.kernels.ops.linear import Staircase
from caloforge.kernels.ops.registry import kernel_library, plain_only
from caloforge.kernels.ops.spline_layer import SplineKind, raw_by_rows, spline_layer
from caloforge.kernels.ops.splines import plain_rqs

SHAPE = (3.0, 1e-3, 1e-3, 1e-3)
#: Rows, features, hidden units, bins: one tile and several, groups of one, two and four features, and what is left over.
SIZES = [(1, 1, 1, 2), (7, 5, 3, 8), (53, 17, 40, 10), (401, 70, 37, 3)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    former = torch.get_num_threads()
    yield
    torch.set_num_threads(former)


def _case(
    rows: int, features: int, hidden: int, bins: int, kind: SplineKind = "rqs"
) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    each = 3 * bins - 1 if kind == "rqs" else 2 * bins + 2
    count = features * each
    shapes = ((rows, features), (rows, hidden), (count, hidden), (count,))
    x, units, weight, bias = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes)
    reach = torch.linspace(0, hidden, features).round().long().repeat_interleave(each)
    weight *= torch.arange(hidden) < reach[:, None]
    return [t.requires_grad_() for t in (2 * x, units, weight, bias)], reach


def _expected(
    leaves: list[torch.Tensor], mask: torch.Tensor, inverse: bool, kind: SplineKind = "rqs"
) -> list[torch.Tensor]:
    x, units, weight, bias = leaves
    raw = functional.linear(units, weight * mask, bias).unflatten(1, (x.shape[1], -1))
    if kind == "rqs":
        outputs, logs = plain_rqs(x, raw, inverse, *SHAPE)
    else:
        outputs, logs = cubic_spline(
            x, raw, bound=SHAPE[0], min_bin_width=SHAPE[1], min_bin_height=SHAPE[2], inverse=inverse
        )
    return [outputs, logs.sum(dim=1), raw]


def _found(
    leaves: list[torch.Tensor], stairs: Staircase | None, inverse: bool, kind: SplineKind = "rqs"
) -> list[torch.Tensor]:
    outputs, logdet, tiles = spline_layer(*leaves, SHAPE, kind=kind, stairs=stairs, inverse=inverse, keep_raw=True)
    return [outputs, logdet, raw_by_rows(tiles, len(outputs))]


def _with_gradients(made: list[torch.Tensor], leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    total = sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in made)
    return [*(t.detach() for t in made), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", ["rqs", "cubic"])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_product_and_the_splines(size, kind, inverse, threads):
    """Forwards, and all gradients, those of the raw parameters included; by the kernel and in plain PyTorch.

    Wrong if rows beyond the last one count, or a thread's share of the hidden units' gradients is lost.
    """
    assert kernel_library() is not None
    torch.set_num_threads(threads)
    leaves, reach = _case(*size, kind)
    expected = _with_gradients(_expected(leaves, torch.arange(size[2]) < reach[:, None], inverse, kind), leaves)
    # Where a cubic is almost level its inverse turns the last digits of the root into more.
    tolerance = 1e-6 if kind == "cubic" and inverse else 1e-9
    by_kernel = _with_gradients(_found(leaves, Staircase(reach), inverse, kind), leaves)
    for found in (by_kernel, _plainly(leaves, reach, inverse, kind)):
        for a, b in zip(found, expected, strict=True):
            assert (a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1)
    assert (found[-2][torch.arange(size[2]) >= reach[:, None]] == 0).all()


def _plainly(leaves: list[torch.Tensor], reach: torch.Tensor, inverse: bool, kind: SplineKind) -> list[torch.Tensor]:
    with plain_only():
        return _with_gradients(_found(leaves, Staircase(reach), inverse, kind), leaves)


def test_without_a_mask_and_with_frozen_weights():
    leaves, _ = _case(53, 17, 40, 8)
    frozen = [*leaves[:2], *(t.detach() for t in leaves[2:])]
    expected = _with_gradients(_expected(frozen, torch.ones(40, dtype=torch.bool), False), frozen[:2])
    for a, b in zip(_with_gradients(_found(frozen, None, False), frozen[:2]), expected, strict=True):
        assert (a - b).abs().max() <= 1e-9 * b.abs().max()


def test_a_row_does_not_depend_on_its_batch_nor_on_the_threads():
    leaves, reach = _case(401, 70, 37, 8)
    x, units, weight, bias = (t.detach().float() for t in leaves)
    stairs = Staircase(reach)
    torch.set_num_threads(1)
    whole = spline_layer(x, units, weight, bias, SHAPE, stairs=stairs)
    torch.set_num_threads(2)
    again = spline_layer(x, units, weight, bias, SHAPE, stairs=stairs)
    part = spline_layer(x[90:133], units[90:133], weight, bias, SHAPE, stairs=stairs)
    for k in range(2):
        assert torch.equal(whole[k], again[k])
        assert torch.equal(whole[k][90:133], part[k])
    assert whole[2].numel() == 0  # nobody asked for the raw parameters


def test_gradients_of_gradients():
    leaves, reach = _case(5, 2, 3, 2)

    def run(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return spline_layer(*given, SHAPE, stairs=Staircase(reach))[:2]

    assert torch.autograd.gradgradcheck(run, leaves, atol=1e-4)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", ["rqs", "cubic"])
def test_edges_tails_and_flat_bins(kind, inverse):
    """Values at the ends of the interval and beyond, and bins too narrow for float32; wrong if a gradient overflows."""
    bound, bins = SHAPE[0], 6
    each = 3 * bins - 1 if kind == "rqs" else 2 * bins + 2
    generator = torch.Generator().manual_seed(4)
    weight = 30 * torch.randn(9 * each, 5, generator=generator)
    x = (
        torch.tensor([-1e6, -3.5, -bound, -bound * (1 - 1e-7), 0.0, 2.9, bound, 3.0001, 1e6])
        .repeat(40, 1)
        .requires_grad_()
    )
    units = torch.randn(40, 5, generator=generator).requires_grad_()
    leaves = [x, units, weight.requires_grad_(), torch.zeros(9 * each).requires_grad_()]
    outputs, logdet, _ = spline_layer(*leaves, (bound, 1e-6, 1e-6, 1e-6), kind=kind, inverse=inverse)
    found = torch.autograd.grad(outputs.sum() + logdet.sum(), leaves)
    assert all(t.isfinite().all() for t in (outputs, logdet, *found))
    outside = x.detach().abs() > bound
    assert torch.equal(outputs[outside], x[outside])
    assert (found[0][outside] == 1).all()
    assert (outputs[~outside].abs() <= bound * (1 + 1e-5)).all()
