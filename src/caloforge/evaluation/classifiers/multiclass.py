"""One classifier among several generated samples: which of them does Geant4 look like most?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from caloforge.detectors import Readout
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
from caloforge.evaluation.classifiers.uncertainty import mean_contributions, pack, shower_groups, spread, unpack
from caloforge.evaluation.results import LogPosteriorResult, Spread
from caloforge.random import Streams
from caloforge.showers import Showers

__all__ = ["log_posterior_test"]


@dataclass(frozen=True)
class _Classes:
    """Rows of all generated samples, in equal numbers, then those of Geant4 showers."""

    rows: torch.Tensor
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    per_class: int
    shown: int
    count: int
    readout: Readout


def _retrain(
    recipe: ClassifierRecipe,
    classes: _Classes,
    settings: ClassifierSettings,
    streams: Streams,
    number: int,
    after_epoch: Callable[[], None],
) -> dict[str, Any]:
    per_class, count = classes.per_class, classes.count
    generator = streams.child("training").generator(number)
    orders = [k * per_class + generator.permutation(per_class) for k in range(count)]
    ends = np.cumsum((0, *split_sizes(recipe, per_class)))
    train, choose, test = (np.concatenate([o[ends[k] : ends[k + 1]] for o in orders]) for k in range(3))
    geant4 = count * per_class + np.arange(classes.shown)
    parts = (train, choose, np.concatenate([test, geant4]))
    _, outputs = train_classifier(
        recipe, settings, classes.rows, torch.from_numpy(classes.labels).to(settings.device), parts, per_class=per_class,
        readout=classes.readout, generator=generator, after_epoch=after_epoch, outputs=count,
    )  # fmt: skip
    posterior: NDArray[np.float64] = log_softmax(outputs.test, axis=1)
    found: dict[str, Any] = {}
    for k in range(count):
        own = np.flatnonzero(classes.labels[test] == k)
        for word, asked in (("generated", own), ("reference", len(test) + np.arange(classes.shown))):
            logs = posterior[asked, k]
            found[f"{word} {k}"] = float(logs.mean())
            found[f"test {word} {k}"] = pack(classes.groups[parts[2][asked]], {"mean": mean_contributions(logs)})
    return found


def log_posterior_test(
    recipe: ClassifierRecipe,
    generated: Mapping[str, Showers],
    reference: Showers,
    *,
    settings: ClassifierSettings,
    streams: Streams,
    work: Work | None = None,
) -> LogPosteriorResult:
    """Train one network to tell all generated samples apart, then ask it about Geant4 showers.

    CaloChallenge's "multi cls" (arXiv:2410.21611): the mean logarithm (natural) of the probability that the network
    gives each generated sample on reference showers, which it never saw; higher is better, and equally good samples get
    -ln(number of samples). On the samples' own test showers it gives the cross-check "CC". The challenge's training of
    it is not public; here it is the recipe's, with one output for each sample.

    Args:
        recipe: inputs, network and training.
        generated: at least two samples by name, of the same readout as the reference.
        reference: Geant4 showers that no model was trained on.
        settings: how thoroughly.
        streams: random numbers.
        work: who retrains, and where finished retrainings are kept.

    Raises:
        UsageError: if there are fewer than two samples.
    """
    if len(generated) < 2:
        raise UsageError("the multi-class test needs at least two generated samples")
    streams = streams.child(f"multiclass/{recipe.name}")
    names = list(generated)
    per_class = min(*(len(s) for s in generated.values()), settings.max_showers or len(reference))
    generator = streams.child("rows").generator(0)
    samples = [generated[name][class_rows(len(generated[name]), per_class, generator)] for name in names]
    sizes = split_sizes(recipe, per_class)
    shown = reference[class_rows(len(reference), sizes[2] * len(names), generator)]
    rows = np.concatenate([INPUTS[recipe.inputs](s) for s in (*samples, shown)])
    groups = shower_groups([*samples, shown])
    labels = np.concatenate([np.repeat(np.arange(len(names)), per_class), np.zeros(len(shown), dtype=np.int64)])
    classes = _Classes(settings.tensor(rows), labels, groups, per_class, len(shown), len(names), reference.readout)
    results = retrained(
        partial(_retrain, recipe, classes, settings, streams),
        name="log-posterior",
        recipe=recipe,
        settings=settings,
        streams=streams,
        identity={"names": names, "rows": hashlib.blake2b(rows.data, digest_size=16).hexdigest()},
        work=work or Work(),
        note=lambda result: "log-posterior",
    )

    def over_retrainings(key: str) -> Spread:
        tests = [unpack(r[f"test {key}"], "mean") for r in results]
        return spread([r[key] for r in results], [c for c, _ in tests], [g for _, g in tests])

    return LogPosteriorResult(
        on_reference={name: over_retrainings(f"reference {k}") for k, name in enumerate(names)},
        on_generated={name: over_retrainings(f"generated {k}") for k, name in enumerate(names)},
        settings={
            "recipe": recipe.name,
            "epochs": settings.epochs or recipe.epochs,
            "showers of each sample": per_class,
        },
    )
