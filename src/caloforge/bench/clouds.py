"""Time per point-cloud shower against the incident energy: Geant4 and models of points, one thread, one by one.

All times are CPU times of one thread, so other work on the machine adds only what it takes from the caches. Each shower is
made on its own, with its random numbers, and placed into the cells of an idealised grid. A model that is named by its preset
has that size and random weights; the scales of its counts and energies are those of the Geant4 showers of the same run, so
it makes as many points as a trained one before calibration. (Calibration takes some away.)

The floor of a model is what its arithmetic and its weights cannot do without at the rates measured in the same process:
the flow reads each weight once that a unit which is not silent needs, and the point network does its multiply-adds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from caloforge.bench.geant4 import geant4_showers
from caloforge.bench.machine import describe_machine, in_process, matrix_rate, read_rate
from caloforge.bench.models import named_model
from caloforge.errors import UsageError
from caloforge.models import Conditions
from caloforge.nn.perceptron import Perceptron
from caloforge.nn.showerflow import ShowerFlow
from caloforge.parts.point_model import PointCloudModel
from caloforge.parts.profile_flow import ProfileScaleStage
from caloforge.random import Streams
from caloforge.showers import ShowerPoints
from caloforge.showers.clusters import merge_in_subcells
from caloforge.showers.projection import IdealGrid, cell_pitch, project
from caloforge.stage import FitStage, TrainingBatch, TrainingConfig
from caloforge.training.table import Table
from caloforge.units import GeV

__all__ = ["ENERGIES", "CloudTime", "Floor", "Spread", "bench_clouds", "fit_scales", "with_companion"]

Say = Callable[[str], None]

#: Incident energies that CaloClouds' publications show, GeV.
ENERGIES = tuple(float(energy) for energy in range(10, 101, 10))
#: Showers before those that are timed.
_WARM_UP = 5
_DIVISIONS = 5
_PARTS = ("random_numbers", "flow", "points", "placement")
#: Calls of the point network by itself, after one that warms up.
_NETWORK_CALLS = 10
_PHOTON = 22


@dataclass(frozen=True)
class Spread:
    """Times of showers, ms.

    Attributes:
        median: of them.
        lowest: of them.
        highest: of them.
        showers: how many they are.
    """

    median: float
    lowest: float
    highest: float
    showers: int

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Spread:
        """From the times."""
        return cls(statistics.median(milliseconds), min(milliseconds), max(milliseconds), len(milliseconds))


@dataclass(frozen=True)
class Floor:
    """What a model cannot do without for one shower.

    Attributes:
        flow_multiply_adds: millions, all weights.
        flow_megabytes: weights that must be read, since the units they belong to are not silent, MB (10^6 bytes).
        read_rate: at which one thread reads as many bytes again and again, GB/s.
        flow_ms: time of reading them.
        network_multiply_adds: of the point network, millions, for the average number of points.
        matrix_rate: of large float32 matrix products on one thread, GFLOP/s.
        network_ms: time of the arithmetic.
        total_ms: both.
    """

    flow_multiply_adds: float
    flow_megabytes: float
    read_rate: float
    flow_ms: float
    network_multiply_adds: float
    matrix_rate: float
    network_ms: float
    total_ms: float


@dataclass(frozen=True)
class CloudTime:
    """CPU time of one thread for one shower of a model.

    Attributes:
        total: all parts.
        parts: median of each, ms: ``random_numbers``, ``flow``, ``points`` (everything else that the model does: counts,
            the point network, sorting by depth, energies of the layers, shifts) and ``placement`` into cells.
        network: of the point network alone for as many points, measured by itself, median, ms.
        points: points per shower, on average.
        redrawn: share of the showers that were rejected; a random flow rejects more than a trained one.
        ratio_geant4: median of Geant4 over the median of the total.
        floor: of the model.
    """

    total: Spread
    parts: dict[str, float]
    network: float
    points: float
    redrawn: float
    ratio_geant4: float
    floor: Floor


def with_companion(names: Sequence[str]) -> list[str]:
    """The names, and where they are but one of the presets of published size, the other one in front of or behind it."""
    both = ["caloclouds2", "caloclouds3"]
    return both if len(names) == 1 and names[0] in both else list(names)


def bench_clouds(
    models: Sequence[str | Path] = ("caloclouds2", "caloclouds3"),
    *,
    energies: Sequence[float] = ENERGIES,
    geant4: int = 3,
    showers: int = 40,
    say: Say = print,
) -> dict[str, Any]:
    """Measure photons along +z.

    Args:
        models: presets (their size, random weights) or trained models, all for the same detector, which has a stack,
            depths and cells.
        energies: GeV.
        geant4: Geant4 showers per energy.
        showers: showers of each model per energy.
        say: where progress goes.

    Returns:
        JSON values: ``machine``, ``rows`` (for each energy: ``geant4`` as in :class:`Spread`, ``geant4_points`` per shower
        after merging in 25 sub-cells per cell, and ``models``, by name, as in :class:`CloudTime`) and ``notes``.

    Raises:
        UsageError: if there are too few showers, a model makes no points, or the models have different detectors.
    """
    if geant4 < 2 or showers < 1 or not energies:
        raise UsageError("times need an energy, at least two Geant4 showers and one generated one per energy")
    built = [named_model(name) for name in models]
    for name, model in zip(models, built, strict=True):
        if not isinstance(model, PointCloudModel):
            raise UsageError(f"'{name}' makes no point clouds")
        if model.detector != built[0].detector:
            raise UsageError(f"'{name}' and '{models[0]}' have different detectors, so their times are not of one kind")
    detector = built[0].detector
    say(f"Geant4: {geant4} photons of each energy, {len(energies)} energies, one core")
    simulated = geant4_showers(detector, _PHOTON, [f"{energy:g}" for energy in energies], geant4, points=True)
    pitch, merged = cell_pitch(detector.readout), []
    for found in simulated:
        assert found.points is not None  # points were asked for
        merged.append(merge_in_subcells(found.points, pitch, _DIVISIONS, Streams(0, "bench/sub-cells")))
    rows: list[dict[str, Any]] = [
        {
            "energy_GeV": energy,
            "geant4": asdict(Spread.of(found.milliseconds)),
            "geant4_points": len(points.points) / len(points),
            "models": {},
        }
        for energy, found, points in zip(energies, simulated, merged, strict=True)
    ]
    slow = [statistics.median(found.milliseconds) for found in simulated]
    for name in models:
        say(f"{name}: {showers} showers of each energy")
        times: list[CloudTime] = in_process(_times, name, list(energies), merged, slow, showers)
        for row, found_times in zip(rows, times, strict=True):
            row["models"][str(name)] = asdict(found_times)
    field = "no magnetic field" if detector.field is None else f"a field of {detector.field_strength:g} T"
    return {
        "machine": describe_machine(),
        "detector": detector.name,
        "rows": rows,
        "notes": [
            "CPU time per shower, one thread, one shower at a time, with random numbers and placement into cells",
            f"{field} and a simplified geometry: a published ratio to a full detector is another quantity",
            "Geant4's time is its own, scoring apart",
        ],
    }


def _times(
    name: str | Path, energies: list[float], real: list[ShowerPoints], slow: list[float], showers: int
) -> list[CloudTime]:
    torch.set_num_threads(1)
    model = named_model(name)
    assert isinstance(model, PointCloudModel)  # bench_clouds has looked
    if model.record is None:
        fit_scales(model, real)
    streams, grid = Streams(0, "bench/clouds"), IdealGrid(cell_pitch(model.detector.readout))
    cut, found = model.detector.analysis_threshold, []
    rates = (read_rate(_flow_megabytes(model.flow, *_flow_inputs(model, energies[-1], streams))), matrix_rate(1))
    for energy, reference in zip(energies, slow, strict=True):
        times, points, rejected = [], [], 0
        with _watched(model) as seconds:
            for number in range(_WARM_UP + showers):
                conditions = Conditions.first(np.full(1, energy * GeV), _PHOTON, start=number)
                seconds["flow"] = 0.0
                marks = [time.thread_time()]
                latents = model.latents(conditions, streams)
                marks.append(time.thread_time())
                cloud, valid = model.decode(conditions, latents)
                marks.append(time.thread_time())
                assert isinstance(cloud, ShowerPoints)  # a model of points
                project(cloud, grid, cut=cut)
                marks.append(time.thread_time())
                if number < _WARM_UP:
                    continue
                rejected += int(not valid[0])
                if valid[0]:
                    drawn, decoded, placed = np.diff(marks).tolist()
                    times.append([drawn, seconds["flow"], decoded - seconds["flow"], placed])
                    points.append(len(cloud.points))
        if not times:
            raise UsageError(f"'{name}' made no valid shower of {energy:g} GeV")
        parts = 1000 * np.asarray(times)
        total = Spread.of(parts.sum(axis=1).tolist())
        mean_points = float(np.mean(points))
        found.append(
            CloudTime(
                total=total,
                parts=dict(zip(_PARTS, np.median(parts, axis=0).tolist(), strict=True)),
                network=_network_ms(model, conditions, round(mean_points), streams),
                points=mean_points,
                redrawn=rejected / showers,
                ratio_geant4=reference / total.median,
                floor=_floor(model, mean_points, energy, streams, *rates),
            )
        )
    return found


@contextmanager
def _watched(model: PointCloudModel) -> Iterator[dict[str, float]]:
    """Count the seconds that a model spends in its flow."""
    seconds, flow = {"flow": 0.0}, model.flow
    ways = ("sample_packed", "sample_reference")  # all goes through one of them

    def timed(sample: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            began = time.thread_time()
            try:
                return sample(*arguments)
            finally:
                seconds["flow"] += time.thread_time() - began

        return counted

    for name in ways:
        setattr(flow, name, timed(getattr(flow, name)))
    try:
        yield seconds
    finally:
        for name in ways:
            delattr(flow, name)


@torch.no_grad()
def _network_ms(model: PointCloudModel, conditions: Conditions, points: int, streams: Streams) -> float:
    """Median CPU time of the point network for so many points of one shower, as the model samples."""
    z = torch.from_numpy(streams.child("network").normal(conditions.index, 4 * points)).reshape(-1, 4)
    offsets, counts = torch.tensor([0, points]), torch.full((1, model.layers), points / model.layers)
    context = model.point_condition(conditions.tensors(), counts.double()).to(model.dtype)
    times = []
    for _ in range(_NETWORK_CALLS + 1):
        began = time.thread_time()
        model.sampled(z, offsets, offsets, context, model.config.sampler)
        times.append(time.thread_time() - began)
    return 1000 * statistics.median(times[1:])


def _flow_inputs(model: PointCloudModel, energy: float, streams: Streams) -> tuple[torch.Tensor, torch.Tensor]:
    conditions = Conditions.first(np.full(20, energy * GeV), _PHOTON)
    z = torch.from_numpy(streams.child("floor").normal(conditions.index, model.flow.features))
    return z.to(model.dtype), model.flow_condition(conditions.tensors(model.device)).to(model.dtype)


@torch.no_grad()
def _flow_megabytes(flow: ShowerFlow, z: torch.Tensor, context: torch.Tensor) -> float:
    """Weights and biases that a shower needs, MB: those of units that a ReLU has silenced are not."""
    needed, bytes_each = 0.0, z.element_size()

    # Of whole networks: they give their layers to one operator, so that no layer is called.
    def count(network: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal needed
        (x,) = inputs
        for layer in network.children():
            if isinstance(layer, nn.Linear):
                needed += layer.out_features * (1 + float(x.count_nonzero()) / len(x))
            x = layer(x)

    hooks = [module.register_forward_hook(count) for module in flow.modules() if isinstance(module, Perceptron)]
    try:
        flow.log_prob(flow.sample(z, context), context)  # the same networks with the same inputs
    finally:
        for hook in hooks:
            hook.remove()
    return 1e-6 * bytes_each * needed


def _floor(
    model: PointCloudModel, points: float, energy: float, streams: Streams, gb_per_s: float, gflops: float
) -> Floor:
    network = model.target if model.config.sampler == "consistency" else model.diffusion
    calls = 1 if model.config.sampler == "consistency" else 2 * model.config.edm_steps - 1
    network_operations = calls * points * sum(layer.linear.weight.numel() for layer in network.gated_layers())
    megabytes = _flow_megabytes(model.flow, *_flow_inputs(model, energy, streams))
    flow_ms, network_ms = megabytes / gb_per_s, 2e-6 * network_operations / gflops
    weights = sum(module.weight.numel() for module in model.flow.modules() if isinstance(module, nn.Linear))
    return Floor(
        flow_multiply_adds=1e-6 * weights,
        flow_megabytes=megabytes,
        read_rate=gb_per_s,
        flow_ms=flow_ms,
        network_multiply_adds=1e-6 * network_operations,
        matrix_rate=gflops,
        network_ms=network_ms,
        total_ms=flow_ms + network_ms,
    )


class _Rows(list[TrainingBatch]):
    """Training rows in memory."""

    particle = 22


def fit_scales(model: PointCloudModel, real: Sequence[ShowerPoints]) -> None:
    """Give a model with random weights the scales of real showers, so that it makes as many points as a trained one."""
    joined = ShowerPoints.concatenate(list(real))
    rows = np.arange(len(joined))
    done: set[str] = set()
    for stage in model.training_stages(TrainingConfig()):
        # Those that need nothing trained: what is left of them has random weights.
        if isinstance(stage, ProfileScaleStage):
            stage = ProfileScaleStage(model, own_units=False)
        if isinstance(stage, FitStage) and done.issuperset(stage.needs):
            with torch.no_grad():
                stage.load_state(stage.fit(_Rows([Table.of(rows, joined).take(rows, 0)]), Streams(0, "bench/scales")))
            done.add(stage.name)
