"""``caloforge hybrid``: Geant4 up to the face of a calorimeter, models behind it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import (
    JOBS_HELP,
    OverwriteOption,
    ResumeOption,
    SeedOption,
    command_line,
    pairs,
    print_table,
)
from caloforge.cores import available_cores
from caloforge.errors import UsageError
from caloforge.options import CLUSTER_HELP

__all__ = ["register"]


class EngineName(StrEnum):
    """What runs Geant4."""

    calzone = "calzone"
    geant4_pybind = "geant4-pybind"


def hybrid(
    detector: Annotated[str, typer.Option("--detector", help="Built-in name, or a TOML file of your own.")],
    particle: Annotated[str, typer.Option(help="What starts: name or PDG id.")],
    energy: Annotated[str, typer.Option(help="GeV: 50 | 5,10,20 | 1:100 | 1:100:log.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Who answers: a model, for the species that it was trained for, or SPECIES=MODEL; may be repeated."
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="No model: Geant4 tracks everything, for comparison.")] = False,
    upstream: Annotated[
        Path | None, typer.Option(help="TOML file with the plates in front of the calorimeter.")
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="Number of events.")] = 100,
    seed: SeedOption = 1,
    jobs: Annotated[int | None, typer.Option(min=1, help=JOBS_HELP)] = None,
    cluster: Annotated[str | None, typer.Option(help=CLUSTER_HELP)] = None,
    max_angle: Annotated[
        float | None,
        typer.Option(
            help="Largest angle of what is answered, mrad (default: 50, or as far as the model knows directions)."
        ),
    ] = None,
    max_offset: Annotated[float, typer.Option(help="Largest distance from the axis of what is answered, mm.")] = 20.0,
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
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    r"""Simulate events with Geant4 in front of a calorimeter and trained models in it.

    \b
    Example: caloforge hybrid --detector calogan --upstream examples/al10.toml --particle pi0 --energy 20 --events 500
             --model calogan-gamma --seed 1 --out h.h5

    Geant4 tracks what starts through the material in front. Particles that reach the face and that a model was trained for are
    answered by it, all others are tracked on. The particles at the face stay in the file.
    """
    from caloforge.deployment.hybrid import hybrid_simulation
    from caloforge.detectors import load_detector, load_upstream

    if full == bool(model):
        raise UsageError("expected either --model (may be repeated) or --full")
    described = load_detector(detector)
    if field is not None:
        described = described.with_field(field)
    summary = hybrid_simulation(
        described,
        out,
        models=_models(model or []),
        particle=particle,
        spectrum=energy,
        events=events,
        upstream=None if upstream is None else load_upstream(upstream),
        seed=seed,
        jobs=jobs or (available_cores() if cluster is None else 1),
        cluster=cluster,
        max_angle=None if max_angle is None else max_angle / 1000,
        max_offset=max_offset,
        engine=None if engine is None else engine.value,
        tables=geant4_data,
        resume=resume,
        overwrite=overwrite,
        command=command_line(),
    )
    rows = [
        ["events", f"{summary.events}" + (f", {summary.made} of them now" if summary.made < summary.events else "")],
        ["Geant4", summary.engine],
        ["answered", summary.acceptance or "nothing: Geant4 tracked everything"],
        ["time", f"{summary.seconds:.1f} s"],
    ]
    if summary.made:
        spent = ", ".join(f"{name} {1000 * seconds / summary.made:.3g}" for name, seconds in summary.spent.items())
        rows.append(["ms per event", f"{spent} (of the workers)"])
    rows.append(["file", f"{out} ({out.stat().st_size / 1e6:.1f} MB)"])
    print_table("", ["", ""], rows)
    if summary.faces:
        print_table(
            "At the face",
            ["particle", "answer", "per event", "share of the energy"],
            [
                [
                    row["particle"],
                    row["answer"] if row["answer"] == "answered" else f"tracked: {row['answer']}",
                    f"{row['per_event']:.3g}",
                    f"{row['energy_share']:.4f}",
                ]
                for row in summary.faces
            ],
        )


def _models(given: list[str]) -> list[str | Path | tuple[str, str | Path]]:
    """Models as typed: some may be told for which species they stand."""
    return [
        pairs([text], "--model", "SPECIES=MODEL")[0] if "=" in text and not Path(text).exists() else text
        for text in given
    ]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(hybrid)
