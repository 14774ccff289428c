"""Particle identification by likelihood ratio: two models, each the density of the showers of its own particle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caloforge.arguments import argument
from caloforge.atomic import make_folder, replace_file
from caloforge.detectors import particle_name
from caloforge.errors import UsageError
from caloforge.evaluation.classifiers.scores import area_under_roc, area_under_roc_error, roc_curve
from caloforge.models import ShowerModel, load_model
from caloforge.options import StudyParticlesOptions
from caloforge.progress import progress
from caloforge.random import Streams
from caloforge.showers import Reader, open_showers
from caloforge.studies.figures import draw_ratios

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
    **settings: Any,
) -> ParticleStudy:
    """Compute ln p_1(shower) - ln p_2(shower) for the showers of both particles, given the incident energy.

    Args:
        models: two trained models with a likelihood, each for its own particle, of the same variables (the same kind and
            preprocessing: the noise and thresholds of the two must agree for a ratio of densities to mean anything).
        data: unseen showers of the two particles, in the same order.
        out: directory for the numbers and the figure.
        options: see ``StudyParticlesOptions``.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if a model has no likelihood, or the models do not describe the same variables.
    """
    asked_for = StudyParticlesOptions.merged(options, settings)
    noise_draws, showers = asked_for.noise_draws, asked_for.showers
    seed, batch_size = asked_for.seed, asked_for.batch_size
    first, second = (load_model(model).eval() for model in models)
    for model in (first, second):
        if not model.has_likelihood:
            raise UsageError(f"the model '{model.kind}' has no likelihood")
    _check_same_variables(first, second)
    make_folder(out)
    ratios: dict[str, Float64] = {}
    for path in data:
        with open_showers(path, first.detector) as reader:
            ratios[particle_name(reader.particle)] = _ratios(
                first, second, reader, noise_draws, showers, seed, batch_size
            )
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
        "noise_draws": noise_draws,
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


def _ratios(
    first: ShowerModel, second: ShowerModel, reader: Reader, draws: int, limit: int | None, seed: int, batch_size: int
) -> Float64:
    wanted = len(reader) if limit is None else min(limit, len(reader))
    parts = []
    with progress(f"likelihood of {particle_name(reader.particle)}", wanted, "showers") as bar:
        for start in range(0, wanted, batch_size):
            block = reader.read(start, min(start + batch_size, wanted))
            # The same noise for both: what it adds by chance cancels in the ratio.
            one, two = (
                model.log_prob(block, Streams(seed, "likelihood"), draws=draws, first_row=start)
                for model in (first, second)
            )
            parts.append(one - two)
            bar.advance(len(block))
    ratios: Float64 = torch.cat(parts).double().numpy()
    return ratios
