"""``caloforge evaluate`` and ``caloforge compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caloforge.cli.common import (
    BinOption,
    OverwriteOption,
    ResumeOption,
    chosen_detector,
    console,
    kept_if_interrupted,
    pairs,
    print_comparison,
    print_table,
)
from caloforge.cli.expand import with_options
from caloforge.errors import UsageError
from caloforge.options import CompareOptions, EvaluateOptions

if TYPE_CHECKING:
    from caloforge.evaluation.files import FileEvaluation

__all__ = ["register"]

_FORMATS = ("html", "json", "png", "pdf", "svg")


@with_options(EvaluateOptions)
def evaluate(
    generated: Annotated[
        str, typer.Argument(help="Showers to judge: a file, or a sample of the package (NAME:SPLIT).")
    ],
    reference: Annotated[str, typer.Argument(help="Geant4 showers that the model was not trained on, likewise.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")],
    floor: Annotated[
        list[str] | None,
        typer.Option(
            help="A second, independent reference: every number is also given for Geant4 against Geant4; several files are taken "
            "as one."
        ),
    ] = None,
    more_generated: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="More showers to judge, taken as one with the first file.")
    ] = None,
    more_reference: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="More Geant4 showers, taken as one with the first file.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model that made the showers (default: the one that the file names, if it is here)."),
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Another model's showers, for the multi-class test; may be repeated."),
    ] = None,
    cross_particle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GENERATED=REFERENCE",
            help="Files of another particle, for particle identification with generated showers; may be repeated.",
        ),
    ] = None,
    *,
    options: EvaluateOptions,
    detector: Annotated[
        str | None, typer.Option(help="For a file that does not say which detector it is from.")
    ] = None,
    bin_: BinOption = None,
    particle: Annotated[str | None, typer.Option(help="For a file that does not say which particle it holds.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="What to write: html, png, pdf, svg; report.json always is.")
    ] = "html,json,png",
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    r"""Judge generated showers by Geant4 showers, and write a report.

    \b
    Example: caloforge evaluate generated.h5 test.h5 --floor floor.h5 --out report

    The report is one HTML page, report.json with the same content, and the figures. Both samples must be of the same
    detector, particle and energy spectrum; the command says what differs.
    """
    from caloforge.evaluation.files import prepare_evaluation
    from caloforge.progress import progress
    from caloforge.report import claim_folder, summary_lines, write_report

    formats = _words([format_])
    for name in formats:
        if name not in _FORMATS:
            raise UsageError(f"--format is '{format_}', expected some of {','.join(_FORMATS)}")
    job = prepare_evaluation(
        [generated, *(more_generated or ())],
        [reference, *(more_reference or ())],
        floor=floor or None,
        others=dict(pairs(other, "--other", "NAME=FILE")),
        cross_particle=pairs(cross_particle, "--cross-particle", "GENERATED=REFERENCE"),
        model=model,
        detector=chosen_detector(detector, bin_),
        particle=particle,
        options=options,
    )
    with kept_if_interrupted(f"finished retrainings are kept in '{out}', --resume uses them again"):
        keep = claim_folder(out, resume=resume, overwrite=overwrite)
        _announce(job)
        with progress("evaluating", job.units, "steps") as bar:
            result = job.run(keep=keep, advance=bar.advance)
    figures = tuple(name for name in formats if name not in ("html", "json"))
    if figures or "html" in formats:
        console.print("drawing figures ...")
    files = write_report(result, out, formats=figures, page="html" in formats)
    for line in summary_lines(result):
        console.print(line)
    console.print(f"report: {files.page or files.data}")


def _announce(job: FileEvaluation) -> None:
    """Say what is compared, what is not independent, what differs, and how long it will take."""
    from caloforge.detectors import particle_name
    from caloforge.report import shared_line
    from caloforge.units import format_energy

    if job.shared:
        console.print(shared_line(job.shared))
    rows = [
        [
            word, source.label, f"{len(source.showers)}", particle_name(source.showers.particle),
            f"{format_energy(source.showers.incident_energy.min())} to "
            f"{format_energy(source.showers.incident_energy.max())}",
            source.detector.name,
        ]
        for word, source in job.samples.items()
    ]  # fmt: skip
    print_table("", ["sample", "file", "showers", "particle", "energy", "detector"], rows)
    for remark in (*job.remarks, *job.plan.notes):
        console.print(f"note: {remark}")
    console.print("model: " + (job.model or "not known (--model names it)"))
    seconds = sum(job.plan.seconds.values())
    slow = ", ".join(f"{name} {_duration(s)}" for name, s in job.plan.seconds.items())
    expected = f"about {_duration(seconds)} of training ({slow}), and " if seconds else ""
    console.print(f"expected: {expected}some seconds for each of the other measures")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _words(texts: Sequence[str] | None) -> list[str]:
    return [word.strip() for text in texts or () for word in text.split(",") if word.strip()]


@with_options(CompareOptions)
def compare(
    reports: Annotated[list[Path], typer.Argument(help="report.json files, or the folders that hold them.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Table to write: .html, .md or .json.")] = None,
    *,
    options: CompareOptions,
) -> None:
    r"""Put the reports of several models side by side, beside floor and published numbers.

    \b
    Example: caloforge compare teacher/report.json student/report.json --out table.html
    """
    from caloforge.report import compare_files

    table = compare_files(reports, out, options=options)
    print_comparison(table.columns, table.rows)
    for note in table.notes:
        console.print(f"note: {note}")
    if out is not None:
        console.print(f"written: {out}")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(evaluate)
    app.command()(compare)
