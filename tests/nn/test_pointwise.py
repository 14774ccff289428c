"""The network that moves points."""

from __future__ import annotations

import pytest
import torch

from caloforge.errors import ConfigError
from caloforge.nn.pointwise import PointWiseNet, packed_index

WIDTHS = {2: ((128, 256, 512, 256, 128), 504_920), 4: ((32, 64, 128, 64, 32), 69_608)}


@pytest.mark.parametrize("context", WIDTHS)
def test_published_sizes(context: int) -> None:
    widths, expected = WIDTHS[context]
    assert sum(p.numel() for p in PointWiseNet(widths, context).parameters()) == expected


def packed(*counts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    points = torch.randn(int(offsets[-1]), 4, generator=generator)
    n = len(counts)
    return points, torch.randn(n, generator=generator), torch.randn(n, 4, generator=generator), offsets


def test_a_shower_needs_only_its_own_points() -> None:
    torch.manual_seed(0)
    net = PointWiseNet((16, 32), 4, fourier_std=1.0)
    points, noise, context, offsets = packed(200, 0, 3, 150)
    with torch.no_grad():
        together = net(points, noise, context, offsets)
        for k in range(4):
            rows = slice(int(offsets[k]), int(offsets[k + 1]))
            own = net(points[rows], noise[k : k + 1], context[k : k + 1], torch.tensor([0, rows.stop - rows.start]))
            assert torch.allclose(own, together[rows], atol=1e-6)
    # With gradients the gates are looked up for each point instead of folded into the weights.
    assert torch.allclose(net(points, noise, context, offsets), together, atol=1e-6)


def test_points_do_not_see_each_other() -> None:
    net = PointWiseNet((16, 32), 4)
    points, noise, context, offsets = packed(100)
    changed = points.clone()
    changed[50:] += 1
    with torch.no_grad():
        assert torch.allclose(net(points, noise, context, offsets)[:50], net(changed, noise, context, offsets)[:50])


def test_noise_level_and_condition_matter() -> None:
    net = PointWiseNet((16, 32), 4)
    points, noise, context, offsets = packed(100, 100)
    with torch.no_grad():
        first = net(points, noise, context, offsets)
        assert not torch.allclose(first, net(points, noise + 1, context, offsets))
        assert not torch.allclose(first, net(points, noise, context + 1, offsets))


def test_packed_index() -> None:
    assert packed_index(torch.tensor([0, 2, 2, 5])).tolist() == [0, 0, 2, 2, 2]


def test_an_odd_embedding_is_refused() -> None:
    with pytest.raises(ConfigError, match="even length"):
        PointWiseNet((8,), 1, time_features=7)
