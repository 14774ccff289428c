"""Particle identification by likelihood ratio: two models, each the density of the showers of its own particle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caloforge import datasets
from caloforge.arguments import argument
from caloforge.atomic import make_folder, replace_file
from caloforge.detectors import particle_name
from caloforge.errors import TrainingError, UsageError
from caloforge.evaluation.classifiers.kept import KeptResults
from caloforge.evaluation.classifiers.scores import area_under_roc, area_under_roc_error, roc_curve
from caloforge.executor import Executor, InThisProcess, LocalProcesses
from caloforge.models import ShowerModel, load_model
from caloforge.options import StudyParticlesOptions
from caloforge.progress import progress
from caloforge.random import Streams
from caloforge.showers import Reader, open_showers, row_hashes
from caloforge.studies.figures import draw_ratios
from caloforge.workers import WorkerDiedError

__all__ = ["ParticleStudy", "study_particles"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class ParticleStudy:
    """How well the likelihood ratio of two models tells two particles apart.

    Attributes:
        particles: their names.
        showers: numbers of showers.
        auc: area under the ROC curve of the ratio.
        error: its statistical error.
        impossible: showers to which either model gives no probability at all; they count as found by the other one.
        files: what was written.
    """

    particles: tuple[str, str]
    showers: tuple[int, int]
    auc: float
    error: float
    impossible: int
    files: tuple[Path, ...]


def study_particles(
    models: tuple[str | Path, str | Path],
    data: tuple[str | Path, str | Path],
    out: Path,
    *,
    options: StudyParticlesOptions | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> ParticleStudy:
    """Compute ln p_1(shower) - ln p_2(shower) for the showers of both particles, given the incident energy.

    What is finished is kept in ``out``: the same call goes on after an interruption.

    Args:
        models: two trained models with a likelihood, each for its own particle, of the same variables (the same kind and
            preprocessing: the noise and thresholds of the two must agree for a ratio of densities to mean anything).
        data: unseen showers of the two particles, in the same order.
        out: directory for the numbers and the figure.
        options: see ``StudyParticlesOptions``.
        executor: who computes, instead of ``jobs`` processes of this machine; it sees the same files.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if a model has no likelihood, or the models do not describe the same variables.
        TrainingError: if one of several processes dies; what is finished is kept.
    """
    asked_for = StudyParticlesOptions.merged(options, settings)
    first, second = (load_model(model).eval() for model in models)
    files_of_data = [datasets.file_of(path) for path in data]
    for model in (first, second):
        if not model.has_likelihood:
            raise UsageError(f"the model '{model.kind}' has no likelihood")
    _check_same_variables(first, second)
    make_folder(out)
    weights = [model.record.weights_sha256 for model in (first, second) if model.record is not None]
    ratios: dict[str, Float64] = {}
    for path in files_of_data:
        with open_showers(path, first.detector) as reader:
            name, particle, wanted = particle_name(reader.particle), reader.particle, len(reader)
            wanted = wanted if asked_for.showers is None else min(asked_for.showers, wanted)
            rows = _fingerprint(reader, wanted, asked_for.batch_size)
        identity = {
            "models": weights, "rows": rows, "draws": asked_for.noise_draws, "seed": asked_for.seed,
            "block": asked_for.batch_size, "threads": asked_for.threads or 1,
        }  # fmt: skip
        kept = KeptResults(out / "ratios", str(particle), identity)
        ratios[name] = _ratios(_Asked((models[0], models[1]), path, asked_for), wanted, name, kept, executor)
    if len(ratios) < 2:
        raise UsageError(f"both files hold showers of {next(iter(ratios))}, expected two particles")
    names = tuple(ratios)
    joined = np.concatenate([ratios[names[0]], ratios[names[1]]])
    impossible = int((~np.isfinite(joined)).sum())
    if np.isnan(joined).any():
        raise UsageError(f"{int(np.isnan(joined).sum())} showers are impossible for both models, so no ratio exists")
    labels = np.repeat([1, 0], [len(ratios[name]) for name in names]).astype(np.int64)
    # Infinite ratios are the clearest decisions; for the ranking any value beyond all others will do.
    finite = joined[np.isfinite(joined)]
    ranked = np.clip(joined, finite.min() - 1, finite.max() + 1)
    auc, error = area_under_roc(ranked, labels), area_under_roc_error(ranked, labels)
    files = (out / "result.json", out / "likelihood_ratio.png")
    title = f"Likelihood ratio of two models: {names[0]} against {names[1]}"
    false, true = roc_curve(ranked, labels)
    found = {
        "particles": names,
        "showers": [len(ratios[name]) for name in names],
        "auc": auc,
        "statistical_error": error,
        "impossible": impossible,
        "noise_draws": asked_for.noise_draws,
    }
    replace_file(files[0], json.dumps(found, indent=2) + "\n")
    cut = np.split(ranked, [len(ratios[names[0]])])
    draw_ratios(dict(zip(names, cut, strict=True)), (true, false), auc, title, files[1])
    return ParticleStudy(
        particles=(names[0], names[1]),
        showers=(len(ratios[names[0]]), len(ratios[names[1]])),
        auc=auc,
        error=error,
        impossible=impossible,
        files=files,
    )


def _check_same_variables(first: ShowerModel, second: ShowerModel) -> None:
    """Densities can only be compared in the same variables: detector and preprocessing must agree, fitted scales too."""
    if first.detector.hash != second.detector.hash or first.kind != second.kind:
        raise UsageError("the two models differ in kind or detector, so their densities are in different variables")
    one, two = first.describe_representation(), second.describe_representation()
    for key in one.keys() | two.keys():
        if one.get(key) != two.get(key):
            raise UsageError(
                f"the two models differ in '{key}' ({one.get(key)} and {two.get(key)}), so their densities are in "
                "different variables; train both with the same settings "
                f"({argument('overrides', '--set')}: model.energy_scale=1.0 ...)"
            )


@dataclass(frozen=True)
class _Asked:
    """What whoever computes needs to know."""

    models: tuple[str | Path, str | Path]
    data: str | Path
    how: StudyParticlesOptions


#: Number of a block, its first row, and the row behind its last one.
_Block = tuple[int, int, int]


def _fingerprint(reader: Reader, count: int, step: int) -> str:
    """Of the first showers of a file, whatever the file is called."""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, count, step):
        digest.update(row_hashes(reader.read(start, min(start + step, count))).data)
    return digest.hexdigest()


def _ratios(asked: _Asked, count: int, name: str, kept: KeptResults, executor: Executor | None) -> Float64:
    """The ratios of the first showers of a file; finished blocks are taken from the disk."""
    step = asked.how.batch_size
    blocks = [(k, start, min(start + step, count)) for k, start in enumerate(range(0, count, step))]
    found = {k: result["ratios"] for k, _, _ in blocks if (result := kept.get(k)) is not None}
    missing = [block for block in blocks if block[0] not in found]
    who = executor or (LocalProcesses(asked.how.jobs) if asked.how.jobs > 1 else InThisProcess())
    former = torch.get_num_threads()
    try:
        with progress(f"likelihood of {name}", count, "showers") as bar:
            bar.advance(sum(len(values) for values in found.values()))
            with closing(who.run(_prepare, asked, missing)) as answers:
                for (number, start, stop), values in answers if missing else ():
                    kept.put(number, {"ratios": values})
                    found[number] = values
                    bar.advance(stop - start)
    except WorkerDiedError as error:
        raise TrainingError(f"{error}; what is finished is kept") from None
    finally:
        torch.set_num_threads(former)
    return np.concatenate([np.asarray(found[k], dtype=np.float64) for k, _, _ in blocks])


def _prepare(asked: _Asked) -> Callable[[_Block], list[float]]:
    """See ``caloforge.executor``."""
    torch.set_num_threads(asked.how.threads or 1)
    models = [load_model(model).eval() for model in asked.models]

    def work(block: _Block) -> list[float]:
        _, start, stop = block
        with open_showers(asked.data, models[0].detector) as reader:
            showers = reader.read(start, stop)
        # The same noise for both: what it adds by chance cancels in the ratio.
        one, two = (
            model.log_prob(showers, Streams(asked.how.seed, "likelihood"), draws=asked.how.noise_draws, first_row=start)
            for model in models
        )
        ratios: list[float] = (one - two).double().tolist()
        return ratios

    return work
