"""Plain PyTorch on a GPU without its launches: the operations of a solution are captured once as a CUDA graph, and replayed.

A captured graph works on the memory that it was captured with, so it belongs to one set of packed weights and one number of rows.
The rows that are asked for are copied into its memory; numbers of rows are rounded up to powers of two, so that graphs are few.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Capture", "Graphs", "capture_on_gpu"]

Work = Callable[[], tuple[Tensor, Tensor]]
#: Runs work and records its operations: gives its results, and what repeats the operations on the same memory.
Capture = Callable[[Work], tuple[tuple[Tensor, Tensor], Callable[[], None]]]
Solver = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


def capture_on_gpu(work: Work) -> tuple[tuple[Tensor, Tensor], Callable[[], None]]:
    """A CUDA graph of some work, which is run once before, as PyTorch asks for."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    return results, graph.replay


@dataclass(frozen=True)
class _Captured:
    packed: Tensor  # kept alive, so that its address is not given to other weights
    z: Tensor
    context: Tensor | None
    results: tuple[Tensor, Tensor]
    replay: Callable[[], None]


class Graphs:
    """The graphs captured last.

    Args:
        capture: how.
        most: how many are kept.
    """

    def __init__(self, capture: Capture = capture_on_gpu, most: int = 8) -> None:
        self._capture, self._most = capture, most
        self._lock = threading.Lock()
        self._captured: OrderedDict[Hashable, _Captured] = OrderedDict()

    def solve(
        self, packed: Tensor, settings: Hashable, make: Callable[[], Solver], z: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What a solver gives, by replaying it.

        Args:
            packed: the weights that it uses.
            settings: what else makes one solver differ from another with the same weights.
            make: makes it, everything it needs in the memory of the GPU.
            z: what is given, (N, D).
            context: conditions (N, C), or None.

        Returns:
            What was looked for (N, D), and logarithms of determinants (N,).
        """
        if not len(z):
            return make()(z, context)
        rows = 1 << (len(z) - 1).bit_length()
        key = packed.data_ptr(), packed.dtype, rows, context is None, settings
        device = torch.cuda.device_of(packed)  # type: ignore[no-untyped-call]
        with self._lock, device:  # a graph has one memory for all that ask
            found = self._captured.pop(key, None) or self._new(packed, make(), rows, z, context)
            self._captured[key] = found
            while len(self._captured) > self._most:
                self._captured.popitem(last=False)
            found.z[: len(z)] = z
            found.z[len(z) :] = 0
            if found.context is not None and context is not None:
                found.context[: len(z)] = context
                found.context[len(z) :] = 0
            found.replay()
            x, logdet = found.results
            return x[: len(z)].clone(), logdet[: len(z)].clone()

    def _new(self, packed: Tensor, solver: Solver, rows: int, z: Tensor, context: Tensor | None) -> _Captured:
        own = packed.new_zeros(rows, z.shape[1])
        conditions = None if context is None else packed.new_zeros(rows, context.shape[1])
        results, replay = self._capture(lambda: solver(own, conditions))
        return _Captured(packed, own, conditions, results, replay)
