"""``caloforge detectors``: what is built in."""

from __future__ import annotations

from typing import Annotated

import typer

from caloforge.cli.common import console, print_json, print_table

__all__ = ["register"]


def detectors(
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List the built-in detectors.

    \b
    Example: caloforge detectors

    Any TOML file of your own, or a CaloChallenge binning XML file, can be named instead of these.
    """
    from caloforge.detectors import catalogue, load_detector

    loaded = [load_detector(name) for name in catalogue()]
    if json_:
        print_json(
            {d.name: {"title": d.title, "layers": d.readout.n_layers, "voxels": d.readout.n_voxels,
                      "simulation": d.stack is not None, "reference": d.reference, "hash": d.hash} for d in loaded}
        )  # fmt: skip
        return
    rows = [
        [d.name, str(d.readout.n_layers), str(d.readout.n_voxels) if d.readout.has_voxels else "points",
         "Geant4" if d.stack else "readout only", d.title]
        for d in loaded
    ]  # fmt: skip
    print_table("", ["detector", "layers", "voxels", "simulation", "what it is"], rows)
    console.print("Describe one with 'caloforge info NAME'; a detector of your own is a TOML file (docs/detectors.md).")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(detectors)
