"""Inverse autoregressive flows: fast sampling from the blocks of a masked autoregressive flow (arXiv:1606.04934).

Blocks, permutations and spline parameters mean the same as in ``caloforge.nn.autoregressive``; but each conditioner
reads the latent side of its splines. So one pass makes a sample, and the density of foreign data is what has to be
found feature by feature. A student of this kind can be compared with its teacher block by block
(``caloforge.nn.distillation``).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from caloforge.nn.autoregressive import AutoregressiveFlow

__all__ = ["InverseAutoregressiveFlow"]


class InverseAutoregressiveFlow(AutoregressiveFlow):
    """The flow whose conditioners read the latent side: one pass makes a sample.

    Arguments and errors are those of :class:`caloforge.nn.autoregressive.AutoregressiveFlow`; block number k and the
    permutation behind it stand at the same place of the chain from data to latent.
    """

    reads_latents: ClassVar[bool] = True

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`caloforge.nn.flow.ConditionalFlow.inverse`; one pass, with gradients."""
        self._check(z, context)
        logdet = z.new_zeros(z.shape[0])
        for block, permutation in reversed(list(self.chain())):
            if permutation is not None:
                z = permutation.inverse(z)
            z, contribution, _ = block.apply_to(z, context, inverse=True)
            logdet = logdet + contribution
        return z, logdet

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`caloforge.nn.flow.ConditionalFlow.forward`.

        It is exact, at about the arithmetic of one pass, and without gradients and dropout.
        """
        self._check(x, context)
        return self.solve(x, context)

    @torch.no_grad()
    def forward_reference(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, by D full passes through every block; slow, for tests and comparisons."""
        self._check(x, context)
        logdet = x.new_zeros(x.shape[0])
        for block, permutation in self.chain():
            z, slopes = torch.zeros_like(x), torch.zeros_like(x)
            for _ in range(self.features):
                z, slopes = block.spline(x, block.conditioner(z, context))
            logdet = logdet + slopes.sum(dim=-1)
            x = z if permutation is None else permutation(z)
        return x, logdet
