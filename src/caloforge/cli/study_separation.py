"""``caloforge study separation``: how far apart two photons have to be."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import typer

from caloforge.cli.common import SeedOption, print_table
from caloforge.cli.study import app

__all__ = ["register"]


@app.command()
def separation(
    files: Annotated[
        list[str],
        typer.Argument(help="Files of 'caloforge hybrid' with decaying pi0; with commas, several are one sample."),
    ],
    seed: SeedOption = 1,
) -> None:
    r"""Tell two photons apart in hybrid simulations and in Geant4 alone.

    \b
    Example: caloforge study separation full.h5 another-full.h5 hybrid.h5
    """
    from caloforge.deployment.hybrid.separation import BINS, photon_separation

    rows = []
    for names in files:
        found = photon_separation(names.split(","), seed=seed)
        told = [f"{share:.2f}" if number else "-" for share, number in zip(found.told, found.numbers, strict=True)]
        rows.append(
            [
                names,
                str(found.pairs),
                f"{found.distance[0]:.2f} ± {found.distance[1]:.2f}",
                f"{found.width[0]:.2f} ± {found.width[1]:.2f}",
                *told,
            ]
        )
    bins = [f"{low:g}-{high:g}" for low, high in pairwise(BINS)]
    print_table(
        "pairs of photons told apart: half of them at a distance of ... mm, and shares by distance in mm",
        ["file", "pairs", "half at", "width", *bins],
        rows,
    )


def register(root: typer.Typer) -> None:
    """The command is one of ``caloforge study``, which is registered by itself."""
