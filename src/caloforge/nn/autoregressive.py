"""Masked autoregressive flows: MADE conditioners driving rational-quadratic splines (arXiv:1705.07057, 1906.04032).

The chain runs from data to latent: block, permutation, block, ... One pass gives the exact density. The other
direction has to find the features of a block one after another; :meth:`MaskedAutoregressiveFlow.inverse` does it at
about half the arithmetic of a single pass (see ``caloforge.nn.inverse``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.nn.flow import ConditionalFlow, fixed_permutations
from caloforge.nn.inverse import invert_flow
from caloforge.nn.made import MADE, MaskKind
from caloforge.nn.permutations import FixedPermutation, IndexArray
from caloforge.nn.splines import SplineBlock, raw_parameter_count

__all__ = ["AutoregressiveFlow", "AutoregressiveSpline", "MaskedAutoregressiveFlow"]


class AutoregressiveSpline(SplineBlock):
    """One block: a MADE whose outputs are the raw spline parameters of each feature.

    Args:
        features: Number of features D.
        context_features: Number of context values; 0 for none.
        hidden_features: Units per hidden layer.
        hidden_layers: Masked hidden-to-hidden layers.
        bins: Spline bins K.
        bound: The spline acts on [-bound, bound].
        dropout: Dropout probability of the conditioner.
        masks: ``"even"`` or ``"published"``, see :func:`caloforge.nn.made.hidden_degrees`.
        min_bin_width: Smallest bin width as a fraction of the interval.
        min_bin_height: Smallest bin height as a fraction of the interval.
        min_derivative: Smallest interior derivative.
    """

    def __init__(
        self,
        *,
        features: int,
        context_features: int,
        hidden_features: int,
        hidden_layers: int,
        bins: int,
        bound: float,
        dropout: float,
        masks: MaskKind,
        min_bin_width: float,
        min_bin_height: float,
        min_derivative: float,
    ) -> None:
        super().__init__(bins, bound, min_bin_width, min_bin_height, min_derivative)
        self.conditioner = MADE(
            features=features,
            context_features=context_features,
            hidden_features=hidden_features,
            hidden_layers=hidden_layers,
            parameters_per_feature=raw_parameter_count(bins),
            dropout=dropout,
            masks=masks,
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to latent: (batch, D) and context (batch, C) to outputs (batch, D) and log-determinants (batch,)."""
        outputs, logabsdet = self.spline(x, self.conditioner(x, context))
        return outputs, logabsdet.sum(dim=-1)

    def inverse_reference(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent to data by D full passes: slow and obviously right; what the fast inverse is tested against."""
        x = torch.zeros_like(z)
        logabsdet = torch.zeros_like(z)
        for _ in range(z.shape[-1]):
            x, logabsdet = self.spline(z, self.conditioner(x, context), inverse=True)
        return x, logabsdet.sum(dim=-1)


class AutoregressiveFlow(ConditionalFlow):
    """A stack of autoregressive spline blocks with fixed permutations and a standard normal base distribution.

    Which side of its splines a conditioner reads is up to the subclass: the data side makes the density fast
    (:class:`MaskedAutoregressiveFlow`), the latent side makes sampling fast
    (:class:`caloforge.nn.inverse_autoregressive.InverseAutoregressiveFlow`).

    Args:
        features: Number of features D.
        context_features: Number of context values C; 0 for none.
        blocks: Number of blocks.
        hidden_features: Units per hidden layer of each conditioner.
        hidden_layers: Masked hidden-to-hidden layers of each conditioner.
        bins: Spline bins K.
        bound: Splines act on [-bound, bound] and are the identity outside.
        dropout: Dropout probability of the conditioners.
        masks: ``"even"`` or ``"published"``, see :func:`caloforge.nn.made.hidden_degrees`.
        permutations: Index arrays; number k follows block k in the direction from data to latent. At most ``blocks``.
        min_bin_width: Smallest bin width as a fraction of the interval.
        min_bin_height: Smallest bin height as a fraction of the interval.
        min_derivative: Smallest interior derivative.

    Raises:
        ConfigError: If a size is out of range or a permutation does not fit.
    """

    #: Whether the conditioners read the latent side of their splines.
    reads_latents: ClassVar[bool] = False

    def __init__(
        self,
        *,
        features: int,
        context_features: int,
        blocks: int,
        hidden_features: int,
        hidden_layers: int,
        bins: int = 8,
        bound: float = 14.0,
        dropout: float = 0.0,
        masks: MaskKind = "even",
        permutations: Sequence[Sequence[int] | IndexArray | Tensor] = (),
        min_bin_width: float = 1e-6,
        min_bin_height: float = 1e-6,
        min_derivative: float = 1e-6,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ConfigError(f"a flow needs at least one block, not {blocks}")
        self.features = features
        self.context_features = context_features
        self.bins = bins
        self.blocks = nn.ModuleList(
            AutoregressiveSpline(
                features=features,
                context_features=context_features,
                hidden_features=hidden_features,
                hidden_layers=hidden_layers,
                bins=bins,
                bound=bound,
                dropout=dropout,
                masks=masks,
                min_bin_width=min_bin_width,
                min_bin_height=min_bin_height,
                min_derivative=min_derivative,
            )
            for _ in range(blocks)
        )
        self.permutations = fixed_permutations(permutations, features=features, blocks=blocks)

    def chain(self) -> Iterator[tuple[AutoregressiveSpline, FixedPermutation | None]]:
        """Blocks in the direction from data to latent, each with the permutation behind it, if there is one."""
        permutations = cast("Iterable[FixedPermutation]", self.permutations)
        yield from zip_longest(cast("Iterable[AutoregressiveSpline]", self.blocks), permutations)


class MaskedAutoregressiveFlow(AutoregressiveFlow):
    """The flow whose conditioners read the data side: one pass gives the density (arXiv:1705.07057).

    Arguments and errors are those of :class:`AutoregressiveFlow`.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`caloforge.nn.flow.ConditionalFlow.forward`; one pass."""
        self._check(x, context)
        logdet = x.new_zeros(x.shape[0])
        for block, permutation in self.chain():
            x, contribution = block(x, context)
            logdet = logdet + contribution
            if permutation is not None:
                x = permutation(x)
        return x, logdet

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`caloforge.nn.flow.ConditionalFlow.inverse`.

        It is exact, at about half the arithmetic of one dense pass, and without gradients and dropout.
        """
        self._check(z, context)
        return invert_flow(self, z, context)

    def inverse_reference(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`inverse`, by D full passes through every block; slow, for tests and comparisons."""
        self._check(z, context)
        logdet = z.new_zeros(z.shape[0])
        for block, permutation in reversed(list(self.chain())):
            if permutation is not None:
                z = permutation.inverse(z)
            z, contribution = block.inverse_reference(z, context)
            logdet = logdet + contribution
        return z, logdet
