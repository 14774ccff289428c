"""Linear layers of training against the same in PyTorch's own operations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from caloforge.kernels.ops.linear import Staircase, gated_linear, linear
from caloforge.kernels.ops.registry import kernel_library, plain_only

#: Rows, inputs, outputs: less than a block of a product, whole blocks, and what is left over; several pieces of rows.
SIZES = [(1, 1, 1), (5, 3, 2), (24, 32, 24), (193, 70, 45), (401, 33, 97)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    former = torch.get_num_threads()
    yield
    torch.set_num_threads(former)


def _numbers(*shape: int) -> torch.Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    ).requires_grad_()


def _gradients(out: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    seed = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out.detach(), *torch.autograd.grad((out * seed).sum(), leaves)]


def _assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1)


def _activated(x: torch.Tensor, slope: float) -> torch.Tensor:
    return torch.where(x > 0, x, x * slope)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("slope", [1.0, 0.0, 0.01])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_a_linear_layer_and_its_gradients(rows, inputs, outputs, slope, threads):
    """Wrong if a tail of a row is stored beyond it, or a sum over rows forgets its last piece."""
    assert kernel_library() is not None
    torch.set_num_threads(threads)
    x, weight, bias, extra = (
        _numbers(rows, inputs),
        _numbers(outputs, inputs),
        _numbers(outputs),
        _numbers(rows, outputs),
    )
    leaves = [x, weight, bias, extra]
    expected = _gradients(_activated(functional.linear(x, weight, bias) + extra, slope), leaves)
    _assert_equal(_gradients(linear(x, weight, bias, extra=extra, slope=slope), leaves), expected)
    with plain_only():
        _assert_equal(_gradients(linear(x, weight, bias, extra=extra, slope=slope), leaves), expected)
    without = [x, weight]
    expected = _gradients(_activated(functional.linear(x, weight), slope), without)
    _assert_equal(_gradients(linear(x, weight, None, slope=slope), without), expected)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_a_staircase_is_the_product_with_masked_weights(rows, inputs, outputs):
    """Masked weights get no gradient, whatever stands behind the end of their rows."""
    reach = torch.linspace(0, inputs, outputs).floor().long()
    mask = torch.arange(inputs) < reach[:, None]
    x, bias = _numbers(rows, inputs), _numbers(outputs)
    weight = (_numbers(outputs, inputs).detach() * mask).requires_grad_()
    leaves = [x, weight, bias]
    expected = _gradients(functional.relu(functional.linear(x, weight * mask, bias)), leaves)
    stairs = Staircase(reach)
    found = _gradients(linear(x, weight, bias, stairs=stairs, slope=0.0), leaves)
    _assert_equal(found, expected)
    assert (found[2][~mask] == 0).all()
    with plain_only():
        _assert_equal(_gradients(linear(x, weight, bias, stairs=stairs, slope=0.0), leaves), expected)


def test_a_staircase_does_not_fall():
    with pytest.raises(ValueError, match="must not decrease"):
        Staircase(torch.tensor([0, 2, 1]))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize("counts", [[3], [0, 5, 130, 0, 1, 40], [7] * 30])
def test_gates_and_shifts_of_groups_of_rows(counts, slope, threads):
    """Groups may be empty; wrong if the gradient of a gate forgets the bias or takes the rows of its neighbour."""
    torch.set_num_threads(threads)
    offsets = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()])
    groups, inputs, outputs = len(counts), 37, 50
    x, weight, bias = _numbers(int(offsets[-1]), inputs), _numbers(outputs, inputs), _numbers(outputs)
    gate, shift = _numbers(groups, outputs), _numbers(groups, outputs + 0)
    leaves = [x, weight, bias, gate, shift]
    row = torch.repeat_interleave(torch.arange(groups), torch.tensor(counts))
    expected = _gradients(_activated(functional.linear(x, weight, bias) * gate[row] + shift[row], slope), leaves)
    _assert_equal(_gradients(gated_linear(x, weight, bias, gate, shift, offsets, slope=slope), leaves), expected)
    with plain_only():
        _assert_equal(_gradients(gated_linear(x, weight, bias, gate, shift, offsets, slope=slope), leaves), expected)


def test_float32_and_any_number_of_threads():
    """Rows are independent of their neighbours and of the threads, bit for bit."""
    x, weight, bias = (t.detach().float() for t in (_numbers(300, 60), _numbers(80, 60), _numbers(80)))
    torch.set_num_threads(1)
    one = linear(x, weight, bias, slope=0.0)
    torch.set_num_threads(2)
    assert torch.equal(one, linear(x, weight, bias, slope=0.0))
    assert torch.equal(one[17:140], linear(x[17:140], weight, bias, slope=0.0))
    assert (one - functional.relu(functional.linear(x, weight, bias))).abs().max() < 1e-4


def test_gradients_of_gradients():
    x, weight, bias = _numbers(6, 4), _numbers(3, 4), _numbers(3)
    assert torch.autograd.gradgradcheck(lambda *t: linear(*t, slope=0.2), (x, weight, bias))
    gate, shift, offsets = _numbers(2, 3), _numbers(2, 3), torch.tensor([0, 2, 6])
    assert torch.autograd.gradgradcheck(lambda *t: gated_linear(*t, offsets, slope=0.2), (x, weight, bias, gate, shift))


def test_frozen_weights_get_no_gradient():
    x, weight, bias = _numbers(40, 30), _numbers(20, 30).detach(), _numbers(20).detach()
    out = linear(x, weight, bias, slope=0.0)
    (found,) = torch.autograd.grad(out.sum(), [x])
    _assert_equal([found], [(out > 0).double() @ weight])
