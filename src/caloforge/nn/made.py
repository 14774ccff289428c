"""MADE: an autoregressive conditioner as one masked feed-forward network (Germain et al., arXiv:1502.03509).

Every unit has a degree. Input i (from 1 to D) has degree i; a hidden unit of degree d sees inputs and hidden units of
degree <= d; the parameters of output i see hidden units of degree < i. Hidden units are kept sorted by degree, so all
masks are staircases: row r of a weight matrix is non-zero in its first ``prefix[r]`` columns only. Products then skip
the empty corner, and the exact fast inverse can fill the hidden units in order.

Masked weights are zero from the start and stay so, because their gradient is exactly zero; they are never multiplied
by a mask in a forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from caloforge.errors import ConfigError
from caloforge.nn.batch_layers import dropout

__all__ = ["MADE", "MaskKind", "StaircaseLinear", "hidden_degrees"]

MaskKind: TypeAlias = Literal["even", "published"]

#: Rows of one step of a staircase product: large enough for an efficient matrix product, small enough to skip most
#: of the empty corner.
_ROWS_PER_STEP = 1024


def hidden_degrees(features: int, hidden_features: int, masks: MaskKind) -> Tensor:
    """Sorted degrees of the units of one hidden layer (hidden_features,), int64.

    Args:
        features: Number of autoregressive features D.
        hidden_features: Number of hidden units H.
        masks: ``"even"`` spreads the degrees evenly over 1 .. D - 1. ``"published"`` takes the degrees 1 .. D - 1 in
            turn, as nflows does, sorted: with H < D - 1 inputs beyond the H-th then condition nothing.

    Raises:
        ConfigError: If ``masks`` is neither of the two.
    """
    if masks not in ("even", "published"):
        raise ConfigError(f"masks must be 'even' or 'published', not '{masks}'")
    units = torch.arange(hidden_features, dtype=torch.int64)
    if features == 1:
        return torch.zeros_like(units)  # the only feature may see nothing but the context
    if masks == "published":
        return torch.sort(units % (features - 1) + 1).values
    if hidden_features == 1:
        return torch.tensor([max(1, features // 2)])
    steps = hidden_features - 1
    return 1 + (2 * units * (features - 2) + steps) // (2 * steps)


def _staircase_steps(prefix: Tensor, rows_per_step: int) -> list[tuple[int, int, int, int]]:
    """Cut a staircase into steps ``(first row, end row, shortest prefix, longest prefix)``, rows in order."""
    rows = prefix.numel()
    count = max(1, round(rows / rows_per_step))
    edges = [rows * k // count for k in range(count + 1)]
    return [(a, b, int(prefix[a]), int(prefix[b - 1])) for a, b in pairwise(edges)]


class _StaircaseProduct(torch.autograd.Function):
    """``x @ weight.T + bias`` where row r of weight is zero from column ``prefix[r]`` on; gradients likewise."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mask: Tensor,
        steps: list[tuple[int, int, int, int]],
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mask)
        ctx.steps = steps
        out = x.new_empty(x.shape[0], weight.shape[0])
        for first, end, _, longest in steps:
            torch.addmm(bias[first:end], x[:, :longest], weight[first:end, :longest].t(), out=out[:, first:end])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.zeros_like(x)
            for first, end, _, longest in ctx.steps:
                grad_x[:, :longest].addmm_(grad[:, first:end], weight[first:end, :longest])
        if ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(weight)
            for first, end, shortest, longest in ctx.steps:
                torch.mm(grad[:, first:end].t(), x[:, :longest], out=grad_weight[first:end, :longest])
                grad_weight[first:end, shortest:longest] *= mask[first:end, shortest:longest]
                grad_weight[first:end, longest:] = 0
        if ctx.needs_input_grad[2]:
            grad_bias = grad.new_ones(grad.shape[0]) @ grad  # a product is three times as fast as sum(dim=0)
        return grad_x, grad_weight, grad_bias, None, None


class StaircaseLinear(nn.Module):
    """A masked linear layer whose inputs and outputs are sorted by degree.

    Args:
        in_degrees: Sorted degrees of the inputs (I,).
        out_degrees: Sorted degrees of the outputs (O,).
        strict: An output sees inputs of smaller degree only (the last layer), not of equal degree.

    The weight (O, I) and bias (O,) start as in ``torch.nn.Linear`` (the fan-in counts masked inputs too, as nflows
    does), with the masked weights set to zero.
    """

    mask: Tensor

    def __init__(self, in_degrees: Tensor, out_degrees: Tensor, *, strict: bool) -> None:
        super().__init__()
        self.prefix = torch.searchsorted(in_degrees, out_degrees, right=not strict)
        self.in_features, self.out_features = in_degrees.numel(), out_degrees.numel()
        self._steps = _staircase_steps(self.prefix, _ROWS_PER_STEP)
        mask = torch.arange(self.in_features)[None, :] < self.prefix[:, None]
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter(torch.empty(self.out_features, self.in_features))
        self.bias = nn.Parameter(torch.empty(self.out_features))
        self.reset_parameters()
        self.register_load_state_dict_post_hook(StaircaseLinear._mask_after_loading)  # type: ignore[no-untyped-call]

    @staticmethod
    def _mask_after_loading(module: nn.Module, _incompatible: object) -> None:
        assert isinstance(module, StaircaseLinear)
        module.apply_mask()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights and biases, uniform within 1/sqrt(fan-in)."""
        limit = 1 / math.sqrt(self.in_features)
        self.weight.uniform_(-limit, limit)
        self.bias.uniform_(-limit, limit)
        self.apply_mask()

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Set masked weights to zero; call it after writing weights by hand (loading a state does it by itself)."""
        self.weight.mul_(self.mask)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to ``x`` (batch, I), giving (batch, O)."""
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return nn.functional.linear(x, self.weight, self.bias)
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if torch.compiler.is_compiling():  # a tracer sees through a product, not through the function below
            return nn.functional.linear(x, weight * self.mask, bias)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        out: Tensor = _StaircaseProduct.apply(x, weight, bias, self.mask, self._steps)  # type: ignore[no-untyped-call]
        return out

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class MADE(nn.Module):
    """Masked autoregressive conditioner: ``parameters_per_feature`` numbers per feature from the features before it.

    ``h = relu(masked(x) + relu(context layer(c)))``, then ``hidden_layers`` times ``h = dropout(relu(masked(h)))``,
    then a masked output layer. The context enters once, unmasked, as in nflows and CaloFlow (arXiv:2106.05285).

    Args:
        features: Number of autoregressive features D.
        context_features: Number of context values C; 0 for none.
        hidden_features: Units per hidden layer H.
        hidden_layers: Number of masked H -> H layers after the input layer; 0 is allowed.
        parameters_per_feature: Outputs per feature P.
        dropout: Dropout probability after each of the ``hidden_layers``.
        masks: How degrees are given to hidden units, see :func:`hidden_degrees`.

    Raises:
        ConfigError: If a size is out of range.
    """

    degrees: Tensor

    def __init__(
        self,
        *,
        features: int,
        context_features: int,
        hidden_features: int,
        hidden_layers: int,
        parameters_per_feature: int,
        dropout: float = 0.0,
        masks: MaskKind = "even",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("features", features, 1),
            ("context_features", context_features, 0),
            ("hidden_features", hidden_features, 1),
            ("hidden_layers", hidden_layers, 0),
            ("parameters_per_feature", parameters_per_feature, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} of a MADE must be at least {least}, not {value}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout of a MADE must lie in [0, 1), not {dropout}")
        self.features = features
        self.context_features = context_features
        self.hidden_features = hidden_features
        self.parameters_per_feature = parameters_per_feature
        self.dropout = dropout
        self.masks = masks
        inputs = torch.arange(1, features + 1)
        hidden = hidden_degrees(features, hidden_features, masks)
        self.register_buffer("degrees", hidden, persistent=False)
        self.input_layer = StaircaseLinear(inputs, hidden, strict=False)
        self.context_layer = nn.Linear(context_features, hidden_features) if context_features else None
        self.hidden = nn.ModuleList(StaircaseLinear(hidden, hidden, strict=False) for _ in range(hidden_layers))
        outputs = inputs.repeat_interleave(parameters_per_feature)
        self.output_layer = StaircaseLinear(hidden, outputs, strict=True)

    def layers(self) -> list[StaircaseLinear]:
        """The masked layers that lead into hidden units: the input layer, then the hidden-to-hidden ones."""
        return [self.input_layer, *cast("Iterable[StaircaseLinear]", self.hidden)]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of all features in one pass.

        Args:
            x: Features (batch, D).
            context: Conditions (batch, C); None if the network has none.

        Returns:
            Raw parameters (batch, D, P); those of feature i depend on features before i and on the context.
        """
        hidden = self.input_layer(x)
        if self.context_layer is not None:
            hidden = hidden + nn.functional.relu(self.context_layer(context))
        hidden = nn.functional.relu(hidden)
        for layer in self.hidden:
            hidden = dropout(nn.functional.relu(layer(hidden)), self.dropout, self.training)
        out: Tensor = self.output_layer(hidden)
        return out.view(x.shape[0], self.features, self.parameters_per_feature)
