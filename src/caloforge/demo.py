"""The main job in one go, on real showers: Geant4, training, generation, evaluation. What ``make demo`` runs.

Every step goes on where an earlier run of the demonstration stopped, and does nothing where that had finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caloforge import datasets
from caloforge.atomic import save_figure
from caloforge.cores import available_cores
from caloforge.detectors import EnergySpectrum, load_detector, particle_id
from caloforge.errors import OutputError
from caloforge.evaluation import Scores
from caloforge.evaluation.files import FileEvaluation, prepare_evaluation
from caloforge.generation import GenerationResult, SpectrumConditions, generate
from caloforge.options import DemoOptions
from caloforge.progress import progress
from caloforge.report import claim_folder, summary_lines, write_report
from caloforge.showers import Showers
from caloforge.showers.files import open_showers
from caloforge.showers.pictures import draw_average, draw_event
from caloforge.showers.summary import layer_table
from caloforge.simulation import SimulationSummary, simulate_to_file
from caloforge.training import TrainingResult, train

__all__ = ["Demo", "ReportedEvaluation", "SimulationDemo"]

_SAMPLE = "calogan-gamma-sample"
_PACKAGED = "calogan-gamma"
_MEASURE = "boosted"


@dataclass(frozen=True)
class SimulationDemo:
    """What the Geant4 part made.

    Attributes:
        summary: how the production went.
        columns: titles of a table of layer energies and occupancy.
        rows: rows of that table.
        files: everything that was written.
    """

    summary: SimulationSummary
    columns: list[str]
    rows: list[list[str]]
    files: list[Path]


#: An AUC and its error.
Scored = tuple[float, float]


@dataclass(frozen=True)
class ReportedEvaluation:
    """What the evaluation found.

    Attributes:
        page: the report.
        lines: three sentences that sum it up.
        scores: AUC of boosted trees and its error, by what was judged: the demonstration's model, and Geant4 as the floor.
    """

    page: Path
    lines: list[str]
    scores: dict[str, Scored]


class Demo:
    """The steps of the demonstration, all in one directory.

    Args:
        out: the directory.
        options: how much it does; see :class:`caloforge.options.DemoOptions`. Without ``overwrite`` it goes on where it stopped.
        settings: single options, instead of or beside ``options``.

    Raises:
        OutputError: if the directory cannot be made.
    """

    def __init__(self, out: Path, options: DemoOptions | None = None, **settings: Any) -> None:
        self.out, self.options = out, DemoOptions.merged(options, settings)
        self.seed, self.overwrite = self.options.seed, self.options.overwrite
        #: Processes for Geant4, and threads for everything else.
        self.jobs = self.options.jobs or available_cores()
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be made a directory ({error.strerror})") from None

    def simulate(self) -> SimulationDemo:
        """Simulate photons of 1-100 GeV in the CaloGAN calorimeter with Geant4, and draw them."""
        events = self.options.events
        detector = load_detector("calogan")
        path = self.out / "geant4.h5"
        summary = simulate_to_file(
            detector, path, particle="gamma", energy="1:100", events=events, seed=self.seed, jobs=self.jobs,
            resume=not self.overwrite, overwrite=self.overwrite,
            command=f"caloforge demo --events {events} --seed {self.seed}",
        )  # fmt: skip
        with open_showers(path) as reader:
            showers = reader.read()
        assert isinstance(showers, Showers)  # made as voxels a moment ago
        pictures = {"average.png": draw_average(showers), "event.png": draw_event(showers, _typical(showers))}
        for name, figure in pictures.items():
            save_figure(self.out / name, figure, dpi=140)
        columns, rows = layer_table(showers, detector.analysis_threshold)
        return SimulationDemo(summary, columns, rows, [path, *(self.out / name for name in pictures)])

    def train(self) -> TrainingResult:
        """Train a small CaloFlow on the photons that ship with the package (Geant4, 1-100 GeV)."""
        return train(
            "caloflow-tiny", datasets.path(_SAMPLE, split="train"), self.out / "model", overrides=self.options.overrides,
            seed=self.seed,
            threads=self.jobs, resume=not self.overwrite, overwrite=self.overwrite, command="caloforge demo",
        )  # fmt: skip

    def generate(self) -> GenerationResult:
        """Generate showers of the same spectrum with the trained model."""
        conditions = SpectrumConditions(
            EnergySpectrum.parse("1:100"), self.options.showers, self.seed, particle_id("gamma")
        )
        return generate(
            self.out / "model", conditions, self.out / "generated.h5", seed=self.seed, threads=self.jobs,
            resume=not self.overwrite, overwrite=self.overwrite, command="caloforge demo",
        )  # fmt: skip

    def prepare_evaluation(self) -> FileEvaluation:
        """Open the generated showers and the packaged Geant4 ones that the model has not seen."""
        return prepare_evaluation(
            self.out / "generated.h5", f"{_SAMPLE}:test", floor=f"{_SAMPLE}:floor", suite="quick",
            model=str(self.out / "model"), seed=self.seed,
            epochs=self.options.epochs,
        )  # fmt: skip

    def evaluate(self, job: FileEvaluation) -> ReportedEvaluation:
        """Compare and write the report.

        Args:
            job: from :meth:`prepare_evaluation`.
        """
        folder = self.out / "report"
        keep = claim_folder(folder, resume=not self.overwrite, overwrite=self.overwrite)
        with progress("evaluating", job.units, "steps") as bar:
            result = job.run(keep=keep, advance=bar.advance)
        files = write_report(result, folder)
        assert files.page is not None  # it was not asked to leave it out
        floor = {} if result.floor is None else {"Geant4": result.floor}
        scores = {name: _score(found) for name, found in {"this model": result.generated, **floor}.items()}
        return ReportedEvaluation(files.page, summary_lines(result), {k: v for k, v in scores.items() if v is not None})

    def judge_packaged(self) -> Scored | None:
        """The same test of as many showers of the model that ships with the package."""
        conditions = SpectrumConditions(
            EnergySpectrum.parse("1:100"), self.options.showers, self.seed, particle_id("gamma")
        )
        made = self.out / "packaged.h5"
        generate(
            _PACKAGED, conditions, made, seed=self.seed, threads=self.jobs, resume=not self.overwrite, overwrite=self.overwrite,
            command="caloforge demo", show=False,
        )  # fmt: skip
        job = prepare_evaluation(
            made, f"{_SAMPLE}:test", suite="quick", only=(_MEASURE,), model=_PACKAGED, seed=self.seed, timing=False
        )
        return _score(job.run().generated)


def _score(scores: Scores) -> Scored | None:
    found = scores.classifiers.get(_MEASURE)
    if found is None:
        return None
    error = found.auc.error
    return found.auc.mean, found.statistical_error if error is None else error


def _typical(showers: Showers) -> int:
    """The shower whose energy is closest to 50 GeV: bright enough to show its shape in every layer."""
    return int(abs(showers.incident_energy - 50_000.0).argmin())
