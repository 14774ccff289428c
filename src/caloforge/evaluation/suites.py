"""Suites of measures, and the one function that runs them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import caloforge
from caloforge.detectors import Detector
from caloforge.errors import UsageError
from caloforge.evaluation.checks import AnyShowers, check_samples, identical_showers, refuse_trained_on
from caloforge.evaluation.classifiers import ClassifierSettings, expected_seconds, recipe
from caloforge.evaluation.classifiers.two_sample import class_rows
from caloforge.evaluation.collapse import Sampler
from caloforge.evaluation.measures import MEASURES, Comparison, cut, run_measures
from caloforge.evaluation.results import Check, EvaluationResult, SampleInfo, Scores
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers, row_hashes

__all__ = ["SUITES", "Plan", "Suite", "evaluate", "plan_evaluation", "suite"]

#: Progress units of a measure that is no classifier (whose units are epochs).
_UNITS = 5


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
            ("response", "caloflow-observables", "voxel-energy", "correlations", "fpd", "kpd", "prdc", *_COLLAPSE,
             "high-level", "caloflow-dnn-unnormalised"),
            retrainings=3,
            patience=8,
        ),
        Suite(
            "calogan",
            "everything in the CaloFlow paper, and FPD, KPD and PRDC",
            ("response", "caloflow-observables", "voxel-energy", "correlations", "fpd", "kpd", "prdc", *_COLLAPSE,
             *(f"caloflow-{network}-{kind}" for network in ("dnn", "cnn")
               for kind in ("unnormalised", "normalised", "logit", "logit-normalised"))),
        ),
        Suite(
            "calochallenge",
            "everything in CaloChallenge",
            ("calochallenge-observables", "voxel-energy", "correlations", "fpd", "kpd", "prdc", "images", "voxels",
             "calochallenge-low", "calochallenge-high", "calochallenge-low-normalised", "calochallenge-resnet",
             "log-posterior"),
        ),
        Suite("caloclouds", "the observables of CaloClouds", ("caloclouds-observables",)),
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
    for wanted in (*only, *skip):
        if not any(name == wanted or name.startswith(f"{wanted}-") for name in MEASURES):
            raise UsageError(f"the measure '{wanted}' is not known, expected one of {', '.join(MEASURES)}")

    def among(name: str, wanted: Sequence[str]) -> bool:
        # ``caloflow-dnn`` stands for all measures whose names begin so.
        return any(name == w or name.startswith(f"{w}-") for w in wanted)

    # ``only`` may also ask for a measure that the suite does not have.
    pool = (*names, *(w for w in only if w in MEASURES and w not in names))
    kept = tuple(n for n in pool if (not only or among(n, only)) and not among(n, skip))
    if not kept:
        raise UsageError("no measure is left to run")
    return kept


def _possible(name: str, reference: AnyShowers, others: Mapping[str, Showers]) -> str | None:
    """Why a measure cannot be run on these showers, or None."""
    measure = MEASURES[name]
    if measure.voxels and isinstance(reference, ShowerPoints):
        return f"{measure.title}: needs voxels, and these showers are points"
    if (
        name == "calochallenge-resnet"
        and reference.readout is not None
        and len(set(reference.readout.layer_shapes)) > 1
    ):
        return f"{measure.title}: needs layers of equal shape, and those of this readout differ"
    if name == "log-posterior" and not others:
        return f"{measure.title}: needs several generated files, and there is one"
    return None


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
    suite_name: str = "quick",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    retrainings: int | None = None,
    epochs: int | None = None,
    max_showers: int | None = None,
    device: str = "cpu",
    with_floor: bool = False,
    others: Mapping[str, Showers] | None = None,
    measure_time: bool = True,
) -> Plan:
    """Decide what an evaluation runs and how long it will take at most.

    Args:
        generated: showers to be judged.
        reference: Geant4 showers.
        suite_name: name of the suite.
        only: names of measures (or beginnings such as ``caloflow-dnn``) to run; all of the suite if empty.
        skip: names of measures to leave out.
        retrainings: of every classifier; None for the suite's number.
        epochs: of every training; None for the published number.
        max_showers: use at most so many of each sample.
        device: torch device.
        with_floor: whether a second reference is judged as well.
        others: further generated samples by name.
        measure_time: try a few training steps of each classifier to find ``seconds``.

    Raises:
        UsageError: if a name is not known or nothing is left to run.
    """
    chosen = suite(suite_name)
    notes = []
    names = []
    for name in _chosen(chosen.measures, only, skip):
        reason = _possible(name, reference, others or {})
        if reason is None:
            names.append(name)
        elif name in only:
            raise UsageError(reason)
        else:
            notes.append(f"left out: {reason}")
    if not names:
        raise UsageError(f"no measure of the suite '{chosen.name}' can be run here ({'; '.join(notes)})")
    settings = ClassifierSettings(
        retrainings=retrainings or chosen.retrainings, epochs=epochs, patience=chosen.patience, device=device
    )
    count = min(len(generated), len(reference), max_showers or len(reference))
    rounds = 2 if with_floor else 1
    seconds, units = {}, 0
    for name in names:
        if MEASURES[name].field == "classifiers":
            if measure_time and isinstance(reference, Showers):
                seconds[name] = rounds * expected_seconds(recipe(name), reference, count, settings)
            units += rounds * (settings.epochs or recipe(name).epochs) * settings.retrainings
        elif name == "log-posterior":
            units += (settings.epochs or recipe("calochallenge-low").epochs) * settings.retrainings
        else:
            units += rounds * _UNITS
    return Plan(tuple(names), settings, tuple(notes), seconds, units)


def _fingerprint(showers: AnyShowers) -> str:
    return hashlib.blake2b(row_hashes(showers).data, digest_size=8).hexdigest()


def _deposits(showers: AnyShowers) -> int:
    return int(np.count_nonzero(showers.deposits)) if isinstance(showers, Showers) else len(showers.points)


def _some(showers: AnyShowers, limit: int | None, generator: np.random.Generator) -> AnyShowers:
    if limit is None or len(showers) <= limit:
        return showers
    if isinstance(showers, Showers):
        return showers[class_rows(len(showers), limit, generator)]
    return showers[:limit]


def _prepared(
    showers: AnyShowers, label: str, detector: Detector, limit: int | None, streams: Streams, purpose: str
) -> tuple[AnyShowers, SampleInfo]:
    some = _some(showers, limit, streams.child(f"rows/{purpose}").generator(0))
    kept = cut(some, detector.analysis_threshold)
    info = SampleInfo(
        label=label,
        showers=len(some),
        particle=some.particle,
        energy_min=float(some.incident_energy.min()),
        energy_max=float(some.incident_energy.max()),
        cut_deposits=_deposits(some) - _deposits(kept),
        fingerprint=_fingerprint(some),
    )
    return kept, info


def evaluate(
    generated: AnyShowers,
    reference: AnyShowers,
    *,
    detector: Detector,
    floor: AnyShowers | None = None,
    suite_name: str = "quick",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    retrainings: int | None = None,
    epochs: int | None = None,
    max_showers: int | None = None,
    device: str = "cpu",
    keep: Path | None = None,
    sampler: Sampler | None = None,
    others: Mapping[str, Showers] | None = None,
    trained_on: NDArray[np.uint64] | None = None,
    generated_detector: Detector | None = None,
    allow_mismatch: bool = False,
    labels: Mapping[str, str] | None = None,
    advance: Callable[[int, str], None] = lambda amount, note: None,
) -> EvaluationResult:
    """Compare generated showers with Geant4 showers by every measure of a suite.

    The detector's analysis threshold is applied to all samples alike. Equal seeds give equal results on the same
    machine and number of threads.

    Args:
        generated: showers to be judged.
        reference: Geant4 showers that the model was not trained on.
        detector: of the reference.
        floor: a second, independent reference; every measure is repeated between it and the reference, which gives the
            score of a perfect generator at this sample size.
        suite_name: ``quick``, ``calogan``, ``calochallenge`` or ``caloclouds``.
        only: names of measures (or beginnings of them) to run.
        skip: names of measures to leave out.
        seed: of everything random.
        retrainings: of every classifier; None for the suite's number.
        epochs: of every training; None for the published number.
        max_showers: use at most so many of each sample.
        device: torch device of the classifiers.
        keep: folder in which finished retrainings are kept, so that an interrupted evaluation goes on where it was.
        sampler: draws showers of the model at one energy, for the nearest neighbours.
        others: further generated samples by name, for the multi-class test.
        trained_on: hashes of the rows that the model was trained on.
        generated_detector: detector that the generated file names, if any.
        allow_mismatch: compare samples of different spectra, particles, directions or detectors all the same.
        labels: what to call ``generated``, ``reference`` and ``floor``, for example file names.
        advance: told of the progress, in the units of ``plan_evaluation``.

    Raises:
        UsageError: if the samples cannot be compared, or a name is not known.
        ShowerFileError: on NaN, infinite or negative energies.
    """
    streams = Streams(seed, "evaluation")
    samples: dict[str, AnyShowers] = {"generated": generated, "reference": reference}
    if floor is not None:
        samples["floor"] = floor
    for showers in samples.values():
        showers.check_values()
    checks = list(
        check_samples(
            generated,
            reference,
            detector=detector,
            generated_detector=generated_detector,
            allow_mismatch=allow_mismatch,
        )
    )
    if floor is not None:
        check_samples(floor, reference, detector=detector, allow_mismatch=allow_mismatch, word="floor")
    if trained_on is not None:
        checks += [refuse_trained_on(s, trained_on, word=w) for w, s in samples.items() if w != "generated"]
    plan = plan_evaluation(
        generated, reference, suite_name=suite_name, only=only, skip=skip, retrainings=retrainings, epochs=epochs,
        max_showers=max_showers, device=device, with_floor=floor is not None, others=others, measure_time=False,
    )  # fmt: skip
    names = dict(labels or {})
    prepared: dict[str, AnyShowers] = {}
    infos: dict[str, SampleInfo] = {}
    for word, showers in samples.items():
        prepared[word], infos[word] = _prepared(showers, names.get(word, word), detector, max_showers, streams, word)
    notes = [*plan.notes, *_notes(samples, infos, plan, checks)]
    seconds: dict[str, float] = {}

    def compare(word: str) -> Scores:
        def after(name: str, elapsed: float) -> None:
            key = name if word == "generated" else f"{name} (floor)"
            seconds[key] = round(elapsed, 2)
            if MEASURES[name].field not in ("classifiers", "log_posterior"):
                advance(_UNITS, MEASURES[name].title)

        job = Comparison(
            prepared[word],
            prepared["reference"],
            detector,
            plan.settings,
            # The floor has random numbers of its own, or its splits would be those of the generated showers.
            streams.child(word),
            keep=None if keep is None else keep / word,
            advance=advance,
        )
        measures = plan.measures
        if word == "generated":
            thresholded = {k: s.above(detector.analysis_threshold) for k, s in (others or {}).items()}
            job = replace(job, sampler=_thresholded(sampler, detector), others=thresholded)
        else:
            measures = tuple(m for m in measures if m != "log-posterior")
        return run_measures(measures, job, after=after, clock=time.monotonic)

    scores = compare("generated")
    floor_scores = None if floor is None else compare("floor")
    return EvaluationResult(
        caloforge_version=caloforge.__version__,
        suite=suite_name,
        measures=plan.measures,
        seed=seed,
        detector={"name": detector.name, "hash": detector.hash, "toml": detector.to_toml()},
        samples=infos,
        checks=tuple(checks),
        generated=scores,
        floor=floor_scores,
        notes=tuple(notes),
        seconds=seconds,
    )


def _thresholded(sampler: Sampler | None, detector: Detector) -> Sampler | None:
    if sampler is None:
        return None
    return lambda energy, count: sampler(energy, count).above(detector.analysis_threshold)


def _notes(
    samples: Mapping[str, AnyShowers], infos: Mapping[str, SampleInfo], plan: Plan, checks: Sequence[Check]
) -> list[str]:
    notes = [f"compared in spite of a mismatch: {c.text}" for c in checks if not c.passed]
    if "floor" not in samples:
        notes.append(
            "There is no second reference, so no number has its floor: what a perfect generator would get at this sample "
            "size is not known."
        )
    for word, showers in samples.items():
        if word != "reference":
            shared = identical_showers(showers, samples["reference"])
            if shared:
                notes.append(f"{shared} of the {len(showers)} {word} showers are also in the reference, bit for bit.")
    count = min(i.showers for i in infos.values())
    if any(m in plan.measures for m in ("fpd", "kpd")) and count < 50_000:
        notes.append(
            f"FPD and KPD are of {count} showers; published values are of 100,000, and FPD is larger for fewer. Compare it "
            "with its floor only."
        )
    if any(MEASURES[m].field == "classifiers" for m in plan.measures):
        if plan.settings.patience is not None:
            notes.append(
                f"Classifier trainings stop after {plan.settings.patience} epochs without a better accuracy; the "
                "published ones train all epochs."
            )
        if count < 100_000:
            notes.append(
                f"Classifiers were trained on {count} showers of each class (published: 100,000 or more) in smaller "
                "batches. With fewer showers a classifier sees less, so scores nearer to 0.5 are not better than published "
                "ones; compare them with the floor and with models evaluated alike."
            )
    return notes
