"""Values of some of the training rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from caloforge.stage import TrainingBatch, TrainingData

__all__ = ["collect_rows"]


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
