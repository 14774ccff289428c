"""Noise and augmentation of a row depend on the seed, the row and the epoch, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.random import Streams
from caloforge.stage import TrainingBatch
from caloforge.transforms import DequantisationNoise, SymmetryAugmentation

STREAMS = Streams(7, "train")


def test_noise_of_a_row_is_the_same_in_every_batch_and_order() -> None:
    noise = DequantisationNoise(20, 1e-3)
    together = noise.draw(STREAMS, torch.arange(10), 3)
    shuffled = torch.tensor([7, 2, 9])
    assert torch.equal(noise.draw(STREAMS, shuffled, 3), together[shuffled])


def test_noise_changes_with_epoch_seed_and_row() -> None:
    noise = DequantisationNoise(20, 1e-3)
    rows = torch.arange(4)
    first = noise.draw(STREAMS, rows, 0)
    assert not torch.equal(first, noise.draw(STREAMS, rows, 1))
    assert not torch.equal(first, noise.draw(Streams(8, "train"), rows, 0))
    assert len({tuple(row.tolist()) for row in first}) == 4


def test_noise_is_uniform_with_the_mean_that_is_subtracted_later() -> None:
    noise = DequantisationNoise(500, 1e-3)
    drawn = noise(torch.zeros(400, 500, dtype=torch.float64), noise.draw(STREAMS, torch.arange(400), 0))[0]
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1e-3
    assert float(drawn.mean()) == pytest.approx(float(noise.mean[0]), rel=0.005)
    assert float(drawn.var()) == pytest.approx(1e-6 / 12, rel=0.01)


def test_no_noise_draws_nothing() -> None:
    assert not DequantisationNoise(3, 0.0).draw(STREAMS, torch.arange(2), 0).any()


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match="negative"):
        DequantisationNoise(3, -1e-3)


def batch(rows: int, epoch: int = 0, voxels: int = 504) -> TrainingBatch:
    deposits = torch.arange(rows * voxels, dtype=torch.float32).reshape(rows, voxels)
    return TrainingBatch(deposits, torch.full((rows,), 1e4, dtype=torch.float64), torch.arange(rows), epoch)


def test_augmented_rows_are_members_of_the_group_and_all_members_occur() -> None:
    group = load_detector("calogan").symmetry_group()
    augmentation = SymmetryAugmentation(group)
    given = batch(200)
    made = augmentation(given, STREAMS)
    chosen = augmentation.elements(given.row, 0, STREAMS).numpy()
    assert np.bincount(chosen, minlength=4).min() > 30
    for row, element in enumerate(chosen):
        assert np.array_equal(made.deposits[row].numpy(), given.deposits[row].numpy()[group[element]])


def test_layer_energies_survive_augmentation() -> None:
    detector = load_detector("calogan")
    given = batch(20)
    made = SymmetryAugmentation(detector.symmetry_group())(given, STREAMS)
    for where in detector.readout.layer_slices:
        assert torch.allclose(made.deposits[:, where].sum(dim=1), given.deposits[:, where].sum(dim=1))


def test_augmentation_depends_on_row_and_epoch_only() -> None:
    augmentation = SymmetryAugmentation(load_detector("calogan").symmetry_group())
    rows = torch.tensor([5, 90, 3])
    assert torch.equal(
        augmentation.elements(rows, 2, STREAMS), augmentation.elements(torch.arange(100), 2, STREAMS)[rows]
    )
    many = torch.arange(100)
    assert not torch.equal(augmentation.elements(many, 2, STREAMS), augmentation.elements(many, 3, STREAMS))


def test_a_group_of_one_returns_the_batch_itself() -> None:
    given = batch(3)
    assert SymmetryAugmentation(np.arange(504)[None])(given, STREAMS) is given


def test_directions_and_foreign_voxels_are_refused() -> None:
    augmentation = SymmetryAugmentation(load_detector("calogan").symmetry_group())
    with pytest.raises(UsageError, match="504 voxels"):
        augmentation(batch(2, voxels=8), STREAMS)
    given = batch(2)
    slanted = TrainingBatch(given.deposits, given.incident_energy, given.row, direction=torch.ones(2, 3))
    with pytest.raises(UsageError, match="directions"):
        augmentation(slanted, STREAMS)


def test_something_that_is_no_permutation_is_refused() -> None:
    with pytest.raises(ConfigError, match="permutations"):
        SymmetryAugmentation(np.zeros((2, 5), dtype=np.int64))
