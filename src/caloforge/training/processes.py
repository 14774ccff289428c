"""Several processes that train together: each computes the gradient of its share of every batch, the sum is applied.

All processes hold the same weights and the same moments and apply the same sum, so they stay bit-equal to each other.
The batch size is that of all processes together, so the result does not depend on their number beyond rounding: means
are weighted by what they are means of, batch norm takes the sums of all (``caloforge.nn.batch_layers``), and every random
number, dropout included, belongs to a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from caloforge.errors import UsageError
from caloforge.training.team import Seat

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: number of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    @contextmanager
    def joined(cls, device: torch.device, seat: Seat | None = None) -> Iterator[Processes]:
        """The processes that ``torchrun`` started, or those of a team, or just this one.

        Args:
            device: where this process trains; decides how processes talk to each other.
            seat: place of this process in a team.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1 and seat is None:
            yield cls()
            return
        began = not distributed.is_initialized()
        if began:
            place: dict[str, Any] = (
                {} if seat is None else {"store": seat.meeting_place(), "rank": seat.rank, "world_size": seat.size}
            )
            # A loss may weigh its batch with a number that lies on the CPU, of which NCCL alone knows nothing.
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30), **place
            )
        try:
            yield cls(distributed.get_rank(), distributed.get_world_size())
        finally:
            if began:
                distributed.destroy_process_group()

    @staticmethod
    def local_device(name: str) -> torch.device:
        """The device of this process: ``cuda`` becomes the GPU with the process's number on its machine.

        Raises:
            UsageError: if there is no such device.
        """
        try:
            device = torch.device(name)
        except RuntimeError:
            raise UsageError(f"the device '{name}' is not known, expected cpu, cuda or cuda:N") from None
        if device.type == "cuda":
            if not torch.cuda.is_available():
                raise UsageError(f"the device '{name}' was asked for, but torch finds no GPU here")
            if ":" not in name:
                device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        return device

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def add_up(self) -> Callable[[Tensor], None] | None:
        """Sums a tensor over all processes, in place; None if there is only this one."""
        return distributed.all_reduce if self.size > 1 else None

    def share_of(self, weight: Tensor) -> Tensor:
        """What part of the sum of a weight over all processes is that of this one; 0 if the sum is 0."""
        total = weight.double()
        if self.size > 1:
            total = total.clone()
            distributed.all_reduce(total)
        return weight.double() / total.clamp_min(torch.finfo(torch.float64).tiny)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by the sum over all processes; those without one are left alone, the same everywhere."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for dtype in sorted({g.dtype for g in gradients}, key=str):
            same = [g for g in gradients if g.dtype == dtype]
            flat = torch.cat([g.reshape(-1) for g in same])
            distributed.all_reduce(flat)
            for gradient, part in zip(same, torch.split(flat, [g.numel() for g in same]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def sum_values(self, values: Mapping[str, Tensor], weight: Tensor | float) -> dict[str, Tensor]:
        """Weighted sums of tensors over all processes, float64."""
        if not values:
            return {}
        flat = torch.cat([value.detach().double().reshape(-1) for value in values.values()]) * weight
        if self.size > 1:
            distributed.all_reduce(flat)
        parts = torch.split(flat, [value.numel() for value in values.values()])
        return {name: part.reshape(value.shape) for (name, value), part in zip(values.items(), parts, strict=True)}

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        value = torch.tensor(int(flag), device=device)
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
        return bool(value.item())

    def share(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.size > 1:
            for name in sorted(tensors):
                distributed.broadcast(tensors[name], src=0)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            distributed.barrier()
