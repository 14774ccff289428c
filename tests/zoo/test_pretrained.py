"""The model that ships with the package works right after installation, and is what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caloforge import datasets
from caloforge.cli.main import main
from caloforge.models import Conditions, load_model, locate_model, pretrained_names, read_record, training_row_hashes
from caloforge.random import Streams
from caloforge.showers import Showers, open_showers, row_hashes

NAME = "calogan-gamma"
#: Particle; layer energies (MeV) and lit voxels of the first attempts at five showers, as they were made when the model was put
#: into the package; and which of them the classifier let stay.
MODELS: dict[str, tuple[int, list[list[float]], list[int], list[bool]]] = {
    "calogan-gamma": (
        22,
        [
            [837.82897, 239.17323, 0],
            [2744.9136, 2236.3125, 0.77599412],
            [5965.5131, 13962.967, 15.681916],
            [11878.314, 37916.42, 29.515204],
            [1732.5525, 96543.221, 313.9789],
        ],
        [61, 117, 197, 287, 293],
        [True, False, False, False, True],
    ),
    "calogan-eplus": (
        -11,
        [
            [796.66923, 283.99749, 0],
            [2849.5747, 2132.6696, 0.014418884],
            [6240.8459, 13686.992, 16.306448],
            [13387.413, 36419.593, 28.998839],
            [8298.1289, 90163.586, 190.28043],
        ],
        [71, 127, 205, 292, 323],
        [True, False, True, False, True],
    ),
    "calogan-piplus": (
        211,
        [
            [62.991476, 187.90886, 17.145076],
            [1054.4846, 521.45116, 10.007411],
            [1775.6082, 6449.301, 230.70513],
            [158.46439, 630.45028, 28.696076],
            [75.512936, 36740.037, 3985.4509],
        ],
        [11, 129, 248, 45, 220],
        [True, False, False, True, False],
    ),
}


def test_they_are_all_there() -> None:
    assert sorted(pretrained_names()) == sorted(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_it_is_there_and_says_how_it_was_made(name: str) -> None:
    record = read_record(name)
    assert record.kind == "caloflow"
    assert (record.profile, [aid["kind"] for aid in record.aids]) == ("improved", ["marginal-start", "rejection"])
    model = load_model(name)
    # Nothing of it takes gradients, and yet its parameters count (they were 0 in files that were stored again).
    assert record.parameters == model.parameter_count() == sum(p.numel() for p in model.parameters()) > 9e6
    assert record.training["data"]["showers"] == record.training_rows == len(training_row_hashes(name))
    assert record.valid.particle == MODELS[name][0]
    assert record.metrics["boosted"]["floor_auc"] < record.metrics["boosted"]["auc"] < 0.62
    assert sum(file.stat().st_size for file in locate_model(name).iterdir()) < 10e6


def test_it_was_not_trained_on_test_or_floor() -> None:
    seen = set(training_row_hashes(NAME).tolist())
    for split in ("test", "floor"):
        assert not seen & set(row_hashes(datasets.load("calogan-gamma-sample", split=split)).tolist())
    assert set(row_hashes(datasets.load("calogan-gamma-sample", split="train")).tolist()) <= seen


@pytest.mark.parametrize("name", MODELS)
def test_it_makes_the_showers_that_it_made_when_it_was_new(name: str) -> None:
    """Mutation: another permutation, noise, threshold or order of the masked weights than it was stored with."""
    particle, expected, lit, stay = MODELS[name]
    model = load_model(name)
    conditions = Conditions.first(np.array([1.1e3, 5e3, 2e4, 5e4, 9.9e4]), particle)
    showers, valid = model.decode(conditions, model.latents(conditions, Streams(3, "packaged")))
    assert isinstance(showers, Showers)
    assert valid.tolist() == stay
    np.testing.assert_allclose(showers.layer_energies(), expected, rtol=1e-5)
    found = (showers.deposits > 0).sum(axis=1)
    assert np.abs(found - lit).max() <= 1  # rounding may move a voxel over the threshold


@pytest.mark.slow
def test_it_generates_showers_like_geant4s(tmp_path: Path) -> None:
    """Layer means within 5 %, or within four errors of the sparse last layer's."""
    out = tmp_path / "g.h5"
    assert main(["generate", NAME, "--energy", "1:100", "--events", "1000", "--seed", "3", "--out", str(out)]) == 0
    with open_showers(out) as reader:
        made = reader.read()
    assert isinstance(made, Showers)
    ours, geant4 = (
        s.layer_energies() / s.incident_energy[:, None] for s in (made, datasets.load("calogan-gamma-sample"))
    )
    error = np.hypot(ours.std(axis=0) / np.sqrt(len(ours)), geant4.std(axis=0) / np.sqrt(len(geant4)))
    difference = np.abs(ours.mean(axis=0) - geant4.mean(axis=0))
    assert (difference < np.maximum(0.05 * geant4.mean(axis=0), 4 * error)).all()


def test_showers_that_it_was_trained_on_are_refused_as_a_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "g.h5"
    assert main(["generate", NAME, "--energy", "1:100", "--events", "200", "--out", str(out)]) == 0
    command = ["evaluate", str(out), "calogan-gamma-sample:train", "--max-showers", "200", "--out", str(tmp_path / "r")]
    assert main(command) != 0
    assert "used to train" in capsys.readouterr().err


def test_an_energy_outside_its_range_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", NAME, "--energy", "200", "--events", "10", "--out", str(tmp_path / "g.h5")]) != 0
    assert "200" in capsys.readouterr().err
    assert not (tmp_path / "g.h5").exists()
