"""Features of showers while they are made, against the evaluation's own and against loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_samples import Rows, geant4_showers, lead_argon, sparse_showers, toy_detector

from caloforge.conditions import Conditions
from caloforge.detectors import Detector, load_detector
from caloforge.evaluation.cells import cells_of
from caloforge.evaluation.features import feature_table
from caloforge.parts.shower_features import COUNTS, RANKS, FeatureFit, ShowerFeatures, feature_count
from caloforge.random import Streams
from caloforge.showers import Showers

CALOGAN, POLAR = load_detector("calogan"), load_detector("par04-ds2")


def raw(detector: Detector, showers: Showers) -> tuple[ShowerFeatures, np.ndarray]:
    features = ShowerFeatures(detector)
    found = features.raw(torch.from_numpy(showers.deposits), Conditions.of(showers).tensors())
    return features, found.numpy()


def polar_showers() -> Showers:
    rng = np.random.default_rng(4)
    lit = rng.random((6, POLAR.readout.n_voxels)) < 0.05
    deposits = np.where(lit, rng.exponential(30.0, lit.shape), 0).astype(np.float32)
    deposits[2, : POLAR.readout.layer_sizes[0]] = 0
    return Showers(deposits, rng.uniform(1e3, 1e5, 6), 11, POLAR.readout)


SAMPLES = {
    "calogan": (CALOGAN, geant4_showers(22)[:40]),
    "polar": (POLAR, polar_showers()),
    "few voxels": (lead_argon(), sparse_showers(lead_argon(), 20)),
}


@pytest.mark.parametrize("name", list(SAMPLES))
def test_they_are_those_of_the_evaluation(name: str) -> None:
    """Mutation: squares about the axis instead of the mean, ranks from the smallest, the threshold left out."""
    detector, showers = SAMPLES[name]
    features, found = raw(detector, showers)
    layers = detector.readout.n_layers
    assert found.shape == (len(showers), feature_count(layers)) == (len(showers), 5 + 17 * layers)
    labels = tuple(str(k) for k in range(layers))
    bright = np.where(showers.deposits >= detector.analysis_threshold, showers.deposits, 0)
    cells = cells_of(replace(showers, deposits=bright), detector, Streams(1, "cells"))
    table = feature_table(cells, features.steps, labels)
    named = dict(zip(table.names, table.values.T, strict=True))
    np.testing.assert_allclose(found[:, 0], named["incident-energy"])
    np.testing.assert_allclose(np.exp(found[:, 1]), named["response"], atol=2e-5)
    of_layers = found[:, 5:].reshape(len(showers), layers, -1)
    above = [n for n in table.names if n.startswith("above") and n.endswith("/0")]
    for layer, label in enumerate(labels):
        own = of_layers[:, layer]
        lit = named[f"lit/{label}"] > 0
        np.testing.assert_allclose(
            np.exp(own[lit, 0]) - features.steps[0], np.exp(named[f"energy/{label}"][lit]), rtol=1e-5
        )
        for place, axis in ((1, "x"), (3, "y")):
            np.testing.assert_allclose(own[lit, place], named[f"{axis}-centroid/{label}"][lit], atol=2e-4)
            widths = np.exp(own[lit, place + 1]) - 1e-2
            np.testing.assert_allclose(widths, named[f"{axis}-width/{label}"][lit] ** 2, rtol=1e-4, atol=1e-3)
        for rank in range(3):
            shares = np.exp(own[lit, 5 + rank]) - 1e-4
            np.testing.assert_allclose(shares, named[f"brightest-{rank + 1}/{label}"][lit], atol=1e-5)
        for step, family in enumerate(above):
            counts = np.expm1(own[:, 5 + RANKS + step])
            np.testing.assert_allclose(counts, named[family.replace("/0", f"/{label}")], atol=1e-9)


def test_an_empty_shower_has_features_too() -> None:
    """Mutation: divide by the energy of an empty layer."""
    detector = toy_detector()
    empty = sparse_showers(detector, 3)
    features, found = raw(detector, replace(empty, deposits=np.zeros_like(empty.deposits)))
    assert np.isfinite(found).all()
    assert (found[:, 5 : 5 + 5 + RANKS + COUNTS] == found[:1, 5 : 5 + 5 + RANKS + COUNTS]).all()
    assert features.features == found.shape[1]


def test_they_are_centred_and_scaled_by_the_training_showers() -> None:
    """Also where most showers have the same number; mutation: leave out the floor of the scales."""
    showers = geant4_showers(22)
    features = ShowerFeatures(CALOGAN)
    stage = FeatureFit("features", "features", features)
    stage.load_state(stage.fit(Rows(showers), Streams(1, "x")))
    assert int(features.particle) == 22
    values = features(torch.from_numpy(showers.deposits), Conditions.of(showers).tensors()).numpy()
    assert np.isfinite(values).all()
    assert np.abs(np.median(values, axis=0)).max() < 1e-6
    assert np.abs(values).max() < 8
