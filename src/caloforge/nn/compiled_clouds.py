"""The networks of CaloClouds through the compiled CPU kernels (``caloforge.nn.native``), without gradients.

Weights are packed once. Every number is added up in the same order whatever else is in the batch, so a shower comes out
bit for bit the same alone and among others.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from caloforge.nn.linear_rational import MARGIN, MIN_SIZE, MIN_SLOPE, SLOPE_SHIFT
from caloforge.nn.native import native_library
from caloforge.nn.native.packed import SUFFIXES, addresses_of, packed_copies

if TYPE_CHECKING:
    from caloforge.nn.pointwise import PointWiseNet
    from caloforge.nn.showerflow import ShowerFlow

__all__ = ["PackedPoints", "can_serve", "compiled_flow", "compiled_generation", "compiled_points", "packed_points"]

_MOST_BINS = 64
#: Up to this batch size a flow takes showers one by one: only then can weights of silent units be left unread.
_MOST_SINGLE = 2


def can_serve(*tensors: Tensor) -> bool:
    """Whether the kernels can serve tensors like these: all of one float type on the CPU, no gradients, nobody is tracing."""
    dtype = tensors[0].dtype
    return (
        dtype in SUFFIXES
        and not torch.is_grad_enabled()
        and all(type(t) in (Tensor, nn.Parameter) and t.dtype == dtype and t.is_cpu for t in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not torch._C._are_functorch_transforms_active()
    )


class _Packed:
    """A snapshot of weights in the kernels' own memory.

    Attributes:
        handle: what the kernels know it by.
    """

    _name: str
    handle: int

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._library, self._suffix = library, SUFFIXES[dtype]

    def _hold(self, *arguments: Any) -> None:
        self.handle = self._function("new")(*arguments)
        self._finalizer = weakref.finalize(self, self._function("free"), self.handle)

    def _function(self, name: str) -> ctypes._NamedFuncPointer:
        return getattr(self._library, f"caloforge_{self._name}_{name}_{self._suffix}")  # type: ignore[no-any-return]


class _PackedFlow(_Packed):
    _name = "showerflow"

    def __init__(self, flow: ShowerFlow, library: ctypes.CDLL, *, tile: bool) -> None:
        super().__init__(library, next(flow.parameters()).dtype)
        steps, last = flow.steps()
        spline = (MIN_SIZE, MIN_SLOPE, SLOPE_SHIFT, MARGIN)
        self._hold(
            flow.features, flow.context_features, len(steps), last.data_ptr(), int(tile), flow.bins, flow.bound, *spline
        )  # fmt: skip
        for position, step in enumerate(steps):
            layers = [layer for layer in step.network if isinstance(layer, nn.Linear)]
            weights = [layer.weight.detach().contiguous() for layer in layers]
            biases = [layer.bias.detach().contiguous() for layer in layers]
            self._function("pack")(
                self.handle, position, int(step.spline), step.source.data_ptr(), layers[0].out_features,
                addresses_of(weights), addresses_of(biases),
            )  # fmt: skip

    def __call__(self, z: Tensor, context: Tensor) -> Tensor:
        z, context = z.detach().contiguous(), context.detach().contiguous()
        x = torch.empty_like(z)
        self._function("sample")(
            self.handle, len(z), z.data_ptr(), context.data_ptr(), x.data_ptr(), torch.get_num_threads()
        )
        return x


class PackedPoints(_Packed):
    """Weights of a point network in the kernels' own memory."""

    _name = "points"

    def __init__(self, net: PointWiseNet, library: ctypes.CDLL) -> None:
        super().__init__(library, next(net.parameters()).dtype)
        layers = net.gated_layers()
        weight = torch.cat([w for layer in layers for w in (layer.gate.weight, layer.shift.weight)]).detach()
        bias = torch.cat([b for layer in layers for b in (layer.gate.bias, torch.zeros_like(layer.gate.bias))]).detach()
        outputs = torch.tensor([layer.linear.out_features for layer in layers])
        linear = [layer.linear.weight.detach().contiguous() for layer in layers]
        biases = [layer.linear.bias.detach().contiguous() for layer in layers]
        rest = [
            net.frequencies.contiguous(),
            net.time.weight.detach().contiguous(),
            net.time.bias.detach(),
            weight,
            bias,
        ]
        self._outputs = layers[-1].linear.out_features
        self._hold(
            net.features, net.time.in_features, weight.shape[1] - net.time.in_features, len(layers), outputs.data_ptr(),
            *(tensor.data_ptr() for tensor in rest), addresses_of(linear), addresses_of(biases),
        )  # fmt: skip

    def __call__(self, points: Tensor, noise: Tensor, context: Tensor, offsets: Tensor) -> Tensor:
        """See ``PointWiseNet.forward``."""
        points, noise, context, offsets = (t.detach().contiguous() for t in (points, noise, context, offsets))
        moved = points.new_empty(len(points), self._outputs)
        self._function("move")(
            self.handle, len(noise), offsets.data_ptr(), points.data_ptr(), noise.data_ptr(), context.data_ptr(),
            moved.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return moved

    def generate(
        self,
        z: Tensor,
        starts: Tensor,
        offsets: Tensor,
        noise: float,
        context: Tensor,
        scales: tuple[float, float, float],
    ) -> Tensor:
        """See ``PointWiseNet.generate``."""
        z, starts, offsets, context = (t.detach().contiguous() for t in (z, starts, offsets, context))
        made = torch.empty(int(offsets[-1]), self._outputs, dtype=torch.float64)
        self._function("generate")(
            self.handle, len(context), offsets.data_ptr(), z.data_ptr(), starts.data_ptr(), noise, context.data_ptr(),
            *scales, made.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return made


def compiled_flow(flow: ShowerFlow, z: Tensor, context: Tensor) -> Tensor | None:
    """What ``flow.sample(z, context)`` is, or None if the kernels cannot serve it."""
    first: Any = flow.layers[0]  # a coupling, as in every order; looking for the first parameter would take long
    if z.ndim != 2 or flow.bins > _MOST_BINS or not can_serve(z, context, first.network[0].weight):
        return None
    library = native_library()
    if library is None:
        return None
    tile = len(z) > _MOST_SINGLE
    packed: _PackedFlow = packed_copies(flow, ("index",)).get(
        list(flow.layers._modules.values()), library, tile, lambda: _PackedFlow(flow, library, tile=tile)
    )
    return packed(z, context)


def compiled_points(
    net: PointWiseNet, points: Tensor, noise: Tensor, context: Tensor, offsets: Tensor
) -> Tensor | None:
    """What ``net(points, noise, context, offsets)`` is, or None if the kernels cannot serve it."""
    if offsets.dtype != torch.int64 or not can_serve(points, noise, context, net.frequencies):
        return None
    packed = packed_points(net)
    return None if packed is None else packed(points, noise, context, offsets)


def compiled_generation(
    net: PointWiseNet,
    z: Tensor,
    starts: Tensor,
    offsets: Tensor,
    noise: float,
    context: Tensor,
    scales: tuple[float, float, float],
) -> Tensor | None:
    """What ``net.generate(...)`` of the same arguments is, or None if the kernels cannot serve it."""
    integers = offsets.dtype == starts.dtype == torch.int64
    if not integers or not can_serve(z, context, net.frequencies):
        return None
    packed = packed_points(net)
    return None if packed is None else packed.generate(z, starts, offsets, noise, context, scales)


def packed_points(net: PointWiseNet) -> PackedPoints | None:
    """The packed weights of a network in CPU memory, made anew if they have changed; None without kernels."""
    library = native_library()
    if library is None:
        return None
    packed: PackedPoints = packed_copies(net, ("frequencies",)).get(
        [net], library, None, lambda: PackedPoints(net, library)
    )
    return packed
