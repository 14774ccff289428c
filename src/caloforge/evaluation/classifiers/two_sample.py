"""The two-sample test: how well a classifier tells generated showers from reference showers, over retrainings."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from caloforge.detectors import Readout
from caloforge.evaluation.classifiers.inputs import INPUTS
from caloforge.evaluation.classifiers.networks import build_network
from caloforge.evaluation.classifiers.recipes import ClassifierRecipe, batch_size, split_sizes
from caloforge.evaluation.classifiers.retraining import (
    ClassifierSettings,
    Work,
    class_rows,
    retrained,
    train_classifier,
)
from caloforge.evaluation.classifiers.scores import (
    IsotonicCalibration,
    area_under_roc,
    area_under_roc_error,
    divergence_of_classifier,
    roc_curve,
)
from caloforge.evaluation.classifiers.training import fit, seeded
from caloforge.evaluation.classifiers.uncertainty import (
    auc_contributions,
    divergence_contributions,
    pack,
    shower_groups,
    spread,
    unpack,
)
from caloforge.evaluation.results import ClassifierResult, Roc, Slice, Spread
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers

__all__ = ["energy_slices", "expected_seconds", "two_sample_test"]

Float64 = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Fewer showers of a class than this say nothing about a slice.
FEWEST_IN_SLICE = 20


@dataclass(frozen=True)
class _Sample:
    """Rows of both classes, in equal numbers; ``groups`` has one number for each shower, see ``shower_groups``."""

    rows: torch.Tensor
    labels: NDArray[np.int64]
    groups: Indices
    energy: Float64
    per_class: int
    fingerprint: str


def _sample(
    recipe: ClassifierRecipe,
    generated: Showers | ShowerPoints,
    reference: Showers | ShowerPoints,
    settings: ClassifierSettings,
    streams: Streams,
) -> _Sample:
    per_class = min(len(generated), len(reference), settings.max_showers or len(reference))
    generator = streams.child("rows").generator(0)
    # Equal numbers: a class imbalance would shift accuracy and calibration.
    parts = [s[class_rows(len(s), per_class, generator)] for s in (generated, reference)]
    rows = np.concatenate([INPUTS[recipe.inputs](part) for part in parts])
    if recipe.standardise:
        mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
        # A feature that never varies says nothing and must not become large.
        rows = ((rows - mean) / np.where(deviation > 1e-9, deviation, 1)).astype(np.float32)
    energy = np.concatenate([part.incident_energy for part in parts])
    # The hash is over what the network will see, so any change of threshold, preprocessing or data shows.
    fingerprint = hashlib.blake2b(digest_size=16)
    fingerprint.update(rows.data)
    fingerprint.update(energy.data)
    return _Sample(
        rows=settings.tensor(rows), labels=np.repeat([0, 1], per_class), groups=shower_groups(parts), energy=energy,
        per_class=per_class, fingerprint=fingerprint.hexdigest(),
    )  # fmt: skip


def energy_slices(energy: Float64, slices: int) -> Float64:
    """Edges (MeV) that cut an energy spectrum into parts with about equally many showers.

    A spectrum of at most 20 discrete energies is cut between them, one energy in each part.

    Returns:
        Shape (parts + 1,), rising.
    """
    distinct = np.unique(energy)
    if len(distinct) <= 20:
        middle = np.sqrt(distinct[1:] * distinct[:-1])
        return np.concatenate([distinct[:1], middle, distinct[-1:]])
    return np.unique(np.quantile(energy, np.linspace(0, 1, slices + 1)))


def slice_numbers(edges: Float64, energy: Float64) -> Indices:
    # Energies of the generated showers may lie a little outside the reference's.
    return np.clip(np.searchsorted(edges, energy, side="right") - 1, 0, max(len(edges) - 2, 0))


def _parts(sizes: tuple[int, int, int], per_class: int, generator: np.random.Generator) -> tuple[Indices, ...]:
    orders = [generator.permutation(per_class), per_class + generator.permutation(per_class)]
    ends = np.cumsum((0, *sizes))
    return tuple(np.concatenate([o[a:b] for o in orders]) for a, b in itertools.pairwise(ends))


def _retrain(
    recipe: ClassifierRecipe,
    sample: _Sample,
    readout: Readout | None,
    settings: ClassifierSettings,
    streams: Streams,
    edges: Float64,
    number: int,
    after_epoch: Callable[[], None],
) -> dict[str, Any]:
    generator = streams.child("training").generator(number)
    sizes = split_sizes(recipe, sample.per_class)
    train, choose, test = _parts(sizes, sample.per_class, generator)
    classes = torch.from_numpy(sample.labels).to(settings.device)
    network, outputs = train_classifier(
        recipe, settings, sample.rows, classes, (train, choose, test), per_class=sample.per_class, readout=readout,
        generator=generator, after_epoch=after_epoch,
    )  # fmt: skip
    labels, logits = sample.labels[test], outputs.test[:, 0]
    chosen, probability = expit(outputs.chosen[:, 0]), expit(logits)
    calibrated = IsotonicCalibration(chosen, sample.labels[choose])(probability)
    smoothed = IsotonicCalibration(chosen, sample.labels[choose], prior=0.5)(probability)
    false, true = roc_curve(logits, labels)
    numbers = slice_numbers(edges, sample.energy[test])
    sliced: list[float | None] = []
    within = np.zeros(len(test))
    for part in range(len(edges) - 1):
        inside = numbers == part
        enough = all((labels[inside] == c).sum() >= FEWEST_IN_SLICE for c in (0, 1))
        sliced.append(area_under_roc(logits[inside], labels[inside]) if enough else None)
        if enough:
            within[inside] = auc_contributions(logits[inside], labels[inside])
    of_showers: dict[str, NDArray[Any]] = {
        "auc": auc_contributions(logits, labels),
        "calibrated_auc": auc_contributions(calibrated, labels),
        "jsd": divergence_contributions(smoothed, labels),
        "slices": within,
        "part": numbers,
    }
    return {
        "auc": area_under_roc(logits, labels),
        "calibrated_auc": area_under_roc(calibrated, labels),
        "jsd": divergence_of_classifier(smoothed, labels),
        "error": area_under_roc_error(logits, labels),
        "best_epoch": outputs.best_epoch,
        "slices": sliced,
        "slice_showers": [int((numbers == part).sum()) for part in range(len(edges) - 1)],
        "roc": [false.tolist(), true.tolist()],
        "parameters": sum(p.numel() for p in network.parameters()),
        "test": pack(sample.groups[test], of_showers),
    }


def two_sample_test(
    recipe: ClassifierRecipe,
    generated: Showers | ShowerPoints,
    reference: Showers | ShowerPoints,
    *,
    settings: ClassifierSettings,
    streams: Streams,
    work: Work | None = None,
) -> ClassifierResult:
    """Train classifiers between generated (label 0) and reference showers (label 1), and score them.

    Each retraining draws its own split, so their standard deviation holds the scatter of the test sample as well as that of
    the training; the error of the mean counts every shower once (see ``uncertainty``). The epoch with the best accuracy on
    the second part of the split counts; AUC, calibrated AUC (isotonic, as published) and JSD are those of the third part.

    Args:
        recipe: what is trained.
        generated: thresholded like the reference.
        reference: Geant4 showers that no model was trained on.
        settings: how thoroughly.
        streams: random numbers; everything is a function of them and of the showers.
        work: who retrains, and where finished retrainings are kept.

    Raises:
        UsageError: if there are too few showers, or the network cannot take this readout.
    """
    streams = streams.child(recipe.name)
    sample = _sample(recipe, generated, reference, settings, streams)
    sizes = split_sizes(recipe, sample.per_class)
    edges = energy_slices(reference.incident_energy, settings.slices)
    results = retrained(
        partial(_retrain, recipe, sample, reference.readout, settings, streams, edges),
        name=recipe.name,
        recipe=recipe,
        settings=settings,
        streams=streams,
        identity={"rows": sample.fingerprint, "edges": edges.tolist()},
        work=work or Work(),
        note=lambda result: f"AUC {result['auc']:.3f}",
    )
    return _gather(recipe, settings, sizes, results, edges)


def _gather(
    recipe: ClassifierRecipe,
    settings: ClassifierSettings,
    sizes: tuple[int, int, int],
    results: list[dict[str, Any]],
    edges: Float64,
) -> ClassifierResult:
    parts = [unpack(r["test"], "part")[0] for r in results]
    within = [unpack(r["test"], "slices") for r in results]
    slices = []
    for part in range(len(edges) - 1):
        there = [k for k, r in enumerate(results) if r["slices"][part] is not None]
        if there:
            inside = [parts[k] == part for k in there]
            slices.append(
                Slice(
                    energy_min=edges[part],
                    energy_max=edges[part + 1],
                    showers=round(np.mean([r["slice_showers"][part] for r in results])),
                    auc=spread(
                        [results[k]["slices"][part] for k in there],
                        [within[k][0][chosen] for k, chosen in zip(there, inside, strict=True)],
                        [within[k][1][chosen] for k, chosen in zip(there, inside, strict=True)],
                    ),
                )
            )

    def over_retrainings(score: str) -> Spread:
        found = [unpack(r["test"], score) for r in results]
        return spread([r[score] for r in results], [c for c, _ in found], [g for _, g in found])

    return ClassifierResult(
        name=recipe.name,
        title=recipe.title,
        source=recipe.source,
        settings={
            "training showers of each class": sizes[0],
            "selection showers of each class": sizes[1],
            "test showers of each class": sizes[2],
            "epochs": settings.epochs or recipe.epochs,
            "patience": settings.patience or "none",
            "batch size": batch_size(recipe, sizes[0]),
            "learning rate": recipe.learning_rate,
            "precision": settings.precision,
            "retrainings": settings.retrainings,
        },
        parameters=results[0]["parameters"],
        auc=over_retrainings("auc"),
        calibrated_auc=over_retrainings("calibrated_auc"),
        jsd=over_retrainings("jsd"),
        statistical_error=float(np.mean([r["error"] for r in results])),
        best_epochs=tuple(r["best_epoch"] for r in results),
        slices=tuple(slices),
        roc=Roc(generated=tuple(results[0]["roc"][0]), reference=tuple(results[0]["roc"][1])),
    )


def expected_seconds(
    recipe: ClassifierRecipe, showers: Showers | ShowerPoints, count: int, settings: ClassifierSettings
) -> float:
    """Time that a two-sample test will take on this machine, from a few training steps on part of a batch.

    With patience it is a typical time, else that of all epochs.

    Args:
        recipe: what would be trained.
        showers: a few showers of the right readout (two are enough).
        count: showers of each class.
        settings: how thoroughly.
    """
    per_class = min(count, settings.max_showers or count)
    sizes = split_sizes(recipe, per_class)
    inputs = INPUTS[recipe.inputs](showers[:2]).shape[1]
    batch = batch_size(recipe, sizes[0])
    tried = min(batch, 128)
    rows = torch.randn(
        tried * 4, inputs, generator=torch.Generator().manual_seed(0), dtype=getattr(torch, settings.precision)
    ).to(settings.device)
    labels = torch.arange(len(rows), device=settings.device) % 2
    network = seeded(0, lambda: build_network(recipe.network, inputs, showers.readout))
    every, few = np.arange(len(rows)), np.arange(2)
    times = []
    for _ in range(2):  # the first one warms up
        started = time.monotonic()
        fit(
            network, rows, labels, (every, few, few), epochs=1, batch_size=tried, learning_rate=1e-4, patience=None,
            generator=np.random.default_rng(0), after_epoch=lambda: None,
        )  # fmt: skip
        times.append(time.monotonic() - started)
    per_row = times[-1] / len(rows)
    # Looking at a row costs about a third of learning from it; the test rows are looked at in few epochs only.
    rows_per_epoch = 2 * (sizes[0] + 0.4 * sizes[1])
    epochs = float(settings.epochs or recipe.epochs)
    if settings.patience is not None:
        # The best epoch of a small sample comes early; this is what trainings with patience took on average.
        epochs = min(epochs, 2 * settings.patience)
    return per_row * rows_per_epoch * epochs * settings.retrainings
