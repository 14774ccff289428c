"""Boosted decision trees on named high-level features: a strong test in seconds, that says what it is about.

Neural networks on voxels need far more showers than are at hand in most studies; gradient boosting on a table of physics
quantities sees differences with a few thousand. The trees are scikit-learn's histogram gradient boosting.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from threadpoolctl import threadpool_limits

from caloforge.errors import UsageError
from caloforge.evaluation.classifiers.retraining import class_rows
from caloforge.evaluation.classifiers.scores import (
    IsotonicCalibration,
    area_under_roc,
    area_under_roc_error,
    divergence_of_classifier,
    roc_curve,
)
from caloforge.evaluation.classifiers.two_sample import FEWEST_IN_SLICE, energy_slices, slice_numbers
from caloforge.evaluation.classifiers.uncertainty import (
    auc_contributions,
    divergence_contributions,
    shower_groups,
    spread,
)
from caloforge.evaluation.features import FeatureTable, energy_steps, feature_table
from caloforge.evaluation.results import ClassifierResult, Importance, Roc, Slice, Spread, Value
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

__all__ = ["FEWEST_SHOWERS", "FOLDS", "TITLE", "boosted_test", "expected_boosted_seconds"]

Float64 = NDArray[np.float64]
Index = NDArray[np.int64]

TITLE = "boosted trees on high-level features"
#: Parts of a cross-validation; each is scored by trees that were grown on the others.
FOLDS = 5
#: Fewer showers of a class than this say nothing.
FEWEST_SHOWERS = 50
#: About so many, for the time that is expected.
_FEATURES_PER_LAYER = 18
_ITERATIONS, _RATE, _LEAVES, _L2 = 150, 0.05, 15, 1.0
#: At most so many features are shuffled one by one.
_MEASURED = 100
#: A table with fewer values is the work of one thread: on a busy machine threads that wait for each other at every split take
#: many times longer, and there is little to gain.
_LARGE = 5_000_000
#: Rows that are looked at together.
_ROWS = 100_000


@dataclass(frozen=True)
class _Fold:
    """Trees and the rows that they have not seen."""

    trees: HistGradientBoostingClassifier
    test: Index
    outputs: Float64


def boosted_test(
    generated: ShowerPoints, reference: ShowerPoints, *, threshold: float, slices: int, streams: Streams
) -> ClassifierResult:
    """Tell generated (label 0) from reference showers (label 1) with boosted trees, in a cross-validation of five folds.

    Every shower is scored once, by trees that have not seen it or a copy of it. The AUC is the mean over the folds; its error is
    DeLong's of all showers, times 1.34 because folds share training showers (see ``uncertainty.spread``). The calibration of a
    fold, for calibrated AUC and JSD, is fitted to the outputs of the others.

    The importance of a feature is the fall of the AUC when its values are shuffled among the test showers of a fold. Of
    features that say the same each looks less important than they are together, hence the families.

    Args:
        generated: lit cells, thresholded like the reference; of one readout.
        reference: lit cells of Geant4 showers that no model was trained on.
        threshold: the analysis threshold, MeV.
        slices: number of parts of the energy range with about equally many showers.
        streams: random numbers; everything is a function of them and of the showers.

    Raises:
        UsageError: if there are fewer than 50 showers of a class.
    """
    streams = streams.child("boosted")
    per_class = min(len(generated), len(reference))
    if per_class < FEWEST_SHOWERS:
        raise UsageError(f"a classifier test has {per_class} showers of each class, expected at least {FEWEST_SHOWERS}")
    generator = streams.child("rows").generator(0)
    parts = [s[class_rows(len(s), per_class, generator)] for s in (generated, reference)]
    table = _table(parts, threshold)
    labels = np.repeat([0, 1], per_class)
    groups = shower_groups(parts)
    energy = np.concatenate([s.incident_energy for s in parts])
    with _threads(table.values.size):
        folds = _folds(table.values, labels, _fold_numbers(groups, labels, streams), streams)
        features, families = _importances(folds, table, labels, streams)
    calibrated, smoothed = _calibrated(folds, labels)
    every = np.concatenate([f.test for f in folds])
    false, true = roc_curve(np.concatenate([f.outputs for f in folds]), labels[every])

    def over_folds(scores: list[float], contributions: list[Float64]) -> Spread:
        return spread(scores, contributions, [groups[f.test] for f in folds], correlation=1 / FOLDS)

    known = [labels[f.test] for f in folds]
    single = [area_under_roc_error(f.outputs, k) for f, k in zip(folds, known, strict=True)]
    edges = energy_slices(reference.incident_energy, slices)
    return ClassifierResult(
        name="boosted",
        title=TITLE,
        source="this package; trees: scikit-learn's HistGradientBoostingClassifier",
        settings={
            "folds": FOLDS,
            "showers of each class": per_class,
            "training showers of each class": per_class - per_class // FOLDS,
            "features": len(table.names),
            "iterations": _ITERATIONS,
            "learning rate": _RATE,
            "leaves": _LEAVES,
            "L2": _L2,
        },
        parameters=_ITERATIONS * _LEAVES,
        auc=over_folds(
            [area_under_roc(f.outputs, k) for f, k in zip(folds, known, strict=True)],
            [auc_contributions(f.outputs, k) for f, k in zip(folds, known, strict=True)],
        ),
        calibrated_auc=over_folds(
            [area_under_roc(c, k) for c, k in zip(calibrated, known, strict=True)],
            [auc_contributions(c, k) for c, k in zip(calibrated, known, strict=True)],
        ),
        jsd=over_folds(
            [divergence_of_classifier(s, k) for s, k in zip(smoothed, known, strict=True)],
            [divergence_contributions(s, k) for s, k in zip(smoothed, known, strict=True)],
        ),
        statistical_error=float(np.mean(single)),
        best_epochs=(),
        slices=_slices(folds, labels, groups, energy, edges),
        roc=Roc(generated=tuple(false), reference=tuple(true)),
        importance=features,
        families=families,
    )


def expected_boosted_seconds(showers: ShowerPoints | Showers, count: int) -> float:
    """Time that a test will take on this machine, from a few trees on random numbers.

    Args:
        showers: some showers of the readout.
        count: showers of each class.
    """
    layers = 1 if showers.readout is None else showers.readout.n_layers
    rows, tried = 2 * count, min(2 * count, 2000)
    values = np.random.default_rng(0).normal(size=(tried, _FEATURES_PER_LAYER * layers))
    times = []
    with _threads(rows * values.shape[1]):
        for iterations in (1, 11):
            started = time.monotonic()
            _trees(iterations, 0).fit(values, np.arange(tried) % 2)
            times.append(time.monotonic() - started)
    grown = max(times[1] - times[0], 1e-3) / 10 * _ITERATIONS * rows / tried * FOLDS
    # Making the features and looking at what they are worth takes about as long as growing the trees.
    return 2 * grown


def _table(parts: list[ShowerPoints], threshold: float) -> FeatureTable:
    layers = 1 + max((int(p.points[:, 2].max(initial=-1)) for p in parts), default=0)
    readout = parts[1].readout
    labels = tuple(map(str, range(layers))) if readout is None else tuple(layer.label for layer in readout.layers)
    steps = energy_steps(parts[1], threshold)
    tables = [feature_table(part, steps, labels) for part in parts]
    return FeatureTable(tables[0].names, np.concatenate([t.values for t in tables]))


def _fold_numbers(groups: Index, labels: Index, streams: Streams) -> Index:
    """Which fold each row belongs to: equal parts of each class, copies of a shower together."""
    generator = streams.child("folds").generator(0)
    _, first, where = np.unique(groups, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), dtype=np.int64)
    for label in (0, 1):
        own = np.flatnonzero(labels[first] == label)
        numbers[generator.permutation(own)] = np.arange(len(own)) % FOLDS
    folds: Index = numbers[where]
    return folds


def _threads(size: int) -> threadpool_limits:
    return threadpool_limits(1 if size < _LARGE else None, user_api="openmp")


def _trees(iterations: int, seed: int) -> HistGradientBoostingClassifier:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=iterations, learning_rate=_RATE, max_leaf_nodes=_LEAVES, l2_regularization=_L2, early_stopping=False,
        # Of the sample that sets the edges of the histograms beyond 200,000 rows; nothing else is random.
        random_state=seed,
    )  # fmt: skip


def _folds(values: Float64, labels: Index, numbers: Index, streams: Streams) -> list[_Fold]:
    found = []
    for fold in range(FOLDS):
        train, test = np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold)
        trees = _trees(_ITERATIONS, streams.child("trees").integer(fold) % 2**32)
        seen = values[train]
        # The histograms need a value; what has none among these rows is never looked at.
        seen[:, np.isnan(seen).all(axis=0)] = 0
        trees.fit(seen, labels[train])
        found.append(_Fold(trees, test, trees.decision_function(values[test])))
    return found


def _calibrated(folds: list[_Fold], labels: Index) -> tuple[list[Float64], list[Float64]]:
    """Probabilities of class 1 in each fold: calibrated as published, and with the prior that the JSD needs."""
    plain, smoothed = [], []
    for fold in folds:
        others = [f for f in folds if f is not fold]
        outputs = expit(np.concatenate([f.outputs for f in others]))
        known = labels[np.concatenate([f.test for f in others])]
        own = expit(fold.outputs)
        plain.append(IsotonicCalibration(outputs, known)(own))
        smoothed.append(IsotonicCalibration(outputs, known, prior=0.5)(own))
    return plain, smoothed


def _slices(folds: list[_Fold], labels: Index, groups: Index, energy: Float64, edges: Float64) -> tuple[Slice, ...]:
    found = []
    for part in range(len(edges) - 1):
        inside = [slice_numbers(edges, energy[f.test]) == part for f in folds]
        known = [labels[f.test][chosen] for f, chosen in zip(folds, inside, strict=True)]
        # All folds or none: the mean over folds must not change its meaning from slice to slice.
        if any((k == label).sum() < FEWEST_IN_SLICE for k in known for label in (0, 1)):
            continue
        outputs = [f.outputs[chosen] for f, chosen in zip(folds, inside, strict=True)]
        auc = spread(
            [area_under_roc(o, k) for o, k in zip(outputs, known, strict=True)],
            [auc_contributions(o, k) for o, k in zip(outputs, known, strict=True)],
            [groups[f.test][chosen] for f, chosen in zip(folds, inside, strict=True)],
            correlation=1 / FOLDS,
        )
        showers = sum(len(k) for k in known)
        found.append(Slice(energy_min=edges[part], energy_max=edges[part + 1], showers=showers, auc=auc))
    return tuple(found)


def _importances(
    folds: list[_Fold], table: FeatureTable, labels: Index, streams: Streams
) -> tuple[tuple[Importance, ...], tuple[Importance, ...]]:
    families: dict[str, list[int]] = {}
    for column, family in enumerate(table.families):
        families.setdefault(family, []).append(column)
    drops = _drops(folds, table.values, labels, families, streams)
    joined = _ranked([Importance(name=name, drop=drop) for name, drop in drops.items()])
    # With many layers, the features of the families that matter most.
    columns = [column for family in joined for column in families[family.name]][:_MEASURED]
    drops = _drops(folds, table.values, labels, {table.names[c]: [c] for c in columns}, streams)
    single = [
        Importance(name=table.names[c], drop=drops[table.names[c]], **_moved(table.values[:, c], labels))
        for c in columns
    ]
    return _ranked(single), joined


def _drops(
    folds: list[_Fold], values: Float64, labels: Index, shuffled: dict[str, list[int]], streams: Streams
) -> dict[str, Value]:
    """Fall of the AUC if some columns are shuffled together among the test rows, for each of several choices of columns."""
    found: dict[str, list[float]] = {name: [] for name in shuffled}
    for number, fold in enumerate(folds):
        known, own = labels[fold.test], values[fold.test]
        before = area_under_roc(fold.outputs, known)
        # Several choices at once: looking through all trees takes a time of its own.
        size = max(1, _ROWS // len(own))
        for start in range(0, len(shuffled), size):
            names = list(shuffled)[start : start + size]
            copies = np.tile(own, (len(names), 1, 1))
            for copy, name in zip(copies, names, strict=True):
                order = streams.child(f"shuffled/{name}").generator(number).permutation(len(own))
                copy[:, shuffled[name]] = own[order][:, shuffled[name]]
            outputs = fold.trees.decision_function(copies.reshape(-1, own.shape[1])).reshape(len(names), -1)
            for name, output in zip(names, outputs, strict=True):
                found[name].append(before - area_under_roc(output, known))
    return {
        name: Value(value=float(np.mean(d)), error=float(np.std(d, ddof=1) / np.sqrt(len(d))))
        for name, d in found.items()
    }


def _ranked(found: Sequence[Importance]) -> tuple[Importance, ...]:
    return tuple(sorted(found, key=lambda item: (-item.drop.value, item.name)))


def _moved(values: Float64, labels: Index) -> dict[str, Any]:
    """How the generated showers differ from the reference in one feature by itself."""
    one, two = (values[labels == label] for label in (0, 1))
    undefined = (float(np.isnan(one).mean()), float(np.isnan(two).mean()))
    one, two = one[~np.isnan(one)], two[~np.isnan(two)]
    scatter = float(np.std(two)) if len(two) else 0.0
    if not len(one) or scatter <= 0:
        return {"undefined": undefined}
    error = float(np.sqrt(one.var() / len(one) + two.var() / len(two)))
    shift = Value(value=float(one.mean() - two.mean()) / scatter, error=error / scatter)
    return {"shift": shift, "undefined": undefined}
