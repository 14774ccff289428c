"""``caloforge study``: one question, answered by training several models and comparing what they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import App, console, kept_if_interrupted, print_comparison, print_table
from caloforge.cli.expand import with_options
from caloforge.options import (
    StudyCloudsOptions,
    StudyLearningOptions,
    StudyModelsOptions,
    StudyParticlesOptions,
    StudyVariantsOptions,
)

__all__ = ["app", "register"]

app = App(
    help="Answer a question about training by experiment. Example: caloforge study noise --data piplus.h5 "
    "--reference test.h5 --out study",
    no_args_is_help=True,
)

DataOption = Annotated[str, typer.Option(help="Shower file to train on, or a sample of the package (NAME:SPLIT).")]
ReferenceOption = Annotated[str, typer.Option(help="Geant4 showers that are not trained on, likewise.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Directory; what is finished in it is kept and reused.")]
FloorOption = Annotated[str | None, typer.Option(help="A second reference, for the floor, likewise.")]


@app.command()
@with_options(StudyVariantsOptions)
def noise(
    data: DataOption,
    reference: ReferenceOption,
    out: OutOption,
    floor: FloorOption = None,
    *,
    options: StudyVariantsOptions,
) -> None:
    r"""Train with and without noise regularisation (figure 4 of arXiv:2106.05285).

    \b
    Example: caloforge study noise --data piplus.h5 --reference test.h5 --out study
    """
    _run("noise", data, reference, out, floor, options)


@app.command()
@with_options(StudyVariantsOptions)
def symmetries(
    data: DataOption,
    reference: ReferenceOption,
    out: OutOption,
    floor: FloorOption = None,
    *,
    options: StudyVariantsOptions,
) -> None:
    r"""Train on few showers with and without the detector's symmetries as augmentation.

    \b
    Example: caloforge study symmetries --data photons.h5 --reference test.h5 --out study
    """
    _run("symmetries", data, reference, out, floor, options)


@app.command()
@with_options(StudyParticlesOptions)
def particles(
    model: Annotated[list[str], typer.Option(help="The two models, one option each, in the order of the data.")],
    data: Annotated[list[str], typer.Option(help="Unseen showers of the two particles, one option each.")],
    out: OutOption,
    *,
    options: StudyParticlesOptions,
) -> None:
    r"""Tell two particles apart by the likelihood ratio of two models.

    \b
    Example: caloforge study particles --model runs/eplus --model runs/gamma --data eplus.h5 --data gamma.h5 --out study
    """
    from caloforge.errors import UsageError
    from caloforge.studies import study_particles

    if len(model) != 2 or len(data) != 2:
        raise UsageError(f"{len(model)} models and {len(data)} files were given, expected two of each")
    with kept_if_interrupted(_kept(out)):
        found = study_particles((model[0], model[1]), (data[0], data[1]), out, options=options)
    first, second = found.particles
    console.print(f"{first} against {second}: AUC {found.auc:.4f} ± {found.error:.4f} ({found.showers} showers)")
    if found.impossible:
        console.print(f"note: {found.impossible} showers have no probability under one of the models")
    for path in found.files:
        console.print(f"written: {path}")


@app.command()
@with_options(StudyModelsOptions)
def models(
    preset: Annotated[list[str], typer.Option(help="A preset or YAML file; one option for each, teachers first.")],
    data: DataOption,
    reference: ReferenceOption,
    out: OutOption,
    floor: FloorOption = None,
    *,
    options: StudyModelsOptions,
) -> None:
    r"""Train several models on the same showers and put them into one table.

    \b
    Example: caloforge study models --preset caloflow-tiny --preset caloinn-tiny --data g.h5 --reference test.h5 --out study
    """
    from caloforge.studies import study_models

    with kept_if_interrupted(_kept(out)):
        table = study_models(
            preset, data, reference, out, floor=floor, options=options, say=lambda text: console.print(f"... {text}"),
        )  # fmt: skip
    print_comparison(table.columns, table.rows)
    for note in table.notes:
        console.print(f"note: {note}")
    console.print(f"written: {out / 'table.md'} and {out / 'table.html'}")


@app.command()
@with_options(StudyCloudsOptions)
def clouds(
    data: Annotated[list[str], typer.Option(help="Shower file to train on, or one option for each preset.")],
    reference: Annotated[list[str], typer.Option(help="Geant4 showers that are not trained on, likewise.")],
    out: OutOption,
    preset: Annotated[
        list[str] | None, typer.Option(help="Two or three presets or YAML files [caloclouds2-tiny, caloclouds3-tiny].")
    ] = None,
    floor: Annotated[list[str] | None, typer.Option(help="A second reference, for the floor, likewise.")] = None,
    *,
    options: StudyCloudsOptions,
) -> None:
    r"""CaloClouds2 against CaloClouds3: ten observables, and the losses of their flows (figure 2 of arXiv:2511.01460).

    \b
    Example: caloforge study clouds --data points.h5 --reference test.h5 --out study

    CaloClouds2 was published for points at the centres of 36 sub-cells per cell, CaloClouds3 for 25; with two files each,
    --data first.h5 --data second.h5 and likewise for the others, every model gets its own.
    """
    from caloforge.studies import FlowLosses, study_clouds

    with kept_if_interrupted(_kept(out)):
        found = study_clouds(
            data, reference, out, presets=tuple(preset or ("caloclouds2-tiny", "caloclouds3-tiny")), floor=floor,
            options=options, say=lambda text: console.print(f"... {text}"),
        )  # fmt: skip
    print_comparison(found.table.columns, found.table.rows)
    for note in found.table.notes:
        console.print(f"note: {note}")
    print_table(
        "losses of the flows, nats per output",
        FlowLosses.columns,
        [loss.row() for loss in found.losses],
    )
    for path in found.files:
        console.print(f"written: {path}")


@app.command()
@with_options(StudyLearningOptions)
def learning(
    preset: Annotated[list[str], typer.Option(help="A preset or YAML file; one option for each.")],
    data: DataOption,
    reference: ReferenceOption,
    out: OutOption,
    floor: FloorOption = None,
    *,
    options: StudyLearningOptions,
) -> None:
    r"""How fidelity grows with training showers, and what classifiers see with more showers of the evaluation.

    \b
    Example: caloforge study learning --preset caloflow-tiny --preset shower-library --data g.h5 --reference test.h5 --out study
    """
    from caloforge.studies import study_learning

    with kept_if_interrupted(_kept(out)):
        found = study_learning(
            preset, data, reference, out, floor=floor, options=options, say=lambda text: console.print(f"... {text}"),
        )  # fmt: skip
    print_table("learning curves", *found.table())
    for path in found.files:
        console.print(f"written: {path}")


def _kept(out: Path) -> str:
    return f"what is finished in '{out}' is kept, the same command goes on"


def _run(
    name: str,
    data: str,
    reference: str,
    out: Path,
    floor: str | None,
    options: StudyVariantsOptions,
) -> None:
    from caloforge.studies import STUDIES, run_study

    study = STUDIES[name]
    console.print(study.question)
    with kept_if_interrupted(_kept(out)):
        result = run_study(
            study, data, reference, out, floor=floor, options=options, say=lambda text: console.print(f"... {text}"),
        )  # fmt: skip
    columns, cells = result.table()
    print_table(
        f"mean ± spread over {options.repetitions} training(s)" if options.repetitions > 1 else "one training each",
        columns,
        cells,
    )
    for path in result.files:
        console.print(f"written: {path}")


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="study")
