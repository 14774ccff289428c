"""Threshold and noise: what loss and likelihood see."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import sparse_showers, toy_detector
from torch import Tensor

from caloforge.random import Streams
from caloforge.representation import Dequantisation, LayerSums, VoxelSettings

STREAMS = Streams(7, "noise")
DETECTOR = toy_detector()
SUMS = LayerSums(DETECTOR.readout.layer_sizes)
ROWS = torch.arange(3, 23)
DEPOSITS = torch.from_numpy(sparse_showers(DETECTOR, 20).deposits)
PER = ["layer", "voxel"]


def dequantisation(**changes: Any) -> Dequantisation:
    return Dequantisation(VoxelSettings(**changes), DETECTOR)


def uniform(purpose: str, size: int, counter: int = 0) -> Tensor:
    return torch.from_numpy(STREAMS.child(purpose).uniform(ROWS.numpy(), size, counters=counter))


@pytest.mark.parametrize("per", PER)
def test_the_same_streams_rows_and_counter_give_the_same_noise(per: str) -> None:
    """Whatever else is in the batch, and for the energies alone as well as with the voxels."""
    part = dequantisation(energy_noise_per=per)
    first = part(DEPOSITS, STREAMS, ROWS, 4, torch.float64)
    again = part(DEPOSITS, STREAMS, ROWS, 4, torch.float64)
    some = part(DEPOSITS[5:9], STREAMS, ROWS[5:9], 4, torch.float64)
    for one, other, rows in zip(first, again, some, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one[5:9], rows)
    assert torch.equal(part.noisy_energies(DEPOSITS, STREAMS, ROWS, 4), first.energies)
    for other in (
        part(DEPOSITS, STREAMS, ROWS, 5, torch.float64),
        part(DEPOSITS, Streams(8, "noise"), ROWS, 4, torch.float64),
        part(DEPOSITS, STREAMS, ROWS + 1, 4, torch.float64),
    ):
        assert not torch.equal(other.voxels, first.voxels)
        assert not torch.equal(other.energies, first.energies)


def test_energies_have_noise_of_their_own_or_that_of_their_voxels() -> None:
    visible = torch.where(DEPOSITS >= 0.010, DEPOSITS, torch.zeros_like(DEPOSITS)).double()
    noisy = visible + 2e-3 * uniform("voxels", 21)
    per_layer = dequantisation(noise=2e-3, energy_noise=5e-3)(DEPOSITS, STREAMS, ROWS, 0, torch.float64)
    torch.testing.assert_close(per_layer.voxels, noisy, rtol=1e-14, atol=0)
    torch.testing.assert_close(per_layer.energies, SUMS(visible) + 5e-3 * uniform("layers", 3), rtol=1e-14, atol=0)
    settings = {"energy_noise_per": "voxel", "noise": 2e-3, "energy_noise": 2e-3}
    per_voxel = dequantisation(**settings)(DEPOSITS, STREAMS, ROWS, 0, torch.float64)
    assert torch.equal(per_voxel.voxels, per_layer.voxels)
    torch.testing.assert_close(per_voxel.energies, SUMS(noisy), rtol=1e-14, atol=0)


@pytest.mark.parametrize("per", PER)
def test_the_shift_of_the_energies_is_the_mean_of_their_noise(per: str) -> None:
    part = dequantisation(energy_noise_per=per)
    visible = part.layer_energies(DEPOSITS)
    draws = [part.noisy_energies(DEPOSITS, STREAMS, ROWS, k) - visible for k in range(200)]
    found = torch.cat(draws).mean(dim=0)
    torch.testing.assert_close(found, part.energy_shift, rtol=0.05, atol=0)
    sizes = [8, 9, 4] if per == "voxel" else [1, 1, 1]
    assert part.energy_shift.tolist() == pytest.approx([0.5e-3 * size for size in sizes])


@pytest.mark.parametrize("per", PER)
def test_voxels_may_be_float32_and_energies_stay_float64(per: str) -> None:
    noisy = dequantisation(energy_noise_per=per)(DEPOSITS, STREAMS, ROWS, 0, torch.float32)
    assert (noisy.voxels.dtype, noisy.energies.dtype, noisy.visible.dtype) == (
        torch.float32,
        torch.float64,
        torch.float32,
    )


def test_the_threshold_is_that_of_the_detector_unless_it_is_given() -> None:
    deposits = torch.tensor([[0.0, 0.0099, 0.010, 0.03] + [0.0] * 17])
    seen = {
        "detector": dequantisation(),
        "given": dequantisation(cut=0.02),
        "none": dequantisation(cut=0.0),
        "behind": dequantisation(cut_first=False),
    }
    lit = {name: (part.visible(deposits) > 0)[0, :4].tolist() for name, part in seen.items()}
    assert lit == {
        "detector": [False, False, True, True],
        "given": [False, False, False, True],
        "none": [False, True, True, True],
        "behind": [False, True, True, True],
    }
    assert [part.cut for part in seen.values()] == [0.010, 0.02, 0.0, 0.010]
    assert float(seen["detector"].layer_energies(deposits)[0, 0]) == pytest.approx(0.04)


def test_no_noise_leaves_the_deposits_as_they_are() -> None:
    noisy = dequantisation(noise=0.0, energy_noise=0.0, cut_first=False)(DEPOSITS, STREAMS, ROWS, 0, torch.float64)
    assert torch.equal(noisy.voxels, DEPOSITS.double())
    assert torch.equal(noisy.energies, SUMS(DEPOSITS.double()))


def test_the_description_says_widths_and_threshold() -> None:
    described = dequantisation().describe()
    assert json.loads(json.dumps(described)) == described
    assert described["cut_MeV"] == 0.010
    assert described["energies"] == {"transform": "uniform noise", "width_MeV": 1e-3, "per": "layer"}
    assert dequantisation(energy_noise_per="voxel").describe()["energies"]["transform"] == "sum of noisy voxels"
    assert np.isclose(described["voxels"]["width_MeV"], 1e-3)
