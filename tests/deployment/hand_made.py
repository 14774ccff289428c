"""Modules and graphs made by hand, whose output is known: what a double of a host is first fed with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn


class Constant(nn.Module):
    """The same output for everything, made so that freezing does not change how it lies in memory."""

    def __init__(self, output: Tensor, how: str = "") -> None:
        super().__init__()
        self.register_buffer("output", output)
        self.how = how

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        made = self.output + 0 * inputs[0].sum()
        if self.how == "two outputs":
            return made, made
        if self.how == "not contiguous":
            return torch.stack([made, made])[:, ::2].t()
        return made


def torch_file(path: Path, module: nn.Module, arguments: Sequence[Tensor]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module.eval(), tuple(arguments), check_trace=False), str(path))  # type: ignore[no-untyped-call]
    return path


def onnx_file(path: Path, inputs: dict[str, list[int]], values: Sequence[float], outputs: int = 1) -> Path:
    """A graph that gives the same values whatever its inputs are."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    constant = helper.make_tensor("w", TensorProto.FLOAT, [len(values)], list(values))
    nodes, made = [], []
    for k in range(outputs):
        nodes.append(helper.make_node("Identity", ["w"], [f"out_{k}"]))
        made.append(helper.make_tensor_value_info(f"out_{k}", TensorProto.FLOAT, [len(values)]))
    graph = helper.make_graph(nodes, "g", tensors, made, [constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))
    return path
