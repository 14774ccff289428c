"""How much faster events are with models behind the face of a calorimeter, and what bounds it: what Geant4 still tracks.

Blocks of both kinds are made in turns in one process, and CPU time is counted. How much of an event's energy is left to Geant4
differs a lot from event to event (a converted photon takes half of a pi0 with it), so besides the plain ratio there is one at the
mean of that energy over many events, which cost nothing: they end at the face. For it the time of a block is taken to be linear
in the energy that was tracked.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caloforge.deployment.hybrid import HybridWork, Models, plan_hybrid
from caloforge.deployment.hybrid.work import prepare
from caloforge.detectors import Detector
from caloforge.errors import UsageError
from caloforge.executor import owning
from caloforge.options import HybridOptions
from caloforge.simulation import BLOCK_SIZE, RemovalPlane, Removed
from caloforge.simulation.engines import make_engine
from caloforge.workers import call_elsewhere

__all__ = ["HybridTiming", "bench_hybrid"]

Floats = NDArray[np.float64]

#: Fewest events for an error.
_FEWEST = 200
_DRAWS = 1000


@dataclass(frozen=True)
class HybridTiming:
    """CPU time per event in one process, ms, with standard errors from a bootstrap over blocks.

    Attributes:
        answered: what models answered, in words.
        engine: what ran Geant4.
        bare_events: events of Geant4 alone.
        bare: Geant4 alone, with the least recording that the engine can do, and its error.
        events: hybrid events.
        geant4: of a hybrid event, Geant4's part, scored.
        models: the models' part.
        placing: moving and adding up.
        total: all of it, and its error.
        ratio: bare over total, and its error.
        tracked: share of the incident energy that Geant4 tracked behind the face.
        share_events: events that only went up to the face.
        share: in these, and its error.
        ratio_at_share: bare over total at that share, and its error.
    """

    answered: str
    engine: str
    bare_events: int
    bare: tuple[float, float]
    events: int
    geant4: float
    models: float
    placing: float
    total: tuple[float, float]
    ratio: tuple[float, float]
    tracked: float
    share_events: int
    share: tuple[float, float]
    ratio_at_share: tuple[float, float]

    @property
    def bound(self) -> float:
        """The ratio if answers, scoring and the way to the face took no time at all."""
        return 1 / self.share[0]


def bench_hybrid(
    detector: Detector,
    models: Models,
    particle: str,
    energy: str,
    *,
    upstream: Path | None = None,
    options: HybridOptions | None = None,
    share_events: int = 20_000,
) -> HybridTiming:
    """Time hybrid events against Geant4 alone, in a process of its own.

    Args:
        detector: see ``hybrid_simulation``, as for all other arguments.
        models: at least one.
        particle: what starts.
        energy: one energy, GeV.
        upstream: what stands in front.
        options: ``events`` is the number of hybrid events; there is a tenth of it of Geant4 alone.
        share_events: events that go up to the face only, for the share that Geant4 tracks.

    Raises:
        UsageError: if there are too few events or no models, or as ``hybrid_simulation``.
    """
    chosen = options or HybridOptions(events=1000)
    if chosen.events < _FEWEST:
        raise UsageError(f"{chosen.events} events are too few for an error, expected {_FEWEST} or more")
    asked = plan_hybrid(detector, models, particle, energy, upstream, chosen)
    if not asked.work.answerers:
        raise UsageError("no model was named, so there is nothing to be compared")
    if asked.work.plan.engine_name != "calzone":
        raise UsageError("the time of hybrid events is measured with calzone, of which a process can hold several")
    timing: HybridTiming = call_elsewhere(_measure, asked.work, share_events)
    return timing


def _measure(work: HybridWork, share_events: int) -> HybridTiming:
    plan = work.plan
    with owning():
        make = prepare(work)
    make(0)  # tables, and what is fitted at the first use
    alone = make_engine(plan.engine_name, plan.detector, plan.particle, plan.tables)
    alone.run_bare(np.array([1000.0]), np.array([[0.0, 0.0, 1.0]]))
    bare, rows, left = [], [], []
    incident = float(plan.spectrum.minimum)
    for number in range(work.tasks):
        if number % 2 == 0:  # a block of Geant4 alone for each ten of the others
            alone.seed(plan.geant4_seed(plan.n_blocks + number))
            began = time.process_time()
            alone.run_bare(*plan.conditions(0))
            bare.append((time.process_time() - began) / BLOCK_SIZE)
        began = time.process_time()
        done = make(number)
        spent = time.process_time() - began
        assert done.showers is not None  # a number was given
        n = len(done.showers)
        # Within a task the clock on the wall says how the CPU time is shared.
        parts = np.array([done.seconds[name] for name in ("geant4", "models", "placing")])
        rows.append([spent / n, *(spent / n * parts / parts.sum())])
        faces = {column.path: values for column, values in done.beside.items()}
        tracked = faces["face/energy"][faces["face/reason"] > 0].sum()
        left.append(float(tracked) / n / incident)
    shares = _shares(work, share_events) / incident
    return _summary(work, 1000 * np.array(bare), 1000 * np.array(rows), np.array(left), shares)


def _shares(work: HybridWork, events: int) -> Floats:
    """Energy, MeV, that is left to Geant4 at the face, of many events that end there."""
    plan = replace(work.plan, events=events, seed=work.plan.seed + 1)
    taken = plan.removal
    assert taken is not None  # of a hybrid simulation
    everything = dict.fromkeys((22, 11, -11, 13, -13, 211, -211, 2112, 2212, 130, 321, -321, 310), (0.0, math.inf))
    stops = RemovalPlane(everything, taken.depth, seen_above=0.0)
    engine = make_engine(plan.engine_name, plan.detector, plan.particle, plan.tables, stops)
    found = []
    for number in plan.blocks():
        engine.seed(plan.geant4_seed(number))
        energies, directions = plan.conditions(number)
        for group in engine.run(energies, directions, depth=False):
            assert group.removed is not None  # there is a plane
            found.append(_left(group.removed, group.count, taken))
    return np.concatenate(found)


def _left(seen: Removed, count: int, taken: RemovalPlane) -> Floats:
    rows = zip(seen.particle.tolist(), seen.energy.tolist(), seen.position, seen.direction, strict=True)
    tracked = ~np.array([taken.takes(*row) for row in rows], dtype=bool)
    left = np.zeros(count)
    np.add.at(left, seen.shower[tracked], seen.energy[tracked])
    return left


def _summary(work: HybridWork, bare: Floats, rows: Floats, left: Floats, shares: Floats) -> HybridTiming:
    generator = np.random.default_rng(1)

    def drawn(values: NDArray[np.generic]) -> NDArray[np.int64]:
        return generator.integers(0, len(values), (_DRAWS, len(values)))

    total, share = rows[:, 0], float(shares.mean())
    share_error = float(shares.std(ddof=1)) / math.sqrt(len(shares))

    def at(times: Floats, energies: Floats, where: float) -> float:
        slope, start = np.polyfit(energies, times, 1)
        return float(start + slope * where)

    bares = bare[drawn(bare)].mean(axis=1)
    again = drawn(total)
    where = share + share_error * generator.standard_normal(_DRAWS)
    lines = np.array([at(total[k], left[k], w) for k, w in zip(again, where, strict=True)])
    mean = float(bare.mean())
    geant4, models, placing = rows[:, 1:].mean(axis=0).tolist()
    return HybridTiming(
        answered=work.acceptance.text(),
        engine=work.plan.engine_name,
        bare_events=len(bare) * BLOCK_SIZE,
        bare=(mean, float(bares.std(ddof=1))),
        events=work.plan.events,
        geant4=geant4,
        models=models,
        placing=placing,
        total=(float(total.mean()), float(total[again].mean(axis=1).std(ddof=1))),
        ratio=(mean / float(total.mean()), float((bares / total[again].mean(axis=1)).std(ddof=1))),
        tracked=float(left.mean()),
        share_events=len(shares),
        share=(share, share_error),
        ratio_at_share=(mean / at(total, left, share), float((bares / lines).std(ddof=1))),
    )
