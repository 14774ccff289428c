"""Coupling flows: splines on one half of the features, driven by a network that sees the other half (arXiv:1906.04032).

Both directions cost one pass through the networks, unlike those of an autoregressive flow. The price is that one block
leaves half of the features alone, so more blocks are needed. The chain runs from data to latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import cast

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.kernels.ops.cubic_splines import cubic_parameter_count, cubic_spline
from caloforge.kernels.ops.spline_layer import SplineKind
from caloforge.kernels.ops.splines import raw_parameter_count
from caloforge.nn.batch_layers import BatchNorm1d, Dropout
from caloforge.nn.flow import ConditionalFlow, fixed_permutations
from caloforge.nn.perceptron import Perceptron
from caloforge.nn.permutations import FixedPermutation, IndexArray
from caloforge.nn.splines import SplineBlock, SplineSettings

__all__ = ["ActNorm", "CouplingFlow", "SplineCoupling", "SplineKind", "conditioner", "spline_size"]

_SPLINES = SplineSettings(bins=10)


def spline_size(kind: SplineKind, bins: int) -> int:
    """Number of raw parameters of one spline."""
    return raw_parameter_count(bins) if kind == "rqs" else cubic_parameter_count(bins)


def conditioner(
    inputs: int, outputs: int, *, hidden_features: int, layers: int, batch_norm: bool = False, dropout: float = 0.0
) -> Perceptron:
    """A network of linear layers with leaky ReLUs between them; the last layer starts at zero.

    Args:
        inputs: Numbers that come in.
        outputs: Numbers that go out.
        hidden_features: Units of each hidden layer.
        layers: Linear layers, the last one included; at least 1.
        batch_norm: Normalise every hidden layer over the batch.
        dropout: Dropout probability behind every hidden layer.
    """
    modules: list[nn.Module] = []
    width = inputs
    for _ in range(layers - 1):
        modules.append(nn.Linear(width, hidden_features))
        if batch_norm:
            modules.append(BatchNorm1d(hidden_features))
        modules.append(nn.LeakyReLU())
        if dropout:
            modules.append(Dropout(dropout))
        width = hidden_features
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return Perceptron(*modules, last)


class ActNorm(nn.Module):
    """``y = (x - mean) * exp(log_scale)`` with trainable numbers for each feature (arXiv:1807.03039, section 3.1).

    Args:
        features: Number of features, the second axis of the values; axes behind it (those of an image) share them.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Give these values (N, D, ...) mean 0 and standard deviation 1."""
        rows = x.transpose(0, 1).flatten(1).double()
        self.mean.copy_(rows.mean(dim=1))
        self.log_scale.copy_(-torch.log(rows.std(dim=1).clamp_min(1e-3)))

    def _shaped(self, like: Tensor) -> tuple[Tensor, Tensor, int]:
        shape = (1, -1) + (1,) * (like.ndim - 2)
        return self.mean.view(shape), self.log_scale.view(shape), like[0, 0].numel() if len(like) else 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values (N, D, ...) to outputs of the same shape and the log-determinant (N,)."""
        mean, log_scale, places = self._shaped(x)
        return (x - mean) * torch.exp(log_scale), (places * self.log_scale.sum()).expand(x.shape[0])

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward`; log-determinant of the inverse (N,)."""
        mean, log_scale, places = self._shaped(y)
        return y * torch.exp(-log_scale) + mean, -(places * self.log_scale.sum()).expand(y.shape[0])


class SplineCoupling(SplineBlock):
    """One block: the first ``ceil(D / 2)`` features and the context set the splines of the others.

    Args:
        features: Number of features D, at least 2.
        context_features: Number of context values C; 0 for none.
        hidden_features: Units of each hidden layer of the network.
        layers: Linear layers of the network.
        spline: ``"rqs"`` or ``"cubic"``.
        splines: Bins, interval and least sizes of the splines.
        batch_norm: Normalise the hidden layers over the batch.
        dropout: Dropout probability.
        whole_rows: A row of which one transformed feature lies outside the splines' interval passes as it is, not that
            feature alone (so does the program of arXiv:2312.09290).

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self,
        *,
        features: int,
        context_features: int,
        hidden_features: int,
        layers: int,
        spline: SplineKind,
        splines: SplineSettings,
        batch_norm: bool,
        dropout: float,
        whole_rows: bool = False,
    ) -> None:
        super().__init__(splines)
        if features < 2:
            raise ConfigError(f"a coupling block needs at least two features, not {features}")
        self.features = features
        self.passive = (features + 1) // 2
        self.active = features - self.passive
        self.kind = spline
        self.whole_rows = whole_rows
        self.network = conditioner(
            self.passive + context_features,
            self.active * spline_size(spline, splines.bins),
            hidden_features=hidden_features,
            layers=layers,
            batch_norm=batch_norm,
            dropout=dropout,
        )

    def spline(self, values: Tensor, raw_parameters: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """See :meth:`caloforge.nn.splines.SplineBlock.spline`; a cubic spline if the block is of that kind."""
        if self.kind != "cubic":
            return super().spline(values, raw_parameters, inverse=inverse)
        limits = {"bound": self.bound, "min_bin_width": self.min_bin_width, "min_bin_height": self.min_bin_height}
        return cubic_spline(values, raw_parameters, **limits, inverse=inverse)

    def _run(self, values: Tensor, context: Tensor | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        passive, active = values[:, : self.passive], values[:, self.passive :]
        seen = passive if context is None else torch.cat([passive, context], dim=1)
        last = cast("nn.Linear", self.network[-1])
        made, logdet, _ = self.spline_layer(active, self.network.hidden_units(seen), last, inverse=inverse)
        if self.whole_rows:
            inside = self.row_inside(active)
            made = torch.where(inside[:, None], made, active)
            logdet = torch.where(inside, logdet, torch.zeros_like(logdet))
        return torch.cat([passive, made], dim=1), logdet

    def row_inside(self, active: Tensor) -> Tensor:
        """Whether all transformed features of a row (batch, A) lie in the interval, bool (batch,)."""
        return (active.abs() <= self.bound).all(dim=1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to latent: (batch, D) and context (batch, C) to outputs (batch, D) and log-determinants (batch,)."""
        return self._run(x, context, inverse=False)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent to data; shapes as in :meth:`forward`."""
        return self._run(z, context, inverse=True)


class CouplingFlow(ConditionalFlow):
    """A stack of coupling blocks with fixed permutations and activation norms, on a standard normal base distribution.

    Args:
        features: Number of features D.
        context_features: Number of context values C; 0 for none.
        blocks: Number of blocks.
        hidden_features: Units of each hidden layer of each network.
        layers: Linear layers of each network.
        permutations: Index arrays; number k follows block k in the direction from data to latent. At most ``blocks``.
        spline: ``"rqs"`` or ``"cubic"``.
        splines: Bins, interval and least sizes of the splines.
        act_norm: Put an activation norm in front of every block but the first.
        batch_norm: Normalise the hidden layers of the networks over the batch.
        dropout: Dropout probability of the networks.
        whole_rows: See :class:`SplineCoupling`.

    Raises:
        ConfigError: If a setting is out of range or a permutation does not fit.
    """

    def __init__(
        self,
        *,
        features: int,
        context_features: int,
        blocks: int,
        hidden_features: int,
        layers: int,
        permutations: Sequence[Sequence[int] | IndexArray | Tensor] = (),
        spline: SplineKind = "rqs",
        splines: SplineSettings = _SPLINES,
        act_norm: bool = True,
        batch_norm: bool = False,
        dropout: float = 0.0,
        whole_rows: bool = False,
    ) -> None:
        super().__init__()
        if blocks < 1 or layers < 1:
            raise ConfigError(f"a coupling flow needs at least one block and one layer, not {blocks} and {layers}")
        self.features = features
        self.context_features = context_features
        self.blocks = nn.ModuleList(
            SplineCoupling(
                features=features,
                context_features=context_features,
                hidden_features=hidden_features,
                layers=layers,
                spline=spline,
                splines=splines,
                batch_norm=batch_norm,
                dropout=dropout,
                whole_rows=whole_rows,
            )
            for _ in range(blocks)
        )
        self.norms = nn.ModuleList(ActNorm(features) for _ in range(blocks - 1 if act_norm else 0))
        self.permutations = fixed_permutations(permutations, features=features, blocks=blocks)

    def chain(self) -> Iterator[tuple[ActNorm | None, SplineCoupling, FixedPermutation | None]]:
        """Blocks in the direction from data to latent, each with the norm in front and the permutation behind it."""
        norms = [None, *cast("Iterable[ActNorm]", self.norms)]
        blocks = cast("Iterable[SplineCoupling]", self.blocks)
        permutations = cast("Iterable[FixedPermutation]", self.permutations)
        yield from zip_longest(norms[: len(self.blocks)], blocks, permutations)

    @torch.no_grad()
    def start_norms(self, values: Tensor, start: Callable[[SplineCoupling, Tensor], None] | None = None) -> None:
        """Set the activation norms so that what passes them has mean 0 and standard deviation 1 (arXiv:1807.03039).

        Args:
            values: training data as the flow sees them, (rows, D).
            start: sets initial weights of a block from the variables that it transforms, (rows, A), before they pass it; the
                splines must not depend on the others then.
        """
        for norm, block, permutation in self.chain():
            if norm is not None:
                norm.start_from(values)
                values, _ = norm(values)
            passive, active = values[:, : block.passive], values[:, block.passive :]
            if start is not None:
                start(block, active)
            raw = cast("nn.Linear", block.network[-1]).bias.view(block.active, -1).expand(len(values), -1, -1)
            made, _ = block.spline(active, raw)
            active = torch.where(block.row_inside(active)[:, None], made, active) if block.whole_rows else made
            values = torch.cat([passive, active], dim=1)
            values = values if permutation is None else permutation(values)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`caloforge.nn.flow.ConditionalFlow.forward`."""
        self._check(x, context)
        logdet = x.new_zeros(x.shape[0])
        for norm, block, permutation in self.chain():
            if norm is not None:
                x, contribution = norm(x)
                logdet = logdet + contribution
            x, contribution = block(x, context)
            logdet = logdet + contribution
            if permutation is not None:
                x = permutation(x)
        return x, logdet

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`caloforge.nn.flow.ConditionalFlow.inverse`; exact."""
        self._check(z, context)
        logdet = z.new_zeros(z.shape[0])
        for norm, block, permutation in reversed(list(self.chain())):
            if permutation is not None:
                z = permutation.inverse(z)
            z, contribution = block.inverse(z, context)
            logdet = logdet + contribution
            if norm is not None:
                z, contribution = norm.inverse(z)
                logdet = logdet + contribution
        return z, logdet
