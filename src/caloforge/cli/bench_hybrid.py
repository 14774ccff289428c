"""``caloforge bench hybrid``: hybrid events against Geant4 alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.bench import JsonOption, app, save
from caloforge.cli.common import SeedOption, print_table
from caloforge.cli.hybrid import models_as_typed

__all__ = ["register"]


@app.command()
def hybrid(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Who answers, as for 'caloforge hybrid'; may be repeated (default: calogan-gamma)."),
    ] = None,
    detector: Annotated[str, typer.Option(help="Built-in name, or a TOML file of your own.")] = "calogan",
    upstream: Annotated[Path | None, typer.Option(help="TOML file with the plates in front.")] = None,
    particle: Annotated[str, typer.Option(help="What starts.")] = "pi0",
    energy: Annotated[float, typer.Option(help="GeV.")] = 20.0,
    events: Annotated[int, typer.Option(min=200, help="Hybrid events; a tenth of it of Geant4 alone.")] = 1000,
    seed: SeedOption = 1,
    geant4_data: Annotated[
        str, typer.Option(help="Geant4's tables: auto | builtin | official | a directory.")
    ] = "auto",
    json_: JsonOption = None,
) -> None:
    r"""Measure how much faster hybrid events are than Geant4 alone, and what bounds it.

    \b
    Example: caloforge bench hybrid --upstream examples/al10.toml --model calogan-gamma
    """
    from dataclasses import asdict

    from caloforge.bench.hybrid import bench_hybrid
    from caloforge.bench.machine import describe_machine
    from caloforge.detectors import load_detector
    from caloforge.options import HybridOptions

    found = bench_hybrid(
        load_detector(detector),
        models_as_typed(model or ["calogan-gamma"]),
        particle,
        f"{energy:g}",
        upstream=upstream,
        options=HybridOptions(events=events, seed=seed, geant4_data=geant4_data),
    )
    rows = [
        ["Geant4 alone, ms per event", f"{found.bare[0]:.1f} ± {found.bare[1]:.1f} ({found.bare_events} events)"],
        ["hybrid", f"{found.total[0]:.2f} ± {found.total[1]:.2f} ({found.events} events)"],
        ["of it", f"Geant4 {found.geant4:.2f}, models {found.models:.2f}, placing {found.placing:.2f}"],
        ["faster by", f"{found.ratio[0]:.2f} ± {found.ratio[1]:.2f}"],
        ["share tracked behind the face", f"{found.tracked:.4f}"],
        ["that share on average", f"{found.share[0]:.4f} ± {found.share[1]:.4f} ({found.share_events} events)"],
        ["faster by, at this share", f"{found.ratio_at_share[0]:.2f} ± {found.ratio_at_share[1]:.2f}"],
        ["at most", f"{found.bound:.2f}, if all else took no time"],
    ]
    print_table(f"CPU time, one process; answered: {found.answered}", ["", ""], rows)
    save(json_, {"machine": describe_machine(), "timing": asdict(found)})


def register(root: typer.Typer) -> None:
    """The command is one of ``caloforge bench``, which is registered by itself."""
