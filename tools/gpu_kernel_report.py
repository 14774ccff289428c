"""Compile the Triton kernel of the exact inverse ahead of time, without a GPU: registers, spills, shared memory.

Run with: python tools/gpu_kernel_report.py [compact published ...] [--arch 90] [--warps 8]
It prints one line of JSON for each size. Nothing is run: what it costs only a GPU can tell.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from caloforge.kernels.gpu.inverse import STAGES, BlockShape, block_arguments, block_kernel, launch

#: Features, conditions, hidden units, masked layers into them, blocks, bins, direction.
SIZES = {
    "compact": BlockShape(504, 4, 192, 2, 4, 8, False),
    "published": BlockShape(504, 4, 378, 2, 8, 8, False),
    "student": BlockShape(504, 4, 504, 2, 8, 8, True),
    "energies": BlockShape(3, 1, 64, 3, 6, 8, False),
    "tiny": BlockShape(6, 2, 24, 3, 2, 5, False),
}
POINTERS = ("given", "found", "logdet", "context", "weights", "steps")


def compiled(shape: BlockShape, arch: int, warps: int | None = None) -> tuple[Any, int, int]:
    """The kernel of a shape for NVIDIA GPUs of an architecture, showers in a tile, and warps."""
    tile, own_warps = launch(shape)
    warps = warps or own_warps
    constants = block_arguments(shape, tile, warps)
    signature = dict.fromkeys(POINTERS, "*fp32") | {"steps": "*i32", "rows": "i32"}
    signature |= dict.fromkeys(("bound", "min_width", "min_height", "min_derivative"), "fp32")
    signature |= dict.fromkeys(constants, "constexpr")
    # As at a launch: PyTorch's memory is aligned, and so is each block's.
    aligned = {(block_kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in POINTERS}
    source = ASTSource(block_kernel, signature, constants, aligned)
    kernel = triton.compile(
        source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps, "num_stages": STAGES}
    )
    return kernel, tile, warps


def needs(kernel: Any, arch: int) -> dict[str, int]:
    """Registers of a thread, bytes of them that are kept in memory instead, and bytes of shared memory of a program."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(kernel.asm["ptx"])
        file.flush()
        name = f"sm_{arch}" + ("a" if arch >= 90 else "")
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={name}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr

    def number(pattern: str) -> int:
        match = re.search(pattern, said)
        if match is None:
            raise SystemExit(f"ptxas did not say what is looked for ({pattern}): {said}")
        return int(match.group(1))

    return {
        "registers": number(r"Used (\d+) registers"),
        "spill_stores": number(r"(\d+) bytes spill stores"),
        "spill_loads": number(r"(\d+) bytes spill loads"),
        "shared": int(kernel.metadata.shared),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--arch", type=int, default=90, help="90 for an H100 or H200, 80 for an A100")
    parser.add_argument("--warps", type=int, help="other than the kernel would be launched with")
    options = parser.parse_args()
    for name in options.sizes:
        begun = time.monotonic()
        kernel, tile, warps = compiled(SIZES[name], options.arch, options.warps)
        ptx = kernel.asm["ptx"]
        found = {
            "size": name, "arch": options.arch, "tile": tile, "warps": warps, **needs(kernel, options.arch),
            "cubin": len(kernel.asm["cubin"]), "matrix_units": len(re.findall(r"\b(?:wg)?mma[.\w]*", ptx)),
            "seconds": round(time.monotonic() - begun, 1),
        }  # fmt: skip
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
