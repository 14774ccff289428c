"""The shower library: exact where it must be, never silent about what it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from model_samples import Rows, point_showers, sparse_showers, toy_detector
from scipy.stats import ks_2samp

from caloforge.cli.main import main
from caloforge.datasets import path
from caloforge.detectors import Detector, load_detector
from caloforge.errors import UsageError
from caloforge.generation import conditions_of_file, generate, generation_streams, sample_showers
from caloforge.models import Conditions, load_model
from caloforge.random import Streams
from caloforge.report import compare_reports, load_report
from caloforge.showers import ShowerPoints, Showers, open_showers
from caloforge.stage import TrainingBatch, TrainingConfig
from caloforge.training import train
from caloforge.zoo.shower_library import ShowerLibrary, ShowerLibraryConfig


class Directed(Rows):
    """Training rows with the directions of their showers."""

    def __iter__(self) -> Iterator[TrainingBatch]:
        given = self.showers.direction
        for batch in super().__iter__():
            yield batch if given is None else replace(batch, direction=torch.from_numpy(given[batch.row]))


def library(showers: Showers | ShowerPoints, detector: Detector, **settings: Any) -> ShowerLibrary:
    model = ShowerLibrary(ShowerLibraryConfig(**settings), detector)
    (stage,) = model.training_stages(TrainingConfig())
    stage.load_state(stage.fit(Directed(showers), Streams(1, "library")))  # type: ignore[attr-defined]
    return model.eval()


def made(model: ShowerLibrary, energies: Any, direction: Any = None, seed: int = 0) -> Any:
    conditions = Conditions.first(np.asarray(energies, dtype=np.float64), 22, direction=direction)
    return sample_showers(model, conditions, generation_streams(seed)).showers


@pytest.mark.parametrize("scaling", ["linear", "layers"])
def test_one_shower_is_scaled_to_every_energy(scaling: str) -> None:
    detector = toy_detector()
    one = sparse_showers(detector, 1)
    energies = one.incident_energy[0] * np.asarray([0.1, 1.0, 3.7])
    got = made(library(one, detector, symmetries="none", scaling=scaling), energies).deposits
    expected = one.deposits.astype(np.float64) * (energies / one.incident_energy[0])[:, None]
    assert np.allclose(got, expected, rtol=1e-6)


def test_its_own_energies_give_its_rows_and_with_symmetries_their_images() -> None:
    """Mutation: take the second nearest, or divide by the logarithm's exponential where the energy is the same."""
    detector = toy_detector()
    showers = sparse_showers(detector, 50)
    order = np.random.default_rng(0).permutation(50)
    plain = made(library(showers, detector, neighbours=1, symmetries="none"), showers.incident_energy[order])
    assert np.array_equal(plain.deposits, showers.deposits[order])
    turned = made(library(showers, detector, neighbours=1), showers.incident_energy).deposits
    group = detector.symmetry_group()
    images = [np.where([(turned[k] == showers.deposits[k, p]).all() for p in group])[0] for k in range(50)]
    assert all(len(found) for found in images)
    assert len(group) > 1
    assert {int(found[0]) for found in images} == set(range(len(group)))


def test_a_reflection_done_twice_is_no_reflection() -> None:
    images = library(sparse_showers(toy_detector(), 3), toy_detector()).library.stored.images
    assert all(torch.equal(image[image], torch.arange(images.shape[1])) for image in images)


def test_ten_times_as_many_are_still_the_same_showers() -> None:
    detector = toy_detector()
    showers = sparse_showers(detector, 30)
    model = library(showers, detector)
    low, high = showers.incident_energy.min(), showers.incident_energy.max()
    got = made(model, np.random.default_rng(1).uniform(low, high, 300))
    shapes = np.round(got.deposits / got.incident_energy[:, None], 6)
    images = len(detector.symmetry_group())
    assert 30 < len(np.unique(shapes, axis=0)) <= 30 * images
    told = model.describe_representation()
    assert told["showers"] == 30
    assert told["distinct_share"]["10"] == pytest.approx(0.1, abs=0.02)
    assert "training showers, re-used: 30 of them" in told["remark"]
    sums = showers.total_energy() / showers.incident_energy
    assert np.abs((got.total_energy() / got.incident_energy)[:, None] - sums[None]).min(axis=1).max() < 1e-5


def test_all_showers_of_a_discrete_energy_take_part() -> None:
    """Mutation: draw among the ten nearest only; the first ten of the energy would be given out for ever."""
    detector = toy_detector()
    showers = sparse_showers(detector, 60)
    discrete = Showers(showers.deposits, np.repeat([1e4, 2e4], 30), 22, showers.readout)
    got = made(library(discrete, detector, symmetries="none"), np.full(600, 2e4))
    assert len(np.unique(got.deposits, axis=0)) == 30
    assert {tuple(row) for row in got.deposits} == {tuple(row) for row in showers.deposits[30:]}


def test_neighbours_are_the_nearest_ones() -> None:
    detector = toy_detector()
    showers = sparse_showers(detector, 80)
    model = library(showers, detector, symmetries="none", neighbours=4)
    wanted = np.linspace(1.1e3, 9.9e4, 200)
    rows = model.rows(Conditions.first(wanted, 22).tensors(), torch.rand(200, dtype=torch.float64)).numpy()
    distance = np.abs(np.log(np.sort(showers.incident_energy))[None] - np.log(wanted)[:, None])
    assert (np.take_along_axis(distance, rows[:, None], 1)[:, 0] <= np.sort(distance, axis=1)[:, 3] + 1e-6).all()
    assert len({tuple(d) for d in np.argsort(distance, axis=1)[:, :4].tolist()}) > 50


def test_directions_are_part_of_the_distance() -> None:
    detector = toy_detector()
    showers = sparse_showers(detector, 40)
    angle = np.where(np.arange(40) % 2, 0.3, -0.3)
    direction = np.stack([np.sin(angle), np.zeros(40), np.cos(angle)], axis=1).astype(np.float32)
    tilted = Showers(showers.deposits, np.full(40, 1e4), 22, showers.readout, direction)
    model = library(tilted, detector, neighbours=5)
    got = made(model, np.full(400, 1e4), np.repeat(direction[1:2], 400, axis=0))
    assert {tuple(row) for row in got.deposits} == {tuple(row) for row in showers.deposits[1::2]}


def test_layers_follow_their_mean_shares() -> None:
    """Mutation: scale all layers alike."""
    detector = toy_detector((2, 2), (2, 2))
    energy = np.geomspace(1e3, 1e5, 200)
    share = 0.8 - 0.15 * np.log(energy / 1e3)
    deposits = np.repeat(np.stack([share, 1 - share], axis=1) * energy[:, None] / 4, 4, axis=1)
    showers = Showers(deposits.astype(np.float32), energy, 22, detector.readout)
    held = np.abs(np.log(energy / 1e4)) > 0.7  # nothing near 10 GeV
    kept = Showers(showers.deposits[held], energy[held], 22, detector.readout)
    for scaling, error in (("layers", 0.005), ("linear", 0.5)):
        got = made(library(kept, detector, scaling=scaling), np.full(50, 1e4))
        assert np.allclose(got.total_energy(), 1e4, rtol=1e-4)
        off = np.abs(got.deposits[:, :4].sum(axis=1) / 1e4 - (0.8 - 0.15 * np.log(10)))
        assert off.max() < error
    assert off.min() > 0.05  # of linear scaling


def test_points_are_kept_as_they_are() -> None:
    for name, points in (("ild-ecal/points", False), ("ild-ecal", True)):
        detector = load_detector(name)
        clouds = point_showers(detector, 12)
        got = made(library(clouds, detector, neighbours=1, points=points), clouds.incident_energy)
        assert isinstance(got, ShowerPoints)
        assert np.array_equal(got.offsets, clouds.offsets)
        assert np.array_equal(got.points, clouds.points)
        with pytest.raises(UsageError, match="showers of points are to be kept, and the data hold voxels"):
            library(sparse_showers(toy_detector(), 3), detector, points=points)


def test_trained_it_passes_every_test_and_refuses_unknown_energies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("shower-library", path("calogan-gamma-sample"), tmp_path / "model", show=False)
    model = load_model(tmp_path / "model")
    with open_showers(path("calogan-gamma-sample", split="test")) as source:
        test = cast("Showers", source.read(0, 2000))
    out = tmp_path / "made.h5"
    asked = conditions_of_file(path("calogan-gamma-sample", split="test"), showers=2000)
    generate(model, asked, out, show=False, command=f"generate {tmp_path / 'model'}")
    with open_showers(out) as source:
        got = cast("Showers", source.read())
    shares = [s.layer_energies() / s.incident_energy[:, None] for s in (got, test)]
    for layer in range(3):
        assert ks_2samp(shares[0][:, layer], shares[1][:, layer]).statistic < 1.63 * np.sqrt(2 / 2000)
    command = ["generate", str(tmp_path / "model"), "--energy", "200", "--events", "5", "--out", str(tmp_path / "x.h5")]
    assert main(command) != 0
    assert "an energy of 200 GeV is outside" in capsys.readouterr().err
    report = tmp_path / "report"
    reference = "calogan-gamma-sample:test"
    command = ["evaluate", str(out), reference, "--only", "layers", "--max-showers", "500", "--out", str(report)]
    assert main(command) == 0
    result = load_report(report)
    assert any("training showers, re-used: 5,400 of them, with 4 images" in note for note in result.notes)
    other = result.model_copy(
        update={
            "samples": result.samples | {"generated": result.samples["generated"].model_copy(update={"made_by": ""})}
        }
    )
    table = compare_reports([result, other], ["mine", "theirs"])
    assert table.columns[:2] == ["theirs", "library (training showers re-used)"]
