"""Time per point-cloud shower against the incident energy: Geant4, CaloClouds2 and CaloClouds3, one thread, one by one.

All times are CPU times of one thread, so that other work on the machine hides nothing but what it takes from the caches. Each
shower is made on its own, with its random numbers, and placed into the cells of an idealised grid. A model that is named by its
preset has its full size and random weights; the scales of its counts and energies are those of the Geant4 showers of the same
run, so that it makes as many points as a trained one before calibration. (Calibration takes some away.)
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caloforge.detectors import Detector, EnergySpectrum, load_detector
from caloforge.errors import UsageError
from caloforge.models import Conditions, load_model, load_preset
from caloforge.models.pointclouds import PointCloudModel
from caloforge.random import Streams
from caloforge.showers import ShowerPoints
from caloforge.showers.clusters import merge_in_subcells
from caloforge.showers.projection import IdealGrid, cell_pitch, project
from caloforge.stage import FitStage, TrainingConfig
from caloforge.training.table import Table
from caloforge.units import GeV

__all__ = ["CloudRow", "CloudTime", "bench_clouds"]

Say = Callable[[str], None]

#: Showers before those that are timed.
_WARM_UP = 5
_DIVISIONS = 5


@dataclass(frozen=True)
class CloudTime:
    """CPU time of one thread for one shower, medians, ms.

    Attributes:
        latents: random numbers.
        decode: the model.
        placement: into cells.
        total: of all three.
        points: points per shower, on average.
        redrawn: share of the showers that were rejected; a random flow rejects more than a trained one.
    """

    latents: float
    decode: float
    placement: float
    total: float
    points: float
    redrawn: float


@dataclass(frozen=True)
class CloudRow:
    """One incident energy.

    Attributes:
        energy: GeV.
        geant4_ms: CPU time per shower, recording of the steps included, start-up apart.
        geant4_points: points per shower after merging in 25 sub-cells per cell.
        models: times of each model by its name.
    """

    energy: float
    geant4_ms: float
    geant4_points: float
    models: dict[str, CloudTime] = field(default_factory=dict)


def bench_clouds(
    models: Sequence[str | Path] = ("caloclouds2", "caloclouds3"),
    *,
    detector: str = "ild-ecal",
    energies: Sequence[float] = (10.0, 50.0, 100.0),
    geant4_showers: int = 5,
    showers: int = 40,
    say: Say = print,
) -> list[CloudRow]:
    """Measure.

    Args:
        models: presets (full size, random weights) or directories of trained models.
        detector: with a stack, depths and cells.
        energies: of photons along +z, GeV.
        geant4_showers: Geant4 showers per energy.
        showers: showers of each model per energy.
        say: where progress goes.

    Raises:
        UsageError: if a model makes no points.
    """
    if geant4_showers < 2 or showers < 1:
        raise UsageError("times need at least two Geant4 showers and one generated one per energy")
    rows, made = [], []
    for energy in energies:
        say(f"Geant4: {geant4_showers} photons of {energy:g} GeV")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            milliseconds, points = pool.apply(_geant4, (detector, energy, geant4_showers))
        made.append(points)
        rows.append(CloudRow(energy, milliseconds, len(points.points) / len(points)))
    for name in models:
        say(f"{name}: {showers} showers of each energy")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            times = pool.apply(_model_times, (str(name), detector, list(energies), made, showers))
        for row, found in zip(rows, times, strict=True):
            row.models[str(name)] = found
    return rows


def _geant4(name: str, energy: float, showers: int) -> tuple[float, ShowerPoints]:
    """CPU milliseconds per shower, and the showers, merged."""
    from caloforge.simulation.plan import SimulationPlan
    from caloforge.simulation.runner import BlockRunner

    # Geant4 writes to the terminal; nothing else of this process is to be seen there.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    detector = load_detector(name)
    runner = BlockRunner(SimulationPlan(detector, 22, EnergySpectrum.parse(f"{energy:g}"), showers, 1, points=True))
    runner.geant4.run_brief(np.array([1000.0]), np.array([[0.0, 0.0, 1.0]]))  # builds the tables
    before = time.process_time()
    blocks = [runner.run(number).showers for number in runner.plan.blocks()]
    seconds = time.process_time() - before
    points = ShowerPoints.concatenate([block for block in blocks if isinstance(block, ShowerPoints)])
    pitch = cell_pitch(detector.readout)
    return 1000 * seconds / showers, merge_in_subcells(points, pitch, _DIVISIONS, Streams(0, "bench/sub-cells"))


def _model_times(
    name: str, detector: str, energies: Sequence[float], real: Sequence[ShowerPoints], showers: int
) -> list[CloudTime]:
    torch.set_num_threads(1)
    model = _model(name, load_detector(detector), real)
    streams, grid = Streams(0, "bench/clouds"), IdealGrid(cell_pitch(model.detector.readout))
    cut, found = model.detector.analysis_threshold, []
    for energy in energies:
        times, points, rejected = [], [], 0
        for number in range(_WARM_UP + showers):
            conditions = Conditions.first(np.full(1, energy * GeV), 22, start=number)
            marks = [time.thread_time()]
            latents = model.latents(conditions, streams)
            marks.append(time.thread_time())
            made, valid = model.decode(conditions, latents)
            marks.append(time.thread_time())
            assert isinstance(made, ShowerPoints)  # a model of points
            project(made, grid, cut=cut)
            marks.append(time.thread_time())
            if number >= _WARM_UP:
                rejected += int(not valid[0])
                if valid[0]:
                    times.append([*np.diff(marks).tolist(), marks[-1] - marks[0]])
                    points.append(len(made.points))
        if not times:
            raise UsageError(f"'{name}' made no valid shower of {energy:g} GeV")
        latents_ms, decode, placement, total = (1000 * np.median(np.asarray(times), axis=0)).tolist()
        found.append(CloudTime(latents_ms, decode, placement, total, float(np.mean(points)), rejected / showers))
    return found


def _model(name: str, detector: Detector, real: Sequence[ShowerPoints]) -> PointCloudModel:
    model: Any
    if Path(name).is_dir():
        model = load_model(name)
    else:
        torch.manual_seed(0)
        model = load_preset(name).build(detector)
    if not isinstance(model, PointCloudModel):
        raise UsageError(f"'{name}' makes no point clouds")
    if model.record is None:
        joined = ShowerPoints.concatenate(list(real))
        rows = np.arange(len(joined))
        scales = next(stage for stage in model.stages(TrainingConfig()) if isinstance(stage, FitStage))
        with torch.no_grad():
            scales.load_state(scales.fit([Table.of(rows, joined).take(rows, 0)], Streams(0, "bench/scales")))
    return model.eval().requires_grad_(False)
