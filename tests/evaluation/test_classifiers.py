"""Classifier tests: published inputs and networks, and scores that can be worked out otherwise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from caloforge.detectors import load_detector
from caloforge.detectors.readout import Axis, LayerGroup, Readout
from caloforge.errors import UsageError
from caloforge.evaluation.classifiers import (
    RECIPES,
    ClassifierSettings,
    ParticlePair,
    Work,
    cross_particle_test,
    expected_seconds,
    log_posterior_test,
    recipe,
    retraining,
    two_sample,
    two_sample_test,
)
from caloforge.evaluation.classifiers.inputs import INPUTS
from caloforge.evaluation.classifiers.networks import build_network
from caloforge.evaluation.classifiers.recipes import batch_size, split_sizes
from caloforge.evaluation.classifiers.two_sample import energy_slices
from caloforge.random import Streams
from caloforge.showers import Showers

TINY = Readout(layers=(LayerGroup(x=Axis(bins=2, range=(-1, 1)), y=Axis(bins=2, range=(-1, 1))),))
DNN = recipe("caloflow-dnn-unnormalised")
SMALL = replace(DNN, network="dense-64")
FEW = ClassifierSettings(retrainings=3, epochs=12, slices=2)


def gaussian_showers(n: int, shift: float, seed: int, particle: int = 22) -> Showers:
    """Four voxels of 50 +- 10 GeV, the first one shifted by ``shift`` standard deviations."""
    rng = np.random.default_rng(seed)
    deposits = 5e4 + 1e4 * rng.normal(size=(n, 4))
    deposits[:, 0] += 1e4 * shift
    return Showers(deposits.astype(np.float32), rng.uniform(1e5, 2e5, n), particle, TINY)


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_networks_have_the_published_numbers_of_parameters() -> None:
    readout = load_detector("calogan").readout
    assert count(build_network("dense-512", 508, readout)) == 786_433
    assert count(build_network("cnn", 508, readout)) == 1_262_913
    for size, millions in (
        (369, 9.15),
        (534, 9.49),
        (6481, 21.67),
        (40501, 91.34),
        (30, 8.46),
        (46, 8.49),
        (362, 9.14),
    ):
        assert count(build_network("dense-2048", size, readout)) / 1e6 == pytest.approx(millions, abs=0.006)
    assert count(build_network("resnet", 6481, load_detector("par04-ds2").readout)) / 1e6 == pytest.approx(
        2.52, abs=0.005
    )


@pytest.mark.parametrize("name", ["calogan", "ds1-photons", "par04-ds2"])
@pytest.mark.parametrize("kind", sorted({r.network for r in RECIPES.values()}))
def test_every_network_takes_every_readout_it_can(name: str, kind: str) -> None:
    readout = load_detector(name).readout
    if kind == "resnet" and name != "par04-ds2":
        with pytest.raises(UsageError, match="equal shape"):
            build_network(kind, 1 + readout.n_voxels, readout)
        return
    size = readout.n_voxels + (1 if kind == "resnet" else 1 + readout.n_layers)
    assert build_network(kind, size, readout)(torch.zeros(2, size)).shape == (2, 1)


def test_the_cnn_maps_are_two_by_two() -> None:
    network = build_network("cnn", 508, load_detector("calogan").readout)
    for tower, shape in zip(network.towers, ((3, 96), (12, 12), (12, 6)), strict=True):  # type: ignore[arg-type]
        assert tower[4](tower[:4](torch.zeros(1, 1, *shape))).shape == (1, 64, 6, 6)
        assert tower(torch.zeros(1, 1, *shape)).shape == (1, 256)


def test_unknown_networks_and_recipes_are_refused() -> None:
    with pytest.raises(UsageError, match="no classifier network 'transformer'"):
        build_network("transformer", 4, TINY)
    with pytest.raises(UsageError, match="expected one of caloflow-dnn"):
        recipe("transformer")


def test_caloflow_inputs_by_hand() -> None:
    readout = Readout(
        layers=(LayerGroup(x=Axis(bins=1, range=(0, 1)), y=Axis(bins=2, range=(0, 1))), LayerGroup(r_edges=(0, 1)))
    )
    showers = Showers(np.array([[1e4, 3e4, 0], [2e5, 0, 0]], np.float32), np.array([5e4, 1e4]), 22, readout)
    plain = [[0.1, 0.3, 0, math.log10(5), math.log10(0.4 + 1e-8) + 2, -6], [2, 0, 0, 0, math.log10(2) + 2, -6]]
    assert_allclose(INPUTS["caloflow-unnormalised"](showers), plain, rtol=1e-6, atol=1e-6)
    normalised = INPUTS["caloflow-normalised"](showers)
    assert_allclose(normalised[:, :3], [[0.25, 0.75, 0], [1, 0, 0]], rtol=1e-6)
    assert_allclose(normalised[:, 3:], np.asarray(plain)[:, 3:], rtol=1e-6, atol=1e-6)
    edge = math.log(1e-6 / (1 - 1e-6)) / 10
    logit = INPUTS["caloflow-logit"](showers)
    assert_allclose(logit[0, :3], [math.log(0.1 / 0.9) / 10, math.log(0.3 / 0.7) / 10, edge], rtol=1e-4)
    assert logit[1, 0] == pytest.approx(-edge)  # above 100 GeV
    assert_allclose(INPUTS["caloflow-logit-normalised"](showers)[0, 0], math.log(0.25 / 0.75) / 10, rtol=1e-4)
    assert INPUTS["caloflow-logit"](showers).dtype == np.float32


def test_calochallenge_inputs_by_hand() -> None:
    showers = Showers(np.array([[1, 3, 0, 0]], np.float32), np.array([100.0]), 22, TINY)
    assert_allclose(INPUTS["low-level"](showers), [[2, 0.01, 0.03, 0, 0]], rtol=1e-6)
    assert_allclose(INPUTS["low-normalised"](showers), [[2, 0.25, 0.75, 0, 0, math.log10(4)]], rtol=1e-6)
    assert INPUTS["high-level"](showers).shape == (1, 10)


def test_splits_and_batches_are_the_published_ones() -> None:
    assert split_sizes(DNN, 100_000) == (60_000, 20_000, 20_000)
    challenge = recipe("calochallenge-low")
    assert split_sizes(challenge, 100_000) == (60_000, 20_000, 20_000)
    assert split_sizes(challenge, 121_000) == (80_000, 20_000, 21_000)
    assert split_sizes(challenge, 120_800) == (80_000, 20_000, 20_800)
    assert batch_size(DNN, 60_000) == 1000
    assert batch_size(DNN, 1_800) == 120
    with pytest.raises(UsageError, match="at least 50"):
        split_sizes(DNN, 49)


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="'retrainings' is 0"):
        ClassifierSettings(retrainings=0)


def test_slices_have_equal_numbers_or_single_energies() -> None:
    energy = np.random.default_rng(0).uniform(1e3, 1e5, 1000)
    edges = energy_slices(energy, 4)
    assert np.histogram(energy, edges)[0].tolist() == [250, 250, 250, 250]
    discrete = energy_slices(np.repeat([256.0, 512.0, 1024.0], 5), 4)
    assert_allclose(discrete, [256, 362.0387, 724.0773, 1024])


def test_auc_and_jsd_of_two_gaussians() -> None:
    """One voxel shifted by one standard deviation: the best AUC is Phi(1/sqrt 2), the JSD an integral."""
    result = two_sample_test(
        SMALL, gaussian_showers(4000, 1.0, 1), gaussian_showers(4000, 0.0, 2), settings=FEW, streams=Streams(3, "t")
    )
    assert result.auc.mean == pytest.approx(0.7602, abs=0.025)
    assert result.calibrated_auc.mean == pytest.approx(result.auc.mean, abs=0.02)
    assert result.jsd.mean == pytest.approx(0.1594, abs=0.03)
    assert result.statistical_error == pytest.approx(0.0119, rel=0.1)  # Hanley and McNeil
    assert len(result.auc.values) == len(result.best_epochs) == 3
    assert result.auc.std == pytest.approx(np.std(result.auc.values, ddof=1))
    assert [s.auc.mean for s in result.slices] == pytest.approx([0.76, 0.76], abs=0.04)
    assert result.slices[0].showers + result.slices[1].showers == pytest.approx(1600, abs=2)
    assert result.roc.reference[50] > 0.7


def test_equal_samples_cannot_be_told_apart_and_equal_seeds_agree() -> None:
    one, two = gaussian_showers(1500, 0.0, 4), gaussian_showers(1200, 0.0, 5)
    first, again, other = (
        two_sample_test(SMALL, one, two, settings=FEW, streams=Streams(seed, "t")) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.auc != other.auc
    assert first.auc.mean == pytest.approx(0.5, abs=3 * first.statistical_error)
    assert abs(first.jsd.mean) < 0.02
    assert first.settings["training showers of each class"] == 720  # the larger sample is cut to the smaller one


def test_a_better_epoch_later_counts_and_patience_stops_early() -> None:
    one, two = gaussian_showers(600, 1.0, 6), gaussian_showers(600, 0.0, 7)
    seen: list[int] = []
    settings = ClassifierSettings(retrainings=1, epochs=40, patience=3, slices=1)
    result = two_sample_test(
        SMALL,
        one,
        two,
        settings=settings,
        streams=Streams(1, "t"),
        work=Work(advance=lambda epochs, note: seen.append(epochs)),
    )
    assert sum(seen) == 40  # the display ends at its total
    assert len(seen) - 1 == min(40, result.best_epochs[0] + 3)  # but fewer epochs were trained


def test_finished_retrainings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = gaussian_showers(300, 1.0, 8), gaussian_showers(300, 0.0, 9)
    settings = ClassifierSettings(retrainings=2, epochs=2, slices=1)
    streams = Streams(1, "t")
    whole = two_sample_test(SMALL, one, two, settings=settings, streams=streams, work=Work(tmp_path))
    files = sorted(tmp_path.glob("*.json"))
    assert [f.name for f in files] == ["caloflow-dnn-unnormalised-00.json", "caloflow-dnn-unnormalised-01.json"]
    trained: list[int] = []
    real = retraining.fit

    def counting(*args: object, **kwargs: object) -> object:
        trained.append(1)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(retraining, "fit", counting)
    assert two_sample_test(SMALL, one, two, settings=settings, streams=streams, work=Work(tmp_path)) == whole
    assert not trained
    files[1].write_text(files[1].read_text()[:50])  # torn in the middle of writing
    assert two_sample_test(SMALL, one, two, settings=settings, streams=streams, work=Work(tmp_path)) == whole
    assert len(trained) == 1
    more = ClassifierSettings(retrainings=3, epochs=2, slices=1)
    assert (
        two_sample_test(SMALL, one, two, settings=more, streams=streams, work=Work(tmp_path)).auc.values[:2]
        == whole.auc.values
    )
    assert len(trained) == 2
    other = Showers(two.deposits * np.float32(1.01), two.incident_energy, 22, TINY)
    two_sample_test(SMALL, one, other, settings=settings, streams=streams, work=Work(tmp_path))
    assert len(trained) == 4  # other showers, other results
    assert json.loads(files[0].read_text())["result"]["auc"]


def test_log_posterior_knows_which_sample_looks_like_geant4() -> None:
    samples = {"near": gaussian_showers(1000, 0.1, 1), "far": gaussian_showers(1000, 3.0, 2)}
    result = log_posterior_test(
        SMALL, samples, gaussian_showers(500, 0.0, 3),
        settings=ClassifierSettings(retrainings=2, epochs=12), streams=Streams(1, "t"),
    )  # fmt: skip
    assert result.on_reference["near"].mean > -1
    assert result.on_reference["far"].mean < -2
    assert result.on_generated["far"].mean > -0.4
    same = {name: gaussian_showers(1000, 0.0, seed) for name, seed in (("a", 4), ("b", 5))}
    equal = log_posterior_test(
        SMALL, same, gaussian_showers(500, 0.0, 6),
        settings=ClassifierSettings(retrainings=2, epochs=4), streams=Streams(1, "t"),
    )  # fmt: skip
    assert equal.on_reference["a"].mean == pytest.approx(-math.log(2), abs=0.05)
    with pytest.raises(UsageError, match="at least two"):
        log_posterior_test(SMALL, {"a": samples["near"]}, samples["far"], settings=FEW, streams=Streams(1, "t"))


def test_cross_particle_scores_agree_for_a_faithful_model_only() -> None:
    settings = ClassifierSettings(retrainings=2, epochs=8)
    geant4 = ParticlePair(gaussian_showers(800, 0.0, 1), gaussian_showers(800, 1.0, 2, particle=11))
    faithful = ParticlePair(gaussian_showers(800, 0.0, 3), gaussian_showers(800, 1.0, 4, particle=11))
    result = cross_particle_test(geant4, faithful, SMALL, settings=settings, streams=Streams(1, "t"))
    assert result.particles == ("gamma", "e-")
    assert [(s.trained_on, s.scored_on) for s in result.scores] == [
        ("geant4", "geant4"), ("geant4", "generated"), ("generated", "geant4"), ("generated", "generated"),
    ]  # fmt: skip
    for score in result.scores:
        assert score.auc.mean == pytest.approx(0.76, abs=0.06)
    wrong = ParticlePair(gaussian_showers(800, 1.0, 5), gaussian_showers(800, 0.0, 6, particle=11))
    once = ClassifierSettings(retrainings=1, epochs=8)
    swapped = cross_particle_test(geant4, wrong, SMALL, settings=once, streams=Streams(1, "t"))
    assert [round(s.auc.mean) for s in swapped.scores] == [1, 0, 0, 1]
    with pytest.raises(UsageError, match="same two different particles"):
        cross_particle_test(
            geant4, ParticlePair(geant4.first, geant4.first), SMALL, settings=settings, streams=Streams(1, "t")
        )


def test_expected_time_follows_the_amount_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(two_sample.time, "monotonic", lambda: float(next(clock)))
    showers = gaussian_showers(2, 0.0, 1)
    once = expected_seconds(DNN, showers, 5000, ClassifierSettings(retrainings=1))
    # One second for 4 batches of 128 rows; 60 epochs of 2 x 3,000 rows to learn from and some to look at.
    assert once == pytest.approx(60 * 2 * (3000 + 0.4 * 1000) / 512)
    assert expected_seconds(DNN, showers, 5000, ClassifierSettings(retrainings=5)) == pytest.approx(5 * once)
    assert expected_seconds(DNN, showers, 5000, ClassifierSettings(retrainings=1, epochs=6)) == pytest.approx(once / 10)
    patient = ClassifierSettings(retrainings=1, patience=10)
    assert expected_seconds(DNN, showers, 5000, patient) == pytest.approx(once / 3)
