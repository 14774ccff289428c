"""Several processes that train together: each computes the gradient of its share of every batch, the sum is applied.

All processes hold the same weights and the same moments and apply the same sum, so they stay bit-equal to each other.
The batch size is that of all processes together, so the result does not depend on their number beyond rounding
(and dropout, whose masks differ).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from caloforge.errors import UsageError

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
    def joined(cls, device: torch.device) -> Iterator[Processes]:
        """The processes that ``torchrun`` started, or just this one.

        Args:
            device: where this process trains; decides how processes talk to each other.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            yield cls()
            return
        began = not distributed.is_initialized()
        if began:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
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

    def sum_gradients(self, parameters: Iterable[nn.Parameter], weight: float) -> None:
        """Replace every gradient by the weighted sum over all processes.

        Args:
            parameters: those without a gradient are left alone, the same ones everywhere.
            weight: share of this process in the batch.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for dtype in {g.dtype for g in gradients}:
            same = [g for g in gradients if g.dtype == dtype]
            flat = torch.cat([g.reshape(-1) for g in same]) * weight
            distributed.all_reduce(flat)
            for gradient, part in zip(same, torch.split(flat, [g.numel() for g in same]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def sum_values(self, values: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
        """Weighted sums of scalars over all processes, float64."""
        if not values:
            return {}
        stacked = torch.stack([value.detach().double() for value in values.values()]) * weight
        if self.size > 1:
            distributed.all_reduce(stacked)
        return dict(zip(values, stacked.unbind(), strict=True))

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
