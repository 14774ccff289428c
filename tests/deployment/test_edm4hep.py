"""``caloforge convert --to edm4hep``: the layout that podio reads, pinned, and every number of it read back with uproot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

from caloforge.cli.main import main
from caloforge.deployment.edm4hep import CELL_ENCODING, collection_id
from caloforge.detectors import Detector, detector_from_toml, load_detector
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.files import create_showers

TOY = """
name = "toy"

[gun]
particles = ["e-"]
energy = "1:100"

[[readout.layers]]
depth = [0.0, 10.0]
x = { bins = 3, range = [-3.0, 3.0] }
y = { bins = 3, range = [-3.0, 3.0] }

[[readout.layers]]
depth = [10.0, 20.0]
x = { bins = 2, range = [-4.0, 4.0] }
y = { bins = 2, range = [-4.0, 4.0] }
"""
BRANCHES = {
    "EventHeader": "vector<edm4hep::EventHeaderData>",
    "_EventHeader_weights": "vector<double>",
    "MCParticles": "vector<edm4hep::MCParticleData>",
    "_MCParticles_parents": "vector<podio::ObjectID>",
    "_MCParticles_daughters": "vector<podio::ObjectID>",
    "Hits": "vector<edm4hep::SimCalorimeterHitData>",
    "_Hits_contributions": "vector<podio::ObjectID>",
    "HitsContributions": "vector<edm4hep::CaloHitContributionData>",
    "_HitsContributions_particle": "vector<podio::ObjectID>",
}
GENERIC = [f"GP{kind}{what}" for kind in ("Int", "Float", "Double", "String") for what in ("Keys", "Values")]


def written(path: Path, block: Showers | ShowerPoints, detector: Detector, provenance: dict[str, Any]) -> Path:
    kind: Any = "voxels" if isinstance(block, Showers) else "points"
    with create_showers(path, detector=detector, particle=block.particle, kind=kind, provenance=provenance) as writer:
        writer.write(block)
    return path


def column(file: Any, branch: str) -> Any:
    return file[f"events/{branch.partition('.')[0]}/{branch}"].array(library="np")


def test_the_layout_is_that_of_podio_and_the_numbers_are_those_of_the_showers(tmp_path: Path) -> None:
    """Mutation: any member of a structure moved, renamed or of another type, GeV for MeV, or a relation one off."""
    detector = detector_from_toml(TOY, where="toy")
    deposits = np.zeros((3, 13), dtype=np.float32)
    deposits[0, [4, 11]] = [2.5, 0.5]
    deposits[2, 0] = 7
    showers = Showers(deposits, np.array([1e3, 2e3, 5e4]), 11, detector.readout)
    source = written(tmp_path / "s.h5", showers, detector, {"model": "toy"})
    out = tmp_path / "s.edm4hep.root"
    assert main(["convert", str(source), str(out), "--to", "edm4hep", "--collection", "Hits"]) == 0

    with uproot.open(out) as file:
        assert sorted(key.partition(";")[0] for key in file.keys(recursive=False)) == [
            "events", "metadata", "podio_metadata",
        ]  # fmt: skip
        tree = file["events"]
        assert {
            branch.name: branch.typename.replace("std::", "") for branch in tree.branches if branch.name in BRANCHES
        } == BRANCHES
        assert sorted(b.name for b in tree.branches if b.name not in BRANCHES) == sorted(GENERIC)
        # As in a file that Key4hep wrote.
        sums = {
            name: file.file.streamer_named(name).member("fCheckSum")
            for name in ("edm4hep::SimCalorimeterHitData", "podio::ObjectID")
        }
        assert sums == {"edm4hep::SimCalorimeterHitData": 0x2369157C, "podio::ObjectID": 0xC1B0BA0F}

        assert [len(row) for row in column(file, "Hits.energy")] == [2, 0, 1]
        np.testing.assert_allclose(np.concatenate(column(file, "Hits.energy")), [2.5e-3, 0.5e-3, 7e-3], rtol=1e-6)
        # Layer, and the voxel's number in it, 16 bits further.
        assert np.concatenate(column(file, "Hits.cellID")).tolist() == [4 << 16, 1 | 2 << 16, 0]
        centres = detector.readout.centres()
        for axis, name in enumerate("xyz"):
            np.testing.assert_allclose(
                np.concatenate(column(file, f"Hits.position.{name}")), centres[[4, 11, 0], axis], rtol=1e-6
            )
        assert [row.tolist() for row in column(file, "Hits.contributions_begin")] == [[0, 1], [], [0]]
        assert [row.tolist() for row in column(file, "Hits.contributions_end")] == [[1, 2], [], [1]]
        assert [r.tolist() for r in column(file, "_Hits_contributions.index")] == [[0, 1], [], [0]]
        assert set(np.concatenate(column(file, "_Hits_contributions.collectionID"))) == {
            collection_id("HitsContributions")
        }
        assert set(np.concatenate(column(file, "_HitsContributions_particle.collectionID"))) == {
            collection_id("MCParticles")
        }

        assert column(file, "EventHeader.eventNumber").tolist() == [[0], [1], [2]]
        assert column(file, "MCParticles.PDG").tolist() == [[11]] * 3
        assert column(file, "MCParticles.simulatorStatus").tolist() == [[1 << 22]] * 3
        assert column(file, "MCParticles.charge").tolist() == [[-1.0]] * 3
        momentum = np.concatenate(column(file, "MCParticles.momentum.z"))
        mass = 0.51099895e-3
        np.testing.assert_allclose(np.hypot(momentum, mass) - mass, [1, 2, 50], rtol=1e-6)  # kinetic, GeV

        table = file["podio_metadata"]
        names = table["events___CollectionTypeInfo/events___CollectionTypeInfo.name"].array(library="np")[0].tolist()
        ids = (
            table["events___CollectionTypeInfo/events___CollectionTypeInfo.collectionID"]
            .array(library="np")[0]
            .tolist()
        )
        assert dict(zip(names, ids, strict=True)) == {
            name: collection_id(name) for name in ("EventHeader", "MCParticles", "Hits", "HitsContributions")
        }
        schema = table["events___CollectionTypeInfo/events___CollectionTypeInfo.schemaVersion"].array(library="np")[0]
        assert set(schema) == {6}
        assert list(file["metadata/GPStringKeys"].array(library="np")[0]) == ["Hits__CellIDEncoding"]
        assert CELL_ENCODING in str(file["metadata/GPStringValues"].array()[0].tolist())


def test_numbers_of_collections_are_those_of_podio() -> None:
    """MurmurHash3: the first from a file of Key4hep's; lengths that leave 1, 2 and 3 letters over."""
    assert collection_id("MCParticles") == 0xA1CBA250
    assert collection_id("") == 0
    assert len({collection_id("abcde"[:n]) for n in range(6)}) == 6


def test_points_have_their_times_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names as they are typed in a folder; mutation: hand them to a process that works in another one."""
    monkeypatch.chdir(tmp_path)
    detector = load_detector("ild-ecal/points")
    rows = [[1, 2, 3, 0.5, 7], [4, 5, 3, 0.25, 8], [6, 7, 4, 0.0, 9], [8, 9, 29, 1.0, 10]]
    points = ShowerPoints(
        np.array([0, 3, 4]), np.array(rows, dtype=np.float32), np.array([1e4, 2e4]), 22, detector.readout,
        np.array([[0, 0, 1], [0.6, 0, 0.8]], dtype=np.float32),
    )  # fmt: skip
    written(tmp_path / "p.h5", points, detector, {})
    assert main(["convert", "p.h5", "p.root", "--to", "edm4hep"]) == 0
    with uproot.open(tmp_path / "p.root") as file:
        assert [row.tolist() for row in column(file, "CalorimeterHits.cellID")] == [[3, 3 | 1 << 16], [29]]
        assert [row.tolist() for row in column(file, "CalorimeterHitsContributions.time")] == [[7, 8], [10]]
        depth = detector.readout.depths.mean(axis=1)
        np.testing.assert_allclose(
            np.concatenate(column(file, "CalorimeterHits.position.z")), depth[[3, 3, 29]], rtol=1e-6
        )
        assert column(file, "MCParticles.simulatorStatus").tolist() == [[0], [0]]  # no model made them
        np.testing.assert_allclose(np.concatenate(column(file, "MCParticles.momentum.x")), [0, 12], atol=1e-5)


def test_what_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = load_detector("ds1-photons")
    source = written(
        tmp_path / "d.h5", Showers(np.ones((1, 368), dtype=np.float32), np.array([1e3]), 22, flat.readout), flat, {}
    )
    out = tmp_path / "d.root"
    for extra, words in (
        ([], "depths of its layers"),
        (["--resume"], "--resume"),
        (["--cells", "ideal"], "convert twice"),
    ):
        assert main(["convert", str(source), str(out), "--to", "edm4hep", *extra]) != 0
        assert words in " ".join(capsys.readouterr().err.split())
    out.write_text("mine")
    assert main(["convert", str(source), str(out), "--to", "edm4hep"]) != 0
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["convert", str(source), str(out), "--collection", "Hits"]) != 0
    assert "--collection" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ROOT", None)
    assert main(["convert", str(source), str(tmp_path / "x.root"), "--to", "edm4hep"]) != 0
    assert "caloforge[edm4hep]" in capsys.readouterr().err
