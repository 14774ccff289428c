"""The likelihood of showers that the models see with noise: the loop over blocks of showers and draws of the noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from caloforge.errors import UsageError
from caloforge.models.base import ShowerModel
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers

__all__ = ["NoisyDensity", "noise_averaged_log_prob"]

#: Log-density of showers under one draw of the noise, nats, float64 (N,), from their deposits as the file has them,
#: (N, V) in MeV, their incident energies (N,) in MeV, their row numbers (N,) in CPU memory, the number of the draw, and
#: the streams.
NoisyDensity = Callable[[Tensor, Tensor, Tensor, int, Streams], Tensor]


@torch.no_grad()
def noise_averaged_log_prob(
    model: ShowerModel,
    density: NoisyDensity,
    showers: Showers | ShowerPoints,
    streams: Streams,
    *,
    draws: int,
    first_row: int,
    rows: int,
) -> Tensor:
    """Logarithm of the density of showers, averaged over draws of the noise (over the density, not its logarithm).

    Args:
        model: the model; deposits and incident energies are moved to its device.
        density: gives the model's log-density under one draw of the noise.
        showers: the showers.
        streams: random streams for the noise.
        draws: number of noise draws.
        first_row: number of the first shower.
        rows: showers per evaluation; limits the memory, changes no result.

    Returns:
        Nats, float64 (N,), in CPU memory.

    Raises:
        UsageError: if the showers have another readout, or fewer than one draw is asked for.
    """
    if not isinstance(showers, Showers) or showers.readout != model.detector.readout:
        raise UsageError(f"the showers do not have the readout of '{model.detector.name}', for which the model is")
    if draws < 1:
        raise UsageError(f"a likelihood needs at least one draw of the noise, not {draws}")
    parts = []
    for start in range(0, len(showers), rows):
        block = showers[start : start + rows]
        deposits = torch.from_numpy(block.deposits).to(model.device)
        incident = torch.from_numpy(block.incident_energy).to(model.device)
        numbers = torch.arange(first_row + start, first_row + start + len(block))
        values = [density(deposits, incident, numbers, draw, streams) for draw in range(draws)]
        parts.append(torch.logsumexp(torch.stack(values), dim=0).cpu() - math.log(draws))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
