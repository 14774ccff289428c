"""The model that ships with the package works right after installation, and is what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caloforge import datasets
from caloforge.cli.main import main
from caloforge.models import Conditions, load_model, pretrained_names, read_record, training_row_hashes
from caloforge.random import Streams
from caloforge.showers import Showers, open_showers, row_hashes

NAME = "calogan-gamma"


def test_it_is_there_and_says_how_it_was_made() -> None:
    assert NAME in pretrained_names()
    record = read_record(NAME)
    assert record.kind == "caloflow"
    assert (record.profile, record.aids) == ("improved", [{"kind": "marginal-start"}])
    assert record.parameters == load_model(NAME).parameter_count()
    assert record.training["data"]["showers"] == record.training_rows
    assert {"caloflow-dnn-unnormalised", "caloflow-dnn-normalised"} <= record.metrics.keys()


def test_it_was_not_trained_on_test_or_floor() -> None:
    seen = set(training_row_hashes(NAME).tolist())
    for split in ("test", "floor"):
        assert not seen & set(row_hashes(datasets.load("calogan-gamma-sample", split=split)).tolist())
    assert set(row_hashes(datasets.load("calogan-gamma-sample", split="train")).tolist()) <= seen


def test_it_makes_the_showers_that_it_made_under_its_former_names() -> None:
    """Numbers of the version that trained it; mutation: another permutation, noise or threshold than it was trained with."""
    model = load_model(NAME)
    conditions = Conditions.first(np.array([1e3, 5e3, 2e4, 5e4, 1e5]), 22)
    showers, valid = model.decode(conditions, model.latents(conditions, Streams(3, "packaged")))
    assert isinstance(showers, Showers)
    assert valid.all()
    expected = [
        [685.57434, 236.12390, 0.0],
        [2815.4915, 2165.5956, 0.71800625],
        [5558.1521, 14369.1368, 17.811050],
        [12681.3797, 37111.8866, 33.541412],
        [2307.3024, 97034.5478, 273.68371],
    ]
    np.testing.assert_allclose(showers.layer_energies(), expected, rtol=1e-5)
    lit = (showers.deposits > 0).sum(axis=1)
    assert np.abs(lit - [66, 119, 201, 290, 292]).max() <= 1  # rounding may move a voxel over the threshold


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
