"""Values of some of the training rows, and showers generated under their conditions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from caloforge.conditions import Conditions
from caloforge.models import ShowerModel
from caloforge.random import Streams
from caloforge.stage import TrainingBatch, TrainingData

__all__ = ["collect_rows", "conditions_of_rows", "generated_rows"]


def collect_rows(data: TrainingData, most: int, values: Callable[[TrainingBatch], Tensor]) -> Tensor:
    """What ``values`` gives for about ``most`` rows, evenly spread over the training data, (rows, D).

    Args:
        data: the training rows.
        most: about how many rows.
        values: function of a batch, (B, D), or of fewer rows where some are left out.
    """
    stride = max(1, math.ceil(len(data) / most))
    parts, seen = [], 0
    for batch in data:
        rows = values(batch)
        chosen = torch.arange((-seen) % stride, len(rows), stride)
        seen += len(batch)
        parts.append(rows.index_select(0, chosen.to(batch.incident_energy.device)))
    return torch.cat(parts)


def conditions_of_rows(batch: TrainingBatch, *, attempt: int, particle: int = 0) -> Conditions:
    """The conditions of training rows, for showers that are a function of row and attempt, whatever the batch is.

    Args:
        batch: the rows.
        attempt: number of the attempt of all of them.
        particle: PDG id, for a model whose latents depend on it.
    """
    rows = batch.row.numpy()
    direction = None if batch.direction is None else batch.direction.float().cpu().numpy()
    energy = batch.incident_energy.double().cpu().numpy()
    return Conditions(energy, particle, rows, np.full_like(rows, attempt), direction)


@torch.no_grad()
def generated_rows(
    model: ShowerModel, conditions: Conditions, streams: Streams, particles: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """First draws of a model under some conditions, not judged by its aids: deposits (N, V), MeV, and whether each is valid (N,).

    Args:
        model: makes voxels, in eval mode.
        conditions: of the showers.
        streams: random streams.
        particles: PDG id of each (N,), where they are of several particles, whatever the conditions say.
    """
    latents = {name: value.to(model.device) for name, value in model.own_latents(conditions, streams).items()}
    asked = conditions.tensors(model.device) | ({} if particles is None else {"particle": particles})
    output, valid = model.decode_tensors(asked, latents)
    return output["deposits"], valid
