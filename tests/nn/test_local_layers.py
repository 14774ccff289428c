"""Locally connected layers and minibatch features against loops over cells and rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from caloforge.nn.local import LocallyConnected, MinibatchFeatures, as_cells, as_images, bordered, even_same


@pytest.mark.parametrize("stride", [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_every_cell_has_weights_of_its_own(stride: tuple[int, int], bias: bool) -> None:
    """Mutations: cells in the order of columns; kernel transposed; the bias of another cell."""
    torch.manual_seed(0)
    layer = LocallyConnected(3, (5, 6), 4, (2, 3), stride=stride, bias=bias).double()
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    rows, columns = (5 - 2) // stride[0] + 1, (6 - 3) // stride[1] + 1
    assert layer.output == (rows, columns)
    wanted = torch.empty(2, 4, rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            patch = x[:, :, i * stride[0] : i * stride[0] + 2, j * stride[1] : j * stride[1] + 3]
            patch = patch.permute(0, 2, 3, 1).flatten(1)
            wanted[:, :, i, j] = patch @ layer.weight[i * columns + j]
            if layer.bias is not None:
                wanted[:, :, i, j] += layer.bias[:, i * columns + j]
    torch.testing.assert_close(layer(x), wanted)


def test_equal_weights_are_a_convolution() -> None:
    layer = LocallyConnected(2, (4, 4), 3, (2, 2), bias=False)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
    kernel = layer.weight[0].T.reshape(3, 2, 2, 2).permute(0, 3, 1, 2)
    x = torch.randn(5, 2, 4, 4)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, kernel), rtol=1e-4, atol=1e-5)


def test_initial_weights_are_spread_as_keras_counts() -> None:
    """Keras 2 counts all output cells into the fans of a layer without shared weights."""
    own = LocallyConnected(36, (5, 8), 6, (2, 2))
    keras = LocallyConnected(36, (5, 8), 6, (2, 2), fans="keras")
    assert float(own.weight.detach().abs().max()) == pytest.approx((6 / 144) ** 0.5, rel=1e-3)
    assert float(keras.weight.detach().abs().max()) == pytest.approx((6 / (144 * 28)) ** 0.5, rel=1e-3)


@torch.no_grad()
def test_minibatch_features_of_equal_and_of_distant_rows() -> None:
    layer = MinibatchFeatures(4).double()
    row = torch.randn(1, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(row.expand(7, 4)), torch.full((7, 10), 7.0, dtype=torch.float64))
    far = torch.arange(1.0, 6.0, dtype=torch.float64)[:, None] * 1e6 * torch.ones(1, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(far), torch.ones(5, 10, dtype=torch.float64))
    x = torch.randn(6, 4, dtype=torch.float64)
    mapped = torch.einsum("nf,kfd->nkd", x, layer.weight) + layer.bias
    loop = [
        [sum(float(torch.exp(-(mapped[i, k] - mapped[j, k]).abs().sum())) for j in range(6)) for k in range(10)]
        for i in range(6)
    ]
    torch.testing.assert_close(layer(x), torch.tensor(loop, dtype=torch.float64))


def test_last_digits_do_not_decide_which_way_equal_rows_are_pushed() -> None:
    """The same layer of two showers may come out of a batch with other last digits; mutation: compare the map as it is."""
    torch.manual_seed(0)
    layer = MinibatchFeatures(4).double()
    row, other = torch.randn(2, 4, dtype=torch.float64)

    def gradient(nearly: float) -> torch.Tensor:
        x = torch.stack([row, row * (1 + nearly), other]).requires_grad_()
        (found,) = torch.autograd.grad((layer(x) * torch.arange(1.0, 11.0, dtype=torch.float64)).sum(), x)
        return found

    torch.testing.assert_close(gradient(4e-15), gradient(0.0), rtol=1e-9, atol=1e-12)


def test_borders() -> None:
    x = torch.arange(1.0, 7.0).reshape(1, 1, 3, 2)
    assert even_same(x)[0, 0].tolist() == [[1, 2, 0], [3, 4, 0], [5, 6, 0], [0, 0, 0]]
    plain, around = (as_images(bordered(as_cells(x), periodic=periodic))[0, 0].tolist() for periodic in (False, True))
    assert plain == [[0, 0, 0, 0], [0, 1, 2, 0], [0, 3, 4, 0], [0, 5, 6, 0], [0, 0, 0, 0]]
    assert around == [[0, 5, 6, 0], [0, 1, 2, 0], [0, 3, 4, 0], [0, 5, 6, 0], [0, 1, 2, 0]]
