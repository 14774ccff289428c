"""Maximum mean discrepancy against what it is for normal distributions, and the one of sorted cells against a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from caloforge.errors import UsageError
from caloforge.nn.discrepancy import discrepancy, energy_distance, sorted_kernel_discrepancy, windows


def between_normals(one: tuple[float, float], two: tuple[float, float], alpha: float) -> float:
    """Squared discrepancy of two normal distributions (mean, standard deviation) with the kernel exp(-alpha d^2)."""
    (m1, s1), (m2, s2) = one, two
    mixed = 1 + 2 * alpha * (s1**2 + s2**2)
    cross = 2 / math.sqrt(mixed) * math.exp(-alpha * (m1 - m2) ** 2 / mixed)
    return (1 + 4 * alpha * s1**2) ** -0.5 + (1 + 4 * alpha * s2**2) ** -0.5 - cross


@pytest.mark.parametrize("alpha", [0.05, 0.5, 2.0])
def test_discrepancy_of_normal_numbers(alpha: float) -> None:
    """At the quantiles of the distributions, whose sums over pairs are integrals."""
    quantiles = norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    x, y = (torch.from_numpy(m + s * quantiles) for m, s in ((0.0, 1.0), (0.7, 1.5)))
    assert float(discrepancy(x, y, [alpha])) == pytest.approx(between_normals((0, 1), (0.7, 1.5), alpha), abs=1e-3)
    both = float(discrepancy(x, y, [alpha, 3.0]))
    assert both == pytest.approx(float(discrepancy(x, y, [alpha]) + discrepancy(x, y, [3.0])))


def test_discrepancy_in_several_dimensions_has_the_product_of_kernels() -> None:
    """Mean kernel of two standard normal vectors of 24 numbers: (1 + 4 alpha)^-12."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 24, generator=generator, dtype=torch.float64)
    far = torch.full((1, 24), 1e3, dtype=torch.float64)
    # The kernel with a far point is 0 and that of the point with itself 1, so what is left is the mean kernel within x.
    assert float(discrepancy(x, far, [0.01])) - 1 == pytest.approx(1.04**-12, abs=4e-3)


def test_a_sample_is_not_away_from_itself() -> None:
    x = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    found = discrepancy(x, x.detach()[torch.randperm(50)], [1.0, 0.01])
    assert float(found.detach()) == pytest.approx(0, abs=1e-12)
    found.backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 1e-12


def test_windows_of_the_publication() -> None:
    assert len(windows(2000, size=100, stride=25, ranks=2000)) == 80
    found = windows(27_000, size=100, stride=25, ranks=2000)
    assert (len(found), found[-1]) == (80, slice(1975, 2075))
    assert windows(30, size=100, stride=25, ranks=2000) == [slice(0, 30), slice(25, 30)]


def test_sorted_cells_against_the_slow_way() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.exponential(1, (2, 3, 40))
    found = sorted_kernel_discrepancy(torch.from_numpy(x), torch.from_numpy(y), [2.0, 0.2], size=10, stride=4, ranks=25)
    expected = []
    for one, two in zip(x, y, strict=True):
        one, two = np.sort(one)[::-1], np.sort(two)[::-1]
        values = []
        for start in range(0, 25, 4):
            a, b, total = one[start : start + 10], two[start : start + 10], 0.0
            for alpha in (2.0, 0.2):
                means = [
                    np.mean([np.exp(-alpha * (p - q) ** 2) for p in r for q in s]) for r, s in ((a, a), (b, b), (a, b))
                ]
                total += means[0] + means[1] - 2 * means[2]
            values.append(total)
        expected.append(np.mean(values))
    assert found.numpy() == pytest.approx(np.asarray(expected), abs=1e-12)


def test_sorted_cells_do_not_know_their_places() -> None:
    cells = torch.rand(4, 60, dtype=torch.float64, requires_grad=True)
    order = torch.randperm(60)
    settings = {"size": 20, "stride": 5, "ranks": 50}
    same = sorted_kernel_discrepancy(cells, cells.detach()[:, order], [10.0], **settings)
    assert float(same.detach().abs().max()) < 1e-12
    same.sum().backward()
    assert cells.grad is not None
    assert float(cells.grad.abs().max()) < 1e-12
    other = torch.rand(4, 60, dtype=torch.float64)
    one = sorted_kernel_discrepancy(cells, other, [10.0], **settings)
    two = sorted_kernel_discrepancy(cells[:, order], other, [10.0], **settings)
    assert torch.allclose(one, two, atol=1e-12)
    assert bool((one > 1e-6).all())


def test_energy_distance_against_the_slow_way() -> None:
    """Mutations: divide by all pairs; compare rows of one number; forget one of the three terms."""
    x, y = (torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (1, 2))

    def mean(one: torch.Tensor, other: torch.Tensor) -> float:
        return float(np.mean([float((one[i] - other[j]).norm()) for i in range(6) for j in range(6) if i != j]))

    assert float(energy_distance(x, y)) == pytest.approx(2 * mean(x, y) - mean(x, x) - mean(y, y), abs=1e-6)
    both = energy_distance(torch.stack([x, y]), torch.stack([y, y + 1]))
    assert float(both[0]) == pytest.approx(float(energy_distance(x, y)))
    leaf = x.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a: energy_distance(a, y), leaf)
    energy_distance(torch.zeros_like(leaf) * leaf, y).backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.isfinite().all())  # where all rows are the same


def test_energy_distance_of_one_row_is_refused() -> None:
    """Mutation: divide by the number of pairs all the same; the loss of such a batch is then no number."""
    with pytest.raises(UsageError, match="a batch of 1 is too small"):
        energy_distance(torch.zeros(4, 1, 2), torch.zeros(4, 1, 2))


def test_energy_distance_has_no_bias_in_small_batches() -> None:
    """Eight skewed numbers: on the average the gradient at the truth is nothing; that of the absolute difference of means is not.

    Mutation: compare row i of one sample with row i of itself.
    """
    generator = torch.Generator().manual_seed(0)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    real, made = (torch.randn(4000, 8, 1, generator=generator, dtype=torch.float64).mul(1.5).exp() for _ in range(2))
    slopes = {}
    for name, loss in (
        ("distance", energy_distance(scale * made, real)),
        ("means", ((scale * made).mean(dim=1) - real.mean(dim=1)).abs()[:, 0]),
    ):
        (slope,) = torch.autograd.grad(loss.mean(), scale, retain_graph=True)
        slopes[name] = float(slope)
    assert slopes["means"] > 0.2  # a smaller scale looks better
    assert abs(slopes["distance"]) < 0.05
