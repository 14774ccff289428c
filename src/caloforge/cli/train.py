"""``caloforge train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import (
    BinOption,
    OverwriteOption,
    ResumeOption,
    SeedOption,
    chosen_detector,
    command_line,
    console,
    pairs,
    print_table,
)

__all__ = ["register"]


def train(
    preset: Annotated[str, typer.Argument(help="Name of a preset ('caloforge models' lists them) or a YAML file.")],
    data: Annotated[
        list[str],
        typer.Option(
            "--data", help="Shower file to train on, or a sample of the package (NAME:SPLIT); several are taken as one."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model directory.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the preset: training.epochs=5.")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option("--stage", help="Train only this stage (may be given more than once).")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=DIR", help="Another model to learn from: teacher=runs/t."),
    ] = None,
    val_fraction: Annotated[
        float | None, typer.Option(min=0, max=0.9, help="Share of showers kept for validation (default: the preset's).")
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="For a file that does not say which detector it is from.")
    ] = None,
    bin_: BinOption = None,
    particle: Annotated[str | None, typer.Option(help="For a file that does not say which particle it holds.")] = None,
    seed: SeedOption = 0,
    device: Annotated[str, typer.Option(help="cpu | cuda | cuda:N")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: all cores).")] = None,
    memory: Annotated[
        float | None, typer.Option(min=0.001, help="GB that the data may take; larger data stream from the file.")
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let a GPU round matrix products (faster, not reproducible).")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log for TensorBoard.")] = False,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    r"""Train a model.

    \b
    Example: caloforge train caloflow-tiny --data photons.h5 --out runs/photons

    The model directory also holds the losses as pictures and numbers. A training that was stopped goes on with the same
    command and --resume, to the same result. Under torchrun it uses several processes.
    """
    from caloforge.training import train as run

    result = run(
        preset,
        data,
        out,
        overrides=set_ or (),
        detector=chosen_detector(detector, bin_),
        particle=particle,
        stages=stage or (),
        inputs=dict(pairs(inputs, "--input", "for example teacher=runs/teacher")),
        val_fraction=val_fraction,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        device=device,
        threads=threads,
        memory=None if memory is None else int(memory * 1e9),
        tf32=tf32,
        tensorboard=tensorboard,
        command=command_line(),
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
