"""The joint cut and rescaling, against a slow search for the same answer and for its promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from caloforge.representation import LayerSums, cut_layers

CUT = 0.01


def slow(estimates: NDArray[np.float64], energy: float, margin: float) -> NDArray[np.float64]:
    """One layer: keep, reflect, drop the faintest, then find the common factor by bisection."""
    result = np.zeros_like(estimates)
    if energy < CUT:
        return result
    near = estimates >= CUT - margin
    values = np.where(near, CUT + np.abs(estimates - CUT), estimates)
    order = np.argsort(-values, kind="stable")
    count = min(max(1, int(near.sum())), int(energy // CUT))
    kept = order[:count]
    weights = np.maximum(values[kept], CUT)
    low, high = 0.0, energy / weights.min()
    for _ in range(200):
        factor = (low + high) / 2
        low, high = (factor, high) if np.maximum(CUT, factor * weights).sum() < energy else (low, factor)
    result[kept] = np.maximum(CUT, high * weights)
    return result


estimate = st.one_of(st.floats(-0.001, 0.03), st.floats(0.0095, 0.0105), st.floats(0, 500))


@given(st.lists(estimate, min_size=1, max_size=12), st.floats(0, 300), st.sampled_from([0.0, 0.0005]))
@settings(max_examples=300, deadline=None)
def test_against_the_slow_search(estimates: list[float], energy: float, margin: float) -> None:
    row = np.asarray(estimates)
    made = cut_layers(
        torch.from_numpy(row)[None],
        torch.tensor([[energy]], dtype=torch.float64),
        CUT,
        LayerSums([len(row)]),
        margin=margin,
    )[0].numpy()
    expected = slow(row, energy, margin)
    # Equal estimates may be dropped in either order, so compare what is there, not where.
    np.testing.assert_allclose(np.sort(made), np.sort(expected), rtol=1e-9, atol=1e-12)
    assert made.sum() == pytest.approx(energy if energy >= CUT else 0.0, rel=1e-12)
    assert ((made == 0) | (made >= CUT)).all()


def test_layers_of_different_sizes_do_not_mix() -> None:
    sums = LayerSums([2, 3, 3, 1])
    generator = torch.Generator().manual_seed(0)
    estimates = torch.rand(50, 9, generator=generator, dtype=torch.float64)
    energies = torch.rand(50, 4, generator=generator, dtype=torch.float64) * 2
    made = cut_layers(estimates, energies, CUT, sums)
    first = 0
    for k, size in enumerate((2, 3, 3, 1)):
        alone = cut_layers(estimates[:, first : first + size], energies[:, k : k + 1], CUT, LayerSums([size]))
        assert torch.equal(made[:, first : first + size], alone)
        first += size
    assert torch.allclose(sums(made), energies * (energies >= CUT), rtol=1e-12)


def test_deposits_far_above_the_cut_are_only_rescaled() -> None:
    estimates = torch.tensor([[3.0, 1.0, 0.002]], dtype=torch.float64)
    made = cut_layers(estimates, torch.tensor([[8.0]], dtype=torch.float64), CUT, LayerSums([3]))
    assert made[0].tolist() == pytest.approx([6.0, 2.0, 0.0])


def test_float32_rows_keep_the_promise_after_conversion() -> None:
    generator = torch.Generator().manual_seed(1)
    estimates = torch.rand(200, 30, generator=generator, dtype=torch.float64) * 0.03
    made = cut_layers(estimates, torch.full((200, 1), 0.4, dtype=torch.float64), CUT, LayerSums([30])).float().numpy()
    assert ((made == 0) | (made >= CUT)).all()
    np.testing.assert_allclose(made.sum(axis=1, dtype=np.float64), 0.4, rtol=1e-6)
