"""Convolutions as products against PyTorch's own convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from caloforge.nn import small_images
from caloforge.nn.small_images import SameConvolution, StepConvolution, StepTransposedConvolution, taps

N = 13


def _compare(layer: nn.Module, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and all gradients, as a product and as a convolution, in float64."""
    found = []
    for most in (36, 0):
        monkeypatch.setattr(small_images, "_MOST_PIXELS", most)
        x = image.clone().requires_grad_()
        out = layer(x)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        assert x.grad is not None
        found.append([out.detach(), x.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
        layer.zero_grad()
    assert len(found[0]) == 4
    for product, convolution in zip(*found, strict=True):
        torch.testing.assert_close(product, convolution, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(8, 3), (1, 4), (2, 2), (4, 1), (1, 1), (6, 6)])
def test_same_convolution(shape: tuple[int, int], periodic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = SameConvolution(3, 5, periodic=periodic).double()
    _compare(layer, torch.randn(N, 3, *shape, dtype=torch.float64), monkeypatch)


@pytest.mark.parametrize(("shape", "step"), [((8, 3), (2, 3)), ((4, 1), (2, 1)), ((6, 6), (3, 2)), ((5, 5), (5, 5))])
def test_steps_down_and_up(shape: tuple[int, int], step: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    down, up = StepConvolution(3, 4, step).double(), StepTransposedConvolution(4, 3, step).double()
    image = torch.randn(N, 3, *shape, dtype=torch.float64)
    _compare(down, image, monkeypatch)
    _compare(up, down(image).detach(), monkeypatch)


def test_the_product_serves_small_images_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the comparisons above would compare a convolution with itself."""
    used: list[int] = []
    product = small_images._product

    def counting(image: Tensor, weight: Tensor, bias: Tensor, joins: Tensor, shape: tuple[int, int]) -> Tensor:
        used.append(len(image))
        return product(image, weight, bias, joins, shape)

    monkeypatch.setattr(small_images, "_product", counting)
    layer = SameConvolution(2, 2, periodic=True)
    for rows, shape in ((12, (6, 6)), (11, (6, 6)), (12, (6, 7))):
        layer(torch.zeros(rows, 2, *shape))
    assert used == [12]


def test_taps_of_a_periodic_axis_of_two() -> None:
    """The pixels above and below are the same one, so it is joined twice."""
    found = taps((2, 1), (3, 3), (1, 1), (1, 1), True)
    assert found.shape == (2, 2, 9)
    assert found.sum(dim=2).tolist() == [[1, 2], [2, 1]]
