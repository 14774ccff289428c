"""What the commands share: options, tables, and turning errors into one sentence and an exit code."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

__all__ = [
    "JOBS_HELP",
    "OverwriteOption",
    "ResumeOption",
    "SeedOption",
    "command_line",
    "console",
    "default_jobs",
    "print_comparison",
    "print_json",
    "print_table",
    "save_figure",
]

# Neither colours nor symbols are read into what is printed: names and ranges are full of brackets and colons.
console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same result, for any number of processes.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run; what is finished is kept.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]

#: Least widths of the columns of a comparison, characters.
_TITLE_WIDTH, _COLUMN_WIDTH = 30, 12

JOBS_HELP = "Number of processes (default: all cores)."


def default_jobs() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command_line() -> str:
    """The command as it was typed, for provenance; without the path of the program."""
    return shlex.join(["caloforge", *sys.argv[1:]])


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, numbers to the right of it are right-aligned."""
    table = Table(title=title or None, title_justify="left", header_style="bold", show_header=any(columns))
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[number]) for row in rows)
        table.add_column(column, justify="right" if number and numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_comparison(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Print a table of models; published ones only if the terminal is wide enough for all columns.

    Args:
        columns: names of the models.
        rows: title of each measure and its value in every column.
    """
    shown = list(range(len(columns)))
    if _TITLE_WIDTH + _COLUMN_WIDTH * len(columns) > console.width:
        shown = [k for k in shown if not columns[k].endswith(" (published)")]
    print_table(
        "", ["measure", *(columns[k] for k in shown)], [[title, *(cells[k] for k in shown)] for title, cells in rows]
    )
    if len(shown) < len(columns):
        console.print(f"{len(columns) - len(shown)} published models do not fit here; a written table has them.")


def _is_number(text: str) -> bool:
    return bool(text) and (text[0].isdigit() or text[0] in "-–<>~…" or text == "0")


def print_json(data: Mapping[str, Any]) -> None:
    """Print machine-readable output."""
    typer.echo(json.dumps(data, indent=2, default=str))


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    console.print(f"drawing: {path}")
