"""The noise of a row depends on the seed, the row and the epoch, and on nothing else."""

from __future__ import annotations

import pytest
import torch

from caloforge.errors import ConfigError
from caloforge.random import Streams
from caloforge.representation import DequantisationNoise

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
