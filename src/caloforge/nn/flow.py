"""What flows of vectors share: the check of their inputs, the base distribution, and the permutations between blocks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from caloforge.errors import ConfigError, UsageError
from caloforge.nn.permutations import FixedPermutation, IndexArray

__all__ = ["ConditionalFlow", "fixed_permutations", "log_density"]


def log_density(latents: Tensor, logdet: Tensor) -> Tensor:
    """Logarithm of the density of data whose latents are standard normal.

    Args:
        latents: z, (N, D).
        logdet: log |det dz/dx|, (N,), nats.

    Returns:
        Nats, (N,).
    """
    return logdet - 0.5 * latents.square().sum(dim=-1) - 0.5 * latents.shape[-1] * math.log(2 * math.pi)


def fixed_permutations(
    permutations: Sequence[Sequence[int] | IndexArray | Tensor], *, features: int, blocks: int
) -> nn.ModuleList:
    """The permutations behind the blocks of a flow.

    Args:
        permutations: Index arrays, each a permutation of 0 .. features - 1.
        features: Number of features.
        blocks: Number of blocks.

    Raises:
        ConfigError: If there are more of them than blocks, or one does not fit the features.
    """
    if len(permutations) > blocks:
        raise ConfigError(f"{len(permutations)} permutations do not fit behind {blocks} blocks")
    modules = [FixedPermutation(index) for index in permutations]
    for permutation in modules:
        if permutation.index.numel() != features:
            raise ConfigError(f"a permutation of {permutation.index.numel()} does not fit {features} features")
    return nn.ModuleList(modules)


class ConditionalFlow(nn.Module, ABC):
    """An invertible map between data and standard normal latents, given conditions; subclasses set the two sizes.

    Attributes:
        features: number of features D.
        context_features: number of context values C; 0 for none.
    """

    features: int
    context_features: int

    def _check(self, values: Tensor, context: Tensor | None) -> None:
        """Refuse values and conditions of other shapes than (batch, D) and (batch, C)."""
        if values.ndim != 2 or values.shape[1] != self.features:
            raise UsageError(f"the flow expects values of shape (batch, {self.features}), not {tuple(values.shape)}")
        expected = (values.shape[0], self.context_features)
        found = (values.shape[0], 0) if context is None else tuple(context.shape)
        if found != expected:
            raise UsageError(f"the flow expects a context of shape {expected}, not {found}")

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to latent.

        Args:
            x: Data (batch, D).
            context: Conditions (batch, C); None if C is 0.

        Returns:
            Latents z (batch, D) and log |det dz/dx| (batch,), nats.

        Raises:
            UsageError: If a shape does not fit.
        """

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent to data.

        Args:
            z: Latents (batch, D).
            context: Conditions (batch, C); None if C is 0.

        Returns:
            Data x (batch, D) and log |det dx/dz| (batch,), nats.

        Raises:
            UsageError: If a shape does not fit.
        """

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Logarithm of the density of ``x`` (batch, D) given ``context`` (batch, C), nats, (batch,)."""
        return log_density(*self(x, context))
