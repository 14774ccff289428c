"""Cells with a tail, and the likelihood of numbers that are zero where they would be negative."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from caloforge.nn.bottleneck import BottleneckDecoder, DenseHead
from caloforge.nn.normal_cells import bent, censored_log_prob, straightened


@pytest.mark.parametrize("bend", [0.5, 1.0, 3.0, None])
def test_cells_are_exponential_beyond_the_bend_and_come_back(bend: float | None) -> None:
    """Mutations: leave the bend out in one direction; divide instead of multiplying."""
    numbers = torch.tensor([0.0, 1e-6, 0.1, 1.0, 2.5], dtype=torch.float64)
    cells = bent(numbers, bend)
    torch.testing.assert_close(straightened(cells, bend), numbers)
    if bend is None:
        assert torch.equal(cells, numbers)
        return
    torch.testing.assert_close(cells, bend * (torch.exp(numbers / bend) - 1))
    assert float(cells[1]) == pytest.approx(1e-6, rel=1e-5)  # faint cells are what they were


def test_no_cell_is_infinite() -> None:
    """Mutation: no largest exponent; a decoder that has learnt nothing then spoils a whole batch."""
    numbers = torch.tensor([1e3], requires_grad=True)
    cells = bent(numbers, 1.0)
    cells.sum().backward()
    assert math.isfinite(float(cells.detach()))
    assert numbers.grad is not None
    assert float(numbers.grad) == 0.0


def test_the_likelihood_of_censored_numbers() -> None:
    """Mutations: the density at zero; the probability of being lit."""
    cells = torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64)
    mean, spread = (
        torch.tensor([-0.3, 0.5, 0.5], dtype=torch.float64),
        torch.tensor([0.8, 0.4, 2.0], dtype=torch.float64),
    )
    wanted = [norm.logcdf(0.3 / 0.8), norm.logpdf(0.7, 0.5, 0.4), norm.logpdf(2.0, 0.5, 2.0)]
    assert censored_log_prob(cells, mean, spread).tolist() == pytest.approx(wanted)


@torch.no_grad()
def test_the_decoder_bends_its_cells() -> None:
    """Mutation: bend the mean instead of the number."""
    torch.manual_seed(3)
    decoder = BottleneckDecoder(2, 1, (5,), DenseHead(5, 7, 2), cell_noise=True, bend=1.5)
    noise = torch.randn(4, 7)
    cells, mean, spread = decoder.parts(torch.randn(4, 2), torch.randn(4, 1), noise)
    torch.testing.assert_close(straightened(cells, 1.5), (mean + spread * noise).clamp_min(0))
