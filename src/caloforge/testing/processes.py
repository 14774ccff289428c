"""Two processes that train, as two threads of one: what a model computes on shares of a batch, and its sum."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from caloforge.models import ShowerModel
from caloforge.nn.batch_layers import training_step
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import GradientStage, TrainingBatch, TrainingConfig
from caloforge.testing.toys import training_batch

__all__ = ["gradients"]

_TIMEOUT = 60.0


class _Sums:
    """Sums of tensors over threads that all call it in the same order."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=_TIMEOUT)
        self._given: list[Tensor | None] = [None] * size

    def adder(self, rank: int) -> Callable[[Tensor], None]:
        """What thread ``rank`` calls; the tensor is changed in place."""

        def add_up(tensor: Tensor) -> None:
            self._given[rank] = tensor.detach().clone()
            self._barrier.wait()
            total = sum(value for value in self._given if value is not None)
            self._barrier.wait()
            with torch.no_grad():
                tensor.copy_(torch.as_tensor(total))

        return add_up

    def broken(self) -> None:
        """Let nobody wait any longer."""
        self._barrier.abort()


def gradients(model: ShowerModel, showers: Showers | ShowerPoints, shares: list[int]) -> dict[str, Tensor]:
    """Gradients of one step of every player on all of the showers, split as over several processes.

    Args:
        model: is not changed.
        showers: the batch.
        shares: numbers of showers of each process.

    Returns:
        The gradient of every parameter, summed over the processes, by stage, player and number; float64.
    """
    size = len(shares)
    errors: list[BaseException] = []
    sums = _Sums(size)
    results: list[dict[str, Tensor]] = [{} for _ in shares]

    def work(rank: int) -> None:
        try:
            own = copy.deepcopy(model).double()
            start = sum(shares[:rank])
            batch = training_batch(showers[start : start + shares[rank]], first_row=start).double()
            results[rank] = _one_step(own, model, batch, start, len(showers), sums.adder(rank) if size > 1 else None)
        except BaseException as error:  # it belongs to the caller, and nobody may wait for this thread
            errors.append(error)
            sums.broken()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    if errors:
        raise RuntimeError("the shares of a batch do not do the same things in the same order")
    return {name: torch.stack([result[name] for result in results]).sum(dim=0) for name in results[0]}


def _one_step(
    own: ShowerModel,
    original: ShowerModel,
    batch: TrainingBatch,
    first: int,
    rows: int,
    add_up: Callable[[Tensor], None] | None,
) -> dict[str, Tensor]:
    """As the training loop does it, without the step itself."""
    trainable = {name for name, parameter in original.named_parameters() if parameter.requires_grad}
    for name, parameter in own.named_parameters():
        parameter.requires_grad_(name in trainable)
    found: dict[str, Tensor] = {}
    for stage in own.training_stages(TrainingConfig()):
        if not isinstance(stage, GradientStage):
            continue
        for part in stage.parts.values():
            part.train()
        for player in stage.players:
            for parameter in player.parameters:
                parameter.grad = None
            streams = Streams(3, "check").child(f"{stage.name}/{player.name}")
            with training_step(batch.row, streams, 0, add_up, (first, rows)):
                losses = dict(stage.loss(player.name, batch, streams))
                weight = losses.pop("weight", None)
                share: Tensor | float = len(batch) / rows
                if weight is not None:
                    total = weight.detach().double().clone()
                    if add_up is not None:
                        add_up(total)
                    share = weight.detach().double() / total.clamp_min(torch.finfo(torch.float64).tiny)
                (losses["loss"] * share).backward()  # type: ignore[no-untyped-call]
            for number, parameter in enumerate(player.parameters):
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                found[f"{stage.name}, {player.name}, parameter {number}"] = gradient.detach().double().clone()
        for part in stage.parts.values():
            part.eval()
    return found
