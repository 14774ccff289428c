"""What can be asked of a verb: one frozen object for each, from which its command line is made.

Python and the command line fill the same object, so they have the same names, defaults and checks. Fields say in their annotation
what people read in ``--help``; nothing here knows of a program that parses arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

from caloforge.arguments import argument
from caloforge.errors import UsageError

__all__ = [
    "ENGINE_NAMES",
    "CompareOptions",
    "ConvertOptions",
    "DemoOptions",
    "EvaluateOptions",
    "ExportOptions",
    "GenerateOptions",
    "HybridOptions",
    "JoinOptions",
    "LikelihoodOptions",
    "Option",
    "Options",
    "SimulateOptions",
    "StudyCloudsOptions",
    "StudyLearningOptions",
    "StudyModelsOptions",
    "StudyParticlesOptions",
    "StudyVariantsOptions",
    "TrainOptions",
    "options_of",
]


@dataclass(frozen=True)
class Option:
    """What people read of an option, and what it may be.

    Attributes:
        help: one sentence.
        least: smallest value of a number.
        most: largest one.
        choices: all values that a word may have; None stands for the default where that is None.
        metavar: what stands for the value in ``--help``.
        commas: of a list: several words may stand in one value, with commas.
        flag: on the command line, where it is not the name.
    """

    help: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str = ""
    commas: bool = False
    flag: str = ""


@dataclass(frozen=True)
class Options:
    """Base of the options of all verbs.

    Raises:
        UsageError: if a number is smaller or larger than it may be, a word is none of the choices, or one stands where a list of
            words is expected.
    """

    def __post_init__(self) -> None:
        for name, _, option in options_of(type(self)):
            word = argument(name, option.flag)
            if isinstance(getattr(type(self), name), tuple):
                value = getattr(self, name)
                if isinstance(value, str):
                    raise UsageError(f"{word} is '{value}', expected a list of words such as {name}=['{value}']")
                object.__setattr__(self, name, tuple(value or ()))
                for one in getattr(self, name):
                    _check(word, one, option)
            elif getattr(self, name) is not None:
                _check(word, getattr(self, name), option)

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


def _check(word: str, value: Any, option: Option) -> None:
    """Whether a value may be so; see ``Options``."""
    if (option.least is not None and value < option.least) or (option.most is not None and value > option.most):
        limits = f"{option.least:g} or more" if option.most is None else f"{option.least:g} to {option.most:g}"
        raise UsageError(f"{word} is {value}, expected {limits}")
    if option.choices and value not in option.choices:
        *others, last = option.choices
        expected = f"{', '.join(others)} or {last}" if others else last
        raise UsageError(f"{word} is '{value}', expected {expected}")


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
_RESUME = Option("Continue an interrupted run; what is finished is kept.")
_CLUSTER = Option("Dask workers instead of processes: local:N | tcp://HOST:PORT | FILE.yaml (Slurm, HTCondor ...).")
_OVERWRITE = Option("Replace the output if it exists.")
#: What can run Geant4.
ENGINE_NAMES = ("calzone", "geant4-pybind")
_ENGINE = Option(
    f"What runs Geant4: {' | '.join(ENGINE_NAMES)} (default: calzone; with a magnetic field geant4-pybind).",
    choices=ENGINE_NAMES,
)
_FIELD = Option("Strength of the magnetic field, tesla, along the detector's own direction; 0 for none.")
_TABLES = Option("Geant4's tables: auto | builtin | official | a directory.")


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
    threads: Annotated[
        int | None,
        Option(
            "CPU threads of each retraining (default: 1, since numbers depend on it in their last digits, and not on --jobs).",
            least=1,
        ),
    ] = None
    device: Annotated[str, Option("cpu | cuda | cuda:N, for the classifiers.")] = "cpu"


@dataclass(frozen=True)
class GenerateOptions(Options):
    """How showers are generated into a file."""

    seed: Annotated[int, _SEED] = 0
    batch_size: Annotated[int, Option("Showers at a time; changes speed and memory, not the showers.", least=1)] = 1000
    jobs: Annotated[int, _JOBS] = 1
    cluster: Annotated[str | None, _CLUSTER] = None
    parts: Annotated[bool, Option("The cluster's workers write beside the output file, on a disk that all share.")] = (
        False
    )
    threads: Annotated[int | None, _THREADS] = None
    device: Annotated[str | None, _DEVICE] = None
    format: Annotated[str, Option("Format: native | calogan | calochallenge | showerdata | ild.", flag="--to")] = (
        "native"
    )
    extrapolate: Annotated[bool, Option("Allow energies outside the trained range; the file says so.")] = False
    resume: Annotated[bool, _RESUME] = False
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


@dataclass(frozen=True)
class SimulateOptions(Options):
    """Which showers Geant4 makes, and how."""

    particle: Annotated[str | None, Option("Name or PDG id (default: the detector's first).")] = None
    energy: Annotated[
        str | None, Option("GeV: 50 | 5,10,20 | 1:100 | 1:100:log | 10:100:10 (default: the detector's).")
    ] = None
    events: Annotated[int, Option("Number of showers.", least=1)] = 100
    seed: Annotated[int, _SEED] = 1
    jobs: Annotated[int | None, Option("Number of processes (default: all cores).", least=1)] = None
    cluster: Annotated[str | None, _CLUSTER] = None
    direction: Annotated[
        str,
        Option(
            "Along the gun (fixed), or random within its range: as the detector says (random), even in the angles (angles), or "
            "even over the face of a barrel segment (barrel).",
            choices=("fixed", "random", "angles", "barrel"),
        ),
    ] = "fixed"
    points: Annotated[bool, Option("Keep every deposit as a point instead of voxels.")] = False
    field: Annotated[float | None, _FIELD] = None
    engine: Annotated[str | None, _ENGINE] = None
    geant4_data: Annotated[str, _TABLES] = "auto"
    resume: Annotated[bool, _RESUME] = False
    overwrite: Annotated[bool, _OVERWRITE] = False


@dataclass(frozen=True)
class HybridOptions(Options):
    """Which events Geant4 and models make together, and how."""

    events: Annotated[int, Option("Number of events.", least=1)] = 100
    seed: Annotated[int, _SEED] = 1
    jobs: Annotated[int | None, Option("Number of processes (default: all cores).", least=1)] = None
    cluster: Annotated[str | None, _CLUSTER] = None
    max_angle: Annotated[
        float | None,
        Option(
            "Largest angle to the axis of what is answered, mrad (default: 50, or as far as the models know directions).",
            least=0.001,
            most=1570.0,
        ),
    ] = None
    max_offset: Annotated[
        float, Option("Largest distance from the axis at the face of what is answered, mm.", least=0.001)
    ] = 20.0
    points: Annotated[bool, Option("Keep points instead of voxels: Geant4's deposits, and those of the models.")] = (
        False
    )
    field: Annotated[float | None, _FIELD] = None
    engine: Annotated[str | None, _ENGINE] = None
    geant4_data: Annotated[str, _TABLES] = "auto"
    picture: Annotated[
        int | None,
        Option(
            "Also draw this event (from 0; PNG beside the file): tracks in front, answered showers, what Geant4 tracked.",
            least=0,
        ),
    ] = None
    resume: Annotated[bool, _RESUME] = False
    overwrite: Annotated[bool, _OVERWRITE] = False


@dataclass(frozen=True)
class TrainOptions(Options):
    """How a model is trained."""

    overrides: Annotated[
        tuple[str, ...], Option("Change the preset: training.epochs=5.", flag="--set", metavar="KEY=VALUE")
    ] = ()
    stages: Annotated[
        tuple[str, ...], Option("Train only this stage (may be given more than once).", flag="--stage")
    ] = ()
    val_fraction: Annotated[
        float | None, Option("Share of showers kept for validation (default: the preset's).", least=0, most=0.9)
    ] = None
    seed: Annotated[int, Option("Same seed, same model.", least=0)] = 0
    jobs: Annotated[
        int, Option("Number of processes; each computes the gradients of its share of every batch.", least=1)
    ] = 1
    stage_jobs: Annotated[
        int,
        Option("Number of processes for stages that need nothing of each other, each of which trains one.", least=1),
    ] = 1
    cluster: Annotated[
        str | None, Option("The same on Dask workers that see this disk: local:N | tcp://HOST:PORT | FILE.yaml.")
    ] = None
    device: Annotated[str, Option("cpu | cuda | cuda:N")] = "cpu"
    threads: Annotated[int | None, Option("CPU threads of each process (default: its share).", least=1)] = None
    memory: Annotated[
        float | None, Option("GB that the data may take; larger data stream from the file.", least=1e-6)
    ] = None
    tf32: Annotated[bool, Option("Let a GPU round matrix products (faster, not reproducible).")] = False
    tensorboard: Annotated[bool, Option("Also log for TensorBoard.")] = False
    resume: Annotated[bool, _RESUME] = False
    overwrite: Annotated[bool, _OVERWRITE] = False


@dataclass(frozen=True)
class ConvertOptions(Options):
    """What becomes of showers on their way into another file."""

    format: Annotated[str, Option("native | calogan | calochallenge | showerdata | ild | edm4hep", flag="--to")] = (
        "native"
    )
    kind: Annotated[
        str | None, Option("voxels | points, where the format leaves a choice.", choices=("voxels", "points"))
    ] = None
    sub_cells: Annotated[
        int | None,
        Option("Merge points in sub-cells, this many along each side of a cell (6: 36 per cell).", least=1),
    ] = None
    position: Annotated[
        str,
        Option(
            "Of merged points: at the highest deposit of the sub-cell, or at its centre.", choices=("highest", "centre")
        ),
    ] = "highest"
    seed: Annotated[int, Option("Of the random shifts of the sub-cells.", least=0)] = 0
    cells: Annotated[str | None, Option("Place points into cells: ideal (no gaps), or a cell map (TOML).")] = None
    entry: Annotated[
        str | None,
        Option("Where the particles entered, mm, if points are not relative to that place.", metavar="X,Y"),
    ] = None
    cut: Annotated[float, Option("Cells with less are dark, MeV.", least=0)] = 0.0
    collection: Annotated[str | None, Option("Of edm4hep: name of the hits' collection (CalorimeterHits).")] = None
    jobs: Annotated[
        int, Option("Number of processes; worth it for merging, placing and voxels from points.", least=1)
    ] = 1
    resume: Annotated[bool, _RESUME] = False
    overwrite: Annotated[bool, _OVERWRITE] = False


@dataclass(frozen=True)
class JoinOptions(Options):
    """How shower files become one."""

    format: Annotated[str, Option("native | calogan | calochallenge | showerdata | ild", flag="--to")] = "native"
    resume: Annotated[bool, _RESUME] = False
    overwrite: Annotated[bool, _OVERWRITE] = False


@dataclass(frozen=True)
class ExportOptions(Options):
    """How a model is exported and proven."""

    verify: Annotated[bool, Option("Compare showers of the export with those of the model.")] = True
    showers: Annotated[int, Option("How many are compared.", least=1)] = 50
    seed: Annotated[int, Option("Seed of these showers.", least=0)] = 1
    overwrite: Annotated[bool, _OVERWRITE] = False


@dataclass(frozen=True)
class CompareOptions(Options):
    """How reports are put side by side."""

    names: Annotated[
        tuple[str, ...],
        Option("What to call a report, in their order (default: the name of its file).", flag="--name"),
    ] = ()
    overwrite: Annotated[bool, _OVERWRITE] = False


@dataclass(frozen=True)
class DemoOptions(Options):
    """How much the demonstration does."""

    events: Annotated[int, Option("Number of Geant4 showers to make.", least=1)] = 20
    showers: Annotated[int, Option("Number of showers to generate.", least=100)] = 3000
    overrides: Annotated[
        tuple[str, ...], Option("Change the preset: training.batch_size=100.", flag="--set", metavar="KEY=VALUE")
    ] = ()
    epochs: Annotated[int | None, Option("Of the classifiers (default: those of the quick suite).", least=1)] = None
    seed: Annotated[int, _SEED] = 1
    jobs: Annotated[int | None, Option("Number of processes (default: all cores).", least=1)] = None
    overwrite: Annotated[bool, _OVERWRITE] = False


_SAMPLES = Option("Showers to generate and compare (default: as many as the reference holds).", least=100)
_RETRAININGS = Option("Of every classifier (default: the suite's).", least=1)
_ONLY = Option("Only these of its measures, with commas.", commas=True)
_SET = Option("Change the preset for all variants.", flag="--set", metavar="KEY=VALUE")
_PLACE = Option("cpu | cuda | cuda:N")
_TRAINING_THREADS = Option(
    "CPU threads of each process (default: 1, since numbers depend on it in their last digits, and not on --jobs).",
    least=1,
)
_TRAINING_JOBS = Option("Number of processes; each works on one training at a time.", least=1)


@dataclass(frozen=True)
class StudyModelsOptions(Options):
    """How several models are compared."""

    suite: Annotated[str, Option("Suite of the evaluation: quick | calogan | calochallenge.")] = "quick"
    only: Annotated[tuple[str, ...], _ONLY] = ()
    retrainings: Annotated[int | None, _RETRAININGS] = None
    timing: Annotated[bool, Option("Also measure how fast the models are.")] = True
    controls: Annotated[bool, Option("Also hold each against an untrained copy and against shuffled voxels.")] = False
    seed: Annotated[int, _SEED] = 0
    jobs: Annotated[int, Option("Number of processes; each works on one model at a time, teachers first.", least=1)] = 1
    cluster: Annotated[str | None, _CLUSTER] = None
    threads: Annotated[int | None, _TRAINING_THREADS] = None
    device: Annotated[str, _PLACE] = "cpu"


@dataclass(frozen=True)
class StudyCloudsOptions(Options):
    """How point-cloud models are compared."""

    only: Annotated[tuple[str, ...], Option("Measures of the suite caloclouds, with commas.", commas=True)] = (
        "caloclouds-profiles",
        "layers",
    )
    retrainings: Annotated[int | None, _RETRAININGS] = None
    seed: Annotated[int, _SEED] = 0
    jobs: Annotated[int, Option("Number of processes; each works on one model at a time.", least=1)] = 1
    threads: Annotated[int | None, _TRAINING_THREADS] = None
    device: Annotated[str, _PLACE] = "cpu"


@dataclass(frozen=True)
class StudyVariantsOptions(Options):
    """How variants of one training are compared."""

    preset: Annotated[
        str | None, Option("What to train (default: caloflow-small for noise, caloflow-tiny for symmetries).")
    ] = None
    overrides: Annotated[tuple[str, ...], _SET] = ()
    showers: Annotated[int | None, _SAMPLES] = None
    repetitions: Annotated[int, Option("Trainings of each variant, from different seeds.", least=1)] = 1
    classifier: Annotated[
        str | None, Option("Also train a classifier of the evaluation: caloflow-dnn-unnormalised.")
    ] = None
    rows: Annotated[int | None, Option("Training showers (default: the study's).", least=10)] = None
    seed: Annotated[int, _SEED] = 0
    jobs: Annotated[int, _TRAINING_JOBS] = 1
    threads: Annotated[int | None, _TRAINING_THREADS] = None
    device: Annotated[str, _PLACE] = "cpu"


@dataclass(frozen=True)
class StudyLearningOptions(Options):
    """How learning curves are measured."""

    training: Annotated[
        tuple[int, ...],
        Option("Training showers, with commas (default: 1/16, 1/8, ... of all).", commas=True, metavar="N,N,..."),
    ] = ()
    classifier: Annotated[
        tuple[int, ...],
        Option(
            "Showers of each kind for classifiers, with commas (default: 1/8, 1/4, 1/2 of all).",
            commas=True,
            metavar="N,N,...",
        ),
    ] = ()
    only: Annotated[
        tuple[str, ...],
        Option("Only these of the measures, such as boosted, with commas (default: all five).", commas=True),
    ] = ()
    overrides: Annotated[tuple[str, ...], _SET] = ()
    retrainings: Annotated[int | None, _RETRAININGS] = None
    seed: Annotated[int, _SEED] = 0
    jobs: Annotated[int, _TRAINING_JOBS] = 1
    threads: Annotated[int | None, _TRAINING_THREADS] = None
    device: Annotated[str, _PLACE] = "cpu"


@dataclass(frozen=True)
class StudyParticlesOptions(Options):
    """How two particles are told apart."""

    noise_draws: Annotated[int, Option("Draws of the training noise to average over.", least=1)] = 1
    showers: Annotated[int | None, Option("How many of each file (default: all).", least=10)] = None
    seed: Annotated[int, _SEED] = 0
    jobs: Annotated[int, _JOBS] = 1
    threads: Annotated[int | None, _TRAINING_THREADS] = None
    batch_size: Annotated[int, Option("Showers at a time.", least=1)] = 500
