"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """Average of weights over the steps, the last ones counting most.

    Args:
        parameters: the weights.
        decay: share of the average that survives a step.
        warmup: power p of a warm-up, in which the decay after k steps is at most ``1 - (1 + k) ** -p``; None has none.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float, warmup: float | None = None) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._warmup = warmup
        self._average = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, steps: int = 0) -> None:
        """Take in the present weights.

        Args:
            steps: how often this was done before, for the warm-up.
        """
        decay = self._decay if self._warmup is None else min(self._decay, 1 - (1 + steps) ** -self._warmup)
        torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the weights are their average."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for number, parameter in enumerate(self._parameters):
            parameter.data, self._average[number] = self._average[number], parameter.data

    def state(self) -> dict[str, Tensor]:
        """The average, by number of the weight."""
        return {str(number): tensor for number, tensor in enumerate(self._average)}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over an average."""
        for number, tensor in enumerate(self._average):
            tensor.copy_(state[str(number)])
