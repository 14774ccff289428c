"""What can be asked of a verb: one frozen object for each, from which its command line is made.

Python and the command line fill the same object, so they have the same names, defaults and checks. Fields say in their annotation
what people read in ``--help``; nothing here knows of a program that parses arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

from caloforge.errors import UsageError

__all__ = ["CLUSTER_HELP", "EvaluateOptions", "GenerateOptions", "LikelihoodOptions", "Option", "Options", "options_of"]


@dataclass(frozen=True)
class Option:
    """What people read of an option, and what it may be.

    Attributes:
        help: one sentence.
        least: smallest value of a number.
        commas: of a list: several words may stand in one value, with commas.
        flag: on the command line, where it is not the name.
    """

    help: str
    least: int | None = None
    commas: bool = False
    flag: str = ""


@dataclass(frozen=True)
class Options:
    """Base of the options of all verbs.

    Raises:
        UsageError: if a number is smaller than it may be, or a word stands where a list of words is expected.
    """

    def __post_init__(self) -> None:
        for name, _, option in options_of(type(self)):
            value = getattr(self, name)
            if option.least is not None and value is not None and value < option.least:
                raise UsageError(f"{name.replace('_', ' ')} is {value}, expected {option.least} or more")
            if isinstance(getattr(type(self), name), tuple):
                if isinstance(value, str):
                    raise UsageError(f"{name} is '{value}', expected a list of words such as {name}=['{value}']")
                object.__setattr__(self, name, tuple(value or ()))

    @classmethod
    def merged(cls, options: Self | None, settings: dict[str, Any]) -> Self:
        """Options, with some set otherwise; None stands for the defaults.

        Raises:
            TypeError: if there is no option of a name.
        """
        return replace(options or cls(), **settings)

    def plain(self) -> dict[str, Any]:
        """All options by name, JSON values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def options_of(cls: type[Options]) -> Iterator[tuple[str, Any, Option]]:
    """Name, type and description of every option of a verb, in their order."""
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        hint = hints[field.name]
        assert get_origin(hint) is Annotated, f"the option '{field.name}' of {cls.__name__} has no description"
        kind, option = get_args(hint)
        yield field.name, kind, option


_SEED = Option("Same seed, same result, for any number of processes.", least=0)
_JOBS = Option("Number of processes.", least=1)
_THREADS = Option("CPU threads of each process (default: its share).", least=1)
_DEVICE = Option("cpu | cuda | cuda:N (default: where the model is; cpu for one that is loaded).")
#: Also of verbs that have no such object yet.
CLUSTER_HELP = "Dask workers instead of processes: local:N | tcp://HOST:PORT | FILE.yaml (Slurm, HTCondor ...)."
_CLUSTER = Option(CLUSTER_HELP)
_OVERWRITE = Option("Replace the output if it exists.")


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """How generated showers are judged."""

    suite: Annotated[str, Option("quick | calogan | calochallenge | caloclouds")] = "quick"
    only: Annotated[
        tuple[str, ...],
        Option("Only these measures (or beginnings of names: caloflow-dnn), with commas.", commas=True),
    ] = ()
    skip: Annotated[tuple[str, ...], Option("Leave out these measures, likewise.", commas=True)] = ()
    timing: Annotated[bool, Option("Measure the model's speed, too.")] = False
    retrainings: Annotated[int | None, Option("Of every classifier (default: the suite's).", least=1)] = None
    epochs: Annotated[int | None, Option("Of every training (default: the published number).", least=1)] = None
    max_showers: Annotated[int | None, Option("Use at most so many of each file.", least=10)] = None
    allow_mismatch: Annotated[bool, Option("Compare different spectra, particles or detectors all the same.")] = False
    uncut: Annotated[bool, Option("Apply the analysis threshold to none of the files (default: to all of them).")] = (
        False
    )
    seed: Annotated[int, _SEED] = 0
    jobs: Annotated[int, Option("Number of processes, for retrainings.", least=1)] = 1
    cluster: Annotated[str | None, _CLUSTER] = None
    threads: Annotated[int | None, _THREADS] = None
    device: Annotated[str, Option("cpu | cuda | cuda:N, for the classifiers.")] = "cpu"


@dataclass(frozen=True)
class GenerateOptions(Options):
    """How showers are generated into a file."""

    seed: Annotated[int, _SEED] = 0
    batch_size: Annotated[int, Option("Showers at a time; changes speed and memory, not the showers.", least=1)] = 1000
    jobs: Annotated[int, _JOBS] = 1
    cluster: Annotated[str | None, _CLUSTER] = None
    threads: Annotated[int | None, _THREADS] = None
    device: Annotated[str | None, _DEVICE] = None
    format: Annotated[str, Option("Format: native | calogan | calochallenge | showerdata | ild.", flag="--to")] = (
        "native"
    )
    extrapolate: Annotated[bool, Option("Allow energies outside the trained range; the file says so.")] = False
    resume: Annotated[bool, Option("Continue an interrupted run; what is finished is kept.")] = False
    overwrite: Annotated[bool, _OVERWRITE] = False


@dataclass(frozen=True)
class LikelihoodOptions(Options):
    """How likelihoods are computed."""

    noise_draws: Annotated[int, Option("Draws of the training noise to average the density over.", least=1)] = 1
    seed: Annotated[int, _SEED] = 0
    batch_size: Annotated[int, Option("Showers at a time.", least=1)] = 500
    jobs: Annotated[int, _JOBS] = 1
    cluster: Annotated[str | None, _CLUSTER] = None
    threads: Annotated[int | None, _THREADS] = None
    device: Annotated[str | None, _DEVICE] = None
    overwrite: Annotated[bool, _OVERWRITE] = False
