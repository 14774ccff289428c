"""Points dealt out to layers: the compiled kernel against plain PyTorch, and both against what they promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caloforge.kernels.ops.allocation import allocate, allocate_plainly
from caloforge.kernels.ops.registry import plain_only

pytestmark = pytest.mark.usefixtures("kernels")


def case(seed: int, showers: int, layers: int, most: int, *, gravity: bool = True) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    counts = torch.randint(0, most + 1, (showers, layers), generator=generator)
    energies = normal(showers, layers).abs() * (counts > 0)
    points = int(counts.sum())
    # Some lie far outside the detector.
    depth = layers * (0.5 + 0.5 * normal(points)) + 100 * layers * (normal(points) > 2.5)
    where = normal(showers, 2) if gravity else None
    return counts, energies, 5 * normal(points, 2), depth, normal(points).exp(), where, 3 * normal(showers, layers, 2)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    seed=st.integers(0, 10**6), showers=st.integers(1, 5), layers=st.integers(1, 40), most=st.integers(0, 60),
    gravity=st.booleans(),
)  # fmt: skip
def test_the_kernel_equals_plain_pytorch(seed: int, showers: int, layers: int, most: int, gravity: bool) -> None:
    inputs = case(seed, showers, layers, most, gravity=gravity)
    torch.testing.assert_close(allocate(*inputs), allocate_plainly(*inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("work", [allocate, allocate_plainly])
def test_layers_get_their_points_and_their_energy_and_showers_their_centre(work: Any) -> None:
    counts, energies, place, depth, energy, gravity, shift = case(1, 3, 10, 30)
    points = work(counts, energies, place, depth, energy, gravity, shift).double()
    start = 0
    for n in range(3):
        stop = start + int(counts[n].sum())
        own, layer = points[start:stop], points[start:stop, 2].long()
        assert torch.equal(layer.bincount(minlength=10), counts[n])
        assert bool((layer.diff() >= 0).all())
        torch.testing.assert_close(layer.bincount(own[:, 3], minlength=10), energies[n], rtol=1e-6, atol=1e-6)
        before = own[:, :2] - shift[n][layer]
        centre = (before * own[:, 3:]).sum(dim=0) / own[:, 3].sum()
        torch.testing.assert_close(centre, gravity[n], rtol=0, atol=1e-5)
        start = stop


@pytest.mark.parametrize("work", [allocate, allocate_plainly])
def test_points_are_sorted_by_depth_and_keep_their_order_within_a_layer(work: Any) -> None:
    depth = torch.tensor([5.0, 1.0, 3.0, 2.0, 1.0, 9.0])
    place = torch.arange(12.0).reshape(6, 2)
    counts = torch.tensor([[2, 0, 3, 1]])
    points = work(counts, torch.ones(1, 4), place, depth, torch.ones(6), None, torch.zeros(1, 4, 2))
    assert (points[:, 0] / 2).tolist() == [1, 4, 0, 2, 3, 5]
    assert points[:, 2].tolist() == [0, 0, 2, 2, 2, 3]
    torch.testing.assert_close(points[:, 3], torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1]))


def test_a_shower_has_the_same_bits_in_every_batch_and_with_any_number_of_threads() -> None:
    counts, energies, place, depth, energy, gravity, shift = case(2, 40, 30, 20)
    together = allocate(counts, energies, place, depth, energy, gravity, shift)
    offsets = [0, *counts.sum(dim=1).cumsum(0).tolist()]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(allocate(counts, energies, place, depth, energy, gravity, shift), together)
    finally:
        torch.set_num_threads(threads)
    for n in (0, 7, 39):
        own, row = slice(offsets[n], offsets[n + 1]), slice(n, n + 1)
        alone = allocate(counts[row], energies[row], place[own], depth[own], energy[own], gravity[row], shift[row])
        assert torch.equal(alone, together[own])


def test_without_kernels_plain_pytorch_does_it() -> None:
    inputs = case(3, 2, 5, 10)
    fast = allocate(*inputs)
    with plain_only():
        assert torch.equal(allocate(*inputs), allocate_plainly(*inputs))
    torch.testing.assert_close(allocate_plainly(*inputs), fast, rtol=1e-6, atol=1e-6)


def test_broken_points_give_no_plausible_numbers() -> None:
    counts, energies, place, depth, energy, gravity, shift = case(4, 1, 5, 10)
    for work in (allocate, allocate_plainly):
        assert work(counts, energies, place, depth * torch.nan, energy * torch.nan, gravity, shift)[:, 3].isnan().all()
