"""Entry point ``caloforge``: the commands, and what happens when one of them fails."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any

import typer

from caloforge.arguments import typed
from caloforge.cli import streams
from caloforge.cli.common import App
from caloforge.errors import CaloForgeError, CaloForgeWarning, OutputError
from caloforge.names import printable
from caloforge.stopping import as_interrupts
from caloforge.version import __version__

__all__ = ["app", "main"]

# typer brings its own click or uses the installed one, depending on its version; the classes tell which.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_ClickException: type[Exception] = _UsageError.__bases__[0]

app = App(
    name="caloforge",
    help="Generative calorimeter simulation: describe a detector, make Geant4 showers, train, generate, prove, deploy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would take the ":100:" of an energy range for an emoji
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"caloforge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


@cache
def _register() -> None:
    # The commands import their rooms when they run, so that help and completion stay fast.
    from caloforge.cli import (
        bench,
        bench_hybrid,
        demo,
        detectors,
        evaluate,
        export,
        files,
        generate,
        hybrid,
        join,
        kernels,
        models,
        simulate,
        study,
        study_separation,
        train,
    )

    for module in (
        detectors,
        models,
        simulate,
        hybrid,
        train,
        generate,
        evaluate,
        export,
        files,
        join,
        bench_hybrid,
        bench,
        study_separation,
        study,
        demo,
        kernels,
    ):
        module.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what would stand behind ``caloforge``; None for the real ones.

    Returns:
        0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    _register()
    with _notes(), typed():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = app(args=None if arguments is None else list(arguments), prog_name="caloforge", standalone_mode=False)
    except CaloForgeError as error:
        return _fail(str(error), error.exit_code)
    except _ClickException as error:
        return _wrong_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except MemoryError:
        return _fail("there is not enough memory for this; a smaller --batch-size or fewer --jobs may help", 1)
    except OSError as error:
        return _fail(str(OutputError(f"{error.filename or 'input or output'}: {error.strerror or error}")), 1)
    if result == 130:  # typer's own answer to Ctrl-C
        return _fail("interrupted", 130)
    return result if isinstance(result, int) else 0


@contextmanager
def _notes() -> Iterator[None]:
    """Print what a user should know as one line, without the place in the program; each text once."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=CaloForgeWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, CaloForgeWarning):
                others(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                print(f"caloforge: note: {printable(str(message))}", file=sys.stderr)

        warnings.showwarning = show
        yield


def _wrong_usage(error: Any) -> int:
    """Say what is wrong with the command that was typed; a command without arguments gets its help."""
    context = error.ctx
    text = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(text, file=sys.stderr)
        return 2
    hint = "" if context is None else f" (see '{context.command_path} --help')"
    return _fail(" ".join(text.split()).rstrip(".") + hint, 2)


def _fail(message: str, code: int) -> int:
    print(f"caloforge: {printable(message)}", file=sys.stderr)
    return code


def run() -> None:
    """Console script."""
    streams.install()
    as_interrupts()
    code = main()
    lost = streams.lost_output()
    sys.exit(_fail(lost, 1) if lost and code == 0 else code)
