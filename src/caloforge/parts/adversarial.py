"""Losses of adversarial training: what critics and generators descend, and the gradient penalty.

A critic scores rows; a stage names it and its generator as two players (:class:`caloforge.stage.Player`). Losses of rows are
means, so they may be split over processes; a critic that compares the rows of a batch gathers them
(:func:`caloforge.nn.batch_layers.gathered`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from caloforge.models import ShowerModel
from caloforge.random import Streams
from caloforge.stage import StageTraining, TrainingBatch
from caloforge.training_settings import OptimiserConfig
from caloforge.validation import Count, Settings

__all__ = [
    "AdversarialKind",
    "AdversarialSettings",
    "critic_loss",
    "generator_loss",
    "gradient_penalty",
    "mixing_numbers",
    "optimiser_at",
    "rows_of",
]

#: ``cross-entropy``: the original game, the generator in its non-saturating form (arXiv:1406.2661); ``hinge``
#: (arXiv:1705.02894); ``wasserstein`` (arXiv:1701.07875), which wants a gradient penalty.
AdversarialKind = Literal["cross-entropy", "hinge", "wasserstein"]


class AdversarialSettings(Settings):
    """How a critic and a generator play.

    Attributes:
        loss: which game.
        penalty: weight of the gradient penalty, 10 in its publication (arXiv:1704.00028); 0 for none.
        critic_steps: steps of the critic on every batch.
        generator_steps: steps of the generator on every batch, behind those of the critic.
        critic_rate: learning rate of the critic over that of the generator, which is the training's.
    """

    loss: AdversarialKind = "cross-entropy"
    penalty: Annotated[float, Field(ge=0)] = 0.0
    critic_steps: Count = 1
    generator_steps: Count = 1
    critic_rate: Annotated[float, Field(gt=0)] = 1.0


def critic_loss(kind: AdversarialKind, real: Tensor, fake: Tensor) -> Tensor:
    """What a critic descends, a mean over rows.

    Args:
        kind: which game.
        real: its scores of real rows (N,), logits for ``cross-entropy``.
        fake: its scores of as many generated ones (N,).
    """
    match kind:
        case "cross-entropy":
            return functional.softplus(-real).mean() + functional.softplus(fake).mean()
        case "hinge":
            return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        case "wasserstein":
            return fake.mean() - real.mean()


def generator_loss(kind: AdversarialKind, fake: Tensor) -> Tensor:
    """What a generator descends, a mean over rows, from the critic's scores of what it made (N,)."""
    return functional.softplus(-fake).mean() if kind == "cross-entropy" else -fake.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Mean squared deviation from 1 of the norm of the critic's gradient between real and generated rows (arXiv:1704.00028).

    Every row must be scored by itself: batch norm and comparisons within a batch have no gradient of one row alone.

    Args:
        critic: scores (N,) of rows (N, ...).
        real: real rows (N, ...).
        fake: generated rows (N, ...).
        mix: share of the real one in each pair (N,), uniform in [0, 1).
    """
    share = mix.reshape(-1, *(1 for _ in real.shape[1:])).to(real.dtype)
    between = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    # The square root has no derivative at 0, where the padding of an empty row may be.
    norm = (gradient.flatten(1).square().sum(dim=1) + 1e-12).sqrt()
    return (norm - 1).square().mean()


def rows_of(model: ShowerModel, batch: TrainingBatch, streams: Streams, purpose: str, size: int) -> Tensor:
    """Standard normal numbers of each row of a batch, (B, size), in the model's precision and place."""
    numbers = streams.child(purpose).normal(batch.row.numpy(), size, batch.epoch)
    return torch.from_numpy(numbers).to(model.device, model.dtype)


def mixing_numbers(model: ShowerModel, batch: TrainingBatch, streams: Streams) -> Tensor:
    """The shares for :func:`gradient_penalty`, (B,), a function of row and epoch."""
    numbers = streams.child("mix").uniform(batch.row.numpy(), 1, batch.epoch)[:, 0]
    return torch.from_numpy(numbers).to(model.device, model.dtype)


def optimiser_at(training: StageTraining, factor: float) -> OptimiserConfig:
    """The optimiser of a stage at a multiple of its learning rate."""
    own = training.optimiser
    return own.model_copy(update={"learning_rate": own.learning_rate * factor})
