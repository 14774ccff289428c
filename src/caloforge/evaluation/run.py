"""The one function that runs an evaluation."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector
from caloforge.errors import UsageError
from caloforge.evaluation.cells import cells_of, in_cells
from caloforge.evaluation.checks import AnyShowers, check_samples, hashes, refuse_trained_on, repeated_rows, shared_rows
from caloforge.evaluation.classifiers import ParticlePair, Work, cross_particle_test, recipe
from caloforge.evaluation.classifiers.retraining import class_rows
from caloforge.evaluation.collapse import Sampler
from caloforge.evaluation.measures import Comparison, cut, find_measure, run_measures
from caloforge.evaluation.results import (
    Check,
    CrossParticleResult,
    EvaluationResult,
    SampleInfo,
    Scores,
    SharedRows,
)
from caloforge.evaluation.sources import rows_trained_on
from caloforge.evaluation.suites import CROSS_PARTICLE, UNITS, Plan, plan_evaluation
from caloforge.executor import Executor
from caloforge.options import EvaluateOptions
from caloforge.random import Streams
from caloforge.scaleout import check_choice, open_executor
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.scratch import blocks_of, let_go
from caloforge.version import __version__

__all__ = ["check_evaluation", "evaluate"]


def _fingerprint(showers: AnyShowers) -> str:
    return hashlib.blake2b(hashes(showers).data, digest_size=8).hexdigest()


def _deposits(showers: AnyShowers) -> int:
    if isinstance(showers, Showers):
        return sum(int(np.count_nonzero(block.deposits)) for block in blocks_of(showers))
    return len(showers.points)


def _some(showers: AnyShowers, limit: int | None, generator: np.random.Generator) -> AnyShowers:
    if limit is None or len(showers) <= limit:
        return showers
    return showers[class_rows(len(showers), limit, generator)]


def _prepared(
    showers: AnyShowers, label: str, detector: Detector, limit: int | None, streams: Streams, purpose: str
) -> tuple[AnyShowers, AnyShowers, SampleInfo]:
    """What is compared, what it was made from, and what is said of it."""
    some = _some(showers, limit, streams.child(f"rows/{purpose}").generator(0))
    # A threshold is one of cells; points have to be added up in them first.
    cells = some if isinstance(some, Showers) else cells_of(some, detector, streams.child("placement"))
    kept = cut(cells, detector.analysis_threshold)
    info = SampleInfo(
        label=label,
        showers=len(some),
        particle=some.particle,
        energy_min=float(some.incident_energy.min()),
        energy_max=float(some.incident_energy.max()),
        cut_deposits=_deposits(cells) - _deposits(kept),
        fingerprint=_fingerprint(some),
    )
    return kept, some, info


def evaluate(
    generated: AnyShowers,
    reference: AnyShowers,
    *,
    detector: Detector,
    floor: AnyShowers | None = None,
    options: EvaluateOptions | None = None,
    keep: Path | None = None,
    sampler: Sampler | None = None,
    others: Mapping[str, Showers] | None = None,
    cross_particle: Sequence[tuple[Showers, Showers]] = (),
    trained_on: NDArray[np.uint64] | None = None,
    generated_detector: Detector | None = None,
    labels: Mapping[str, str] | None = None,
    shared: tuple[SharedRows, ...] | None = None,
    remarks: Sequence[str] = (),
    advance: Callable[[int, str], None] = lambda amount, note: None,
    executor: Executor | None = None,
    **settings: Any,
) -> EvaluationResult:
    """Compare generated showers with Geant4 showers by every measure of a suite.

    The detector's analysis threshold is applied to all samples alike, or to none with ``uncut``. Equal seeds give equal
    results on the same machine and number of threads.

    Args:
        generated: showers to be judged.
        reference: Geant4 showers that the model was not trained on.
        detector: of the reference.
        floor: a second, independent reference; every measure is repeated between it and the reference, which gives the
            score of a perfect generator at this sample size.
        options: how they are judged.
        keep: folder in which finished retrainings are kept, so that an interrupted evaluation goes on where it was.
        sampler: draws showers of the model at one energy, for the nearest neighbours.
        others: further generated samples by name, for the multi-class test.
        cross_particle: generated and Geant4 showers of other particles, for the cross-particle test.
        trained_on: hashes of the rows that the model was trained on; None looks for them where the generated showers name
            their model and it is found here.
        generated_detector: detector that the generated file names, if any.
        labels: what to call ``generated``, ``reference`` and ``floor``, for example file names.
        shared: which samples share showers, if that was looked at already; see ``checks.shared_rows``.
        remarks: what else a reader must know; they join the notes.
        advance: told of the progress, in the units of ``plan_evaluation``.
        executor: who does the retrainings, instead of ``jobs`` processes of this machine or a ``cluster``.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if the samples cannot be compared, or a name is not known.
        ShowerFileError: on NaN, infinite or negative energies.
    """
    chosen = EvaluateOptions.merged(options, settings)
    check_choice(chosen.jobs, chosen.cluster)
    streams = Streams(chosen.seed, "evaluation")
    samples: dict[str, AnyShowers] = {"generated": generated, "reference": reference}
    if floor is not None:
        samples["floor"] = floor
    unknown: list[str] = []
    if trained_on is None:
        trained_on, unknown = rows_trained_on(generated)
    checks = check_evaluation(
        generated,
        reference,
        detector=detector,
        floor=floor,
        trained_on=trained_on,
        generated_detector=generated_detector,
        allow_mismatch=chosen.allow_mismatch,
    )
    plan = plan_evaluation(
        generated, reference, options=chosen, with_floor=floor is not None, others=others,
        cross_particle=len(cross_particle), measure_time=False,
    )  # fmt: skip
    if shared is None:
        shared = shared_rows(samples, detector.analysis_threshold)
    described = detector
    if chosen.uncut:
        detector = detector.model_copy(update={"analysis_threshold": 0.0})
    names = dict(labels or {})
    prepared: dict[str, AnyShowers] = {}
    raw: dict[str, AnyShowers] = {}
    infos: dict[str, SampleInfo] = {}
    for word, showers in samples.items():
        prepared[word], raw[word], infos[word] = _prepared(
            showers, names.get(word, word), detector, chosen.max_showers, streams, word
        )
    remarks = (*remarks, *(text for text in unknown if text not in remarks))
    notes = [*remarks, *plan.notes, *_notes(samples, infos, plan, checks, chosen.uncut), *_placement(raw, detector)]
    seconds: dict[str, float] = {}

    def compare(word: str, work: Work) -> Scores:
        def after(name: str, elapsed: float) -> None:
            for showers in (prepared[word], prepared["reference"]):
                if isinstance(showers, Showers):
                    let_go(showers.deposits)
            key = name if word == "generated" else f"{name} (floor)"
            seconds[key] = round(elapsed, 2)
            if not find_measure(name).epochs:
                advance(UNITS, find_measure(name).title)

        job = Comparison(
            prepared[word],
            prepared["reference"],
            detector,
            plan.settings,
            # The floor has random numbers of its own, or its splits would be those of the generated showers.
            streams.child(word),
            work=replace(work, keep=None if keep is None else keep / word),
            raw=(raw[word], raw["reference"]),
        )
        measures = plan.measures
        if word == "generated":
            thresholded = {k: s.above(detector.analysis_threshold) for k, s in (others or {}).items()}
            job = replace(job, sampler=_thresholded(sampler, detector), others=thresholded)
        else:
            measures = tuple(m for m in measures if not find_measure(m).several)
        failed: dict[str, str] = {}
        found = run_measures(measures, job, after=after, clock=time.monotonic, failed=failed)
        notes.extend(text for text in failed.values() if text not in notes)
        return found

    pairs: list[CrossParticleResult] = []
    with open_executor(executor, chosen.jobs, chosen.cluster) as who:
        work = Work(keep, advance, who)
        scores = compare("generated", work)
        floor_scores = None if floor is None else compare("floor", work)
        for other in cross_particle:
            started = time.monotonic()
            pairs.append(_cross_particle((generated, reference), other, detector, plan, streams, work))
            name = f"cross-particle {'/'.join(pairs[-1].particles)}"
            seconds[name] = round(time.monotonic() - started, 2)
    return EvaluationResult(
        caloforge_version=__version__,
        suite=chosen.suite,
        measures=plan.measures,
        seed=chosen.seed,
        detector={"name": described.name, "hash": described.hash, "toml": described.to_toml()},
        uncut=chosen.uncut,
        samples=infos,
        checks=tuple(checks),
        shared=shared,
        generated=scores,
        floor=floor_scores,
        notes=tuple(notes),
        seconds=seconds,
        cross_particle=tuple(pairs),
    )


def check_evaluation(
    generated: AnyShowers,
    reference: AnyShowers,
    *,
    detector: Detector,
    floor: AnyShowers | None = None,
    trained_on: NDArray[np.uint64] | None = None,
    generated_detector: Detector | None = None,
    allow_mismatch: bool = False,
) -> list[Check]:
    """Look whether samples may be compared at all; arguments as for :func:`evaluate`.

    Raises:
        UsageError: if they may not, saying why.
        ShowerFileError: on NaN, infinite or negative energies.
    """
    samples = {"generated": generated, "reference": reference} | ({} if floor is None else {"floor": floor})
    for showers in samples.values():
        if isinstance(showers, Showers):
            _check_values(showers)
        else:
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
    return checks


def _check_values(showers: Showers) -> None:
    done = 0
    for block in blocks_of(showers):
        block.check_values(first_row=done)
        done += len(block)


def _cross_particle(
    own: tuple[AnyShowers, AnyShowers],
    other: tuple[Showers, Showers],
    detector: Detector,
    plan: Plan,
    streams: Streams,
    work: Work,
) -> CrossParticleResult:
    """One cross-particle test; each argument holds generated showers, then Geant4's."""
    pairs = []
    for first, second in zip(own, other, strict=True):
        if not isinstance(first, Showers):
            raise UsageError("the cross-particle test needs voxels, and these showers are points")
        first.check_values()
        second.check_values()
        pairs.append(ParticlePair(*(s.above(detector.analysis_threshold) for s in (first, second))))
    generated, geant4 = pairs
    return cross_particle_test(
        geant4, generated, recipe(CROSS_PARTICLE), settings=plan.settings, streams=streams,
        work=replace(work, keep=None if work.keep is None else work.keep / "cross-particle"),
    )  # fmt: skip


def _thresholded(sampler: Sampler | None, detector: Detector) -> Sampler | None:
    if sampler is None:
        return None
    return lambda energy, count: sampler(energy, count).above(detector.analysis_threshold)


def _placement(samples: Mapping[str, AnyShowers], detector: Detector) -> list[str]:
    """What is to be said of points if they are not all in the same cells, or in those of a map."""
    found = {word: in_cells(s, detector) for word, s in samples.items() if isinstance(s, ShowerPoints)}
    forms = {
        form: ", ".join(word for word, its in found.items() if its == form) for form in ("map", "grid", None)
    }  # fmt: skip
    notes = []
    if forms["map"]:
        notes.append(f"Points that are in cells of a map ({forms['map']}) stay there, with its gaps and staggering.")
    if len(set(found.values())) > 1:
        remarks = {
            "map": "in cells of a map", "grid": "at centres of the detector's cells",
            None: "loose, and their showers enter at random places of the detector's cells",
        }  # fmt: skip
        text = "; ".join(f"{words} points are {remarks[form]}" for form, words in forms.items() if words)
        notes.append(f"Not all points are in the same cells, so their cells need not agree: {text}.")
    return notes


def _notes(
    samples: Mapping[str, AnyShowers],
    infos: Mapping[str, SampleInfo],
    plan: Plan,
    checks: Sequence[Check],
    uncut: bool,
) -> list[str]:
    notes = [f"compared in spite of a mismatch: {c.text}" for c in checks if not c.passed]
    if uncut:
        notes.append("All samples were compared as they are in their files, without the analysis threshold.")
    if "floor" not in samples:
        notes.append(
            "There is no second reference, so no number has its floor: what a perfect generator would get at this sample "
            "size is not known."
        )
    for word, showers in samples.items():
        repeats = repeated_rows(showers)
        if repeats:
            notes.append(f"{repeats:,} of the {len(showers):,} {word} showers are copies of others in the same sample.")
    count = min(i.showers for i in infos.values())
    if any(m in plan.measures for m in ("fpd", "kpd")) and count < 50_000:
        notes.append(
            f"FPD and KPD are of {count} showers; published values are of 100,000, and FPD is larger for fewer. Compare it "
            "with its floor only."
        )
    if any(find_measure(m).field == "classifiers" for m in plan.measures):
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
