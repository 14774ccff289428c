"""Rows that a model was trained on are found by the showers' own word, in memory and in files, in Python too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from caloforge import datasets
from caloforge.detectors import Detector
from caloforge.errors import UsageError
from caloforge.evaluation import evaluate
from caloforge.evaluation.sources import UNKNOWN_MODEL, rows_trained_on
from caloforge.generation import ListedConditions, generate, generation_streams, sample_showers
from caloforge.models import Conditions, load_model, training_row_hashes
from caloforge.random import Streams
from caloforge.showers import Showers, open_showers
from caloforge.showers.clusters import merge_in_subcells
from caloforge.showers.voxelise import to_points, voxelise

NAME = "calogan-gamma"
ROWS = 40


def split(name: str) -> tuple[Showers, Detector]:
    with open_showers(datasets.path("calogan-gamma-sample", split=name)) as source:
        showers = source.read(0, ROWS)
        assert isinstance(showers, Showers)
        assert source.detector is not None
        return showers, source.detector


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Showers]:
    """The same showers in memory, from a file, and put together from pieces of it."""
    model, asked = load_model(NAME), split("train")[0].incident_energy
    sample = sample_showers(model, Conditions.first(asked, 22), generation_streams(0)).showers
    out = tmp_path_factory.mktemp("made") / "g.h5"
    generate(model, ListedConditions(asked, 22), out, show=False)
    with open_showers(out) as source:
        read = source.read()
    assert isinstance(sample, Showers)
    assert isinstance(read, Showers)
    halves = [read[: ROWS // 2], read[ROWS // 2 :]]
    return {"memory": sample, "file": read, "pieces": Showers.concatenate(halves).above(0.01)}


@pytest.mark.parametrize("where", ["memory", "file", "pieces"])
def test_evaluate_finds_them_by_itself(generated: dict[str, Showers], where: str) -> None:
    """Mutation: look at ``trained_on`` alone, as ``evaluate`` did: the flattering comparison went through."""
    trained, detector = split("train")
    test, _ = split("test")
    with pytest.raises(UsageError, match="of the 40 reference showers were used to train this model"):
        evaluate(generated[where], trained, detector=detector)
    with pytest.raises(UsageError, match="of the 40 floor showers were used to train this model"):
        evaluate(generated[where], test, floor=trained, detector=detector, allow_mismatch=True)


@pytest.mark.parametrize("known", [True, False])
def test_it_says_that_it_looked_or_that_it_could_not(generated: dict[str, Showers], known: bool) -> None:
    test, detector = split("test")
    made = replace(generated["memory"], incident_energy=test.incident_energy)
    if not known:
        made = replace(made, provenance={"model": {"sha256": "0" * 64}})
    result = evaluate(made, test, detector=detector, only=["voxels"], allow_mismatch=True)
    assert ("reference was not trained on" in [check.name for check in result.checks]) is known
    assert (UNKNOWN_MODEL in result.notes) is not known


def test_rows_of_all_models_of_a_mixture_count(generated: dict[str, Showers]) -> None:
    made, (real, _) = generated["memory"], split("test")
    mixture = Showers.concatenate([replace(real, overflow=None), made])
    assert len(mixture.provenance["parts"]) == 2
    found, unknown = rows_trained_on(mixture)
    assert found is not None
    np.testing.assert_array_equal(found, training_row_hashes(NAME))
    assert unknown == []
    strange = replace(made, provenance={"model": {"sha256": "0" * 64}})
    assert rows_trained_on(Showers.concatenate([made, strange]))[1] == [UNKNOWN_MODEL]
    assert rows_trained_on(real) == (None, [])


def test_origin_travels_with_showers() -> None:
    """Mutation: forget it at any one of these places."""
    showers, _ = split("test")
    origin = showers.provenance
    assert "tables" in origin
    points = to_points(showers)
    travelled = [
        showers[3:7], showers[np.asarray([2, 1])], showers.above(1.0), Showers.concatenate([showers, showers[:3]]), points,
        points[1:4], points[np.asarray([2, 1])], type(points).concatenate([points, points[:2]]),
        voxelise(points, showers.readout), merge_in_subcells(points, (5.0, 5.0), 2, Streams(0, "test")),
    ]  # fmt: skip
    assert all(made.provenance == origin for made in travelled)


def test_a_model_of_ones_own_is_found_by_its_directory(tmp_path: Path) -> None:
    """Mutation: look among the package's models alone."""
    copytree(load_model(NAME).directory or "", tmp_path / "own")
    (made,) = [
        sample_showers(
            load_model(tmp_path / "own"), Conditions.first(np.full(3, 5e3), 22), generation_streams(0)
        ).showers
    ]
    assert made.provenance["model"]["directory"] == str(tmp_path / "own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("caloforge.evaluation.sources.pretrained_names", list)
        assert rows_trained_on(made)[0] is not None
