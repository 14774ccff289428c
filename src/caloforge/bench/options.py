"""What can be asked of each bench, from which its command line is made; see :mod:`caloforge.options`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from caloforge.options import Option, Options

__all__ = [
    "GenerationBenchOptions",
    "RuntimeBenchOptions",
    "SamplingBenchOptions",
    "SimulationBenchOptions",
    "TrainingBenchOptions",
]

_DEVICE = Option("cpu | cuda | cuda:N")
_AGAINST = Option("Peer to measure in the same run: nflows.", choices=("nflows",))


@dataclass(frozen=True)
class SamplingBenchOptions(Options):
    """How sampling is timed."""

    batches: Annotated[
        tuple[int, ...],
        Option(
            "Batch sizes, with commas (default: 1,100,10000; point clouds 1).",
            least=1,
            commas=True,
            flag="--batch",
            metavar="N,N,...",
        ),
    ] = ()
    threads: Annotated[
        tuple[int, ...],
        Option("CPU threads, with commas (default: 1,2; point clouds 1).", least=1, commas=True, metavar="N,N,..."),
    ] = ()
    device: Annotated[str, _DEVICE] = "cpu"
    against: Annotated[str | None, _AGAINST] = None
    passes: Annotated[int, Option("How many of nflows's identical passes are timed.", least=1)] = 20
    seconds: Annotated[float, Option("How long each row is repeated.", least=0)] = 2.0
    geant4: Annotated[
        int | None,
        Option("Geant4 showers to time in the same run; 0 for none (default: 10; point clouds 3 per energy).", least=0),
    ] = None
    energies: Annotated[
        tuple[float, ...],
        Option(
            "GeV, with commas, for point clouds (default: 10,20,...,100).", least=0.001, commas=True, metavar="E,E,..."
        ),
    ] = ()
    showers: Annotated[int, Option("Showers of each model per energy, for point clouds.", least=1)] = 40


@dataclass(frozen=True)
class GenerationBenchOptions(Options):
    """How generating into a file is timed."""

    events: Annotated[int, Option("Showers in each run.", least=1)] = 20_000
    jobs: Annotated[
        tuple[int, ...],
        Option("Numbers of processes, with commas (default: 1,2).", least=1, commas=True, metavar="N,N,..."),
    ] = (1, 2)
    threads: Annotated[int, Option("CPU threads of each process.", least=1)] = 1
    batch_size: Annotated[int, Option("Showers in a batch.", least=1)] = 1000
    energy: Annotated[str, Option("GeV, as in caloforge generate.")] = "1:100"


@dataclass(frozen=True)
class RuntimeBenchOptions(Options):
    """How the C++ runtime is timed."""

    energy: Annotated[float, Option("Incident energy, GeV.", least=0.001)] = 20.0
    events: Annotated[int, Option("Showers of each round.", least=1)] = 300


@dataclass(frozen=True)
class TrainingBenchOptions(Options):
    """How training steps are timed."""

    stages: Annotated[
        tuple[str, ...], Option("Of a kind of model: only this stage; may be repeated.", flag="--stage")
    ] = ()
    overrides: Annotated[tuple[str, ...], Option("Change the preset.", flag="--set", metavar="KEY=VALUE")] = ()
    against: Annotated[str | None, _AGAINST] = None
    threads: Annotated[int, Option("CPU threads.", least=1)] = 2
    device: Annotated[str, _DEVICE] = "cpu"
    rounds: Annotated[
        int | None, Option("How often everything takes its turn (default: 5; of a kind of model 2).", least=1)
    ] = None
    steps: Annotated[int | None, Option("Training steps in each turn (default: 3; of a kind of model 1).", least=1)] = (
        None
    )
    bfloat16: Annotated[bool, Option("Also measure bfloat16 autocast.")] = True


@dataclass(frozen=True)
class SimulationBenchOptions(Options):
    """Which productions with Geant4 are timed."""

    detector: Annotated[str | None, Option("Only this detector (default: all cases).")] = None
    engine: Annotated[
        str | None,
        Option("Only calzone | geant4-pybind (default: both).", choices=("calzone", "geant4-pybind")),
    ] = None
    events: Annotated[int | None, Option("Showers of each case (default: 20).", least=1)] = None
    geant4_data: Annotated[str, Option("Geant4's tables: auto | builtin | official | a directory.")] = "auto"
