"""From noisy shares back to deposits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close

from caloforge.representation import LayerSums, restore_deposits

NOISE, CUT = 5e-3, 15e-3
SUMS = LayerSums((12, 4))


def restored(shares: Tensor, energies: Tensor) -> Tensor:
    shift = torch.zeros(2, dtype=torch.float64)
    return restore_deposits(shares, energies, noise=NOISE, energy_noise=0.0, energy_shift=shift, cut=CUT, sums=SUMS)


def noisy_showers(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Deposits (N, 16), a quarter of them lit, their layer energies, and the shares that training sees."""
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(rows, 16, 3, generator=generator, dtype=torch.float64)
    lit = uniform[..., 0] < 0.25
    # At least half a noise width above the threshold: nearer ones may fall to its other side.
    deposits = torch.where(lit, CUT + NOISE + 10 * uniform[..., 1] ** 3, torch.zeros_like(uniform[..., 1]))
    deposits[:, [0, 12]] = 1.0
    noisy = deposits + NOISE * uniform[..., 2]
    return deposits, SUMS(deposits), noisy / SUMS.spread(SUMS(noisy))


def test_true_shares_give_the_deposits_back_but_for_their_noise() -> None:
    deposits, energies, shares = noisy_showers(200)
    back = restored(shares, energies)
    assert torch.equal(back > 0, deposits > 0)
    assert_close(SUMS(back), energies)
    assert_close(back, deposits, atol=4 * NOISE, rtol=0.02)


def test_shares_that_miss_one_light_the_same_voxels() -> None:
    """A flow's shares add up to one only about; the layer's energy is right all the same."""
    deposits, energies, shares = noisy_showers(200)
    factor = torch.where(torch.arange(16) < 12, 1.2, 0.9).double()
    back = restored(shares * factor, energies)
    bright = deposits > 2 * CUT
    assert torch.equal((back > 0) & bright, bright)
    assert_close(SUMS(back), energies)


def test_noise_of_a_layer_without_a_bright_voxel_stays_dark() -> None:
    """Shares of noise alone, in a layer of 3 MeV: one voxel holds it all, not each of them a twelfth."""
    noise = torch.linspace(0.1, 1, 16, dtype=torch.float64)[None] * NOISE
    energies = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    back = restored(noise / 3.0, energies)
    assert_close(back[0, 11], energies[0, 0])
    assert int((back > 0).sum()) == 1
