"""Variables of showers as Gaussianised principal components in bins, at nodes of the incident energy (arXiv:2109.02551).

Every variable is replaced by the Gaussian number of its rank. Showers are divided into bins of the leading component of these;
in each bin the numbers are made anew, and their correlations and the sorted values are kept. To draw, independent Gaussian
numbers are given the correlations, and their probabilities are looked up among the sorted values.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["ComponentBins", "energy_nodes", "gaussian_ranks"]

#: A spectrum of fewer different energies than this is a list of energies, and each of them a node.
_DISCRETE = 64
#: Showers of a node that energies in between are made of, at the least; and how many nodes there are.
_PER_NODE, _FEWEST, _MOST = 500, 4, 24
_LEAST_ROWS = 10
#: Nodes with fewer showers than this are not divided.
_LEAST_DIVIDED = 250


def gaussian_ranks(values: Tensor, generator: np.random.Generator) -> Tensor:
    """Gaussian number of the rank of each value in its column, float64 (N, D); equal values are ranked at random.

    A column of equal values has no ranks, and gets zeros.
    """
    shuffled = torch.from_numpy(generator.permutation(len(values)))
    order = shuffled[values[shuffled].argsort(dim=0, stable=True)]
    ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(values))[:, None].expand_as(order))
    scores = math.sqrt(2) * torch.erfinv(2 * (ranks.double() + 0.5) / len(values) - 1)
    return torch.where(values.amax(dim=0) > values.amin(dim=0), scores, torch.zeros_like(scores))


def energy_nodes(log_energy: Tensor, nodes: int | None) -> Tensor:
    """Number of the node of each shower, int64 (N,): the energies if they are few, else equally many showers in each node."""
    different, which, counts = log_energy.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    if len(different) <= _DISCRETE and int(counts.min()) >= _LEAST_ROWS:
        return which  # type: ignore[no-any-return]
    count = nodes or min(max(len(log_energy) // _PER_NODE, _FEWEST), _MOST)
    count = max(1, min(count, len(log_energy) // _LEAST_ROWS))
    ranks = torch.empty_like(which).scatter_(0, log_energy.argsort(stable=True), torch.arange(len(which)))
    return ranks * count // len(ranks)


class ComponentBins(nn.Module):
    """Distribution of D variables given the incident energy.

    Nodes are divided into bins; a bin of a node is a *group*. Rows are kept group by group.

    Attributes:
        node_energy: mean logarithm of the energy in each node, (nodes,).
        node_rows: where the rows of each node begin and those of the last end, (nodes + 1,).
        group_rows: likewise of each group, (G + 1,).
        factor: square root of the correlation matrix of each group, (G, D, D).
        values: variables of each group, each column sorted by itself, (R, D).

    Args:
        variables: D.
    """

    node_energy: Tensor
    node_rows: Tensor
    group_rows: Tensor
    factor: Tensor
    values: Tensor

    def __init__(self, variables: int) -> None:
        super().__init__()
        self.register_buffer("node_energy", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("node_rows", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("group_rows", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("factor", torch.zeros(0, variables, variables, dtype=torch.float64))
        self.register_buffer("values", torch.zeros(0, variables, dtype=torch.float64))

    @staticmethod
    def fitted(
        variables: Tensor, log_energy: Tensor, *, nodes: int | None, bins: int, generator: np.random.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The state that some showers give.

        Args:
            variables: float64 (R, D).
            log_energy: logarithm of their incident energies, float64 (R,).
            nodes: number of nodes; None decides by the number of showers. Discrete energies are nodes in any case.
            bins: of a node; one with fewer than 250 showers is not divided.
            generator: ranks equal values.

        Returns:
            The buffers, and the numbers of the showers in the order in which rows are kept, (R,).
        """
        which = energy_nodes(log_energy, nodes)
        energies, orders, factors, values, sizes = [], [], [], [], []
        node_rows = [0]
        for node in range(int(which.max()) + 1):
            rows = torch.nonzero(which == node)[:, 0]
            energies.append(log_energy[rows].mean())
            node_rows.append(node_rows[-1] + len(rows))
            for part in _divided(variables[rows], bins if len(rows) >= _LEAST_DIVIDED else 1, generator):
                own = rows[part]
                scores = gaussian_ranks(variables[own], generator)
                orders.append(own)
                sizes.append(len(own))
                factors.append(_root(scores))
                values.append(variables[own].sort(dim=0).values)
        state = {
            "node_energy": torch.stack(energies),
            "node_rows": torch.tensor(node_rows),
            "group_rows": torch.tensor([0, *sizes]).cumsum(0),
            "factor": torch.stack(factors),
            "values": torch.cat(values),
        }
        return state, torch.cat(orders)

    def group(self, log_energy: Tensor, chance: Tensor) -> Tensor:
        """A group for each shower, int64 (N,).

        Args:
            log_energy: logarithm of the incident energy, (N,).
            chance: uniform numbers (N, 2): between the two nodes beside the energy the choice is linear in its logarithm.
        """
        nodes = self.node_energy
        right = torch.searchsorted(nodes, log_energy - 1e-9).clamp(1, max(len(nodes) - 1, 1))
        left, right = right - 1, right.clamp_max(len(nodes) - 1)
        width = (nodes[right] - nodes[left]).clamp_min(1e-300)
        weight = ((log_energy - nodes[left]) / width).clamp(0, 1)
        # An energy that is a node but for rounding belongs to it alone.
        weight = torch.where(weight < 1e-9, 0.0, torch.where(weight > 1 - 1e-9, 1.0, weight))
        node = torch.where(chance[:, 0] < weight, right, left)
        first, stop = self.node_rows[node], self.node_rows[node + 1]
        row = torch.minimum(first + (chance[:, 1] * (stop - first)).long(), stop - 1)
        return torch.searchsorted(self.group_rows, row, right=True) - 1

    def forward(self, group: Tensor, normal: Tensor) -> Tensor:
        """Variables (N, D) of showers in given groups (N,), from standard normal numbers (N, D)."""
        scores = torch.empty_like(normal)
        for number in group.unique().tolist():  # type: ignore[no-untyped-call]
            members = torch.nonzero(group == number)[:, 0]
            scores[members] = normal[members] @ self.factor[number]  # which is symmetric
        first = self.group_rows[group][:, None]
        last = self.group_rows[group + 1][:, None] - 1
        place = torch.special.ndtr(scores) * (last + 1 - first) - 0.5
        place = torch.minimum(place.clamp_min(0), (last - first).double())
        low = first + place.long()
        high = torch.minimum(low + 1, last)
        share = place - place.floor()
        return torch.lerp(self.values.gather(0, low), self.values.gather(0, high), share)


def _divided(variables: Tensor, bins: int, generator: np.random.Generator) -> list[Tensor]:
    """Rows of each bin of the leading principal component."""
    if bins == 1:
        return [torch.arange(len(variables))]
    scores = gaussian_ranks(variables, generator)
    leading = torch.linalg.eigh(scores.T @ scores).eigenvectors[:, -1]
    return list((scores @ leading).argsort(stable=True).tensor_split(bins))


def _root(scores: Tensor) -> Tensor:
    """Symmetric root of the correlation matrix of Gaussian numbers; columns of zeros stay without effect."""
    covariance = scores.T @ scores / len(scores)
    spread = covariance.diagonal().sqrt()
    correlation = covariance / (spread[:, None] * spread[None]).clamp_min(1e-300)
    values, vectors = torch.linalg.eigh(correlation)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root
