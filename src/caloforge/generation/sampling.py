"""From conditions to showers in memory: batches, and rejected showers drawn again.

What a shower looks like depends on the seed, its number and how often it was rejected, never on its neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caloforge.errors import GenerationError, UsageError
from caloforge.models import Conditions, ShowerModel
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.units import format_energy

__all__ = ["Sample", "Timing", "borrowed", "generation_streams", "sample_showers"]

#: How often a shower may be rejected before the model is given up.
MAX_ATTEMPTS = 100
#: A few showers are computed in another order of sums than many, with other last digits. Of showers that were asked for together
#: the last ones to be drawn again keep so much company, so that their digits do not depend on who else is left: their own next
#: attempts, of which the first that is not rejected counts.
_COMPANY = 32


def generation_streams(seed: int) -> Streams:
    """The random streams of a generation.

    Raises:
        UsageError: if the seed is out of range.
    """
    return Streams(seed, "generation")


@dataclass
class Timing:
    """Where the time went, seconds.

    Attributes:
        latents: drawing random numbers.
        decode: the model itself: networks, inverse transforms, thresholds.
        assembly: putting batches and redrawn showers together.
        packing: making a part of the file of them, where workers do.
    """

    latents: float = 0.0
    decode: float = 0.0
    assembly: float = 0.0
    packing: float = 0.0

    def add(self, other: Timing) -> None:
        """Take in the times of other showers."""
        self.latents += other.latents
        self.decode += other.decode
        self.assembly += other.assembly
        self.packing += other.packing


@dataclass(frozen=True)
class Sample:
    """Generated showers.

    Attributes:
        showers: in the order of the conditions.
        redrawn: how many showers were rejected and drawn again, counting every attempt.
        timing: where the time went.
    """

    showers: Showers | ShowerPoints
    redrawn: int
    timing: Timing = field(default_factory=Timing)


@contextmanager
def borrowed(model: ShowerModel, device: torch.device | str | None = None) -> Iterator[ShowerModel]:
    """Someone's model, within in eval mode and on a device, afterwards where and as it was, whatever happened.

    Args:
        model: the model.
        device: where to put it; None leaves it where it is.
    """
    place, training = model.device, [module for module in model.modules() if module.training]
    try:
        yield (model if device is None else model.to(device)).eval()
    finally:
        model.to(place)
        for module in training:
            module.training = True


def sample_showers(
    model: ShowerModel,
    conditions: Conditions,
    streams: Streams,
    *,
    batch_size: int = 1000,
    max_attempts: int = MAX_ATTEMPTS,
    extrapolate: bool = False,
) -> Sample:
    """Generate showers in memory.

    Args:
        model: a trained model; it is left in its mode and on its device.
        conditions: what is asked for, first attempts.
        streams: random streams, see ``generation_streams``.
        batch_size: showers in a batch; changes speed and memory, not the showers.
        max_attempts: how often a shower may be drawn.
        extrapolate: allow conditions outside the range that the model was trained for.

    Raises:
        GenerationError: if the model rejects a shower ``max_attempts`` times.
        UsageError: if the batch size is below 1, no showers are asked for, or conditions lie outside the model's range.
    """
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}, expected 1 or more")
    if not len(conditions):
        raise UsageError("no showers were asked for")
    if model.record is not None and not extrapolate:
        model.record.valid.check(conditions)
    # Looking at every part of a model would take long beside a single shower.
    with borrowed(model) if model.training else nullcontext():
        sample = _sample(model, conditions, streams, batch_size, max_attempts)
    origin = _origin(model, extrapolate=extrapolate)
    return replace(sample, showers=replace(sample.showers, provenance=origin, detector=model.detector))


def _origin(model: ShowerModel, *, extrapolate: bool) -> dict[str, Any]:
    """What showers in memory say of themselves, as generated files do."""
    made_by = model.described()
    if model.record is not None:
        made_by |= {"sha256": model.record.weights_sha256, "directory": str(model.directory)}
    return {"program": "caloforge", "model": made_by, "extrapolated": extrapolate}


def _sample(model: ShowerModel, conditions: Conditions, streams: Streams, batch_size: int, max_attempts: int) -> Sample:
    timing = Timing()
    places: list[NDArray[np.int64]] = []
    parts: list[Showers | ShowerPoints] = []
    waiting, wanted, redrawn = np.arange(len(conditions)), conditions, 0
    # Never more than they had: beside a single shower 31 others would cost as much as 31 showers.
    company = min(_COMPANY, batch_size) if len(conditions) >= _COMPANY else 0
    while len(waiting):
        attempts = np.zeros(len(waiting), dtype=np.int64)  # that were rejected in this round
        rejected = np.zeros(len(waiting), dtype=np.bool_)
        for start in range(0, len(waiting), batch_size):
            rows = slice(start, start + batch_size)
            began = time.perf_counter()
            asked = wanted[rows]
            count = len(asked)
            if count < company and redrawn:
                asked = _attempts(asked, company)
            latents = model.latents(asked, streams)
            drawn = time.perf_counter()
            output, valid = model.decode(asked, latents)
            done = time.perf_counter()
            first, attempts[rows] = _first_valid(valid & (asked.attempt < max_attempts), count)
            rejected[rows] = first < 0
            if (first >= 0).any():
                places.append(waiting[rows][first >= 0])
                parts.append(output if valid.all() and len(valid) == count else _chosen(output, first[first >= 0]))
            timing.latents += drawn - began
            timing.decode += done - drawn
            timing.assembly += time.perf_counter() - done
        redrawn += int(attempts.sum())
        wanted = replace(wanted, attempt=wanted.attempt + attempts)
        waiting, wanted = waiting[rejected], wanted[rejected]
        if len(waiting) and int(wanted.attempt.max()) >= max_attempts:
            worst = int(wanted.attempt.argmax())
            judges = "".join(f"; without its aid '{kind}' it may (option {kind}=false)" for kind in model.judges())
            raise GenerationError(
                f"the model rejected shower {int(wanted.index[worst])} ({format_energy(float(wanted.incident_energy[worst]))}) "
                f"{max_attempts} times, so it cannot make showers under these conditions{judges}"
            )
    began = time.perf_counter()
    showers = _in_order(parts, np.concatenate(places))
    timing.assembly += time.perf_counter() - began
    return Sample(showers, redrawn, timing)


def _attempts(asked: Conditions, rows: int) -> Conditions:
    """As many rows: the showers, then their next attempts, then those after these."""
    number = np.arange(rows)
    more = asked[number % len(asked)]
    return replace(more, attempt=more.attempt + number // len(asked))


def _first_valid(valid: NDArray[np.bool_], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of rows as from :func:`_attempts`, of ``count`` showers.

    Returns:
        The row of each shower's first valid attempt, -1 if there is none, and how many were rejected before it; int64 (count,).
    """
    rounds = -(-len(valid) // count)
    table = np.zeros((rounds, count), dtype=np.bool_)
    table.reshape(-1)[: len(valid)] = valid
    found, first = table.any(axis=0), table.argmax(axis=0)
    tried = rounds - (np.arange(count) >= len(valid) - (rounds - 1) * count)
    return np.where(found, first * count + np.arange(count), -1), np.where(found, first, tried)


def _in_order(parts: Sequence[Showers | ShowerPoints], places: NDArray[np.int64]) -> Showers | ShowerPoints:
    """The parts as one, shower k at ``places[k]``."""
    joined: Showers | ShowerPoints
    if len(parts) == 1:
        joined = parts[0]
    else:
        voxels = [part for part in parts if isinstance(part, Showers)]
        points = [part for part in parts if isinstance(part, ShowerPoints)]
        joined = Showers.concatenate(voxels) if voxels else ShowerPoints.concatenate(points)
    if (np.diff(places) > 0).all():
        return joined
    return _chosen(joined, np.argsort(places))


def _chosen(showers: Showers | ShowerPoints, rows: NDArray[np.int64]) -> Showers | ShowerPoints:
    """Some showers in any order."""
    if isinstance(showers, Showers):
        return showers[rows]
    counts = np.diff(showers.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    index = np.repeat(showers.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
    direction = None if showers.direction is None else showers.direction[rows]
    return ShowerPoints(
        offsets,
        showers.points[index],
        showers.incident_energy[rows],
        showers.particle,
        showers.readout,
        direction,
    )
