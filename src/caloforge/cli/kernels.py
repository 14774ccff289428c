"""``caloforge kernels``: which compiled kernels are in use, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from caloforge.cli.common import console, print_json, print_table

__all__ = ["register"]


def kernels(
    build: Annotated[
        bool, typer.Option("--build", help="Compile for this machine now, unless it was done before.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Say which compiled kernels are in use and why; compile some for this machine.

    \b
    Example: caloforge kernels --build

    A wheel carries kernels for several kinds of processors. Where there are none, they are compiled for this machine
    when they are first needed; without a compiler everything is done in plain PyTorch, far more slowly.
    CALOFORGE_KERNELS chooses: packaged, user, plain, or one of the names listed here; CXX names the compiler.
    On a GPU, CALOFORGE_GPU_KERNELS chooses: triton, graphs or plain.
    """
    from caloforge.kernels.compiled.build import build_for_user
    from caloforge.kernels.compiled.loader import choose_kernels, packaged_kernels, user_state
    from caloforge.kernels.gpu.choice import choose_gpu_kernels

    if build:
        build_for_user()
    choice, packaged = choose_kernels(build=False), packaged_kernels()
    path, state = user_state()
    gpu = choose_gpu_kernels()
    if json_:
        print_json(
            {"use": choice.kind, "name": choice.name, "path": None if choice.path is None else str(choice.path),
             "why": choice.why, "packaged": {k.name: {"path": str(k.path), "runs": k.runs} for k in packaged},
             "user": {"path": None if path is None else str(path), "state": state},
             "gpu": {"use": gpu.kind, "why": gpu.why}}
        )  # fmt: skip
        return
    console.print(f"in use: {' '.join(filter(None, [choice.kind, choice.name]))} ({choice.why})", highlight=False)
    if choice.path is not None:
        console.print(f"file:   {choice.path}", highlight=False, soft_wrap=True)
    console.print(f"on a GPU, exact inverses of autoregressive flows: {gpu.kind} ({gpu.why})", highlight=False)
    rows = [["packaged", k.name, "runs here" if k.runs else "not for this processor"] for k in packaged]
    rows = rows or [["packaged", "-", "none in this package"]]
    rows += [["user", "this machine", state], ["plain", "-", "always"]]
    print_table("", ["kernels", "for", "state"], rows)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(kernels)
