"""``caloforge demo``: the main job in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import JOBS_HELP, SeedOption, console, default_jobs, print_table

__all__ = ["register"]


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for everything that is made.")] = Path("demo"),
    events: Annotated[int, typer.Option(min=1, help="Number of Geant4 showers.")] = 100,
    jobs: Annotated[int | None, typer.Option(min=1, help=JOBS_HELP)] = None,
    seed: SeedOption = 1,
) -> None:
    r"""Show what CaloForge does, on real showers, in a few minutes.

    \b
    Example: caloforge demo --out demo
    """
    from caloforge.demo import run_simulation_demo

    console.print(f"Geant4: {events} photons of 1-100 GeV in the CaloGAN calorimeter")
    made = run_simulation_demo(out, events=events, jobs=jobs or default_jobs(), seed=seed)
    print_table(f"{made.summary.showers} showers in {made.summary.seconds:.0f} s", made.columns, made.rows)
    for path in made.files:
        console.print(f"written: {path}")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(demo)
