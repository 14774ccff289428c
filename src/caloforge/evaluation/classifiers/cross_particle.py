"""The cross-particle test: does a particle-identification classifier work the same on generated showers?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caloforge.detectors import Readout, particle_name
from caloforge.errors import UsageError
from caloforge.evaluation.classifiers.inputs import INPUTS
from caloforge.evaluation.classifiers.recipes import ClassifierRecipe, split_sizes
from caloforge.evaluation.classifiers.retraining import (
    ClassifierSettings,
    Work,
    class_rows,
    retrained,
    train_classifier,
)
from caloforge.evaluation.classifiers.scores import area_under_roc
from caloforge.evaluation.classifiers.uncertainty import auc_contributions, pack, shower_groups, spread, unpack
from caloforge.evaluation.results import CrossParticleResult, CrossParticleScore, Spread
from caloforge.random import Streams
from caloforge.showers import Showers

__all__ = ["ParticlePair", "cross_particle_test"]


@dataclass(frozen=True)
class ParticlePair:
    """Showers of two particles from one source; ``first`` is class 0, ``second`` class 1."""

    first: Showers
    second: Showers


@dataclass(frozen=True)
class _Sources:
    """Four blocks of rows, in equal numbers: Geant4's two particles, then the model's."""

    names: tuple[str, ...]
    rows: torch.Tensor
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    per_class: int
    readout: Readout


def _retrain(
    recipe: ClassifierRecipe,
    sources: _Sources,
    settings: ClassifierSettings,
    streams: Streams,
    number: int,
    after_epoch: Callable[[], None],
) -> dict[str, Any]:
    generator = streams.child("training").generator(number)
    ends = np.cumsum((0, *split_sizes(recipe, sources.per_class)))
    orders = [k * sources.per_class + generator.permutation(sources.per_class) for k in range(4)]
    tests: NDArray[np.int64] = np.concatenate([o[ends[2] :] for o in orders])
    classes = torch.from_numpy(sources.labels).to(settings.device)
    found: dict[str, Any] = {}
    for position, source in enumerate(sources.names):
        own = orders[2 * position : 2 * position + 2]
        train, choose = (np.concatenate([o[ends[k] : ends[k + 1]] for o in own]) for k in range(2))
        _, outputs = train_classifier(
            recipe, settings, sources.rows, classes, (train, choose, tests), per_class=sources.per_class,
            readout=sources.readout, generator=generator, after_epoch=after_epoch,
        )  # fmt: skip
        for other, part in zip(sources.names, np.split(np.arange(len(tests)), 2), strict=True):
            scored, known = outputs.test[part, 0], sources.labels[tests[part]]
            found[f"{source} {other}"] = area_under_roc(scored, known)
            packed = pack(sources.groups[tests[part]], {"auc": auc_contributions(scored, known)})
            found[f"test {source} {other}"] = packed
    return found


def cross_particle_test(
    geant4: ParticlePair,
    generated: ParticlePair,
    recipe: ClassifierRecipe,
    *,
    settings: ClassifierSettings,
    streams: Streams,
    work: Work | None = None,
) -> CrossParticleResult:
    """Train classifiers between two particles on Geant4 and on generated showers, and score each with both.

    arXiv:2106.05285, section 5.4 (after CaloGAN, arXiv:1712.10321): if generated showers are faithful, all four AUCs
    agree. It is a weaker test than generated against Geant4, and closer to what an analysis does.

    Args:
        geant4: Geant4 showers of both particles, thresholded.
        generated: generated showers of both particles, thresholded alike.
        recipe: inputs, network and training.
        settings: how thoroughly.
        streams: random numbers.
        work: who retrains, and where finished retrainings are kept.

    Raises:
        UsageError: if the particles or readouts do not match.
    """
    sources = {"geant4": geant4, "generated": generated}
    particles = {(pair.first.particle, pair.second.particle) for pair in sources.values()}
    everything = [s for pair in sources.values() for s in (pair.first, pair.second)]
    if len(particles) != 1 or geant4.first.particle == geant4.second.particle:
        raise UsageError(
            "the cross-particle test needs the same two different particles from Geant4 and from the model"
        )
    if any(s.readout != geant4.first.readout for s in everything):
        raise UsageError("the showers of the cross-particle test have different readouts")
    streams = streams.child(f"cross-particle/{recipe.name}/{geant4.first.particle}/{geant4.second.particle}")
    per_class = min(*(len(s) for s in everything), settings.max_showers or len(geant4.first))
    split_sizes(recipe, per_class)  # refuses too few before anything is computed
    generator = streams.child("rows").generator(0)
    some = [s[class_rows(len(s), per_class, generator)] for s in everything]
    rows, groups = np.concatenate([INPUTS[recipe.inputs](s) for s in some]), shower_groups(some)
    labels = np.tile(np.repeat([0, 1], per_class), 2)
    rows_of = _Sources(tuple(sources), settings.tensor(rows), labels, groups, per_class, geant4.first.readout)
    results = retrained(
        partial(_retrain, recipe, rows_of, settings, streams),
        name=f"cross-particle-{geant4.first.particle}-{geant4.second.particle}",
        recipe=recipe,
        settings=settings,
        streams=streams,
        identity={"rows": hashlib.blake2b(rows.data, digest_size=16).hexdigest()},
        work=work or Work(),
        note=lambda result: "particle identification",
        networks=len(sources),
    )

    def over_retrainings(key: str) -> Spread:
        tests = [unpack(r[f"test {key}"], "auc") for r in results]
        return spread([r[key] for r in results], [c for c, _ in tests], [g for _, g in tests])

    return CrossParticleResult(
        particles=(particle_name(geant4.first.particle), particle_name(geant4.second.particle)),
        recipe=recipe.name,
        showers=per_class,
        scores=tuple(
            CrossParticleScore(trained_on=a, scored_on=b, auc=over_retrainings(f"{a} {b}"))
            for a in sources
            for b in sources
        ),
    )
