"""Showers and detectors by name: files, samples of the package, and fresh ones from Geant4."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from caloforge import datasets
from caloforge.cores import available_cores
from caloforge.detectors import Detector, Directions, load_detector
from caloforge.showers import ShowerPoints, Showers
from caloforge.simulation import simulate_to_file

__all__ = ["detector", "read", "simulate"]


def detector(name: str | Path) -> Detector:
    """A built-in detector, or one of your own.

    Args:
        name: as ``caloforge detectors`` lists them, or a TOML or XML file.

    Raises:
        DetectorError: if there is none of this name, or its description is wrong.
    """
    return load_detector(name)


def read(
    what: str | Path | Sequence[str | Path],
    *,
    detector: Detector | str | Path | None = None,
    particle: int | str | None = None,
    events: int | None = None,
) -> Showers | ShowerPoints:
    """Read showers into memory; they carry their detector and where they come from.

    Args:
        what: a shower file of any known format, a sample of the package (``NAME:SPLIT``), or several of these as one.
        detector: for files that do not say which detector they are from.
        particle: for files that do not say which particle they hold.
        events: only the first so many; None for all.

    Returns:
        Showers on voxels, or points; energies in MeV.

    Raises:
        UsageError: if there is no such file or sample.
        ShowerFileError: if a file is damaged or foreign, or several do not belong together.
    """
    with datasets.open_named(what, detector, particle=particle) as reader:
        return reader.read(0, events)


def simulate(
    detector: Detector | str | Path,
    *,
    particle: str | int | None = None,
    energy: str | float | None = None,
    events: int = 100,
    out: str | Path | None = None,
    seed: int = 1,
    jobs: int | None = None,
    direction: Directions = "fixed",
    points: bool = False,
    field: float | None = None,
    engine: str | None = None,
    geant4_data: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> Showers | ShowerPoints:
    """Simulate showers with Geant4; the options are those of ``caloforge simulate``.

    Args:
        detector: built-in name, a TOML file, or a detector.
        particle: name or PDG id; None for the detector's first.
        energy: GeV: ``50``, ``"5,10,20"``, ``"1:100"``, ``"1:100:log"``; None for the detector's.
        events: number of showers.
        out: file to write them into, too; None keeps them in memory only.
        seed: same seed, same showers, for any number of processes.
        jobs: processes; None takes all cores.
        direction: ``fixed``, ``random``, ``angles`` or ``barrel``.
        points: keep every deposit as a point instead of voxels.
        field: strength of the magnetic field, tesla, along the detector's own direction; 0 for none.
        engine: ``calzone`` or ``geant4-pybind``; None for the one that suits.
        geant4_data: ``auto``, ``builtin``, ``official`` or a directory.
        resume: go on with an interrupted file.
        overwrite: replace the file if it exists.

    Raises:
        UsageError: if the request makes no sense.
        MissingDependencyError: if Geant4 is not installed (``pip install "caloforge[geant4]"``).
        SimulationError: if Geant4 fails; finished showers are kept in ``out``.
        OutputError: if the file cannot be written.
    """
    described = detector if isinstance(detector, Detector) else load_detector(detector)
    if field is not None:
        described = described.with_field(field)
    with tempfile.TemporaryDirectory(prefix="caloforge-") as folder:
        path = Path(folder) / "showers.h5" if out is None else Path(out)
        simulate_to_file(
            described,
            path,
            particle=particle,
            spectrum=None if energy is None else str(energy),
            events=events,
            seed=seed,
            jobs=jobs or available_cores(),
            directions=direction,
            points=points,
            tables=geant4_data,
            engine=engine,
            resume=resume,
            overwrite=overwrite,
        )
        return read(path)
