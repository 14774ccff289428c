"""``caloforge export``: a trained model for use outside of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import OverwriteOption, console, print_table

__all__ = ["register"]


def export(
    model: Annotated[str, typer.Argument(help="Model directory, or the name of a model that ships with the package.")],
    target: Annotated[str, typer.Option(help="For what: cpp | onnx | torchscript | fastcalosim.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare showers of the export with those of the model.")
    ] = True,
    showers: Annotated[int, typer.Option(min=1, help="How many are compared.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of these showers.")] = 1,
    overwrite: OverwriteOption = False,
) -> None:
    r"""Export a model for use outside of Python, and prove that it makes the same showers.

    \b
    Example: caloforge export calogan-gamma --target cpp --out photons
             cmake -S photons -B photons/build && cmake --build photons/build && photons/build/parity

    An export that makes other showers than the model is not written.
    """
    from caloforge.deployment import export_model

    done = export_model(model, target, out, verify=verify, showers=showers, seed=seed, overwrite=overwrite)
    if done.result is None:
        console.print("not verified: nobody has compared the showers of this export")
    else:
        rows = [[check.name, f"{check.value:.3g}", f"{check.limit:.3g}"] for check in done.result.checks]
        print_table(f"{showers} showers, all as they should be", ["compared", "found", "limit"], rows)
    console.print(f"export: {out}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(export)
