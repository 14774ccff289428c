"""The logit with a margin: the unit interval onto a bounded part of the real line."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError

__all__ = ["Logit"]


class Logit(nn.Module):
    """``y = logit(alpha + (1 - 2 alpha) x)`` (arXiv:2106.05285, equations 4.2 and 4.3).

    With alpha = 1e-6 the ends 0 and 1 map to -13.8 and 13.8.

    Args:
        alpha: the margin, 0 < alpha < 1/2.

    Raises:
        ConfigError: if alpha is out of range.
    """

    def __init__(self, alpha: float = 1e-6) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ConfigError(f"the margin alpha of a logit must lie between 0 and 1/2, not {alpha}")
        self.alpha = alpha

    @property
    def reach(self) -> float:
        """Largest absolute value of an output."""
        return math.log1p(-self.alpha) - math.log(self.alpha)

    def transform(self, x: Tensor) -> Tensor:
        """The outputs alone, for training losses that need no log-determinant."""
        p = self.alpha + (1 - 2 * self.alpha) * x
        return torch.log(p) - torch.log1p(-p)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Unit interval to real line.

        Args:
            x: values in [0, 1], (N, D).

        Returns:
            Outputs (N, D) and log |det dy/dx| (N,), nats.
        """
        p = self.alpha + (1 - 2 * self.alpha) * x
        log_p, log_q = torch.log(p), torch.log1p(-p)
        scale = torch.log1p(torch.full_like(log_p[..., :1], -2 * self.alpha))
        return log_p - log_q, (scale - log_p - log_q).sum(dim=-1)

    def restore(self, y: Tensor, *, clamp: bool = True) -> Tensor:
        """The inputs alone; see :meth:`inverse`."""
        x = (torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha)
        return x.clamp(0, 1) if clamp else x

    def inverse(self, y: Tensor, *, clamp: bool = True) -> tuple[Tensor, Tensor]:
        """Real line to unit interval.

        Args:
            y: values (N, D).
            clamp: limit the results to [0, 1]; without it they may lie outside by as much as alpha.

        Returns:
            Inputs x (N, D) and log |det dx/dy| of the unclamped map (N,), nats.
        """
        scale = torch.log1p(torch.full_like(y[..., :1], -2 * self.alpha))
        log_slope = -nn.functional.softplus(y) - nn.functional.softplus(-y) - scale
        return self.restore(y, clamp=clamp), log_slope.sum(dim=-1)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {"transform": "logit", "alpha": self.alpha}
