"""``caloforge demo``: the main job in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caloforge.cli.common import console, kept_if_interrupted, print_table
from caloforge.cli.expand import with_options
from caloforge.options import DemoOptions

if TYPE_CHECKING:
    from caloforge.demo import Demo

__all__ = ["register"]


@with_options(DemoOptions)
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for everything that is made.")] = Path("demo"),
    *,
    options: DemoOptions,
) -> None:
    r"""Show what CaloForge does, on real showers, in a few minutes.

    \b
    Example: caloforge demo --out demo

    Geant4 makes a few photon showers; a tiny CaloFlow is trained on the 6,000 that ship with the package, generates new
    ones, and they are compared with Geant4 showers that it has not seen, and with those of the packaged model, which was trained
    longer. Run again, it goes on where it was stopped.
    """
    from caloforge.demo import Demo

    with kept_if_interrupted(f"what is finished in '{out}' is kept, the same command goes on"):
        _steps(Demo(out, options))


def _steps(steps: Demo) -> None:
    showers = steps.options.showers
    console.print(f"1/4 Geant4: {steps.options.events} photons of 1-100 GeV in the CaloGAN calorimeter")
    made = steps.simulate()
    print_table(f"{made.summary.showers} showers in {made.summary.seconds:.0f} s", made.columns, made.rows)
    for path in made.files:
        console.print(f"written: {path}")

    console.print("2/4 training: caloflow-tiny, on the packaged Geant4 photons")
    trained = steps.train()
    console.print(f"written: {trained.directory}")

    console.print(f"3/4 generating {showers} showers")
    generated = steps.generate()
    if generated.made:
        console.print(f"{generated.milliseconds_per_shower:.2f} ms per shower")
    console.print(f"written: {generated.path}")

    console.print("4/4 evaluation: generated showers and a second Geant4 sample, each against unseen Geant4 showers")
    found = steps.evaluate(steps.prepare_evaluation())
    for line in found.lines:
        console.print(line)
    packaged = steps.judge_packaged()
    scores = found.scores if packaged is None else {"the packaged calogan-gamma": packaged, **found.scores}
    told = ", ".join(f"{auc:.3f} ± {error:.3f} ({name})" for name, (auc, error) in scores.items())
    console.print(f"boosted trees tell showers from unseen Geant4 ones with AUC {told}")
    console.print(f"report: {found.page}")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(demo)
