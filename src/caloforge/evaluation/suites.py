"""Suites of measures, and what an evaluation will do and how long it will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caloforge.errors import UsageError
from caloforge.evaluation.checks import AnyShowers
from caloforge.evaluation.classifiers import (
    ClassifierSettings,
    expected_seconds,
    recipe,
)
from caloforge.evaluation.measures import find_measure, measure_names
from caloforge.options import EvaluateOptions
from caloforge.showers import ShowerPoints, Showers

__all__ = ["CROSS_PARTICLE", "SUITES", "UNITS", "Plan", "Suite", "plan_evaluation", "suite"]

#: Progress units of a measure that trains no network (whose units are epochs).
UNITS = 5
#: The classifier of the cross-particle test: CaloFlow's DNN on the voxels as they are.
CROSS_PARTICLE = "caloflow-dnn-unnormalised"


@dataclass(frozen=True)
class Suite:
    """A named selection of measures.

    Attributes:
        name: as on the command line.
        title: for people.
        measures: names, in the order in which they run.
        retrainings: of every classifier.
        patience: epochs without a better accuracy after which a training stops; None for all epochs, as published.
    """

    name: str
    title: str
    measures: tuple[str, ...]
    retrainings: int = 10
    patience: int | None = None


_COLLAPSE = ("images", "neighbours", "voxels")

SUITES: dict[str, Suite] = {
    s.name: s
    for s in (
        Suite(
            "quick",
            "a first look in minutes",
            ("response", "layers", "caloflow-observables", "voxel-energy", "correlations", "fpd", "kpd", "prdc", *_COLLAPSE,
             "boosted", "high-level", "caloflow-dnn-unnormalised"),
            retrainings=3,
            patience=8,
        ),
        Suite(
            "calogan",
            "everything in the CaloFlow paper, FPD, KPD, PRDC, boosted trees",
            ("response", "layers", "caloflow-observables", "voxel-energy", "correlations", "fpd", "kpd", "prdc", *_COLLAPSE,
             "boosted", *(f"caloflow-{network}-{kind}" for network in ("dnn", "cnn")
               for kind in ("unnormalised", "normalised", "logit", "logit-normalised"))),
        ),
        Suite(
            "calochallenge",
            "everything in CaloChallenge",
            ("calochallenge-observables", "layers", "voxel-energy", "correlations", "fpd", "kpd", "prdc", "images", "voxels",
             "boosted", "calochallenge-low", "calochallenge-high", "calochallenge-low-normalised", "calochallenge-resnet",
             "log-posterior"),
        ),
        Suite(
            "caloclouds",
            "everything in the CaloClouds papers, on points or cells",
            ("caloclouds-profiles", "layers", "caloclouds-observables", "internal-angle", "di-photon", "boosted",
             "caloclouds-features"),
            retrainings=5,
            patience=8,
        ),
    )
}  # fmt: skip


def suite(name: str) -> Suite:
    """A suite by name.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in SUITES:
        raise UsageError(f"the suite '{name}' is not known, expected one of {', '.join(SUITES)}")
    return SUITES[name]


def _chosen(names: tuple[str, ...], only: Sequence[str], skip: Sequence[str]) -> tuple[str, ...]:
    known = measure_names()
    for wanted in (*only, *skip):
        if not any(name == wanted or name.startswith(f"{wanted}-") for name in known):
            raise UsageError(f"the measure '{wanted}' is not known, expected one of {', '.join(known)}")

    def among(name: str, wanted: Sequence[str]) -> bool:
        # ``caloflow-dnn`` stands for all measures whose names begin so.
        return any(name == w or name.startswith(f"{w}-") for w in wanted)

    # ``only`` may also ask for a measure that the suite does not have.
    pool = (*names, *(w for w in only if w in known and w not in names))
    kept = tuple(n for n in pool if (not only or among(n, only)) and not among(n, skip))
    if not kept:
        raise UsageError("no measure is left to run")
    return kept


def _possible(
    name: str, generated: AnyShowers, reference: AnyShowers, others: Mapping[str, Showers], count: int
) -> str | None:
    """Why a measure cannot be run on these showers, ``count`` of each, or None."""
    measure = find_measure(name)
    if measure.voxels and isinstance(reference, ShowerPoints):
        return f"{measure.title}: needs voxels, and these showers are points"
    if measure.several and not others:
        return f"{measure.title}: needs several generated files, and there is one"
    if count < measure.fewest:
        return f"{measure.title}: needs at least {measure.fewest} showers of each sample, and there are {count}"
    reason = "" if measure.unsuited is None else measure.unsuited(generated, reference)
    return f"{measure.title}: {reason}" if reason else None


@dataclass(frozen=True)
class Plan:
    """What an evaluation will do.

    Attributes:
        measures: names of the measures.
        settings: of the classifiers.
        notes: measures of the suite that cannot be run here, and why.
        seconds: expected time of each classifier on this machine, floor included; other measures take seconds.
        units: progress units in total, floor included.
    """

    measures: tuple[str, ...]
    settings: ClassifierSettings
    notes: tuple[str, ...]
    seconds: dict[str, float]
    units: int


def plan_evaluation(
    generated: AnyShowers,
    reference: AnyShowers,
    *,
    options: EvaluateOptions | None = None,
    with_floor: bool = False,
    others: Mapping[str, Showers] | None = None,
    cross_particle: int = 0,
    measure_time: bool = True,
    **settings: Any,
) -> Plan:
    """Decide what an evaluation runs and how long it will take at most.

    Args:
        generated: showers to be judged.
        reference: Geant4 showers.
        options: how they are judged.
        with_floor: whether a second reference is judged as well.
        others: further generated samples by name.
        cross_particle: number of further particles for the cross-particle test.
        measure_time: try a few training steps of each classifier to find ``seconds``.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if a name is not known or nothing is left to run.
    """
    asked = EvaluateOptions.merged(options, settings)
    chosen = suite(asked.suite)
    count = min(len(generated), len(reference), asked.max_showers or len(reference))
    notes = []
    names = []
    for name in _chosen(chosen.measures, asked.only, asked.skip):
        reason = _possible(name, generated, reference, others or {}, count)
        if reason is None:
            names.append(name)
        elif name in asked.only:
            raise UsageError(reason)
        else:
            notes.append(f"left out: {reason}")
    if not names:
        raise UsageError(f"no measure of the suite '{chosen.name}' can be run here ({'; '.join(notes)})")
    training = ClassifierSettings(
        retrainings=asked.retrainings or chosen.retrainings, epochs=asked.epochs, max_showers=asked.max_showers,
        patience=chosen.patience, device=asked.device, threads=asked.threads,
    )  # fmt: skip
    rounds = 2 if with_floor else 1
    seconds, units = {}, 0
    for name in names:
        measure = find_measure(name)
        # Several samples are compared once, without the floor.
        times = 1 if measure.several else rounds
        if measure.recipe:
            if measure_time and not measure.several:
                seconds[name] = times * expected_seconds(recipe(measure.recipe), reference, count, training)
            units += times * (training.epochs or recipe(measure.recipe).epochs) * training.retrainings
            continue
        if measure.seconds is not None and measure_time:
            seconds[name] = times * measure.seconds(reference, count)
        units += times * UNITS
    if cross_particle:
        chosen_recipe = recipe(CROSS_PARTICLE)
        trainings = 2 * cross_particle
        if measure_time and isinstance(reference, Showers):
            seconds["cross-particle"] = trainings * expected_seconds(chosen_recipe, reference, count, training)
        units += trainings * (training.epochs or chosen_recipe.epochs) * training.retrainings
    return Plan(tuple(names), training, tuple(notes), seconds, units)
