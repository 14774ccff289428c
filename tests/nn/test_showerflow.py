"""The coupling flow of CaloClouds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from caloforge.errors import ConfigError
from caloforge.nn.showerflow import BlockOrder, ShowerFlow


def flow(order: BlockOrder = "caloclouds3", spread: float = 0.2) -> ShowerFlow:
    torch.manual_seed(1)
    made = ShowerFlow(7, 2, blocks=2, order=order, affine_hidden=16, spline_hidden=16).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0, spread)
    return made


def test_published_sizes() -> None:
    three = ShowerFlow(60, 4, blocks=2, order="caloclouds3")
    assert sum(p.numel() for p in three.parameters()) == 6_026_520
    two = ShowerFlow(65, 1, blocks=10, order="caloclouds2")
    assert sum(p.numel() for p in two.parameters()) == 35_235_910


@pytest.mark.parametrize("order", ["caloclouds2", "caloclouds3"])
def test_density_follows_from_the_jacobian_of_sampling(order: BlockOrder) -> None:
    made = flow(order)
    z = torch.randn(4, 7, dtype=torch.float64)
    context = torch.randn(4, 2, dtype=torch.float64)
    x = made.sample(z, context)
    for k in range(len(z)):

        def sample(row: torch.Tensor, k: int = k) -> torch.Tensor:
            return made.sample(row[None], context[k : k + 1])[0]

        jacobian = torch.autograd.functional.jacobian(sample, z[k])
        expected = -0.5 * z[k].square().sum() - 3.5 * math.log(2 * math.pi) - torch.linalg.slogdet(jacobian).logabsdet
        assert made.log_prob(x, context)[k].item() == pytest.approx(expected.item(), abs=1e-9)


def test_the_condition_matters_and_a_new_flow_is_a_permutation() -> None:
    made = flow()
    z = torch.randn(3, 7, dtype=torch.float64)
    one, other = (made.sample(z, torch.full((3, 2), value, dtype=torch.float64)) for value in (0.0, 1.0))
    assert not torch.allclose(one, other)
    new = ShowerFlow(7, 2, blocks=2, order="caloclouds2").double()
    assert torch.allclose(new.sample(z, one[:, :2]).sort(dim=1).values, z.sort(dim=1).values)


def test_scales_of_a_coupling_are_bounded() -> None:
    made = flow(spread=50.0)
    x = made.sample(torch.randn(20, 7, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64))
    assert bool(torch.isfinite(x).all())


def test_too_small_a_flow_is_refused() -> None:
    with pytest.raises(ConfigError, match="two features"):
        ShowerFlow(1, 1, blocks=2, order="caloclouds3")
