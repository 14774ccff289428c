"""``caloforge simulate``: real Geant4 showers into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caloforge.cli.common import command_line, console, given_up, print_table
from caloforge.cli.expand import with_options
from caloforge.errors import UsageError
from caloforge.options import SimulateOptions

if TYPE_CHECKING:
    from caloforge.detectors import Detector

__all__ = ["register"]


@with_options(SimulateOptions)
def simulate(
    detector: Annotated[
        str | None, typer.Option("--detector", help="Built-in name, or a TOML file of your own.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.")] = None,
    *,
    options: SimulateOptions,
    fetch_geant4_data: Annotated[
        bool, typer.Option("--fetch-geant4-data", help="Download the official tables (2 GB, once) and stop.")
    ] = False,
) -> None:
    """Simulate showers with Geant4.

    \b
    Example: caloforge simulate --detector calogan --particle e+ --energy 1:100 --events 1000 --out eplus.h5

    Same seed, same showers, for any number of processes. A job that was stopped leaves a file with everything that it
    finished; the same command with --resume goes on.
    """
    from caloforge.detectors import load_detector, particle_name
    from caloforge.simulation import fetch_official, simulate_to_file

    if fetch_geant4_data:
        console.print(f"Geant4 tables: {fetch_official()}")
        return
    if not detector:
        raise UsageError("--detector is missing; 'caloforge detectors' lists the built-in ones")
    if out is None:
        raise UsageError("--out is missing: the file to write")
    summary = simulate_to_file(load_detector(detector), out, options=options, command=command_line())
    rows = [
        ["showers", f"{summary.showers} {particle_name(summary.particle)}, {summary.spectrum.text()} GeV"],
        ["Geant4", f"{summary.engine}, {summary.tables} tables" + _field(summary.detector)],
        [
            "time",
            f"{summary.seconds:.1f} s" + (f" for {summary.made} of them" if summary.made < summary.showers else ""),
        ],
        *given_up(summary.given_up),
        ["file", f"{out} ({out.stat().st_size / 1e6:.1f} MB)"],
    ]
    print_table("", ["", ""], rows)


def _field(detector: Detector) -> str:
    return f", field of {detector.field_strength:g} T" if detector.field is not None else ""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(simulate)
