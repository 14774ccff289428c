"""``caloforge simulate``: real Geant4 showers into a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caloforge.cli.common import (
    JOBS_HELP,
    ClusterOption,
    OverwriteOption,
    ResumeOption,
    SeedOption,
    command_line,
    console,
    print_table,
)
from caloforge.cores import available_cores
from caloforge.errors import UsageError

if TYPE_CHECKING:
    from caloforge.detectors import Detector

__all__ = ["register"]


class Direction(StrEnum):
    """How showers enter."""

    fixed = "fixed"
    random = "random"
    angles = "angles"
    barrel = "barrel"


class EngineName(StrEnum):
    """What runs Geant4."""

    calzone = "calzone"
    geant4_pybind = "geant4-pybind"


def simulate(
    detector: Annotated[
        str | None, typer.Option("--detector", help="Built-in name, or a TOML file of your own.")
    ] = None,
    particle: Annotated[str | None, typer.Option(help="Name or PDG id (default: the detector's first).")] = None,
    energy: Annotated[
        str | None, typer.Option(help="GeV: 50 | 5,10,20 | 1:100 | 1:100:log | 10:100:10 (default: the detector's).")
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="Number of showers.")] = 100,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.")] = None,
    seed: SeedOption = 1,
    jobs: Annotated[int | None, typer.Option(min=1, help=JOBS_HELP)] = None,
    cluster: ClusterOption = None,
    direction: Annotated[
        Direction,
        typer.Option(
            help="Along the gun, or random within its range: as the detector says, even in the angles, or even over the "
            "face of a barrel segment."
        ),
    ] = Direction.fixed,
    points: Annotated[bool, typer.Option("--points", help="Keep every deposit as a point instead of voxels.")] = False,
    field: Annotated[
        float | None,
        typer.Option(help="Strength of the magnetic field, tesla, along the detector's own direction; 0 for none."),
    ] = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(help="What runs Geant4 (default: calzone; with a magnetic field geant4-pybind)."),
    ] = None,
    geant4_data: Annotated[
        str, typer.Option(help="Geant4's tables: auto | builtin | official | a directory.", show_default=True)
    ] = "auto",
    fetch_geant4_data: Annotated[
        bool, typer.Option("--fetch-geant4-data", help="Download the official tables (2 GB, once) and stop.")
    ] = False,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
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
    described = load_detector(detector)
    if field is not None:
        described = described.with_field(field)
    summary = simulate_to_file(
        described,
        out,
        particle=particle,
        spectrum=energy,
        events=events,
        seed=seed,
        jobs=jobs or (available_cores() if cluster is None else 1),
        cluster=cluster,
        directions=direction.value,
        points=points,
        tables=geant4_data,
        engine=engine,
        resume=resume,
        overwrite=overwrite,
        command=command_line(),
    )
    rows = [
        ["showers", f"{summary.showers} {particle_name(summary.particle)}, {summary.spectrum.text()} GeV"],
        ["Geant4", f"{summary.engine}, {summary.tables} tables" + _field(described)],
        [
            "time",
            f"{summary.seconds:.1f} s" + (f" for {summary.made} of them" if summary.made < summary.showers else ""),
        ],
        ["file", f"{out} ({out.stat().st_size / 1e6:.1f} MB)"],
    ]
    print_table("", ["", ""], rows)


def _field(detector: Detector) -> str:
    return f", field of {detector.field_strength:g} T" if detector.field is not None else ""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(simulate)
