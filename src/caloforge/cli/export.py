"""``caloforge export``: a trained model for use outside of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import console, print_table
from caloforge.cli.expand import with_options
from caloforge.errors import UsageError
from caloforge.options import ExportOptions

__all__ = ["register"]


@with_options(ExportOptions)
def export(
    model: Annotated[str, typer.Argument(help="Model directory, or the name of a model that ships with the package.")],
    target: Annotated[
        str,
        typer.Option(
            help="For what: cpp (also Geant4 and DD4hep) | onnx | torchscript | par04 | ddml-caloclouds | ddml-l2lflows "
            "| fastcalosim."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    *,
    options: ExportOptions,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Change how the model samples: key=value, for example rejection=false; may be repeated."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(help="For a model that needs no training (gflash): name of a detector, or a TOML file."),
    ] = None,
    particle: Annotated[
        str | None, typer.Option(help="Likewise: e-, e+ or gamma (default: the first one of the detector's gun).")
    ] = None,
    points: Annotated[bool, typer.Option("--points", help="Likewise: points instead of voxels.")] = False,
) -> None:
    r"""Export a model for use outside of Python, and prove that it makes the same showers.

    \b
    Example: caloforge export calogan-gamma --target cpp --out photons
             cmake -S photons -B photons/build && cmake --build photons/build && photons/build/parity
    caloforge export gflash --detector my.toml --particle e- --target cpp --out electrons

    An export that makes other showers than the model is not written.
    """
    from caloforge.cli.generate import loaded_model
    from caloforge.deployment import export_model
    from caloforge.models import ShowerModel, is_ready_preset

    made: str | ShowerModel = model
    # Others are loaded where they are exported.
    ready = is_ready_preset(model) and not Path(model).exists()
    if particle is not None and detector is None and not ready:
        raise UsageError("--particle is for models that need no training, beside --detector")
    if ready or option or detector is not None or particle is not None or points:
        made = loaded_model(model, detector, particle, option or [], points=points)
    done = export_model(made, target, out, options=options)
    if done.result is None:
        console.print("not verified: nobody has compared the showers of this export")
    else:
        rows = [[check.name, f"{check.value:.3g}", f"{check.limit:.3g}"] for check in done.result.checks]
        print_table(f"{options.showers} showers, all as they should be", ["compared", "found", "limit"], rows)
    console.print(f"export: {out}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(export)
