"""Solves small flows by the Triton kernel in Triton's interpreter, for test_gpu_inverse.py: errors of each case, as JSON.

A process of its own, because Triton decides when it is imported whether it interprets.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.runtime.interpreter

sys.path.insert(0, str(Path(__file__).parents[1] / "nn"))
from test_exact_inverse import random_flow, random_points

from caloforge.kernels.gpu import inverse
from caloforge.kernels.ops import autoregressive
from caloforge.kernels.ops.registry import plain_only
from caloforge.nn.inverse_autoregressive import InverseAutoregressiveFlow
from caloforge.nn.splines import SplineSettings

#: Every number of layers and of pieces of the product, tails, masks, tiles that are not full, both directions.
CASES: dict[str, dict[str, Any]] = {
    "two tiles": {"features": 7, "hidden": 9, "layers": 1, "rows": 19},
    "three layers": {"features": 6, "hidden": 24, "layers": 2, "bins": 5, "rows": 5},
    "unseen inputs": {"features": 14, "hidden": 8, "layers": 1, "masks": "published", "rows": 3},
    "one layer": {"features": 6, "hidden": 17, "layers": 0, "context": 0, "bins": 1, "rows": 17},
    "one feature": {"features": 1, "hidden": 4, "layers": 1, "bins": 2, "rows": 1},
    "two pieces": {"features": 4, "hidden": 100, "layers": 1, "bins": 9, "rows": 2},
    "four pieces": {"features": 3, "hidden": 300, "layers": 1, "rows": 2},
    "tails": {"features": 8, "hidden": 12, "layers": 1, "rows": 16, "scale": 4.0},
    "rough": {"features": 8, "hidden": 12, "layers": 1, "rows": 16, "rough": 6.0},
    "large tile": {"features": 5, "hidden": 100, "layers": 1, "rows": 35, "launch": (32, 8)},
    "reads latents": {"features": 6, "hidden": 10, "layers": 1, "rows": 7, "latents": True},
}


def flow_and_points(case: dict[str, Any]) -> tuple[Any, torch.Tensor, torch.Tensor | None]:
    case = dict(case)
    rows, scale, rough = case.pop("rows"), case.pop("scale", 1.0), case.pop("rough", 0.0)
    if case.pop("latents", False):
        torch.manual_seed(3)
        flow = InverseAutoregressiveFlow(
            features=case["features"], context_features=2, blocks=2, hidden_features=case["hidden"],
            hidden_layers=case["layers"], splines=SplineSettings(8), permutations=[list(range(case["features"]))[::-1]],
        )  # fmt: skip
    else:
        flow = random_flow(2, dtype=torch.float32, **case)
    with torch.no_grad():
        for block in flow.blocks:
            bias = block.conditioner.output_layer.bias
            bias += rough * torch.randn(bias.shape)
    z, context = random_points(flow, rows, 1, torch.float32)
    return flow.float().eval(), scale * z, context


def errors(case: dict[str, Any]) -> dict[str, float]:
    case, own = dict(case), inverse.launch
    launch = case.pop("launch", None)
    flow, z, context = flow_and_points(case)
    weights, plan = flow.unpacked()
    packed = inverse.pack(weights, plan)
    inverse.launch = own if launch is None else lambda shape: launch
    x, logdet = inverse.solve(packed, plan, z, context, *flow.spline_shape)
    inverse.launch = own
    exact = copy.deepcopy(flow).double()
    given = z.double(), None if context is None else context.double()
    expected, expected_logdet = exact.solve_plainly(*given)
    with plain_only():
        plain, plain_logdet = flow.solve_plainly(z, context)
    return {
        "covered": inverse.covers(plan, torch.float32),
        "rows": len(x),
        "error": (x - expected).abs().max().item(),
        "plain_error": (plain - expected).abs().max().item(),
        "logdet_error": (logdet - expected_logdet).abs().max().item(),
        "plain_logdet_error": (plain_logdet - expected_logdet).abs().max().item(),
        "beyond": (z.abs() > flow.spline_shape[0]).double().mean().item(),
    }


def neighbours() -> dict[str, bool]:
    """A shower alone, and at another place of a tile with others; matrix products of whole tiles are summed in one order."""

    def product(a: Any, b: Any, dtype: Any = None) -> Any:
        total = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
        for k in range(a.shape[-1]):
            total += a[..., k, None] * b[..., None, k, :]
        return total

    whole = triton.runtime.interpreter.np.matmul
    triton.runtime.interpreter.np.matmul = product
    try:
        flow, z, context = flow_and_points({"features": 6, "hidden": 9, "layers": 1, "rows": 18})
        assert context is not None
        weights, plan = flow.unpacked()
        packed = inverse.pack(weights, plan)
        x, logdet = inverse.solve(packed, plan, z, context, *flow.spline_shape)
        found = {}
        for first, end in ((17, 18), (3, 9)):
            part, part_logdet = inverse.solve(packed, plan, z[first:end], context[first:end], *flow.spline_shape)
            found[f"{first}:{end}"] = torch.equal(part, x[first:end]) and torch.equal(part_logdet, logdet[first:end])
        return found
    finally:
        triton.runtime.interpreter.np.matmul = whole


def operators() -> dict[str, Any]:
    """What the operator does on a GPU: it packs, asks for a proof, and refuses kernels that give wrong numbers."""
    flow, z, context = flow_and_points({"features": 4, "hidden": 6, "layers": 1, "rows": 3})
    weights, plan = flow.unpacked()
    found: dict[str, Any] = {}
    packed = autoregressive._gpu_pack(weights, plan, False)
    if packed is NotImplemented:
        return {"difference": float("inf")}
    x, _ = autoregressive._gpu_solve(packed, plan, z, context, False, *flow.spline_shape)
    found["difference"] = (x - flow.solve_plainly(z, context)[0]).abs().max().item()
    found["proven"] = list(autoregressive._proven.values())
    found["nan"] = bool(torch.isnan(_broken(flow, z, context)).any(1).all())
    try:
        inverse.solve(packed[1:], plan, z, context, *flow.spline_shape)
    except ValueError as error:
        found["other weights"] = str(error)

    autoregressive._proven.clear()
    right = inverse.solve
    inverse.solve = lambda *a: (right(*a)[0] + 0.01, right(*a)[1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found["refused"] = autoregressive._gpu_pack(weights, plan, False) is NotImplemented
        found["refused again"] = autoregressive._gpu_pack(weights, plan, False) is NotImplemented
    found["solves plainly"] = autoregressive._gpu_solve(packed, plan, z, context, False, 1.0) is NotImplemented
    found["warnings"] = [str(w.message) for w in caught]
    autoregressive._proven.clear()
    os.environ["CALOFORGE_GPU_KERNELS"] = "triton"
    try:
        autoregressive._gpu_pack(weights, plan, False)
    except RuntimeError as error:
        found["asked for"] = str(error)
    del os.environ["CALOFORGE_GPU_KERNELS"]
    inverse.solve = right
    return found


def _broken(flow: Any, z: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    flow = copy.deepcopy(flow)
    with torch.no_grad():
        flow.blocks[1].conditioner.input_layer.bias[0] = torch.nan
    weights, plan = flow.unpacked()
    return inverse.solve(inverse.pack(weights, plan), plan, z, context, *flow.spline_shape)[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    results: dict[str, Any] = {name: errors(case) for name, case in CASES.items()}
    results["neighbours"] = neighbours()
    results["operators"] = operators()
    json.dump(results, sys.stdout)
