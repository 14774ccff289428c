"""``caloforge hybrid``: Geant4 up to the face of a calorimeter, models behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import command_line, given_up, pairs, print_table
from caloforge.cli.expand import with_options
from caloforge.errors import UsageError
from caloforge.options import HybridOptions

__all__ = ["models_as_typed", "register"]


@with_options(HybridOptions)
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
    *,
    options: HybridOptions,
) -> None:
    r"""Simulate events with Geant4 in front of a calorimeter and trained models in it.

    \b
    Example: caloforge hybrid --detector calogan --upstream examples/al10.toml --particle pi0 --energy 20 --events 500
             --model calogan-gamma --seed 1 --out h.h5

    Geant4 tracks what starts through the material in front. Particles that reach the face and that a model was trained for are
    answered by it, all others are tracked on. The particles at the face stay in the file.
    """
    from caloforge.deployment.hybrid import hybrid_simulation
    from caloforge.detectors import load_detector

    if full == bool(model):
        raise UsageError("expected either --model (may be repeated) or --full")
    summary = hybrid_simulation(
        load_detector(detector),
        out,
        models=models_as_typed(model or []),
        particle=particle,
        energy=energy,
        upstream=upstream,
        options=options,
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
    rows += given_up(summary.given_up)
    rows.append(["file", f"{out} ({out.stat().st_size / 1e6:.1f} MB)"])
    if summary.picture is not None:
        rows.append(["picture", str(summary.picture)])
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


def models_as_typed(given: list[str]) -> list[str | Path | tuple[str, str | Path]]:
    """Models as typed: some may be told for which species they stand."""
    return [
        pairs([text], "--model", "SPECIES=MODEL")[0] if "=" in text and not Path(text).exists() else text
        for text in given
    ]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(hybrid)
