"""Points dealt out to the layers of a shower by depth, given the energies of the layers, and moved to where they belong.

The allocation of CaloClouds (arXiv:2309.05704, section 3.3; arXiv:2511.01460, section 3.3): the flow says how many points
each layer has and how much energy; the points come without a layer, sorted into them by their depth.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from caloforge.kernels.ops.registry import eager, operator

__all__ = ["allocate", "allocate_plainly"]


def allocate(
    counts: Tensor,
    energies: Tensor,
    place: Tensor,
    depth: Tensor,
    energy: Tensor,
    gravity: Tensor | None,
    shift: Tensor,
) -> Tensor:
    """Deal points out to layers.

    The shallowest points of a shower go to its first layer, and so on; within a layer points keep their order, so that
    rounding seldom decides where a point stands. Every layer gets exactly its energy.

    Args:
        counts: points of each layer, int64 (N, L).
        energies: of each layer, float64 (N, L), MeV.
        place: x and y of the points, (M, 2), mm; all points of the first shower, then those of the next, M the sum of the
            counts.
        depth: (M,), layers.
        energy: (M,), MeV; only its share of the layer matters.
        gravity: where the energy-weighted mean of x and y of each shower is to be before the shift, (N, 2), mm; None
            leaves it.
        shift: added to x and y in each layer, (N, L, 2), mm.

    Returns:
        x, y, layer and energy of the points, float32 (M, 4), layer by layer in every shower.
    """
    tensors = [t for t in (counts, energies, place, depth, energy, gravity, shift) if t is not None]
    if not eager(*tensors):
        return allocate_plainly(counts, energies, place, depth, energy, gravity, shift)
    place, depth, energy, shift = (t.detach() for t in (place, depth, energy, shift))
    points: Tensor = _allocate(counts, energies.detach(), place, depth, energy, gravity, shift)
    return points


def _compiled(
    library: ctypes.CDLL,
    counts: Tensor,
    energies: Tensor,
    place: Tensor,
    depth: Tensor,
    energy: Tensor,
    gravity: Tensor | None,
    shift: Tensor,
) -> Any:
    wide = [None if t is None else t.double().contiguous() for t in (energies, place, depth, energy, gravity, shift)]
    counts, points = counts.contiguous(), torch.empty(len(depth), 4)
    library.caloforge_allocate(
        len(counts), counts.shape[1], counts.data_ptr(), *(0 if t is None else t.data_ptr() for t in wide),
        points.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return points


def allocate_plainly(
    counts: Tensor,
    energies: Tensor,
    place: Tensor,
    depth: Tensor,
    energy: Tensor,
    gravity: Tensor | None,
    shift: Tensor,
) -> Tensor:
    """As :func:`allocate`, in plain PyTorch, on any device."""
    layers, device = counts.shape[1], counts.device
    place, depth, energy = place.double(), depth.double(), energy.double()
    slots = torch.repeat_interleave(torch.arange(counts.numel(), device=device), counts.flatten())
    shower = slots // layers
    # Showers lie further apart than any two depths.
    reach = 4.0 * layers
    deepest = torch.argsort(shower.double() * (3 * reach) + depth.clamp(-reach, reach), stable=True)
    order = torch.argsort(torch.empty_like(slots).scatter_(0, deepest, slots), stable=True)
    place, energy = place[order], energy[order]
    slot_sums = torch.zeros(counts.numel(), dtype=torch.float64, device=device).index_add_(0, slots, energy)
    energy = energy * (energies.double().flatten() / slot_sums.clamp_min(1e-300))[slots]
    if gravity is not None:
        sums = torch.zeros(len(counts), 3, dtype=torch.float64, device=device)
        sums.index_add_(0, shower, torch.cat([place * energy[:, None], energy[:, None]], dim=1))
        place = place + (gravity.double() - sums[:, :2] / sums[:, 2:].clamp_min(1e-300))[shower]
    place = place + shift.double().reshape(-1, 2)[slots]
    return torch.cat([place, (slots % layers)[:, None], energy[:, None]], dim=1).float()


_allocate = operator(
    "allocate(Tensor counts, Tensor energies, Tensor place, Tensor depth, Tensor energy, Tensor? gravity, Tensor shift) "
    "-> Tensor",
    allocate_plainly,
    _compiled,
)
