"""Dequantisation: uniform noise that spreads the spike of empty voxels, drawn anew in every epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.random import Streams

__all__ = ["DequantisationNoise"]


class DequantisationNoise(nn.Module):
    """Adds noise that is uniform in [0, width) to each of ``size`` energies of a row (arXiv:2106.05285, section 4.2).

    Args:
        size: numbers per row.
        width: MeV; one width or one for each energy. 0 adds nothing.

    Raises:
        ConfigError: if a width is negative.
    """

    width: Tensor

    def __init__(self, size: int, width: float | list[float]) -> None:
        super().__init__()
        widths = torch.as_tensor(width, dtype=torch.float64, device="cpu").expand(size).clone()
        if not bool((widths >= 0).all()):
            raise ConfigError(f"the width of training noise must not be negative, not {width}")
        self.size = size
        # Part of the configuration, so it need not be in the model's state.
        self.register_buffer("width", widths, persistent=False)
        self._silent = not bool((widths > 0).any())

    @property
    def mean(self) -> Tensor:
        """Mean of the noise, float64 (size,), MeV."""
        return self.width / 2

    def draw(self, streams: Streams, rows: Tensor, epoch: int) -> Tensor:
        """Uniform numbers in [0, 1) that depend on the seed, the row and the epoch only.

        Args:
            streams: random streams.
            rows: row numbers, int64 (N,), in CPU memory.
            epoch: number of the epoch (of the draw, for a likelihood).

        Returns:
            float64 (N, size), in CPU memory.
        """
        if self._silent:
            return torch.zeros(rows.shape[0], self.size, dtype=torch.float64)
        return torch.from_numpy(streams.uniform(np.asarray(rows), self.size, counters=epoch))

    def forward(self, energies: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Add noise.

        Args:
            energies: (N, size), MeV.
            uniform: from :meth:`draw`, (N, size).

        Returns:
            Noisy energies (N, size) in the precision of ``energies``, and the log-determinant 0 (N,).
        """
        return energies + self._scaled(energies, uniform), energies.new_zeros(energies.shape[0])

    def inverse(self, noisy: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Take the same noise away again; shapes as in :meth:`forward`."""
        return noisy - self._scaled(noisy, uniform), noisy.new_zeros(noisy.shape[0])

    def _scaled(self, like: Tensor, uniform: Tensor) -> Tensor:
        moved = uniform.to(device=like.device, dtype=like.dtype, non_blocking=True)
        return moved * self.width.to(like.dtype)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        widths = self.width.tolist()
        return {"transform": "uniform noise", "width_MeV": widths[0] if len(set(widths)) == 1 else widths}
