"""What a worker of a hybrid simulation does: Geant4 up to the face and for all that no model answers, and the answers."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caloforge.conditions import Conditions
from caloforge.deployment.hybrid.acceptance import Acceptance
from caloforge.deployment.hybrid.faces import face_columns
from caloforge.deployment.hybrid.merging import Events, ModelShowers, events_of
from caloforge.deployment.hybrid.placement import Placement
from caloforge.detectors import Detector
from caloforge.errors import GenerationError, SimulationError
from caloforge.executor import in_own_process
from caloforge.generation import generation_streams, sample_showers
from caloforge.kernels.ops.registry import Choice, use_choice
from caloforge.models import ShowerModel
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.hdf5 import Column
from caloforge.simulation import BLOCK_SIZE, Block, Removed, SimulationPlan
from caloforge.simulation.worker import Facts
from caloforge.simulation.worker import prepare as prepare_geant4

__all__ = ["Answerer", "Answers", "Done", "HybridWork", "prepare", "shower_number"]

#: A shower's number says which event and track it answers, so that its random numbers depend on nothing else.
_TRACKS = 1 << 20


def shower_number(event: NDArray[np.int64], track: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the shower that answers a track of an event, which addresses its random numbers.

    Raises:
        GenerationError: if there is no such number.
    """
    if len(track) and (int(track.max()) >= _TRACKS or int(track.min()) < 0):
        raise GenerationError(f"track {int(track.max())} of an event cannot be numbered, expected less than {_TRACKS}")
    return event * _TRACKS + track


@dataclass(frozen=True)
class Answerer:
    """A model that answers one species.

    Attributes:
        model: the model itself, so that a worker of another machine need not find its directory.
        placement: moves its voxels; None for points.
        slopes: whether its showers are to be inclined with their particles; not so for a model that knows directions.
    """

    model: ShowerModel
    placement: Placement | None
    slopes: bool


@dataclass(frozen=True)
class HybridWork:
    """All that a worker needs to know.

    Attributes:
        plan: of Geant4, with the material in front and the plane that takes particles out.
        detector: the calorimeter alone, with its thresholds.
        acceptance: what is answered.
        answerers: who answers, by PDG id.
        seed: of the answers.
        blocks: of Geant4 that are answered together; part of what a seed means to the last bit.
        kernels: what the parent has settled; None lets each worker do so.
    """

    plan: SimulationPlan
    detector: Detector
    acceptance: Acceptance
    answerers: Mapping[int, Answerer]
    seed: int
    blocks: int = 1
    kernels: Choice | None = None

    @property
    def tasks(self) -> int:
        """Number of tasks: blocks that are answered together."""
        return -(-self.plan.n_blocks // self.blocks)


@dataclass(frozen=True)
class Done:
    """A finished task.

    Attributes:
        showers: of its events, Geant4's part and the answers together; None if only the facts were asked for.
        beside: the particles at the face, as columns of the file.
        facts: with what Geant4 worked.
        seconds: what it took: ``geant4``, ``models``, ``placing``.
        answered: particles answered.
        given_up: kinetic energies (MeV) of the particles that circled in vacuum and were given up.
    """

    showers: Showers | ShowerPoints | None
    beside: dict[Column, NDArray[Any]]
    facts: Facts
    seconds: dict[str, float] = field(default_factory=dict)
    answered: int = 0
    given_up: tuple[float, ...] = ()


class Answers:
    """Answers of all models."""

    def __init__(self, work: HybridWork) -> None:
        self._work = work
        self._streams, self._placing = generation_streams(work.seed), Streams(work.seed, "hybrid").child("placing")
        self.seconds = {"models": 0.0, "placing": 0.0}

    def add(self, seen: Removed, first: int, events: Events) -> int:
        """Add the answers to all stopped particles of a task to its events.

        Args:
            seen: particles at the face, events counted from the first one of the task.
            first: number of that event.
            events: of the task.

        Returns:
            How many there were.
        """
        answered = 0
        for pdg, answerer in self._work.answerers.items():
            model = answerer.model
            chosen = seen[np.flatnonzero(seen.stopped & (seen.particle == pdg))]
            if not len(chosen):
                continue
            began = time.perf_counter()
            index = shower_number(chosen.shower + first, chosen.track)
            direction = None if answerer.slopes else chosen.direction.astype(np.float32)
            conditions = Conditions(chosen.energy, pdg, index, np.zeros_like(index), direction)
            # The acceptance has looked at all of them.
            made = sample_showers(model, conditions, self._streams, extrapolate=True).showers
            sampled = time.perf_counter()
            events.add(ModelShowers(made, chosen, index, answerer.placement, self._placing, answerer.slopes))
            answered += len(chosen)
            self.seconds["models"] += sampled - began
            self.seconds["placing"] += time.perf_counter() - sampled
        return answered


def prepare(work: HybridWork) -> Callable[[int | None], Done]:
    """Start Geant4 and load the models; see ``caloforge.executor``.

    Returns:
        Makes the events of a task's number; of None only the facts.
    """
    torch.set_num_threads(1)
    use_choice(work.kernels)
    track, answers = prepare_geant4(work.plan), Answers(work)
    if in_own_process():
        # What is there now stays to the end; looking through it again and again costs a hundredth of the time.
        gc.collect()
        gc.freeze()

    def make(number: int | None) -> Done:
        began = time.perf_counter()
        if number is None:
            return Done(None, {}, track(None).facts)
        first = number * work.blocks
        blocks, facts = [], None
        for block in range(first, min(first + work.blocks, work.plan.n_blocks)):
            made = track(block)
            assert made.block is not None  # its number was given
            blocks.append(made.block)
            facts = made.facts
        assert facts is not None  # there is a block
        seconds = {"geant4": time.perf_counter() - began}
        tracked, seen = _joined(blocks)
        events = events_of(tracked, work.detector)
        answers.seconds = {"models": 0.0, "placing": 0.0}
        answered = answers.add(seen, first * BLOCK_SIZE, events)
        columns = face_columns(seen, work.acceptance.reasons(seen), len(tracked))
        showers = events.finished()
        if not np.isfinite(showers.total_energy()).all():
            raise SimulationError(f"block {number} holds an energy that is not a number")
        given_up = tuple(energy for block in blocks for energy in block.given_up)
        return Done(showers, columns, facts, seconds | answers.seconds, answered, given_up)

    return make


def _joined(blocks: Sequence[Block]) -> tuple[Showers | ShowerPoints, Removed]:
    """Showers of some blocks, and the particles at their face, counted from the first of them."""
    seen, start = [], 0
    for block in blocks:
        assert block.removed is not None  # the plan has a plane
        seen.append(block.removed.shifted(start))
        start += len(block.showers)
    showers = [block.showers for block in blocks]
    if isinstance(showers[0], Showers):
        return Showers.concatenate([part for part in showers if isinstance(part, Showers)]), Removed.concatenate(seen)
    return ShowerPoints.concatenate([part for part in showers if isinstance(part, ShowerPoints)]), Removed.concatenate(
        seen
    )
