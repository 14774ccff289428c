"""ShowerFlow: the conditional coupling flow that gives points and energies of all layers (arXiv:2309.05704, section 3.1).

Affine couplings alternate with fixed random permutations; between them stand elementwise linear-rational splines whose
parameters depend on the condition only. The order of the layers is that of CaloClouds2 or that of CaloClouds3, written
in the direction of sampling, from the normal numbers to the data.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.kernels.ops.linear_rational import linear_rational_spline, raw_linear_rational_count
from caloforge.kernels.ops.registry import eager
from caloforge.kernels.ops.showerflow import FlowStep, pack_showerflow, run_steps, sample_showerflow, showerflow_plan
from caloforge.nn.flow import log_density
from caloforge.nn.perceptron import Perceptron
from caloforge.nn.permutations import FixedPermutation, random_all
from caloforge.nn.weights import weights_now

__all__ = ["BlockOrder", "PackedFlow", "ShowerFlow"]

BlockOrder = Literal["caloclouds2", "caloclouds3"]

#: Up to this batch size a flow takes showers one by one: only then can weights of silent units be left unread.
_MOST_SINGLE = 2

#: a: affine coupling, p: permutation, s: spline.
_ORDERS: dict[str, str] = {"caloclouds2": "apapap" + "ps" + "apapap", "caloclouds3": "apapap" + "sp" + "apapap"}


def _network(inputs: int, hidden: int, outputs: int) -> Perceptron:
    """Two hidden layers with ReLU; the last layer is zero, so that every transform begins as the identity."""
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return Perceptron(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)


def _linear_weights(network: nn.Sequential) -> list[Tensor]:
    """Weights and biases of its linear layers."""
    return [tensor for layer in network if isinstance(layer, nn.Linear) for tensor in (layer.weight, layer.bias)]


class PackedFlow(NamedTuple):
    """Weights of a flow as the operator takes them, how large everything is, and whether for showers made one by one."""

    weights: Tensor
    plan: Tensor
    single: bool


class _AffineCoupling(nn.Module):
    """The first half stays; it and the condition shift and stretch the second half."""

    def __init__(self, features: int, context_features: int, hidden: int) -> None:
        super().__init__()
        self.kept = features // 2
        self.network = _network(self.kept + context_features, hidden, 2 * (features - self.kept))

    def _parameters_of(self, kept: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.network(torch.cat([kept, context], dim=-1)).chunk(2, dim=-1)
        return shift, torch.tanh(raw)

    def normalise(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x[..., : self.kept], x[..., self.kept :]
        shift, log_scale = self._parameters_of(kept, context)
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=-1), -log_scale.sum(dim=-1)


class _ConditionalSpline(nn.Module):
    """One spline for each feature; only the condition decides about its shape."""

    def __init__(self, features: int, context_features: int, hidden: int, bins: int, bound: float) -> None:
        super().__init__()
        self.features = features
        self.bound = bound
        self.network = _network(context_features, hidden, features * raw_linear_rational_count(bins))

    def _raw(self, context: Tensor) -> Tensor:
        raw: Tensor = self.network(context)
        return raw.reshape(*raw.shape[:-1], self.features, -1)

    def normalise(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        z, logdet = linear_rational_spline(x, self._raw(context), bound=self.bound, inverse=True)
        return z, logdet.sum(dim=-1)


class _Permutation(FixedPermutation):
    def normalise(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.inverse(x), x.new_zeros(x.shape[:-1])


class ShowerFlow(nn.Module):
    """The flow.

    Args:
        features: numbers per shower, D (60 or 65 for 30 layers).
        context_features: length of the condition.
        blocks: each holds six affine couplings and one spline; 10 and 2 are the published numbers.
        order: how the layers of a block follow each other.
        affine_hidden: width of the couplings' networks; None takes 10 D.
        spline_hidden: width of the splines' networks; None takes 4 D.
        bins: of every spline.
        bound: the splines act on [-bound, bound].
        seed: of the fixed permutations.

    Raises:
        ConfigError: if there are fewer than two features or no blocks.
    """

    def __init__(
        self,
        features: int,
        context_features: int,
        *,
        blocks: int,
        order: BlockOrder,
        affine_hidden: int | None = None,
        spline_hidden: int | None = None,
        bins: int = 8,
        bound: float = 3.0,
        seed: int = 42,
    ) -> None:
        super().__init__()
        if features < 2 or blocks < 1:
            raise ConfigError(f"a ShowerFlow needs two features and a block, not {features} and {blocks}")
        self.features = features
        self.context_features = context_features
        self.bins, self.bound = bins, bound
        layers: list[nn.Module] = []
        for number, kind in enumerate(_ORDERS[order] * blocks):
            if kind == "a":
                layers.append(_AffineCoupling(features, context_features, affine_hidden or 10 * features))
            elif kind == "s":
                hidden = spline_hidden or 4 * features
                layers.append(_ConditionalSpline(features, context_features, hidden, bins, bound))
            else:
                layers.append(_Permutation(random_all(features, seed=seed, stream=number)))
        self.layers = nn.ModuleList(layers)

    def sample(self, z: Tensor, context: Tensor) -> Tensor:
        """Standard normal numbers (N, D) and conditions (N, C) to features (N, D).

        Without gradients, and on a CPU, an operator does it (``caloforge.kernels.ops.showerflow``).
        """
        if torch.is_grad_enabled() or z.ndim != 2:
            return self.sample_reference(z, context)
        tensors, copies = weights_now(self, [self.layers], ("index",))
        if not eager(z, context, tensors[0]) or not z.dtype == context.dtype == tensors[0].dtype:
            return self.sample_reference(z, context)
        single = self.single(len(z))
        return self.sample_packed(copies.get(tensors, single, lambda: self.pack(single=single)), z, context)

    @staticmethod
    def single(showers: int) -> bool:
        """Whether so many showers are best made one by one, with weights that are packed for it."""
        return showers <= _MOST_SINGLE

    def pack(self, *, single: bool) -> PackedFlow:
        """The weights as they are now, as the operator takes them, for showers made one by one or many at once."""
        steps, last = self.steps()
        plan = showerflow_plan(steps, last, context=self.context_features, bins=self.bins)
        return PackedFlow(pack_showerflow(steps, plan, single=single), plan, single)

    def sample_packed(self, weights: PackedFlow, z: Tensor, context: Tensor) -> Tensor:
        """As :meth:`sample`, by the operator, from weights that the caller knows to be those of now; without gradients."""
        return sample_showerflow(weights.weights, weights.plan, z, context, self.bound, single=weights.single)

    def sample_reference(self, z: Tensor, context: Tensor) -> Tensor:
        """As :meth:`sample`, in plain PyTorch, with gradients."""
        return run_steps(*self.steps(), z, context, self.bound)

    def steps(self) -> tuple[list[FlowStep], Tensor]:
        """Couplings and splines in the order of sampling, and the index (D,) that reorders what comes out of the last."""
        source, steps = torch.arange(self.features), []
        for layer in self.layers:
            if isinstance(layer, _Permutation):
                source = source[layer.index.cpu()]
                continue
            assert isinstance(layer, (_AffineCoupling, _ConditionalSpline))  # there are no other kinds
            steps.append(FlowStep(source, isinstance(layer, _ConditionalSpline), _linear_weights(layer.network)))
            source = torch.arange(self.features)
        return steps, source

    def unpacked(self) -> tuple[list[Tensor], Tensor]:
        """Weights and biases in the order in which they are packed, and the plan: what a program with the same kernels needs."""
        steps, last = self.steps()
        plan = showerflow_plan(steps, last, context=self.context_features, bins=self.bins)
        return [weight.detach() for step in steps for weight in step.weights], plan

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        """Logarithm of the density of features (N, D) under conditions (N, C), nats, (N,)."""
        total = x.new_zeros(x.shape[:-1])
        for layer in reversed(self.layers):
            x, logdet = layer.normalise(x, context)  # type: ignore[operator]
            total = total + logdet
        return log_density(x, total)
