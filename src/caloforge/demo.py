"""The main job in one go, on real showers: what ``make demo`` runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caloforge.detectors import load_detector
from caloforge.errors import OutputError
from caloforge.showers import Showers
from caloforge.showers.files import open_showers
from caloforge.showers.pictures import draw_average, draw_event
from caloforge.showers.summary import layer_table
from caloforge.simulation import SimulationSummary, simulate_to_file

__all__ = ["SimulationDemo", "run_simulation_demo"]


@dataclass(frozen=True)
class SimulationDemo:
    """What the first part of the demonstration made.

    Attributes:
        summary: how the production went.
        showers: its showers.
        columns: titles of a table of layer energies and occupancy.
        rows: rows of that table.
        files: everything that was written.
    """

    summary: SimulationSummary
    showers: Showers
    columns: list[str]
    rows: list[list[str]]
    files: list[Path]


def run_simulation_demo(out: Path, *, events: int = 100, jobs: int = 1, seed: int = 1) -> SimulationDemo:
    """Simulate photons of 1-100 GeV in the CaloGAN calorimeter with Geant4, and draw them.

    Args:
        out: directory to write into; showers of an earlier run in it are replaced.
        events: number of showers.
        jobs: number of processes.
        seed: of the showers.

    Raises:
        OutputError: if the directory cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made a directory ({error.strerror})") from None
    detector = load_detector("calogan")
    path = out / "photons.h5"
    summary = simulate_to_file(
        detector, path, particle="gamma", spectrum="1:100", events=events, seed=seed, jobs=jobs, overwrite=True,
        command=f"caloforge demo --events {events} --seed {seed}",
    )  # fmt: skip
    with open_showers(path) as reader:
        showers = reader.read()
    assert isinstance(showers, Showers)  # made as voxels a moment ago
    pictures = {"average.png": draw_average(showers), "event.png": draw_event(showers, _typical(showers))}
    for name, figure in pictures.items():
        figure.savefig(out / name, dpi=140)
    columns, rows = layer_table(showers, detector.analysis_threshold)
    return SimulationDemo(summary, showers, columns, rows, [path, *(out / name for name in pictures)])


def _typical(showers: Showers) -> int:
    """The shower whose energy is closest to 50 GeV: bright enough to show its shape in every layer."""
    return int(abs(showers.incident_energy - 50_000.0).argmin())
