"""``caloforge join``: several shower files into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import BinOption, chosen_detector, console
from caloforge.cli.expand import with_options
from caloforge.options import JoinOptions

__all__ = ["register"]


@with_options(JoinOptions)
def join(
    sources: Annotated[
        list[str], typer.Argument(help="Two or more shower files of any known formats, or samples (NAME:SPLIT).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    detector: Annotated[
        str | None, typer.Option(help="For files that do not say which detector they are from.")
    ] = None,
    bin_: BinOption = None,
    particle: Annotated[str | None, typer.Option(help="For files that do not say which particle they hold.")] = None,
    *,
    options: JoinOptions,
) -> None:
    r"""Join shower files: the showers of all of them, in the order of the files.

    \b
    Example: caloforge join a.h5 b.h5 c.h5 --out all.h5

    Files must be of one detector and particle and in one unit, and no shower may be in two of them.
    """
    from caloforge.api.data import join as run

    result = run(sources, out, detector=chosen_detector(detector, bin_), particle=particle, options=options)
    console.print(f"{out}: {result.showers} showers of {result.files} files")
    if not result.complete:
        console.print("note: not all of the files are complete; only finished showers were taken")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(join)
