"""The logarithm with a margin: the non-negative half-line onto a part of the real line that is bounded below."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError

__all__ = ["LogMargin"]


class LogMargin(nn.Module):
    """``y = log(x + alpha)``, elementwise (CaloINN, arXiv:2312.09290: alpha = 1e-8).

    Args:
        alpha: the margin, above 0.

    Raises:
        ConfigError: if alpha is not positive.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not alpha > 0:
            raise ConfigError(f"the margin alpha of a logarithm must be positive, not {alpha}")
        self.alpha = alpha

    @property
    def reach(self) -> float:
        """Largest absolute value of an output for inputs in [0, 1]."""
        return max(-math.log(self.alpha), math.log1p(self.alpha))

    def transform(self, x: Tensor) -> Tensor:
        """The outputs alone, for training losses that need no log-determinant."""
        return torch.log(x + self.alpha)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values (N, D), not negative, to outputs (N, D) and log |det dy/dx| (N,), nats."""
        y = self.transform(x)
        return y, -y.sum(dim=-1)

    def restore(self, y: Tensor) -> Tensor:
        """The inputs alone; they may be as small as -alpha."""
        return torch.exp(y) - self.alpha

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (N, D) to values (N, D) and log |det dx/dy| (N,), nats."""
        return self.restore(y), y.sum(dim=-1)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {"transform": "log", "alpha": self.alpha}
