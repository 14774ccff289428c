"""``caloforge study``: one question, answered by training several models and comparing what they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import (
    App,
    ClusterOption,
    SeedOption,
    console,
    kept_if_interrupted,
    print_comparison,
    print_table,
)

__all__ = ["register"]

app = App(
    help="Answer a question about training by experiment. Example: caloforge study noise --data piplus.h5 "
    "--reference test.h5 --out study",
    no_args_is_help=True,
)

DataOption = Annotated[str, typer.Option(help="Shower file to train on.")]
ReferenceOption = Annotated[str, typer.Option(help="Geant4 showers that are not trained on.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Directory; what is finished in it is kept and reused.")]
FloorOption = Annotated[str | None, typer.Option(help="A second reference, for the floor.")]
PresetOption = Annotated[str, typer.Option(help="What to train.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the preset for all variants.")
]
ShowersOption = Annotated[
    int | None, typer.Option(min=100, help="Showers to generate and compare (default: as many as the reference holds).")
]
RepetitionsOption = Annotated[int, typer.Option(min=1, help="Trainings of each variant, from different seeds.")]
ClassifierOption = Annotated[
    str | None, typer.Option(help="Also train a classifier of the evaluation: caloflow-dnn-unnormalised.")
]
RowsOption = Annotated[int | None, typer.Option(min=10, help="Training showers (default: the study's).")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads (default: all cores).")]
DeviceOption = Annotated[str, typer.Option(help="cpu | cuda | cuda:N")]


@app.command()
def noise(
    data: DataOption,
    reference: ReferenceOption,
    out: OutOption,
    floor: FloorOption = None,
    preset: PresetOption = "caloflow-small",
    set_: SetOption = None,
    showers: ShowersOption = None,
    repetitions: RepetitionsOption = 1,
    classifier: ClassifierOption = None,
    rows: RowsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    r"""Train with and without noise regularisation (figure 4 of arXiv:2106.05285).

    \b
    Example: caloforge study noise --data piplus.h5 --reference test.h5 --out study
    """
    _run(
        "noise",
        data,
        reference,
        out,
        floor,
        preset,
        set_,
        showers,
        repetitions,
        classifier,
        rows,
        seed,
        threads,
        device,
    )


@app.command()
def symmetries(
    data: DataOption,
    reference: ReferenceOption,
    out: OutOption,
    floor: FloorOption = None,
    preset: PresetOption = "caloflow-tiny",
    set_: SetOption = None,
    showers: ShowersOption = None,
    repetitions: RepetitionsOption = 1,
    classifier: ClassifierOption = None,
    rows: RowsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    r"""Train on few showers with and without the detector's symmetries as augmentation.

    \b
    Example: caloforge study symmetries --data photons.h5 --reference test.h5 --out study
    """
    _run(
        "symmetries", data, reference, out, floor, preset, set_, showers, repetitions, classifier, rows, seed, threads,
        device,
    )  # fmt: skip


@app.command()
def particles(
    model: Annotated[list[str], typer.Option(help="The two models, one option each, in the order of the data.")],
    data: Annotated[list[str], typer.Option(help="Unseen showers of the two particles, one option each.")],
    out: OutOption,
    noise_draws: Annotated[int, typer.Option(min=1, help="Draws of the training noise to average over.")] = 1,
    showers: Annotated[int | None, typer.Option(min=10, help="How many of each file (default: all).")] = None,
    seed: SeedOption = 0,
) -> None:
    r"""Tell two particles apart by the likelihood ratio of two models.

    \b
    Example: caloforge study particles --model runs/eplus --model runs/gamma --data eplus.h5 --data gamma.h5 --out study
    """
    from caloforge.errors import UsageError
    from caloforge.studies import study_particles

    if len(model) != 2 or len(data) != 2:
        raise UsageError(f"{len(model)} models and {len(data)} files were given, expected two of each")
    found = study_particles(
        (model[0], model[1]), (data[0], data[1]), out, noise_draws=noise_draws, showers=showers, seed=seed
    )
    first, second = found.particles
    console.print(f"{first} against {second}: AUC {found.auc:.4f} ± {found.error:.4f} ({found.showers} showers)")
    if found.impossible:
        console.print(f"note: {found.impossible} showers have no probability under one of the models")
    for path in found.files:
        console.print(f"written: {path}")


@app.command()
def models(
    preset: Annotated[list[str], typer.Option(help="A preset or YAML file; one option for each, teachers first.")],
    data: DataOption,
    reference: ReferenceOption,
    out: OutOption,
    floor: FloorOption = None,
    suite: Annotated[str, typer.Option(help="Suite of the evaluation: quick | calogan | calochallenge.")] = "quick",
    only: Annotated[list[str] | None, typer.Option(help="Only these of its measures.")] = None,
    retrainings: Annotated[int | None, typer.Option(min=1, help="Of every classifier (default: the suite's).")] = None,
    timing: Annotated[bool, typer.Option(help="Also measure how fast the models are.")] = True,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also hold each against an untrained copy and against shuffled voxels.")
    ] = False,
    seed: SeedOption = 0,
    jobs: Annotated[
        int, typer.Option(min=1, help="Number of processes; each works on one model at a time, teachers first.")
    ] = 1,
    cluster: ClusterOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    r"""Train several models on the same showers and put them into one table.

    \b
    Example: caloforge study models --preset caloflow-tiny --preset caloinn-tiny --data g.h5 --reference test.h5 --out study
    """
    from caloforge.studies import study_models

    with kept_if_interrupted(_kept(out)):
        table = study_models(
            preset, data, reference, out, floor=floor, suite=suite, only=tuple(only or ()), retrainings=retrainings,
            timing=timing, controls=controls, seed=seed, jobs=jobs, cluster=cluster, threads=threads, device=device,
            say=lambda text: console.print(f"... {text}"),
        )  # fmt: skip
    print_comparison(table.columns, table.rows)
    for note in table.notes:
        console.print(f"note: {note}")
    console.print(f"written: {out / 'table.md'} and {out / 'table.html'}")


@app.command()
def clouds(
    data: Annotated[list[str], typer.Option(help="Shower file to train on, or one option for each preset.")],
    reference: Annotated[list[str], typer.Option(help="Geant4 showers that are not trained on, likewise.")],
    out: OutOption,
    preset: Annotated[
        list[str] | None, typer.Option(help="Two or three presets or YAML files [caloclouds2-tiny, caloclouds3-tiny].")
    ] = None,
    floor: Annotated[list[str] | None, typer.Option(help="A second reference, for the floor, likewise.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Measures of the suite caloclouds [caloclouds-profiles and layers].")
    ] = None,
    retrainings: Annotated[int | None, typer.Option(min=1, help="Of every classifier (default: the suite's).")] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
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
            only=tuple(only or ("caloclouds-profiles", "layers")), retrainings=retrainings, seed=seed, threads=threads,
            device=device, say=lambda text: console.print(f"... {text}"),
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
def learning(
    preset: Annotated[list[str], typer.Option(help="A preset or YAML file; one option for each.")],
    data: DataOption,
    reference: ReferenceOption,
    out: OutOption,
    floor: FloorOption = None,
    training: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Training showers (default: 1/16, 1/8, ... of all).")
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Showers of each kind for classifiers (default: 1/8, 1/4, 1/2 of all)."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only these of the measures, such as boosted (default: all five).")
    ] = None,
    set_: SetOption = None,
    retrainings: Annotated[int | None, typer.Option(min=1, help="Of every classifier (default: the suite's).")] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    r"""How fidelity grows with training showers, and what classifiers see with more showers of the evaluation.

    \b
    Example: caloforge study learning --preset caloflow-tiny --preset shower-library --data g.h5 --reference test.h5 --out study
    """
    from caloforge.studies import study_learning

    with kept_if_interrupted(_kept(out)):
        found = study_learning(
            preset, data, reference, out, floor=floor, training=_numbers(training, "--training"),
            classifier=_numbers(classifier, "--classifier"), only=tuple(only or ()), overrides=tuple(set_ or ()),
            retrainings=retrainings, seed=seed, threads=threads, device=device,
            say=lambda text: console.print(f"... {text}"),
        )  # fmt: skip
    print_table("learning curves", *found.table())
    for path in found.files:
        console.print(f"written: {path}")


def _numbers(text: str | None, option: str) -> list[int]:
    from caloforge.errors import UsageError

    try:
        return [int(word) for word in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f"{option} is '{text}', expected whole numbers such as 500,1000,2000") from None


def _kept(out: Path) -> str:
    return f"what is finished in '{out}' is kept, the same command goes on"


def _run(
    name: str,
    data: str,
    reference: str,
    out: Path,
    floor: str | None,
    preset: str,
    set_: list[str] | None,
    showers: int | None,
    repetitions: int,
    classifier: str | None,
    rows: int | None,
    seed: int,
    threads: int | None,
    device: str,
) -> None:
    from caloforge.studies import STUDIES, run_study

    study = STUDIES[name]
    console.print(study.question)
    with kept_if_interrupted(_kept(out)):
        result = run_study(
            study, data, reference, out, floor=floor, preset=preset, overrides=tuple(set_ or ()), showers=showers,
            repetitions=repetitions, classifier=classifier, rows=rows, seed=seed, threads=threads, device=device,
            say=lambda text: console.print(f"... {text}"),
        )  # fmt: skip
    columns, cells = result.table()
    print_table(
        f"mean ± spread over {repetitions} training(s)" if repetitions > 1 else "one training each", columns, cells
    )
    for path in result.files:
        console.print(f"written: {path}")


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="study")
