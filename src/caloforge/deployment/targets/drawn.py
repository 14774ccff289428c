"""Graphs that draw their random numbers themselves, for hosts that hand over none, and what such a graph should have made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caloforge.deployment.vectors import decoded_plainly
from caloforge.generation import generation_streams
from caloforge.models import Conditions, ShowerModel, load_model

__all__ = [
    "MANY_SHOWERS",
    "MOST_PASSES",
    "VoxelGraph",
    "host_energies",
    "latent_sizes",
    "reference_deposits",
    "seeded_normals",
]

#: Features of a masked autoregressive flow that a graph may have, one pass each: those of the layers of a calorimeter.
MOST_PASSES = 64
#: From so many showers on they are made as hosts make them, with libtorch's optimiser, which takes seconds for the first two.
MANY_SHOWERS = 20


def latent_sizes(model: ShowerModel) -> dict[str, int]:
    """How many standard normal numbers a shower of voxels takes, by name, in the order in which a graph draws them."""
    latents = model.latents(Conditions.first(np.array([1e4]), 22), generation_streams(0))
    return {name: value.shape[1] for name, value in latents.items()}


def host_energies(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Incident energies, MeV, as a graph sees them that is told them in GeV and 32-bit numbers."""
    return (energies / 1000).astype(np.float32).astype(np.float64) * 1000


def seeded_normals(sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """The numbers (1, size) that a graph draws in a process whose generator was just given this seed."""
    torch.manual_seed(seed)
    return {name: torch.randn(1, size) for name, size in sizes.items()}


class VoxelGraph(nn.Module):
    """A model of voxels along z with random numbers of its own; what comes in and goes out is up to subclasses.

    Args:
        model: the model.
    """

    def __init__(self, model: ShowerModel) -> None:
        super().__init__()
        self.model, self.sizes = model, latent_sizes(model)

    def deposits(self, incident_energy: Tensor) -> Tensor:
        """Deposits (1, V), MeV, of an incident energy (1,), float64, MeV; a shower that came out wrong is empty."""
        latents = {name: torch.randn(1, size) for name, size in self.sizes.items()}
        direction = incident_energy.new_tensor([[0.0, 0.0, 1.0]]).float()
        conditions = {"incident_energy": incident_energy, "direction": direction}
        return self.model.decode_tensors(conditions, latents)[0]["deposits"]


def reference_deposits(
    where: str | Path, energies: NDArray[np.float64], particle: int, seed: int
) -> NDArray[np.float32]:
    """Deposits (N, V), MeV, of the showers of a graph, in plain PyTorch and 64-bit numbers.

    Args:
        where: the model.
        energies: of the showers, (N,), MeV.
        particle: PDG number.
        seed: the first shower is drawn by a generator of this seed, the next one by one of the next seed.
    """
    model = load_model(where).double()
    sizes, made = latent_sizes(model), []
    for row, energy in enumerate(energies):
        conditions = Conditions.first(np.array([energy]), particle)
        output, _ = decoded_plainly(model, conditions, seeded_normals(sizes, seed + row))
        made.append(output["deposits"].float().numpy())
    return np.concatenate(made)
