"""Training of one classifier: Adam, fixed epochs, the epoch of the best accuracy counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Outputs", "fit", "seeded"]

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Outputs:
    """What a trained classifier says.

    Attributes:
        chosen: logits of the showers that chose the epoch, float64 (n, outputs).
        test: logits of the showers for the score, float64 (m, outputs).
        best_epoch: the epoch that they come from, counted from 1.
        accuracy: accuracy on the first of them in that epoch.
    """

    chosen: NDArray[np.float64]
    test: NDArray[np.float64]
    best_epoch: int
    accuracy: float


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network whose initial weights depend on the seed only, leaving torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _evaluate(network: nn.Module, rows: Tensor, where: Tensor, batch: int) -> Tensor:
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(rows[part]) for part in torch.split(where, max(batch, 1024))])
    network.train()
    return logits


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    guessed = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)
    return float((guessed == labels).double().mean())


def fit(
    network: nn.Module,
    rows: Tensor,
    labels: Tensor,
    parts: tuple[Indices, Indices, Indices],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    patience: int | None,
    generator: np.random.Generator,
    after_epoch: Callable[[], None],
) -> Outputs:
    """Train, and return the outputs of the epoch with the best accuracy on the second part.

    Args:
        network: gives (n, 1) logits for two classes or (n, classes).
        rows: inputs, shape (N, inputs), on the device where the work is done.
        labels: class of each row, int64 (N,), on the same device.
        parts: rows for training, for choosing the epoch, and for the score.
        epochs: number of epochs.
        batch_size: rows per step; an incomplete last batch is used as well.
        learning_rate: of Adam.
        patience: stop after so many epochs without a better accuracy; None trains all epochs, as published.
        generator: order of the batches.
        after_epoch: called after each epoch.
    """
    device = rows.device
    network.to(device=device, dtype=rows.dtype).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    train, choose, test = (torch.from_numpy(part).to(device) for part in parts)
    binary = labels.to(rows.dtype)
    best = Outputs(np.empty((0, 1)), np.empty((0, 1)), 0, -1.0)
    for epoch in range(1, epochs + 1):
        order = train[torch.from_numpy(generator.permutation(len(train))).to(device)]
        for batch in torch.split(order, batch_size):
            if len(batch) == 1 and len(order) > 1:
                continue  # batch norm has no spread to divide by
            logits = network(rows[batch])
            if logits.shape[1] == 1:
                loss = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], binary[batch])
            else:
                loss = nn.functional.cross_entropy(logits, labels[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        logits = _evaluate(network, rows, choose, batch_size)
        accuracy = _accuracy(logits, labels[choose])
        if accuracy > best.accuracy:
            scored = _evaluate(network, rows, test, batch_size)
            best = Outputs(_numbers(logits), _numbers(scored), epoch, accuracy)
        after_epoch()
        # The challenge stops at a perfect accuracy, which nothing can improve.
        if best.accuracy == 1 or (patience is not None and epoch - best.best_epoch >= patience):
            break
    return best


def _numbers(logits: Tensor) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = logits.double().cpu().numpy()
    return numbers
