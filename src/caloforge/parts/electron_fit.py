"""Fit of a parametrisation of electrons to a file of showers, by what it makes itself of the same energies.

What is compared are the mean depth of a shower, in layers, and its spread along the depth: their means, and how much they vary
from shower to shower, in bins of the energy. Four changes of the formulas follow from them by Gauss and Newton with the same
random numbers in every step: an offset of T, a factor on alpha, and factors on both widths. So it works for any number of
layers, and for photons, whose two electrons no fit of single showers could tell apart. Then a factor on all radii from the
mean distance to the axis, the portions of energy from lit and brightest cells, and the response.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caloforge.conditions import Conditions
from caloforge.errors import TrainingError
from caloforge.models import ShowerModel
from caloforge.random import Streams
from caloforge.representation import conditions_of
from caloforge.stage import FitStage, PointBatch, TrainingBatch, TrainingData, VoxelBatch, deposits_of
from caloforge.units import GeV

__all__ = ["ProfileFit"]

#: Showers that are compared at the most, bins of their energy, and steps of the iteration.
_SHOWERS, _BINS, _ROUNDS = 4000, 4, 6
#: Showers whose radii are compared, and steps.
_RADIAL, _RADIAL_ROUNDS = 1000, 4
#: Showers whose cells are compared, steps, and how far portions of energy may differ from the formula's.
_CELLS, _CORE_ROUNDS, _TAIL_ROUNDS, _FACTORS = 1000, 4, 8, (1e-3, 30.0)
#: Finite differences of the four numbers, and how far they may go in one step.
_DIFFERENCE, _LARGEST = 0.05, 0.4
#: What keeps a number that hardly matters near the published one: a prior spread of each.
_PRIOR = 1.0


class ProfileFit(FitStage):
    """Looks at all training showers once.

    Args:
        model: a :class:`~caloforge.zoo.gflash.GFlash`; its ``numbers`` are the result.
    """

    def __init__(self, model: Any) -> None:
        super().__init__("profile", {"numbers": model.numbers})
        self.model = model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """Longitudinal numbers, radius and response.

        Raises:
            TrainingError: if the showers are empty.
        """
        # One of its own, in double precision; the training has made that of others.
        model = type(self.model)(self.model.config, self.model.detector)
        real = _Rows(model, data)
        asked = real.asked(_SHOWERS)
        numbers = model.numbers
        latents = model.latents(asked, streams.child("fit"))
        tensors = asked.tensors()
        published = numbers.longitudinal.clone()
        # What lies outside the cells depends on the radius, and the mean radius on the depth.
        for _ in range(2):
            numbers.longitudinal = _longitudinal(model, published, real, tensors, latents)
            numbers.radius = numbers.radius * _radius(model, real, streams.child("radius"))
        numbers.quanta = _quanta(model, real, streams.child("cells"))
        numbers.response = _response(model, real, tensors, latents)
        return {f"numbers.{name}": value for name, value in numbers.state_dict().items()}


class _Rows:
    """Layer energies, incident energies, directions, and mean distances to the axis of the training showers."""

    def __init__(self, model: ShowerModel, data: TrainingData) -> None:
        readout, energies, radii, incident, directions = model.detector.readout, [], [], [], []
        lit, brightest, left = [], [], _CELLS
        for batch in data:
            energies.append(layer_energies(model, batch.to("cpu")))
            radii.append(mean_radius(model, batch.to("cpu")))
            incident.append(batch.incident_energy.cpu().double())
            directions.append(conditions_of(batch.to("cpu"))["direction"].float())
            if model.shower_kind == "voxels" and not isinstance(batch, PointBatch) and left > 0:
                found = cell_statistics(model, deposits_of(batch).cpu()[:left])
                lit.append(found[0])
                brightest.append(found[1])
                left -= len(found[0])
        self.lit, self.brightest = (torch.cat(values) if values else None for values in (lit, brightest))
        self.layers, self.radius, self.incident = torch.cat(energies), torch.cat(radii), torch.cat(incident)
        self.direction = torch.cat(directions)
        self.particle = data.particle
        if not float(self.layers.sum()) > 0 or readout.n_layers != self.layers.shape[1]:
            raise TrainingError("the training showers are empty, so no parametrisation can be fitted to them")

    def asked(self, most: int) -> Conditions:
        """Conditions of evenly spread showers."""
        rows = torch.linspace(0, len(self.incident) - 1, min(most, len(self.incident))).long()
        straight = bool((self.direction[:, 2] > 1 - 1e-6).all())
        direction = None if straight else self.direction[rows].numpy()
        return Conditions.first(self.incident[rows].numpy(), self.particle, direction=direction)


def layer_energies(model: ShowerModel, batch: TrainingBatch) -> Tensor:
    """Energy of training showers in each layer, float64 (B, L), MeV."""
    layers = model.detector.readout.n_layers
    if isinstance(batch, PointBatch):
        shower = torch.repeat_interleave(torch.arange(len(batch)), batch.offsets.diff())
        sums = torch.zeros(len(batch) * layers, dtype=torch.float64)
        sums.index_add_(0, shower * layers + batch.points[:, 2].long(), batch.points[:, 3].double())
        return sums.reshape(len(batch), layers)
    deposits = deposits_of(batch).double()
    return torch.stack([deposits[:, s].sum(dim=1) for s in model.detector.readout.layer_slices], dim=1)


def mean_radius(model: ShowerModel, batch: TrainingBatch) -> Tensor:
    """Energy-weighted mean distance to the z axis, mm, (B,)."""
    if isinstance(batch, PointBatch):
        shower = torch.repeat_interleave(torch.arange(len(batch)), batch.offsets.diff())
        energy, distance = batch.points[:, 3].double(), batch.points[:, :2].double().norm(dim=1)
        sums = torch.zeros(2, len(batch), dtype=torch.float64)
        sums[0].index_add_(0, shower, energy * distance)
        sums[1].index_add_(0, shower, energy)
        return sums[0] / sums[1].clamp_min(1e-12)
    centres = torch.from_numpy(model.detector.readout.centres()[:, :2]).norm(dim=1)
    deposits = deposits_of(batch).double()
    mean: Tensor = deposits @ centres / deposits.sum(dim=1).clamp_min(1e-12)
    return mean


def cell_statistics(model: Any, deposits: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each layer's cells that are lit above the analysis threshold, and of its energy in the brightest, (B, L) each."""
    cells = torch.where(deposits < max(model.detector.analysis_threshold, 1e-9), 0.0, deposits.double())
    blocks = model.sums.blocks(cells)
    lit = torch.cat([(block > 0).double().mean(dim=-1) for block in blocks], dim=1)
    brightest = torch.cat([block.amax(dim=-1) / block.sum(dim=-1).clamp_min(1e-12) for block in blocks], dim=1)
    return lit, brightest


def _quanta(model: Any, real: _Rows, streams: Streams) -> Tensor:
    """Portions of energy with which as many cells are lit, and the brightest vary as much, in every layer."""
    factors: Tensor = model.numbers.quanta.clone()
    asked = real.asked(_CELLS)
    if real.lit is None or real.brightest is None or asked.direction is not None:
        return factors  # points are not in cells yet, and at an angle energy comes in spots
    latents = model.latents(asked, streams)
    if "cells" not in latents:
        return factors
    lit, spread = real.lit.mean(dim=0), real.brightest.std(dim=0)
    known = lit > 2e-3

    def made(core: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        model.numbers.quanta = torch.where(known, torch.stack([core, tail]), factors)
        return cell_statistics(model, model.decode_tensors(asked.tensors(), latents)[0]["deposits"])

    core, tail = factors.clone()
    for number in range(_CORE_ROUNDS):
        found = made(core, tail)[1].std(dim=0).clamp_min(1e-6)
        step = 1.5 * 0.7**number * (spread / found).clamp_min(1e-6).log()
        core = (core * step.clamp(-1, 1).exp()).clamp(*_FACTORS)
    # The smaller the portions of the tail, the more cells are lit: halve the interval.
    low, high = (torch.full_like(tail, math.log(end)) for end in _FACTORS)
    for _ in range(_TAIL_ROUNDS):
        middle = (low + high) / 2
        more = made(core, middle.exp())[0].mean(dim=0) > lit
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    factors = torch.where(known, torch.stack([core, ((low + high) / 2).exp()]), factors)
    return factors


def _depths(layers: Tensor) -> Tensor:
    """Mean depth and spread along it in units of layers, (N, 2)."""
    place = torch.arange(layers.shape[1], dtype=torch.float64)
    share = layers / layers.sum(dim=1, keepdim=True).clamp_min(1e-12)
    mean = share @ place
    return torch.stack([mean, (share @ place**2 - mean**2).clamp_min(0).sqrt()], dim=1)


def _statistics(layers: Tensor, incident: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Means and logarithms of standard deviations of the depths in bins of the energy, and their statistical errors."""
    which, values, errors = torch.bucketize(incident.log(), edges), [], []
    depths = _depths(layers)
    for k in range(len(edges) + 1):
        rows = depths[which == k]
        if len(rows) < 10:
            continue
        spread = rows.std(dim=0).clamp_min(1e-6)
        values += [rows.mean(dim=0), spread.log()]
        errors += [spread / len(rows) ** 0.5, torch.full_like(spread, (2 * len(rows)) ** -0.5)]
    return (torch.cat(values), torch.cat(errors)) if values else (torch.zeros(0).double(), torch.zeros(0).double())


def _changed(numbers: Tensor, change: Tensor) -> Tensor:
    """The ten numbers with an offset of T, and factors on alpha and both widths, as exponents."""
    found = numbers.clone()
    found[0, 0] += change[0]
    found[1] = found[1] * change[1].exp()
    found[2:4] = found[2:4] * (-change[2:4]).exp()[:, None]
    return found


def _seen(model: Any, tensors: Mapping[str, Tensor], latents: Mapping[str, Tensor]) -> Tensor:
    """Energies of layers, within their cells where there are some."""
    found = model.electrons(tensors, latents)
    if model.shower_kind == "voxels":
        radius = model.numbers.radius
        inside = found.share * model.cells.contained(model.steps.layer, found.core * radius)
        inside = inside + (1 - found.share) * model.cells.contained(model.steps.layer, found.tail * radius)
        found = replace(found, deposited=found.deposited * inside)
    seen: Tensor = model.layer_energies(found, tensors["incident_energy"], latents)
    return seen


def _longitudinal(
    model: Any, published: Tensor, real: _Rows, tensors: Mapping[str, Tensor], latents: Mapping[str, Tensor]
) -> Tensor:
    inner = real.incident.log().quantile(torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)[1:-1])
    edges = torch.from_numpy(np.unique(inner.numpy()))
    wanted, error = _statistics(real.layers, real.incident, edges)
    change = torch.zeros(4, dtype=torch.float64)

    def made(by: Tensor) -> Tensor:
        model.numbers.longitudinal = _changed(published, by)
        return _statistics(_seen(model, tensors, latents), tensors["incident_energy"], edges)[0]

    for _ in range(_ROUNDS if len(real.layers) >= 40 * _BINS else 0):
        here = made(change)
        if len(here) != len(wanted):
            break
        slope = torch.stack(
            [(made(change + d) - here) / _DIFFERENCE for d in _DIFFERENCE * torch.eye(4).double()], dim=1
        )
        # Errors of both sides, and a part of the size of the wanted numbers that no formula of this form reaches.
        weight = 1 / (2 * error**2 + 1e-4)
        normal = slope.T @ (weight[:, None] * slope) + torch.eye(4).double() / _PRIOR**2
        step = torch.linalg.solve(normal, slope.T @ (weight * (wanted - here)) - change / _PRIOR**2)
        change = change + step.clamp(-_LARGEST, _LARGEST)
    return _changed(published, change)


def _radius(model: Any, real: _Rows, streams: Streams) -> Tensor:
    asked = real.asked(_RADIAL)
    if asked.direction is not None:
        return torch.ones((), dtype=torch.float64)  # the axis is not where the radii are counted from
    latents, before, factor = (
        model.latents(asked, streams),
        model.numbers.radius.clone(),
        torch.ones((), dtype=torch.float64),
    )
    wanted = (real.radius * real.layers.sum(dim=1)).sum() / real.layers.sum()
    for _ in range(_RADIAL_ROUNDS):
        model.numbers.radius = before * factor
        made, _ = model.decode_tensors(asked.tensors(), latents)
        batch = _as_batch(made, asked)
        weight = layer_energies(model, batch).sum(dim=1)
        factor = factor * (wanted / ((mean_radius(model, batch) * weight).sum() / weight.sum())).clamp(0.5, 2)
    model.numbers.radius = before
    return factor


def _as_batch(made: Mapping[str, Tensor], asked: Conditions) -> TrainingBatch:
    common: dict[str, Any] = {
        "incident_energy": torch.from_numpy(asked.incident_energy),
        "row": torch.from_numpy(asked.index),
    }
    if "points" in made:
        return PointBatch(offsets=made["offsets"], points=made["points"], **common)
    return VoxelBatch(deposits=made["deposits"], **common)


def _response(model: Any, real: _Rows, tensors: Mapping[str, Tensor], latents: Mapping[str, Tensor]) -> Tensor:
    """a, b, c, d: from deposits over what the formulas expect of the cells; spreads beyond that of the formulas."""
    model.numbers.response = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    made, _ = model.decode_tensors(tensors, latents)
    asked = Conditions.first(tensors["incident_energy"].numpy(), real.particle)
    expected = layer_energies(model, _as_batch(made, asked)).sum(dim=1)
    own, total = tensors["incident_energy"], real.layers.sum(dim=1)
    degree = 2 if float(real.incident.max() / real.incident.min()) > 1.5 else 1

    def line(energy: Tensor, ratio: Tensor) -> Tensor:
        powers = (energy / GeV).log()[:, None] ** torch.arange(degree)
        found = torch.zeros(2, dtype=torch.float64)
        found[:degree] = torch.linalg.lstsq(powers, ratio[:, None]).solution[:, 0]
        return found

    def spread(energy: Tensor, ratio: Tensor, at: Tensor) -> Tensor:
        residual = (ratio / (at[0] + at[1] * (energy / GeV).log()) - 1) ** 2
        # Of the middle of the showers: a few that lose much would be the variance of all.
        limit = residual.quantile(0.98)
        rows = residual <= limit
        powers = torch.stack([GeV / energy[rows], torch.ones_like(energy[rows])], dim=1)
        found: Tensor = torch.linalg.lstsq(powers, residual[rows][:, None]).solution[:, 0]
        return found

    one, two = line(real.incident, total / real.incident), line(own, expected / own)
    middle = (real.incident / GeV).log().mean()
    # The quotient of two lines is nearly one over the energies that matter.
    level = (one[0] + one[1] * middle) / (two[0] + two[1] * middle)
    tilt = (one[1] - level * two[1]) / (two[0] + two[1] * middle)
    more = spread(real.incident, total / real.incident, one) - spread(own, expected / own, two)
    c, d = more.clamp_min(0).sqrt()
    return torch.stack([level - tilt * middle, tilt, c, d])
