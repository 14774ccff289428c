"""What the doubles of several hosts need: a graph of either library, asked as a host asks it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caloforge.errors import GenerationError

__all__ = ["OnnxGraph", "TorchGraph", "checked_output"]

Floats = NDArray[np.float32]


def checked_output(values: Floats, size: int) -> Floats:
    """What a host reads from the memory of an output, if it is all there and is all numbers.

    Args:
        values: the output, flat.
        size: how many numbers the host reads.

    Raises:
        GenerationError: if there are others, or some are no numbers.
    """
    if values.size != size:
        more = "beyond its end" if values.size < size else "only its beginning"
        raise GenerationError(f"the graph gives {values.size} numbers; the host reads {size}, {more}")
    if not np.isfinite(values).all():
        raise GenerationError("the graph gives what is no number, which the host would use")
    return values


class TorchGraph:
    """A TorchScript module as hosts with libtorch have it: loaded onto the CPU, evaluated one shower at a time.

    Args:
        path: of the file.
        optimised: as hosts have it; the first two showers take seconds then.

    Raises:
        GenerationError: if it cannot be read.
    """

    def __init__(self, path: Path, *, optimised: bool = False) -> None:
        self.optimised = optimised
        with warnings.catch_warnings():
            # The way of PyTorch 2.13 is another one; hosts have this one.
            warnings.simplefilter("ignore")
            try:
                self.module: Any = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            except RuntimeError as error:
                raise GenerationError(f"libtorch cannot read '{path.name}' ({str(error).splitlines()[0]})") from None

    @torch.inference_mode()
    def run(self, inputs: Sequence[Floats]) -> Floats:
        """The output for inputs in this order, flat, in the order of its memory.

        Raises:
            GenerationError: if the module takes other inputs, or its output is not one contiguous tensor of 32-bit numbers.
        """
        try:
            with warnings.catch_warnings(), torch.jit.optimized_execution(self.optimised):  # type: ignore[attr-defined]
                warnings.simplefilter("ignore")
                made = self.module.forward(*(torch.from_numpy(value) for value in inputs))
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise GenerationError(f"the module fails with the host's inputs ({last})") from None
        if not isinstance(made, Tensor):
            raise GenerationError("the module gives several outputs or none; the host takes one tensor")
        if made.dtype != torch.float32:
            raise GenerationError(f"the output is of {made.dtype}; the host reads 32-bit floating-point numbers")
        if not made.is_contiguous():
            raise GenerationError("the output is not contiguous; the host reads its memory in another order")
        flat: Floats = made.reshape(-1).numpy()
        return flat


class OnnxGraph:
    """An ONNX graph as hosts with ONNX Runtime have it.

    Args:
        path: of the file.
        shapes: of the inputs that the host hands over, in its order.

    Raises:
        GenerationError: if the graph has other inputs or more than one output.
    """

    def __init__(self, path: Path, shapes: Sequence[tuple[int, ...]]) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(outputs) != 1:
            raise GenerationError(f"the graph has {len(outputs)} outputs; the host uses the first one only")
        if len(inputs) != len(shapes):
            raise GenerationError(f"the graph has {len(inputs)} inputs, the host hands over {len(shapes)}")
        for entry, shape in zip(inputs, shapes, strict=True):
            if entry.type != "tensor(float)" or tuple(entry.shape) != shape:
                raise GenerationError(
                    f"the input '{entry.name}' is {entry.type} {entry.shape}, the host hands over tensor(float) {list(shape)}"
                )
        self.names, self.shapes = [entry.name for entry in inputs], list(shapes)

    def run(self, inputs: Sequence[Floats]) -> Floats:
        """The output for inputs in this order, flat.

        Raises:
            GenerationError: if it is not of 32-bit numbers.
        """
        feed = {n: v.reshape(s) for n, v, s in zip(self.names, inputs, self.shapes, strict=True)}
        (made,) = self.session.run(None, feed)
        if made.dtype != np.float32:
            raise GenerationError(f"the output is of {made.dtype}; the host reads 32-bit floating-point numbers")
        flat: Floats = np.ascontiguousarray(made).reshape(-1)
        return flat
