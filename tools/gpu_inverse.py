"""The exact inverse of an autoregressive flow on a GPU: each way timed and compared with the CPU's kernel, then a decision.

Run with: python tools/gpu_inverse.py plain|graphs|triton OUT.json [--model calogan-gamma] [--batch 1,100,10000] [--device cuda]
and then: python tools/gpu_inverse.py decide OUT.json PLAIN.json GRAPHS.json TRITON.json
Each way has a process of its own, since an error on a GPU spoils all that comes after it. Without a GPU (--device cpu) the Triton
kernel runs in Triton's interpreter, with TRITON_INTERPRET=1 in the environment, and there are no CUDA graphs. The model tiny is a
small flow.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from caloforge.errors import CaloForgeError, UsageError

KINDS = ("plain", "graphs", "triton")
#: Showers compared with the CPU's kernel.
COMPARED = 256
#: A way is right if no more of its values than this differ by more than that: flat bins magnify rounding.
TOLERANCE, OUTSIDE = 2e-3, 0.002


def small_flow() -> Any:
    import torch

    from caloforge.nn import MaskedAutoregressiveFlow

    torch.manual_seed(0)
    return MaskedAutoregressiveFlow(features=8, context_features=2, blocks=2, hidden_features=10, hidden_layers=1)


def way(kind: str, flow: Any, device: str) -> Callable[[Any, Any], Any]:
    """What inverts rows of latents under conditions."""
    import torch

    if device != "cpu":
        there = flow.to(device)
        return lambda z, context: there.inverse(z, context)[0]
    if kind == "plain":
        from caloforge.kernels.ops.registry import plain_only

        def plainly(z: Any, context: Any) -> Any:
            with plain_only():
                return flow.solve_plainly(z, context)[0]

        return plainly
    if kind == "graphs":
        raise UsageError("CUDA graphs need a GPU; tests/kernels/test_gpu_inverse.py replays them with a double")
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError("without a GPU the Triton kernel runs in Triton's interpreter: set TRITON_INTERPRET=1")
    from caloforge.kernels.gpu import inverse

    weights, plan = flow.unpacked()
    packed = inverse.pack([weight.to(torch.float32) for weight in weights], plan)
    return lambda z, context: inverse.solve(packed, plan, z, context, *flow.spline_shape)[0]


def measure(
    kind: str, model: str, batches: Sequence[int], device: str, seconds: float, launch: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Milliseconds per shower and differences from the kernel of the CPU, for each batch size.

    ``launch`` is the number of showers in a tile of the Triton kernel, and of warps that share it; None for its own.
    """
    os.environ["CALOFORGE_GPU_KERNELS"] = kind
    if launch is not None:
        from caloforge.kernels.gpu import inverse

        inverse.launch = lambda shape: launch
    import torch

    from caloforge.bench.machine import describe_machine, time_calls
    from caloforge.bench.sampling import _latents, flow_of
    from caloforge.kernels.ops.registry import gpu_kernels

    torch.set_num_threads(1 if device == "cpu" else 8)
    flow = small_flow() if model == "tiny" else flow_of(model)
    flow = flow.float().eval()
    on_cpu = copy.deepcopy(flow)
    invert = way(kind, flow, device)
    found: dict[str, Any] = {
        "kind": kind if launch is None else f"{kind}-{launch[0]}x{launch[1]}",
        "model": model,
        "device": device,
        "machine": describe_machine(device),
        "rows": [],
    }
    if device != "cpu" and gpu_kernels() != kind:
        raise UsageError(f"{kind} was asked for, and {gpu_kernels()} would serve")
    alone = None
    for batch in batches:
        z, context = _latents(flow, batch)
        there = z.to(device), None if context is None else context.to(device)
        with torch.no_grad():
            timing = time_calls(lambda there=there: invert(*there), seconds=seconds, least=1, device=device)  # type: ignore[misc]
            x = invert(*there)[:COMPARED].cpu()
            expected = on_cpu.inverse(z[:COMPARED], None if context is None else context[:COMPARED])[0]
        difference = (x - expected).abs().double()
        alone = x[:1] if alone is None else alone
        found["rows"].append(
            {
                "batch": batch,
                "ms_per_shower": 1000 * timing.median / batch,
                "ms_lowest": 1000 * timing.lowest / batch,
                "ms_highest": 1000 * timing.highest / batch,
                "warm_up_ms": 1000 * timing.warm_up,
                "repeats": timing.calls,
                "max_abs_diff": difference.max().item(),
                "median_abs_diff": difference.median().item(),
                "outside": (difference > TOLERANCE).double().mean().item(),
                "finite": bool(torch.isfinite(x).all()),
                "first_has_the_same_bits": torch.equal(alone, x[:1]),
            }
        )
        print(json.dumps(found["rows"][-1]), flush=True)
    return found


def decide(paths: Sequence[Path]) -> dict[str, Any]:
    """For each batch size the quickest of the ways that are right; what is wrong or missing is said."""
    ways, remarks = {}, []
    for path in paths:
        if not path.is_file():
            remarks.append(f"{path.name} is not there")
            continue
        measured = json.loads(path.read_text())
        wrong = [row["batch"] for row in measured["rows"] if not row["finite"] or row["outside"] > OUTSIDE]
        if wrong:
            remarks.append(
                f"{measured['kind']} differs from the kernel of the CPU, in batches of {', '.join(map(str, wrong))}"
            )
        else:
            ways[measured["kind"]] = {row["batch"]: row["ms_per_shower"] for row in measured["rows"]}
        if measured["kind"].startswith("triton") and not all(
            row["first_has_the_same_bits"] for row in measured["rows"]
        ):
            remarks.append("with Triton a shower is not the same in all batches, which it should be")
    batches = sorted({batch for times in ways.values() for batch in times})
    quickest = {
        str(batch): min((times[batch], kind) for kind, times in ways.items() if batch in times)[1] for batch in batches
    }
    return {"right": sorted(ways), "quickest": quickest, "ms_per_shower": ways, "remarks": remarks}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*KINDS, "decide"])
    parser.add_argument("out", type=Path)
    parser.add_argument("measured", type=Path, nargs="*", help="what the ways have measured, to decide from")
    parser.add_argument("--model", default="calogan-gamma")
    parser.add_argument("--batch", default="1,100,10000")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--launch", help="showers in a tile of the Triton kernel and warps that share it, as 32x8")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each batch size is repeated")
    return parser.parse_args(words)


def main() -> int:
    options, complete = arguments(), True
    if options.what == "decide":
        found = decide(options.measured)
        complete = all(path.is_file() for path in options.measured)  # else it is to be decided again
        print(json.dumps(found, indent=2))
    else:
        batches = [int(word) for word in options.batch.split(",")]
        shape = None if options.launch is None else [int(word) for word in options.launch.split("x")]
        launch = None if shape is None else (shape[0], shape[1])
        found = measure(options.what, options.model, batches, options.device, options.seconds, launch)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if complete else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CaloForgeError as error:
        sys.exit(str(error))
