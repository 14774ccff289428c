"""``caloforge export``: a trained model for use outside of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import console, print_table
from caloforge.cli.expand import with_options
from caloforge.options import ExportOptions

__all__ = ["register"]


@with_options(ExportOptions)
def export(
    model: Annotated[str, typer.Argument(help="Model directory, or the name of a model that ships with the package.")],
    target: Annotated[str, typer.Option(help="For what: cpp | onnx | torchscript | fastcalosim.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    *,
    options: ExportOptions,
) -> None:
    r"""Export a model for use outside of Python, and prove that it makes the same showers.

    \b
    Example: caloforge export calogan-gamma --target cpp --out photons
             cmake -S photons -B photons/build && cmake --build photons/build && photons/build/parity

    An export that makes other showers than the model is not written.
    """
    from caloforge.deployment import export_model

    done = export_model(model, target, out, options=options)
    if done.result is None:
        console.print("not verified: nobody has compared the showers of this export")
    else:
        rows = [[check.name, f"{check.value:.3g}", f"{check.limit:.3g}"] for check in done.result.checks]
        print_table(f"{options.showers} showers, all as they should be", ["compared", "found", "limit"], rows)
    console.print(f"export: {out}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(export)
