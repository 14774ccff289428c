"""An evaluation of files: what is in them, what will be done, and doing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.arguments import argument, is_typed
from caloforge.detectors import Detector
from caloforge.errors import Interrupted, UsageError
from caloforge.evaluation.checks import shared_rows
from caloforge.evaluation.collapse import Sampler
from caloforge.evaluation.results import EvaluationResult, SharedRows
from caloforge.evaluation.run import check_evaluation, evaluate
from caloforge.evaluation.sources import UNKNOWN_MODEL, Named, Source, differences, find_model, open_source
from caloforge.evaluation.suites import Plan, plan_evaluation
from caloforge.evaluation.timing import measure_timing, timing_units
from caloforge.executor import Executor
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions, ShowerModel, load_model, read_record, training_row_hashes
from caloforge.options import EvaluateOptions
from caloforge.random import Streams
from caloforge.showers import Showers
from caloforge.training.processes import Processes

__all__ = ["FileEvaluation", "prepare_evaluation"]


@dataclass(frozen=True)
class FileEvaluation:
    """An evaluation that is ready to run; made by :func:`prepare_evaluation`.

    Attributes:
        samples: ``generated``, ``reference`` and, if given, ``floor``.
        plan: what will be done and how long it will take.
        shared: which of the samples share showers, so that they are not independent.
        model: directory or name of the model, if it is known.
        remarks: what a reader must know of the files, one sentence each.
        timing: whether the model's speed will be measured.
    """

    samples: Mapping[str, Source]
    plan: Plan
    shared: tuple[SharedRows, ...]
    model: str | None
    remarks: tuple[str, ...]
    timing: bool
    _arguments: Mapping[str, Any] = field(repr=False, default_factory=dict)
    _seed: int = 0
    _trained_on: NDArray[np.uint64] | None = field(repr=False, default=None)

    @property
    def units(self) -> int:
        """Progress units in total."""
        return self.plan.units + (timing_units() if self.timing else 0)

    def run(
        self,
        *,
        keep: Path | None = None,
        advance: Callable[[int, str], None] = lambda amount, note: None,
        executor: Executor | None = None,
    ) -> EvaluationResult:
        """Do everything.

        Args:
            keep: folder in which finished retrainings are kept, so that an interrupted evaluation goes on where it was.
            advance: told of the progress, in ``units``.
            executor: who does the retrainings, instead of ``jobs`` processes of this machine.

        Raises:
            Interrupted: if the user stopped it; the message says what was kept.
            UsageError: if a sample is too small for a measure, or does not fit it.
        """
        try:
            return self._run(keep, advance, executor)
        except KeyboardInterrupt:
            done = 0 if keep is None else len(list(keep.rglob("*.json")))
            again = argument("resume") if is_typed() else "the same call"
            kept = f"finished retrainings are kept in {keep} ({done}), {again} goes on from there"
            raise Interrupted(f"interrupted; {kept if done else 'no retraining was finished'}") from None

    def _run(
        self, keep: Path | None, advance: Callable[[int, str], None], executor: Executor | None
    ) -> EvaluationResult:
        generated, reference = self.samples["generated"], self.samples["reference"]
        needs_model = self.model is not None and (self.timing or "neighbours" in self.plan.measures)
        model = None
        if needs_model and self.model is not None:
            model = load_model(self.model, options=_options(generated.provenance))
        result = evaluate(
            generated.showers,
            reference.showers,
            detector=reference.detector,
            generated_detector=generated.detector,
            floor=self.samples["floor"].showers if "floor" in self.samples else None,
            keep=keep,
            sampler=None if model is None else _sampler(model, self._seed, generated.showers.particle),
            trained_on=self._trained_on,
            shared=self.shared,
            labels={word: source.label for word, source in self.samples.items()},
            remarks=self.remarks,
            advance=advance,
            executor=executor,
            **self._arguments,
        )
        samples = {
            word: info.model_copy(update={"made_by": made_by(self.samples[word].provenance)})
            for word, info in result.samples.items()
        }
        result = result.model_copy(update={"samples": samples})
        if not self.timing or model is None:
            return result
        timing = measure_timing(model, reference.showers, seed=self._seed, advance=advance)
        return result.model_copy(update={"timing": timing})


def made_by(provenance: Mapping[str, Any]) -> str:
    """Which model made the showers of a file, with its profile and its aids, in words; empty if the file names none."""
    model = provenance.get("model")
    if not isinstance(model, Mapping) or "kind" not in model:
        return ""
    aids = [str(aid.get("kind")) for aid in model.get("aids", ()) if isinstance(aid, Mapping)]
    profile = f", {model['profile']}" if "profile" in model else ""
    changed = ", ".join(f"{key}={value}" for key, value in _options(provenance).items())
    options = f"; options: {changed}" if changed else ""
    return f"{model['kind']}{profile}; aids: {', '.join(aids) or 'none'}{options}" if profile else str(model["kind"])


def _options(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """How the model was told to sample that made some showers."""
    model = provenance.get("model")
    options = model.get("options") if isinstance(model, Mapping) else None
    return dict(options) if isinstance(options, Mapping) else {}


def _sampler(model: ShowerModel, seed: int, particle: int) -> Sampler:
    streams = generation_streams(seed).child("neighbours")

    def sample(energy: float, count: int) -> Showers:
        assert model.record is not None  # loaded from a directory
        own = model.record.valid
        conditions = Conditions.first(np.full(count, energy), particle if particle in own.particles else own.particle)
        # The reference's energies, whatever the model was trained for; what was generated says whether it was.
        showers = sample_showers(model, conditions, streams.child(f"{energy:g}"), extrapolate=True).showers
        assert isinstance(showers, Showers)  # neighbours are a measure of voxels, so this model makes them
        return showers

    return sample


def prepare_evaluation(
    generated: Named,
    reference: Named,
    *,
    floor: Named | None = None,
    others: Mapping[str, Named] | None = None,
    cross_particle: Sequence[tuple[Named, Named]] = (),
    model: str | None = None,
    detector: Detector | str | Path | None = None,
    particle: int | str | None = None,
    options: EvaluateOptions | None = None,
    say: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> FileEvaluation:
    """Open all files of an evaluation, check them, and plan it.

    Args:
        generated: showers to be judged: a file of any known format, a sample of the package as ``NAME:SPLIT``, several of
            these as one, or showers in memory.
        reference: Geant4 showers that the model was not trained on, likewise.
        floor: a second, independent reference.
        others: further generated files by name, for the multi-class test.
        cross_particle: generated and Geant4 files of other particles, for the cross-particle test.
        model: directory or name of the model that made the generated showers; None looks for the one that the file names.
        detector: for files that do not say which detector they are from.
        particle: for files that do not say which particle they hold.
        options: how they are judged; the suite ``calogan`` also measures the model's speed whenever there is a model.
        say: told what is being done, now and then.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if the samples cannot be compared, a name is not known, or the model is not the one that made them.
        ShowerFileError: if a file is damaged, foreign or holds impossible values.
        ModelFileError: if the named model is missing, damaged or not finished.
    """
    chosen = EvaluateOptions.merged(options, settings)
    Processes.local_device(chosen.device)  # a wrong name is noticed before anything is read
    streams = Streams(chosen.seed, "evaluation/files")

    def opened(what: Named, word: str, known: Detector | None = None) -> Source:
        say(f"reading {what}")
        return open_source(
            what, detector=detector if detector is not None else known, particle=particle, max_showers=chosen.max_showers,
            streams=streams.child(word),
        )  # fmt: skip

    samples = {"reference": opened(reference, "reference")}
    known = samples["reference"].detector
    samples = {"generated": opened(generated, "generated", known)} | samples
    if floor is not None:
        samples["floor"] = opened(floor, "floor", known)
    found = _model(model, samples["generated"])
    trained_on = None if found is None else training_row_hashes(found)
    main = [samples[word].showers for word in ("generated", "reference")]
    check_evaluation(
        *main, detector=known, floor=samples["floor"].showers if floor is not None else None, trained_on=trained_on,
        generated_detector=samples["generated"].detector, allow_mismatch=chosen.allow_mismatch,
    )  # fmt: skip
    further = {name: _voxels(opened(path, f"other/{name}", known)) for name, path in (others or {}).items()}
    pairs = [
        (_voxels(opened(one, f"cross/{k}/generated", known)), _voxels(opened(two, f"cross/{k}/reference", known)))
        for k, (one, two) in enumerate(cross_particle)
    ]
    untimed = chosen.only or "timing" in chosen.skip
    timed = chosen.timing or (chosen.suite == "calogan" and found is not None and not untimed)
    if timed and found is None:
        raise UsageError(f"the speed of a model was asked for, but no model is known; {argument('model')} names it")
    say("trying how fast classifiers train here")
    # Speed is no measure of showers; it was dealt with above.
    chosen = replace(chosen, timing=timed, skip=tuple(name for name in chosen.skip if name != "timing"))
    plan = plan_evaluation(
        *main, with_floor=floor is not None, cross_particle=len(pairs), others=further, options=chosen
    )
    remarks = differences(samples["generated"], samples["reference"], samples.get("floor"))
    if found is not None and isinstance(told := read_record(found).representation.get("remark"), str):
        remarks.append(told)
    maker = samples["generated"].provenance.get("model")
    if found is None and maker is not None and not (isinstance(maker, Mapping) and maker.get("untrained")):
        remarks.append(UNKNOWN_MODEL)
    return FileEvaluation(
        samples=samples,
        plan=plan,
        shared=shared_rows(
            {word: source.showers for word, source in samples.items()},
            known.analysis_threshold,
            {word: source.path for word, source in samples.items() if source.path is not None},
        ),
        model=found,
        remarks=tuple(remarks),
        timing=timed,
        _arguments={"others": further, "cross_particle": pairs, "options": chosen},
        _seed=chosen.seed,
        _trained_on=trained_on,
    )


def _voxels(source: Source) -> Showers:
    if not isinstance(source.showers, Showers):
        raise UsageError(
            f"'{source.label}' holds points; this test needs voxels, and 'convert' puts points on a readout"
        )
    return source.showers


def _model(named: str | None, generated: Source) -> str | None:
    """The model that made the showers; a named one must be it, if the file says which one did."""
    if named is None:
        return find_model(generated.provenance, None if generated.path is None else generated.path.parent)
    record = read_record(named)
    made_by = generated.provenance.get("model")
    if isinstance(made_by, Mapping) and made_by.get("sha256") not in (None, record.weights_sha256):
        raise UsageError(f"'{generated.label}' was not made by the model '{named}' (its weights have another hash)")
    return named
