"""The exact fast inverse through the compiled CPU kernels (``caloforge.nn.native``).

Weights are packed once: grouped by feature, in the order in which the kernel reads them, without the masked corner.
"""

from __future__ import annotations

import ctypes
import enum
import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caloforge.nn.inverse.incremental import ready_units, solving_order
from caloforge.nn.native import native_library
from caloforge.nn.native.packed import SUFFIXES, addresses_of, packed_copies

if TYPE_CHECKING:
    from caloforge.nn.autoregressive import AutoregressiveFlow, AutoregressiveSpline

__all__ = ["CompiledInverse", "Layout", "compiled_inverse"]

_MOST_BINS = 64
#: Up to this batch size showers are inverted one by one: a tile reads all weights however few its showers are.
_MOST_SINGLE = 2


class Layout(enum.IntEnum):
    """What the weights are packed for (the numbers are those of ``packed_flow.hpp``)."""

    TILE = 0  #: many showers side by side in the lanes of a vector
    SINGLE = 1  #: one shower at a time, skipping what silent units would contribute
    TILE_FORWARD = 2  #: as TILE, for flows that read latents: the splines are applied forwards


class CompiledInverse:
    """A flow packed for the compiled inverse; a snapshot of its weights.

    Args:
        flow: A flow whose parameters are float32 or float64 on the CPU.
        library: The loaded kernels.
        layout: Which of the kernels is to be used.
    """

    def __init__(self, flow: AutoregressiveFlow, library: ctypes.CDLL, layout: Layout) -> None:
        self._library = library
        self.dtype = next(flow.parameters()).dtype
        self._suffix = SUFFIXES[self.dtype]
        self._features, self._context = flow.features, flow.context_features
        order, self._last = solving_order(flow)
        first = order[0][0]
        made = first.conditioner
        self._handle = self._function("new")(
            made.features, made.context_features, made.hidden_features, 1 + len(made.hidden), len(order), first.bins,
            first.bound, first.min_bin_width, first.min_bin_height, first.min_derivative, int(layout),
        )  # fmt: skip
        self._finalizer = weakref.finalize(self, self._function("free"), self._handle)
        for position, (block, index) in enumerate(order):
            self._pack(position, block, torch.arange(flow.features) if index is None else index)

    def _function(self, name: str) -> ctypes._NamedFuncPointer:
        return getattr(self._library, f"caloforge_flow_{name}_{self._suffix}")  # type: ignore[no-any-return]

    def _pack(self, position: int, block: AutoregressiveSpline, source: Tensor) -> None:
        made = block.conditioner
        weights = [layer.weight.detach().contiguous() for layer in made.layers()]
        biases = [layer.bias.detach().contiguous() for layer in made.layers()]
        context = made.context_layer
        rest = [] if context is None else [context.weight.detach().contiguous(), context.bias.detach().contiguous()]
        out = [made.output_layer.weight.detach().contiguous(), made.output_layer.bias.detach().contiguous()]
        ready = torch.tensor(ready_units(made.degrees, made.features), dtype=torch.int64)
        self._function("pack")(
            self._handle, position, ready.data_ptr(), source.data_ptr(), addresses_of(weights), addresses_of(biases),
            *([tensor.data_ptr() for tensor in rest] or [0, 0]), *(tensor.data_ptr() for tensor in out),
        )  # fmt: skip

    def __call__(self, z: Tensor, context: Tensor | None, threads: int | None = None) -> tuple[Tensor, Tensor]:
        """Evaluate the flow in its slow direction.

        Args:
            z: What is given (batch, D): latents, or data for a flow that reads latents.
            context: Conditions (batch, C); None if C is 0.
            threads: Number of threads; PyTorch's setting if not given.

        Returns:
            What was looked for (batch, D) and the log |det| (batch,), nats, in the dtype of the weights.
        """
        z = z.detach().to(self.dtype).contiguous()
        conditions = z[:, :0] if context is None else context.detach().to(self.dtype).contiguous()
        x, logdet = torch.empty_like(z), z.new_empty(z.shape[0])
        self._function("invert")(
            self._handle, z.shape[0], z.data_ptr(), conditions.data_ptr(), x.data_ptr(), logdet.data_ptr(),
            threads or torch.get_num_threads(),
        )  # fmt: skip
        return x if self._last is None else x.index_select(1, self._last), logdet


def compiled_inverse(flow: AutoregressiveFlow, batch: int) -> CompiledInverse | None:
    """The flow packed for a batch of this size, from memory if its weights have not changed since.

    Args:
        flow: The flow to invert.
        batch: Number of showers to be inverted at once.

    Returns:
        None if the kernels cannot serve the flow (another device or dtype, no compiler).
    """
    parameter = next(flow.parameters())
    if parameter.device.type != "cpu" or parameter.dtype not in SUFFIXES or flow.bins > _MOST_BINS:
        return None
    library = native_library()
    if library is None:
        return None
    layout = Layout.SINGLE if batch <= _MOST_SINGLE else Layout.TILE
    if flow.reads_latents:  # one at a time is for the latency of sampling, which is not this direction
        layout = Layout.TILE_FORWARD
    parts = [*flow.blocks._modules.values(), *flow.permutations._modules.values()]
    copies = packed_copies(flow, ("index",))
    made: CompiledInverse = copies.get(parts, library, layout, lambda: CompiledInverse(flow, library, layout))
    return made
