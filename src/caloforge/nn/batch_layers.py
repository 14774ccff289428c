"""Layers that must know more of a batch than their inputs: dropout, and batch norm.

A training must not depend on how a batch is split over processes. Dropout therefore addresses its masks by the row of
the training data, batch norm sums over all processes, and what compares the rows of a batch gathers those of all. They
learn from :func:`training_step`, which the training loop enters for every step, whose rows these are. Outside of it
they do what torch's layers of the same names do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.random import Streams

__all__ = ["BatchNorm1d", "BatchNorm2d", "Dropout", "alone", "dropout", "gathered", "some_rows", "training_step"]

#: splitmix64 (Steele, Lea and Flood, OOPSLA 2014): increment and multipliers, as the signed numbers that torch knows.
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
#: A mask takes 16 random bits for each number, so that its probability is a multiple of this.
_LEVELS = 1 << 16


class _Step:
    """The batch of a training step.

    Args:
        rows: numbers of the rows, int64 (B,), in CPU memory.
        streams: random streams of the masks.
        counter: number of the step.
        add_up: sums a tensor over all processes, in place; None if there is only this one.
        place: where the rows stand among those of all processes, and how many these are; None if nobody says it.
    """

    def __init__(
        self,
        rows: Tensor,
        streams: Streams,
        counter: int,
        add_up: Callable[[Tensor], None] | None,
        place: tuple[int, int] | None = None,
    ) -> None:
        self.size, self.add_up, self.place = len(rows), add_up, place
        self._rows, self._streams, self._counter = rows, streams, counter
        self._keys: Tensor | None = None
        self._calls = 0

    def only(self, kept: Tensor) -> _Step:
        """The same step for some of its rows, bool (B,)."""
        return _Step(self._rows[kept], self._streams, self._counter, self.add_up)

    def keys(self, device: torch.device) -> Tensor:
        """A 64-bit key for every row, (B,); others at every call, which all processes do in the same order."""
        if self._keys is None or self._keys.device != device:
            base = self._streams.integer(self._counter) - (1 << 63)
            self._keys = _mixed(self._rows.to(device) * _STEP + base)
        self._calls += 1
        return _mixed(self._keys + self._calls)


_STEPS: ContextVar[_Step | None] = ContextVar("caloforge_training_step", default=None)


@contextmanager
def training_step(
    rows: Tensor,
    streams: Streams,
    counter: int,
    add_up: Callable[[Tensor], None] | None = None,
    place: tuple[int, int] | None = None,
) -> Iterator[None]:
    """Within, dropout, batch norm and :func:`gathered` know which rows pass through them.

    Args:
        rows: numbers of the rows in the training data, int64 (B,).
        streams: random streams of the masks.
        counter: number of the step; masks of different steps are independent.
        add_up: sums a tensor over all processes, in place; None if there is only this one.
        place: number of the first of the rows in the whole batch, and the number of rows of that, over all processes.
    """
    token = _STEPS.set(_Step(rows.cpu(), streams, counter, add_up, place))
    try:
        yield
    finally:
        _STEPS.reset(token)


@contextmanager
def some_rows(kept: Tensor) -> Iterator[None]:
    """Within, of the rows of a training step only some pass through the layers; outside of a step nothing changes.

    Args:
        kept: which, bool (B,).
    """
    step = _STEPS.get()
    if step is None:
        yield
        return
    token = _STEPS.set(step.only(kept.cpu()))
    try:
        yield
    finally:
        _STEPS.reset(token)


def alone() -> bool:
    """Whether no other process has rows of the same batch."""
    step = _STEPS.get()
    return step is None or step.add_up is None


def _mixed(z: Tensor) -> Tensor:
    """The finaliser of splitmix64, in place; 64-bit integers wrap around."""
    # torch shifts in copies of the sign, which the mask takes away.
    z ^= (z >> 30) & ((1 << 34) - 1)
    z *= _FIRST
    z ^= (z >> 27) & ((1 << 37) - 1)
    z *= _SECOND
    z ^= (z >> 31) & ((1 << 33) - 1)
    return z


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Set numbers to zero at random and scale up the others, in training only (arXiv:1207.0580).

    In a training step a mask is a function of the stream, the step, the row and the number of the call, whatever other
    rows there are; the probability is rounded to a multiple of 2 ** -16. Outside torch draws the masks.

    Args:
        x: values (B k, ...): of every row of the batch k consecutive ones (its layers, say).
        probability: share of zeros, below 1.
        training: whether to do anything.

    Raises:
        ValueError: if the first axis is not a multiple of the number of rows.
    """
    if not (training and probability):
        return x
    step = _STEPS.get()
    if step is None:
        return nn.functional.dropout(x, probability, training=True)
    if x.shape[0] % step.size:
        raise ValueError(f"dropout got {x.shape[0]} values from a batch of {step.size} rows, expected a multiple of it")
    each = x.numel() // step.size
    number = torch.arange(1, each // 4 + 2, device=x.device) * _STEP
    bits = _mixed(step.keys(x.device)[:, None] + number).view(torch.int16)[:, :each]
    zeros = min(round(probability * _LEVELS), _LEVELS - 1)
    kept = (bits >= zeros - _LEVELS // 2).reshape(x.shape)
    return x * (kept.to(x.dtype) * (_LEVELS / (_LEVELS - zeros)))


class Dropout(nn.Dropout):
    """A layer of :func:`dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Values (B k, ...) of a batch of B rows."""
        return dropout(x, self.p, self.training)


class _AllSum(torch.autograd.Function):
    """The sum over all processes; the gradient is likewise, because every process has a part of the loss."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, add_up: Callable[[Tensor], None]) -> Tensor:
        ctx.add_up = add_up
        total = values.clone()
        add_up(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # By itself again, so that a gradient penalty has a gradient through it.
        return _AllSum.apply(grad, ctx.add_up), None  # type: ignore[no-untyped-call]


def gathered(x: Tensor) -> Tensor:
    """The values of all rows of a batch, also those that other processes have; gradients go back to where they are from.

    Args:
        x: values (B, ...) of the rows of this process.

    Returns:
        (N, ...), in the order of the whole batch; ``x`` itself outside of a training step and where there is one process.

    Raises:
        RuntimeError: if there are several and the step does not say where these rows stand.
    """
    step = _STEPS.get()
    if step is None or step.add_up is None:
        return x
    if step.place is None:
        raise RuntimeError(
            "rows are gathered over several processes, and the training step does not say where they stand"
        )
    first, total = step.place
    whole = torch.cat([x.new_zeros(first, *x.shape[1:]), x, x.new_zeros(total - first - len(x), *x.shape[1:])])
    everything: Tensor = _AllSum.apply(whole, step.add_up)  # type: ignore[no-untyped-call]
    return everything


class _OverProcesses(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose mean and variance are those of the whole batch, however it is split (arXiv:1502.03167)."""

    def forward(self, x: Tensor) -> Tensor:
        """Values (N, C, ...)."""
        step = _STEPS.get()
        if not self.training or step is None or step.add_up is None:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        with torch.autocast(x.device.type, enabled=False):
            return self._normalised(x if x.dtype == torch.float64 else x.float(), step.add_up).to(x.dtype)

    def _normalised(self, x: Tensor, add_up: Callable[[Tensor], None]) -> Tensor:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = (1, -1, *(1 for _ in axes[1:]))
        own = x.new_full((1,), x.numel() // x.shape[1])
        sums: Tensor = _AllSum.apply(torch.cat([x.sum(dim=axes), own]), add_up)  # type: ignore[no-untyped-call]
        number = sums[-1].detach()
        mean = sums[:-1] / number
        centred = x - mean.view(shape)
        squares: Tensor = _AllSum.apply(centred.square().sum(dim=axes), add_up)  # type: ignore[no-untyped-call]
        variance = squares / number
        self._remember(mean.detach(), variance.detach() * (number / (number - 1)))
        scale = torch.rsqrt(variance + self.eps)
        return centred * (scale * self.weight).view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None  # noqa: PT018 - never left out here
        assert self.num_batches_tracked is not None and self.momentum is not None  # noqa: PT018
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


class BatchNorm1d(_OverProcesses, nn.BatchNorm1d):
    """Batch norm of values (N, C), over all processes in a training step.

    Args:
        features: number of features C.
        eps: added to the variance.
        momentum: weight of a batch in the running averages.
    """

    def __init__(self, features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(features, eps=eps, momentum=momentum)


class BatchNorm2d(_OverProcesses, nn.BatchNorm2d):
    """Batch norm of images (N, C, H, W), over all processes in a training step.

    Args:
        channels: number of channels C.
        eps: added to the variance.
        momentum: weight of a batch in the running averages.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
