"""Optimisers and learning rates.

The learning rate is a function of the step alone, not an object that counts along: so there is nothing to save, and a
resumed run cannot be out of step. Each schedule equals its namesake in ``torch.optim.lr_scheduler``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from caloforge.training_settings import (
    CosineSchedule,
    CyclicSchedule,
    ExponentialSchedule,
    LinearSchedule,
    MilestoneSchedule,
    OneCycleSchedule,
    OptimiserConfig,
    ScheduleConfig,
)

__all__ = ["apply_schedule", "make_optimiser", "scheduled"]


def make_optimiser(config: OptimiserConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Make an optimiser.

    Args:
        config: which one, and its constants.
        parameters: on the device on which they will be trained.
    """
    # One fused kernel over all tensors instead of a dozen for each: a step of Adam reads and writes memory once.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    rate, decay, betas, eps = config.learning_rate, config.weight_decay, config.betas, config.eps
    match config.name:
        case "sgd":
            return torch.optim.SGD(parameters, rate, momentum=betas[0], weight_decay=decay, fused=fused)
        case "radam":
            return torch.optim.RAdam(parameters, rate, betas=betas, eps=eps, weight_decay=decay, foreach=True)
        case "adamw":
            return torch.optim.AdamW(parameters, rate, betas=betas, eps=eps, weight_decay=decay, fused=fused)
        case "adam":
            return torch.optim.Adam(parameters, rate, betas=betas, eps=eps, weight_decay=decay, fused=fused)


def scheduled(
    schedule: ScheduleConfig, learning_rate: float, step: int, *, steps: int, steps_per_epoch: int
) -> tuple[float, float | None]:
    """Learning rate, and first-moment decay if the schedule moves it, of one optimiser step.

    Args:
        schedule: which one.
        learning_rate: the optimiser's: initial value, or peak of a cycle.
        step: number of the step, from 0.
        steps: number of steps of the whole training.
        steps_per_epoch: number of steps of an epoch.
    """
    match schedule:
        case MilestoneSchedule():
            passed = sum(step // steps_per_epoch >= epoch for epoch in schedule.epochs)
            return learning_rate * schedule.factor**passed, None
        case ExponentialSchedule():
            return learning_rate * schedule.factor ** (step // steps_per_epoch), None
        case CosineSchedule():
            return learning_rate * _cosine(schedule, step, steps), None
        case LinearSchedule():
            return learning_rate * _linear(schedule, step, steps), None
        case OneCycleSchedule():
            return _one_cycle(schedule, learning_rate, step, steps)
        case CyclicSchedule():
            return _cyclic(schedule, learning_rate, step), None
        case _:
            return learning_rate, None


def apply_schedule(optimiser: torch.optim.Optimizer, rate: float, momentum: float | None) -> None:
    """Set the learning rate and, if given, the first-moment decay of an optimiser."""
    for group in optimiser.param_groups:
        group["lr"] = rate
        if momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from ``start`` to ``end``."""
    return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)


def _cosine(schedule: CosineSchedule, step: int, steps: int) -> float:
    warmup = round(schedule.warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)  # a first step at zero would be wasted
    share = (step - warmup) / max(steps - 1 - warmup, 1)
    return _between(1.0, schedule.final_fraction, min(share, 1.0))


def _linear(schedule: LinearSchedule, step: int, steps: int) -> float:
    share = min(step / max(steps - 1, 1), 1.0)
    return 1 + (schedule.final_fraction - 1) * share


def _one_cycle(schedule: OneCycleSchedule, peak: float, step: int, steps: int) -> tuple[float, float | None]:
    initial = peak / schedule.initial_division
    final = initial / schedule.final_division
    low, high = schedule.momentum or (0.0, 0.0)
    # (last step, rate there, momentum there); phases may end between two steps.
    rise_end = schedule.rise_fraction * steps - 1
    phases = [(rise_end, peak, low)]
    if schedule.three_phases:
        phases.append((2 * schedule.rise_fraction * steps - 2, initial, high))
    phases.append((steps - 1, final, high))
    start, rate, momentum = 0.0, initial, high
    for end, next_rate, next_momentum in phases:
        if step <= end or end == steps - 1:
            share = min((step - start) / (end - start), 1.0) if end > start else 1.0
            rate, momentum = _between(rate, next_rate, share), _between(momentum, next_momentum, share)
            break
        start, rate, momentum = end, next_rate, next_momentum
    return rate, momentum if schedule.momentum else None


def _cyclic(schedule: CyclicSchedule, peak: float, step: int) -> float:
    cycle, place = divmod(step / (2 * schedule.steps_up), 1)
    height = 1 - abs(2 * place - 1)
    return schedule.minimum + (peak - schedule.minimum) * height / 2**cycle
