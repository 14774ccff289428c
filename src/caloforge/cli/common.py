"""What the commands share: options, tables, and turning errors into one sentence and an exit code."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from caloforge import atomic
from caloforge.errors import Interrupted, UsageError
from caloforge.names import printable
from caloforge.units import format_energy

if TYPE_CHECKING:
    from caloforge.detectors import Detector

__all__ = [
    "App",
    "BinOption",
    "OverwriteOption",
    "ResumeOption",
    "SeedOption",
    "chosen_detector",
    "command_line",
    "console",
    "given_up",
    "kept_if_interrupted",
    "pairs",
    "print_comparison",
    "print_json",
    "print_table",
    "save_figure",
]

F = TypeVar("F", bound=Callable[..., Any])


class _Console(Console):
    """Prints names of files as they can be printed: without what changes colours or is no text at all."""

    def print(self, *objects: Any, **settings: Any) -> None:
        """As in rich."""
        super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **settings)


# Neither colours nor symbols are read into what is printed: names and ranges are full of brackets and colons.
console = _Console(
    highlight=False, markup=False, emoji=False, width=None if sys.stdout is not None and sys.stdout.isatty() else 120
)

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same result, for any number of processes.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run; what is finished is kept.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]

BinOption = Annotated[
    str | None,
    typer.Option(
        "--bin", help="Of a binning file (XML) with several: its range of eta (20:25), particle, or gamma/20:25."
    ),
]

#: Names in the first column of a table are kept whole up to this width, characters.
_NAME_WIDTH = 40
#: Least widths of the columns of a comparison, characters.
_TITLE_WIDTH, _COLUMN_WIDTH = 30, 12


class _Once:
    """An option given twice is a mistake, unless it is a list: the shell history has 10 GeV, the user adds 50."""

    def make_parser(self, context: Any) -> Any:
        parser = super().make_parser(context)  # type: ignore[misc] # of the command that this is mixed into
        parse = parser.parse_args

        known = {name for parameter in self.params for name in parameter.opts}  # type: ignore[attr-defined]

        def parse_once(args: list[str]) -> Any:
            found = parse(args=[_present_name(arg, known) for arg in args])
            if not context.resilient_parsing:  # shells that complete a half-typed line
                _refuse_repeated(found[2], context.command_path)
            return found

        parser.parse_args = parse_once
        return parser


#: Options of former versions, which are understood and not shown.
_FORMER = {"--workers": "--jobs"}


def _present_name(argument: str, known: Collection[str]) -> str:
    """An argument with the present name of an option, where a command knows no longer the former one."""
    name, equals, value = argument.partition("=")
    present = _FORMER.get(name)
    return f"{present}{equals}{value}" if present in known and name not in known else argument


def _refuse_repeated(given: Sequence[Any], command: str) -> None:
    seen = set()
    for parameter in given:
        single = parameter.param_type_name == "option" and not (
            parameter.multiple or parameter.count or parameter.is_eager  # --help --help asks for help
        )
        if single and parameter.name in seen:
            raise UsageError(f"{parameter.opts[0]} is given twice, expected once (see '{command} --help')")
        seen.add(parameter.name)


class _Command(_Once, TyperCommand):
    """See ``_Once``."""


class _Group(_Once, TyperGroup):
    """See ``_Once``."""


class App(typer.Typer):
    """A group of commands that refuse options given twice."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, **settings)

    def command(self, *args: Any, **settings: Any) -> Callable[[F], F]:
        """As in typer; lines behind one with ``\\b`` alone are kept as they stand."""

        def register(function: F) -> F:
            text = inspect.cleandoc(function.__doc__ or "").replace("\\b\n", "\b\n")
            chosen: dict[str, Any] = {"cls": _Command, "help": text} | settings
            return super(App, self).command(*args, **chosen)(function)

        return register


@contextmanager
def kept_if_interrupted(what: str) -> Iterator[None]:
    """Around long work: say what an interruption leaves, as in "finished retrainings are kept, --resume uses them"."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(f"interrupted; {what}") from None


def pairs(texts: Sequence[str] | None, option: str, form: str) -> list[tuple[str, str]]:
    """What was typed as ``NAME=VALUE``, any number of times.

    Args:
        texts: as typed.
        option: the option, for an error.
        form: what is expected, likewise.

    Raises:
        UsageError: if a text has another form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        name, _, value = (part.strip() for part in text.partition("="))
        if not (name and value):
            raise UsageError(f"{option} is '{text}', expected {form}")
        if name in found:
            raise UsageError(f"{option} names '{name}' twice, expected once")
        found[name] = value
    return list(found.items())


def chosen_detector(name: str | None, bin_: str | None) -> Detector | None:
    """The detector that ``--detector`` and ``--bin`` name; None if nothing was named.

    Raises:
        UsageError: if a bin was chosen, but no file to choose it from.
        DetectorError: if there is no such detector or bin.
    """
    if name is None:
        if bin_ is not None:
            raise UsageError("--bin chooses from a binning file, which --detector names")
        return None
    from caloforge.detectors import load_detector

    return load_detector(name, bin_=bin_)


def command_line() -> str:
    """The command as it was typed, for provenance; without the path of the program."""
    return printable(shlex.join(["caloforge", *sys.argv[1:]]))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, numbers to the right of it are right-aligned."""
    table = Table(title=title or None, title_justify="left", header_style="bold", show_header=any(columns))
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[number]) for row in rows)
        # A name that people are to type again stays in one piece.
        whole = number == 0 and max((len(row[0]) for row in rows), default=0) <= _NAME_WIDTH
        table.add_column(column, justify="right" if number and numeric else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*map(printable, row))
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
    print(json.dumps(data, indent=2, default=str))


def given_up(energies: Sequence[float]) -> list[list[str]]:
    """The row of a table about particles that Geant4 did not track to their end; none if there were none.

    Args:
        energies: kinetic energy of each, MeV.
    """
    if not energies:
        return []
    what = "particle that" if len(energies) == 1 else "particles that"
    return [["given up", f"{len(energies)} {what} circled in vacuum ({format_energy(sum(energies))})"]]


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure and say where it is."""
    atomic.make_folder(path.parent)
    atomic.save_figure(path, figure, dpi=140)
    console.print(f"drawing: {path}")
