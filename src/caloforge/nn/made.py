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
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.kernels.ops.linear import Staircase, linear
from caloforge.kernels.ops.registry import ordinary
from caloforge.nn.batch_layers import dropout

__all__ = ["MADE", "MaskKind", "StaircaseLinear", "hidden_degrees"]

MaskKind: TypeAlias = Literal["even", "published"]


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
        self.stairs = Staircase(self.prefix)
        self.in_features, self.out_features = in_degrees.numel(), out_degrees.numel()
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

    def forward(self, x: Tensor, extra: Tensor | None = None, slope: float = 1.0) -> Tensor:
        """Apply the layer and, with ``slope`` other than 1, a leaky ReLU behind it.

        Args:
            x: inputs (batch, I).
            extra: added before the activation, (batch, O).
            slope: of the activation below zero; 0 for a ReLU, 1 for none.

        Returns:
            (batch, O).
        """
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if not ordinary(x, weight, bias):
            # A tracer or a function transform sees through a product, not through the operator.
            if torch.is_grad_enabled() and weight.requires_grad:
                weight = weight * self.mask
            out = nn.functional.linear(x, weight, bias)
            out = out if extra is None else out + extra
            return (
                out if slope == 1 else nn.functional.relu(out) if slope == 0 else nn.functional.leaky_relu(out, slope)
            )
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        return linear(x, weight, bias, stairs=self.stairs, extra=extra, slope=slope)

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

    def hidden_units(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What the output layer sees.

        Args:
            x: Features (batch, D).
            context: Conditions (batch, C); None if the network has none.

        Returns:
            Units of the last hidden layer (batch, H).
        """
        extra = None if self.context_layer is None else nn.functional.relu(self.context_layer(context))
        hidden: Tensor = self.input_layer(x, extra, 0.0)
        for layer in self.hidden:
            hidden = dropout(layer(hidden, slope=0.0), self.dropout, self.training)
        return hidden

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of all features in one pass.

        Args:
            x: Features (batch, D).
            context: Conditions (batch, C); None if the network has none.

        Returns:
            Raw parameters (batch, D, P); those of feature i depend on features before i and on the context.
        """
        out: Tensor = self.output_layer(self.hidden_units(x, context))
        return out.view(x.shape[0], self.features, self.parameters_per_feature)
