"""Masked autoregressive flows: MADE conditioners driving rational-quadratic splines (arXiv:1705.07057, 1906.04032).

The chain runs from data to latent: block, permutation, block, ... One pass gives the exact density. The other
direction has to find the features of a block one after another; :meth:`MaskedAutoregressiveFlow.inverse` does it at
about half the arithmetic of a single pass (see ``caloforge.kernels.ops.autoregressive``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.kernels.ops.autoregressive import (
    BlockWeights,
    FlowSizes,
    flow_plan,
    pack_autoregressive,
    ready_units,
    solve_autoregressive,
    solve_blocks,
)
from caloforge.kernels.ops.packing import PackedCopies
from caloforge.kernels.ops.registry import served
from caloforge.kernels.ops.splines import raw_parameter_count
from caloforge.nn.flow import ConditionalFlow, fixed_permutations
from caloforge.nn.made import MADE, MaskKind
from caloforge.nn.permutations import FixedPermutation, IndexArray
from caloforge.nn.splines import SplineBlock, SplineSettings
from caloforge.nn.weights import weights_now

__all__ = ["AutoregressiveFlow", "AutoregressiveSpline", "MaskedAutoregressiveFlow"]

_SPLINES = SplineSettings()

#: Up to this batch size showers are inverted one by one: a tile reads all weights however few its showers are.
_MOST_SINGLE = 2


class AutoregressiveSpline(SplineBlock):
    """One block: a MADE whose outputs are the raw spline parameters of each feature.

    Args:
        features: Number of features D.
        context_features: Number of context values; 0 for none.
        hidden_features: Units per hidden layer.
        hidden_layers: Masked hidden-to-hidden layers.
        splines: Bins, interval and least sizes of the splines.
        dropout: Dropout probability of the conditioner.
        masks: ``"even"`` or ``"published"``, see :func:`caloforge.nn.made.hidden_degrees`.
    """

    def __init__(
        self,
        *,
        features: int,
        context_features: int,
        hidden_features: int,
        hidden_layers: int,
        splines: SplineSettings,
        dropout: float,
        masks: MaskKind,
    ) -> None:
        super().__init__(splines)
        self.conditioner = MADE(
            features=features,
            context_features=context_features,
            hidden_features=hidden_features,
            hidden_layers=hidden_layers,
            parameters_per_feature=raw_parameter_count(splines.bins),
            dropout=dropout,
            masks=masks,
        )

    def weights(self, source: Tensor | None) -> BlockWeights:
        """What solves this block; ``source`` says which of the incoming values is which feature."""
        made = self.conditioner
        context = made.context_layer
        return BlockWeights(
            ready_units(made.degrees, made.features),
            source,
            [(layer.weight, layer.bias) for layer in made.layers()],
            None if context is None else (context.weight, context.bias),
            (made.output_layer.weight, made.output_layer.bias),
        )

    def apply_to(
        self, values: Tensor, context: Tensor | None = None, *, inverse: bool = False, keep_raw: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Splines whose parameters the conditioner finds from these very values.

        Args:
            values: (batch, D).
            context: (batch, C), or None.
            inverse: whether the splines are applied from latents to data.
            keep_raw: whether the raw parameters are wanted.

        Returns:
            Outputs (batch, D), log-determinants (batch,), and raw parameters in tiles of rows, see
            :meth:`caloforge.nn.splines.SplineBlock.spline_layer`.
        """
        hidden = self.conditioner.hidden_units(values, context)
        return self.spline_layer(values, hidden, self.conditioner.output_layer, inverse=inverse, keep_raw=keep_raw)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to latent: (batch, D) and context (batch, C) to outputs (batch, D) and log-determinants (batch,)."""
        return self.apply_to(x, context)[:2]

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
        splines: Bins, interval and least sizes of the splines.
        dropout: Dropout probability of the conditioners.
        masks: ``"even"`` or ``"published"``, see :func:`caloforge.nn.made.hidden_degrees`.
        permutations: Index arrays; number k follows block k in the direction from data to latent. At most ``blocks``.

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
        splines: SplineSettings = _SPLINES,
        dropout: float = 0.0,
        masks: MaskKind = "even",
        permutations: Sequence[Sequence[int] | IndexArray | Tensor] = (),
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ConfigError(f"a flow needs at least one block, not {blocks}")
        self.features = features
        self.context_features = context_features
        self.bins = splines.bins
        self.blocks = nn.ModuleList(
            AutoregressiveSpline(
                features=features,
                context_features=context_features,
                hidden_features=hidden_features,
                hidden_layers=hidden_layers,
                splines=splines,
                dropout=dropout,
                masks=masks,
            )
            for _ in range(blocks)
        )
        self.permutations = fixed_permutations(permutations, features=features, blocks=blocks)

    def chain(self) -> Iterator[tuple[AutoregressiveSpline, FixedPermutation | None]]:
        """Blocks in the direction from data to latent, each with the permutation behind it, if there is one."""
        permutations = cast("Iterable[FixedPermutation]", self.permutations)
        yield from zip_longest(cast("Iterable[AutoregressiveSpline]", self.blocks), permutations)

    def solve(self, given: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The slow direction, exactly, at about half the arithmetic of one pass, without gradients and dropout.

        Args:
            given: latents, or data for a flow that reads latents, (batch, D).
            context: conditions (batch, C), or None.

        Returns:
            What was looked for (batch, D), and the log |det| of this direction (batch,), nats.
        """
        tensors, copies = self._weights()
        spline = cast("AutoregressiveSpline", self.blocks[0]).spline_shape
        if not (served(given, tensors[0]) and given.dtype == tensors[0].dtype):
            return self.solve_plainly(given, context)
        # One at a time is for the latency of sampling, which is not the slow direction of a flow that reads latents.
        single = len(given) <= _MOST_SINGLE and given.is_cpu and not self.reads_latents
        packed, plan = copies.get(tensors, single, lambda: self._pack(single))
        return solve_autoregressive(packed, plan, given, context, spline, single=single)

    def solve_plainly(self, given: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """As :meth:`solve`, in plain PyTorch, on any device."""
        blocks, last = self._solving_order()
        spline = cast("AutoregressiveSpline", self.blocks[0]).spline_shape
        return solve_blocks(blocks, last, given, context, spline, inverse=not self.reads_latents)

    def packed(self, *, single: bool) -> tuple[Tensor, Tensor]:
        """The weights as one tensor, and what it looks like; from memory if nothing has changed since.

        Args:
            single: for one shower at a time.
        """
        tensors, copies = self._weights()
        return copies.get(tensors, single, lambda: self._pack(single))

    def unpacked(self) -> tuple[list[Tensor], Tensor]:
        """Weights and biases in the order in which they are packed, and the plan: what a program with the same kernels needs."""
        blocks, last = self._solving_order()
        return [tensor.detach() for block in blocks for tensor in block.tensors()], flow_plan(
            self._sizes(), blocks, last
        )

    @property
    def spline_shape(self) -> tuple[float, ...]:
        """Bound, smallest relative bin width and height, smallest derivative of all splines."""
        return cast("AutoregressiveSpline", self.blocks[0]).spline_shape

    def _pack(self, single: bool) -> tuple[Tensor, Tensor]:
        blocks, last = self._solving_order()
        plan = flow_plan(self._sizes(), blocks, last)
        return pack_autoregressive(blocks, plan, single=single), plan

    def _sizes(self) -> FlowSizes:
        made = cast("AutoregressiveSpline", self.blocks[0]).conditioner
        layers = 1 + len(made.hidden)
        return FlowSizes(
            self.features, self.context_features, made.hidden_features, layers, self.bins, self.reads_latents
        )

    def _weights(self) -> tuple[list[Tensor], PackedCopies[tuple[Tensor, Tensor]]]:
        """Weights and indices, as they are now, and packed copies of them."""
        return weights_now(self, [self.blocks, self.permutations], ("index",))

    def _solving_order(self) -> tuple[list[BlockWeights], Tensor | None]:
        """The blocks in the order in which they are solved, and the index that reorders what comes out of the last."""
        chain = list(self.chain())
        if not self.reads_latents:
            return [b.weights(None if p is None else p.inverse_index) for b, p in reversed(chain)], None
        indices = [None, *(None if p is None else p.index for _, p in chain)]
        return [b.weights(index) for (b, _), index in zip(chain, indices, strict=False)], indices[-1]


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
        return self.solve(z, context)

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
