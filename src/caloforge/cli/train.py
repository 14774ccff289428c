"""``caloforge train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import (
    BinOption,
    chosen_detector,
    command_line,
    console,
    pairs,
    print_table,
)
from caloforge.cli.expand import with_options
from caloforge.options import TrainOptions

__all__ = ["register"]


@with_options(TrainOptions)
def train(
    preset: Annotated[str, typer.Argument(help="Name of a preset ('caloforge models' lists them) or a YAML file.")],
    data: Annotated[
        list[str],
        typer.Option(
            "--data", help="Shower file to train on, or a sample of the package (NAME:SPLIT); several are taken as one."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model directory.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=DIR", help="Another model to learn from: teacher=runs/t."),
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="For a file that does not say which detector it is from.")
    ] = None,
    bin_: BinOption = None,
    particle: Annotated[str | None, typer.Option(help="For a file that does not say which particle it holds.")] = None,
    *,
    options: TrainOptions,
) -> None:
    r"""Train a model.

    \b
    Example: caloforge train caloflow-tiny --data photons.h5 --out runs/photons

    The model directory also holds the losses as pictures and numbers. A training that was stopped goes on with the same
    command and --resume, to the same result. Several processes (--jobs, or torchrun on several machines) share every batch.
    """
    from caloforge.training import train as run

    result = run(
        preset,
        data,
        out,
        detector=chosen_detector(detector, bin_),
        particle=particle,
        inputs=dict(pairs(inputs, "--input", "for example teacher=runs/teacher")),
        command=command_line(),
        options=options,
    )
    rows = [
        [
            s.stage,
            str(s.epochs or "–"),
            "–" if s.best is None else f"{s.best:.5g}",
            str(s.best_epoch or "–"),
            f"{s.seconds:.0f} s",
        ]
        for s in result.stages
    ]
    print_table("", ["stage", "epochs", "best", "at epoch", "time"], rows)
    for note in result.notes:
        console.print(f"note: {note}")
    if result.record is None:
        console.print(f"{out}: not complete yet, still to be trained: {', '.join(result.missing)}")
    else:
        console.print(
            f"{out}: {result.record.kind}, {result.record.parameters:,} parameters, ready for 'caloforge generate {out}'"
        )


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(train)
