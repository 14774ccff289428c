"""Showers and detectors by name: files, samples of the package, and fresh ones from Geant4."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caloforge import datasets
from caloforge.arguments import argument, given
from caloforge.detectors import Detector, Readout, load_detector
from caloforge.errors import UsageError
from caloforge.executor import Executor
from caloforge.names import printable
from caloforge.options import ConvertOptions, JoinOptions, SimulateOptions
from caloforge.progress import counted, progress
from caloforge.showers import ShowerPoints, Showers, open_showers
from caloforge.showers.convert import Conversion, MergePoints, MovePoints, PlacePoints, PointChange, SeveralChanges
from caloforge.showers.convert import convert as convert_file
from caloforge.showers.joining import Joining, join_showers
from caloforge.showers.projection import IdealGrid, cell_pitch, load_cell_map
from caloforge.simulation import simulate_to_file

__all__ = ["convert", "detector", "join", "read", "simulate"]


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
    out: str | Path | None = None,
    options: SimulateOptions | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Showers | ShowerPoints:
    """Simulate showers with Geant4, as ``caloforge simulate`` does.

    Args:
        detector: built-in name, a TOML file, or a detector.
        out: file to write them into, too; None keeps them in memory only.
        options: which showers, and how; see :class:`caloforge.options.SimulateOptions`.
        executor: who makes them, instead of ``jobs`` processes of this machine.
        settings: single options, instead of or beside ``options``: ``particle="gamma"``, ``energy="1:100"`` (GeV), ``events``,
            ``seed``, ``jobs``, ``direction``, ``points``, ``field``, ``engine``, ``geant4_data``, ``resume``, ``overwrite``.

    Raises:
        UsageError: if the request makes no sense.
        MissingDependencyError: if Geant4 is not installed (``pip install "caloforge[geant4]"``).
        SimulationError: if Geant4 fails; finished showers are kept in ``out``.
        OutputError: if the file cannot be written.
    """
    described = detector if isinstance(detector, Detector) else load_detector(detector)
    with tempfile.TemporaryDirectory(prefix="caloforge-") as folder:
        path = Path(folder) / "showers.h5" if out is None else Path(out)
        simulate_to_file(described, path, options=options, executor=executor, **settings)
        return read(path)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    detector: Detector | str | Path | None = None,
    particle: int | str | None = None,
    options: ConvertOptions | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Conversion:
    """Convert a shower file, or put points or hits into any readout, as ``caloforge convert`` does.

    Args:
        source: a shower file of any known format, a sample of the package (``NAME:SPLIT``), or hits of your own simulation.
        target: the file to write.
        detector: what the source is from; for points the readout to put them into.
        particle: incident particle, if the source does not say.
        options: what becomes of them; see :class:`caloforge.options.ConvertOptions`.
        executor: who changes blocks of showers, instead of ``jobs`` processes of this machine; it sees the same files.
        settings: single options, instead of or beside ``options``: ``format="calogan"``, ``kind``, ``sub_cells``, ``position``,
            ``seed``, ``cells``, ``entry="40,0"``, ``cut``, ``collection``, ``jobs``, ``resume``, ``overwrite``.

    Raises:
        UsageError: if the request makes no sense.
        ShowerFileError: if the source is damaged.
        OutputError: if the target cannot be written.
    """
    chosen = ConvertOptions.merged(options, settings)
    source = datasets.file_of(source)
    named = load_detector(detector) if isinstance(detector, str | Path) else detector
    edm4hep = chosen.format == "edm4hep"
    if edm4hep:
        _refuse_for_edm4hep(chosen)
    elif chosen.collection is not None:
        raise UsageError(f"{argument('collection')} is for {given('format', 'edm4hep', flag='--to')}")
    with open_showers(source, named, particle=particle) as reader:
        total = len(reader)
        readout = None if reader.detector is None else reader.detector.readout
        read_as = reader.format, reader.kind, reader.complete
    if edm4hep:
        from caloforge.deployment.edm4hep import (
            write_edm4hep,  # a room of models: who reads files does not wait for torch
        )

        names = {} if chosen.collection is None else {"collection": chosen.collection}
        with progress("converting", total, "showers") as bar:
            done = write_edm4hep(
                source, target, detector=named, particle=None if particle is None else str(particle),
                overwrite=chosen.overwrite, progress=counted(bar), **names,
            )  # fmt: skip
        return Conversion(done, read_as[0], "edm4hep", read_as[1], read_as[2], 0.0, 0.0, 0.0)
    changes = _changes(chosen, source, readout)
    with progress("converting", total, "showers") as bar:
        return convert_file(
            source, target, chosen.format, detector=named, particle=particle,
            kind=chosen.kind,  # type: ignore[arg-type] # one of the choices
            change=SeveralChanges(tuple(changes)) if changes else None, resume=chosen.resume, overwrite=chosen.overwrite,
            progress=counted(bar), jobs=chosen.jobs, executor=executor,
        )  # fmt: skip


def join(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    detector: Detector | str | Path | None = None,
    particle: int | str | None = None,
    options: JoinOptions | None = None,
    **settings: Any,
) -> Joining:
    """Write the showers of several files into a new one, in their order, as ``caloforge join`` does.

    Args:
        sources: two or more shower files of any known formats, or samples of the package (``NAME:SPLIT``), of one detector and
            particle, without a shower in common.
        out: the file to write.
        detector: for files that do not say which detector they are from.
        particle: for files that do not say which particle they hold.
        options: see :class:`caloforge.options.JoinOptions`.
        settings: single options, instead of or beside ``options``: ``format="calogan"``, ``resume``, ``overwrite``.

    Raises:
        UsageError: if there are fewer than two files, or the new one is one of them.
        ShowerFileError: if a file is damaged, or they do not belong together.
        OutputError: if the file cannot be written.
    """
    chosen = JoinOptions.merged(options, settings)
    if isinstance(sources, str | Path) or len(sources) < 2:
        raise UsageError("one file alone cannot be joined, expected two or more")
    files = [datasets.file_of(source) for source in sources]
    named = load_detector(detector) if isinstance(detector, str | Path) else detector
    total = 0
    for file in files:
        with open_showers(file, named, particle=particle) as reader:
            total += len(reader)
    with progress("joining", total, "showers") as bar:
        return join_showers(
            files, out, chosen.format, detector=named, particle=particle, resume=chosen.resume, overwrite=chosen.overwrite,
            advance=counted(bar),
        )  # fmt: skip


def _refuse_for_edm4hep(chosen: ConvertOptions) -> None:
    to = given("format", "edm4hep", flag="--to")
    for name in ("sub_cells", "cells", "entry", "kind"):
        if getattr(chosen, name) is not None:
            raise UsageError(f"{argument(name)} does not go with {to}; convert twice")
    if chosen.jobs > 1:
        raise UsageError(f"{argument('jobs')} does not go with {to}, whose file is written by one process")
    if chosen.resume:
        raise UsageError(f"{argument('resume')} does not go with {to}, whose file is made in one go")


def _changes(chosen: ConvertOptions, source: Path, readout: Readout | None) -> list[PointChange]:
    """What is done to points."""
    if chosen.sub_cells is not None and chosen.cells is not None:
        raise UsageError(f"{argument('sub_cells')} and {argument('cells')} exclude each other, convert twice")
    changes: list[PointChange] = []
    if chosen.entry is not None:
        try:
            x, y = (float(part) for part in chosen.entry.split(","))
        except (ValueError, AttributeError):
            wanted = "two numbers in mm such as '40,0'"
            raise UsageError(f"{argument('entry')} is '{chosen.entry}', expected {wanted}") from None
        changes.append(MovePoints((x, y)))
    if chosen.sub_cells is not None or chosen.cells == "ideal":
        if readout is None:
            raise UsageError(
                f"{source}: does not say which detector it is from, so {argument('detector')} must name one"
            )
        pitch = cell_pitch(readout)
        changes.append(
            PlacePoints(IdealGrid(pitch), "ideal", chosen.cut)
            if chosen.sub_cells is None
            else MergePoints(pitch, chosen.sub_cells, chosen.position, chosen.seed)  # type: ignore[arg-type] # a choice
        )
    elif chosen.cells is not None:
        changes.append(PlacePoints(load_cell_map(chosen.cells), printable(Path(chosen.cells).name), chosen.cut))
    return changes
