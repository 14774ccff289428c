"""``caloforge join``: several shower files into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import BinOption, OverwriteOption, ResumeOption, chosen_detector, console

__all__ = ["register"]


def join(
    sources: Annotated[
        list[str], typer.Argument(help="Two or more shower files of any known formats, or samples (NAME:SPLIT).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    to: Annotated[str, typer.Option(help="native | calogan | calochallenge | showerdata | ild")] = "native",
    detector: Annotated[
        str | None, typer.Option(help="For files that do not say which detector they are from.")
    ] = None,
    bin_: BinOption = None,
    particle: Annotated[str | None, typer.Option(help="For files that do not say which particle they hold.")] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    r"""Join shower files: the showers of all of them, in the order of the files.

    \b
    Example: caloforge join a.h5 b.h5 c.h5 --out all.h5

    Files must be of one detector and particle and in one unit, and no shower may be in two of them.
    """
    from caloforge.datasets import file_of
    from caloforge.errors import UsageError
    from caloforge.progress import counted, progress
    from caloforge.showers.files import open_showers
    from caloforge.showers.joining import join_showers

    if len(sources) < 2:
        raise UsageError("one file alone cannot be joined, expected two or more")
    files = [file_of(source) for source in sources]
    named = chosen_detector(detector, bin_)
    total = 0
    for file in files:
        with open_showers(file, named, particle=particle) as reader:
            total += len(reader)
    with progress("joining", total, "showers") as bar:
        result = join_showers(
            files, out, to, detector=named, particle=particle, resume=resume, overwrite=overwrite, advance=counted(bar)
        )
    console.print(f"{out}: {result.showers} showers of {result.files} files")
    if not result.complete:
        console.print("note: not all of the files are complete; only finished showers were taken")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(join)
