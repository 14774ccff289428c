"""Conversions: between formats, from points and hits into voxels, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caloforge.detectors import Detector, Readout, detector_from_toml, load_detector
from caloforge.errors import Interrupted, OutputError, ShowerFileError, UsageError
from caloforge.showers import ShowerPoints, Showers, create_showers, open_showers, voxelise
from caloforge.showers.convert import convert, describe
from caloforge.showers.voxelise import to_points

GRIDS = {
    "cartesian": detector_from_toml(
        'name="c"\n[[readout.layers]]\nrepeat=3\ndepth=[0.0, 10.0]\nx={bins=4,range=[-2.0,2.0]}\ny={bins=3,range=[-1.5,1.5]}',
        where="test",
    ),
    "polar": detector_from_toml(
        'name="p"\n[[readout.layers]]\nr_edges=[0.0,0.5,2.0]\nalpha=5\n[[readout.layers]]\nr_edges=[0.0,1.0]\n'
        '[[readout.layers]]\nx={bins=2,range=[-1.0,1.0]}\ny={bins=2,range=[-1.0,1.0]}',
        where="test",
    ),
}  # fmt: skip
CLOUD = detector_from_toml('name="cloud"\n[[readout.layers]]\nrepeat=3', where="test")


def slow_voxelise(points: ShowerPoints, readout: Readout) -> tuple[Any, Any]:
    """Each point held against every edge of its layer."""
    deposits = np.zeros((len(points), readout.n_voxels))
    overflow = np.zeros((len(points), readout.n_layers))
    for shower in range(len(points)):
        for x, y, layer, energy, *_ in points.points[points.offsets[shower] : points.offsets[shower + 1]].tolist():
            layer = int(layer)
            grid = readout.layers[layer].grid
            assert grid is not None
            outer, inner = grid.edges
            where = (x, y)
            if hasattr(grid, "n_alpha"):
                where = (np.arctan2(np.float32(y), np.float32(x)), np.hypot(np.float32(x), np.float32(y)))
            cell = None
            for i in range(len(outer) - 1):
                for j in range(len(inner) - 1):
                    if outer[i] <= where[0] < outer[i + 1] and inner[j] <= where[1] < inner[j + 1]:
                        cell = i * (len(inner) - 1) + j
            if cell is None:
                overflow[shower, layer] += energy
            else:
                deposits[shower, readout.layer_slices[layer].start + cell] += energy
    return deposits, overflow


def cloud(seed: int, counts: list[int], readout: Readout | None, width: int = 4) -> ShowerPoints:
    rng = np.random.default_rng(seed)
    total = sum(counts)
    points = rng.uniform(-2.5, 2.5, (total, width)).astype(np.float32)
    points[:, 2] = rng.integers(0, 3, total)
    points[:, 3] = rng.exponential(1.0, total) + 1e-3
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ShowerPoints(offsets, points, np.full(len(counts), 2.0 * max([*counts, 1])), 22, readout)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), counts=st.lists(st.integers(0, 30), min_size=1, max_size=6))
@pytest.mark.parametrize("grid", sorted(GRIDS))
def test_voxelise_matches_a_slow_loop(grid: str, seed: int, counts: list[int]) -> None:
    readout = GRIDS[grid].readout
    points = cloud(seed, counts, readout)
    showers = voxelise(points, readout)
    deposits, overflow = slow_voxelise(points, readout)
    np.testing.assert_allclose(showers.deposits, deposits, rtol=1e-6)
    np.testing.assert_allclose(showers.overflow, overflow, rtol=1e-6)
    total = showers.total_energy() + showers.overflow.sum(axis=1)
    np.testing.assert_allclose(total, points.total_energy(), rtol=1e-5)


@pytest.mark.parametrize("name", ["calogan", "par04-ds2", "ild-ecal", "ds1-photons"])
def test_voxels_to_points_and_back(name: str) -> None:
    readout = load_detector(name).readout
    rng = np.random.default_rng(0)
    deposits = rng.exponential(1.0, (3, readout.n_voxels)).astype(np.float32)
    deposits[rng.random(deposits.shape) < 0.9] = 0
    deposits[1] = 0
    showers = Showers(deposits, np.full(3, 1e5), 11, readout)
    points = to_points(showers)
    assert np.diff(points.offsets).tolist() == (deposits > 0).sum(axis=1).tolist()
    np.testing.assert_array_equal(voxelise(points, readout).deposits, deposits)


def made(path: Path, detector: Detector, n: int = 25) -> Showers:
    rng = np.random.default_rng(2)
    deposits = rng.random((n, detector.readout.n_voxels)).astype(np.float32)
    overflow = rng.random((n, detector.readout.n_layers)).astype(np.float32)
    showers = Showers(deposits, deposits.sum(axis=1, dtype=np.float64) * 1.2, 22, detector.readout, None, overflow)
    with create_showers(path, detector=detector, particle=22, provenance={"seed": 1}) as writer:
        writer.write(showers)
    return showers


def test_through_every_voxel_format_and_back(tmp_path: Path) -> None:
    showers = made(tmp_path / "0.h5", GRIDS["cartesian"])
    chain = ["calogan", "ild", "calochallenge", "native"]
    for k, fmt in enumerate(chain):
        done = convert(tmp_path / f"{k}.h5", tmp_path / f"{k + 1}.h5", fmt)
        assert (done.showers, done.target, done.kind, done.left_out, done.source_complete) == (
            25,
            fmt,
            "voxels",
            0,
            True,
        )
        assert done.energy == pytest.approx(showers.deposits.sum(dtype=np.float64))
        assert done.overflow == pytest.approx(showers.overflow.sum(dtype=np.float64))
    with open_showers(tmp_path / "4.h5") as reader:
        again = reader.read()
        assert reader.detector == GRIDS["cartesian"]
        assert reader.provenance["seed"] == 1
        assert reader.provenance["converted"]["format"] == "calochallenge"
    np.testing.assert_array_equal(again.deposits, showers.deposits)
    np.testing.assert_array_equal(again.overflow, showers.overflow)
    np.testing.assert_array_equal(again.incident_energy, showers.incident_energy)


def test_voxels_into_points_and_back_through_files(tmp_path: Path) -> None:
    showers = made(tmp_path / "a.h5", GRIDS["cartesian"])
    done = convert(tmp_path / "a.h5", tmp_path / "b.h5", "showerdata")
    assert done.kind == "points"
    assert done.left_out == pytest.approx(showers.overflow.sum(dtype=np.float64))
    done = convert(tmp_path / "b.h5", tmp_path / "c.h5", "calogan")  # the detector is known from the file
    assert done.left_out == 0
    with open_showers(tmp_path / "c.h5") as reader:
        np.testing.assert_array_equal(reader.read().deposits, showers.deposits)


@pytest.mark.parametrize("grid", sorted(GRIDS))
def test_points_into_any_readout(tmp_path: Path, grid: str) -> None:
    counts = np.random.default_rng(0).integers(0, 40, 60).tolist()
    points = cloud(1, counts, CLOUD.readout, width=5)
    with create_showers(tmp_path / "p.h5", detector=CLOUD, particle=22, kind="points") as writer:
        writer.write(points)
    with pytest.raises(UsageError, match="holds points, so a detector with voxels must be named"):
        convert(tmp_path / "p.h5", tmp_path / "v.h5", "calochallenge")
    done = convert(tmp_path / "p.h5", tmp_path / "v.h5", detector=GRIDS[grid])
    assert done.kind == "voxels"
    assert done.overflow > 0
    with open_showers(tmp_path / "v.h5") as reader:
        assert reader.detector == GRIDS[grid]
        found = reader.read()
    deposits, overflow = slow_voxelise(points, GRIDS[grid].readout)
    np.testing.assert_allclose(found.deposits, deposits, rtol=1e-6)
    np.testing.assert_allclose(found.overflow, overflow, rtol=1e-6)
    done = convert(tmp_path / "p.h5", tmp_path / "q.h5", detector=GRIDS[grid], kind="points")
    with open_showers(tmp_path / "q.h5") as reader:
        np.testing.assert_array_equal(reader.read().points, points.points)


def write_hits(path: Path, place: str, order: Any = None) -> dict[str, Any]:
    """Hits of 40 events; the layers are 10 mm deep, hits with z also lie in front of and behind them."""
    rng = np.random.default_rng(5)
    event = np.sort(rng.integers(0, 40, 3000))
    event[event == 7] = 8  # an event without hits
    hits = {
        "event": event,
        "x": rng.uniform(-2.5, 2.5, 3000),
        "y": rng.uniform(-2, 2, 3000),
        "z": rng.uniform(-5, 35, 3000),
        "energy": rng.exponential(1.0, 3000),
        "time": rng.random(3000),
    }
    hits["layer"] = np.floor(hits["z"] / 10).astype(int).clip(0, 2)
    with h5py.File(path, "w") as file:
        for name in ("event", "x", "y", place, "energy", "time"):
            file[name] = hits[name]
        file["incident_energies"] = np.full(40, 200.0)
        file.attrs["particle"] = "pi+"
    return hits


@pytest.mark.parametrize("place", ["layer", "z"])
def test_hits_of_a_users_own_simulation(tmp_path: Path, place: str) -> None:
    hits = write_hits(tmp_path / "hits.h5", place)
    toml = tmp_path / "my.toml"
    toml.write_text(GRIDS["cartesian"].to_toml())
    done = convert(tmp_path / "hits.h5", tmp_path / "out.h5", detector=toml)
    inside = np.ones(3000, dtype=bool) if place == "layer" else (hits["z"] >= 0) & (hits["z"] < 30)
    assert done.left_out == pytest.approx(hits["energy"][~inside].sum(), rel=1e-5, abs=0)
    expected = np.zeros((40, 36))
    for k in np.flatnonzero(inside):
        i, j = int(np.floor(hits["x"][k] + 2)), int(np.floor(hits["y"][k] + 1.5))
        if 0 <= i < 4 and 0 <= j < 3:
            expected[hits["event"][k], hits["layer"][k] * 12 + i * 3 + j] += hits["energy"][k]
    with open_showers(tmp_path / "out.h5") as reader:
        assert (reader.particle, len(reader)) == (211, 40)
        found = reader.read()
    np.testing.assert_allclose(found.deposits, expected, rtol=1e-5)
    assert found.deposits[7].sum() == 0


@pytest.mark.parametrize("fmt", ["native", "showerdata"])
def test_a_stated_particle_is_not_changed(tmp_path: Path, fmt: str) -> None:
    points = cloud(3, [4, 0, 7], CLOUD.readout)
    with create_showers(tmp_path / "a.h5", fmt, detector=CLOUD, particle=22, kind="points") as writer:
        writer.write(points)
    message = "a.h5: says that its particle is gamma, so its showers cannot become those of pi[+]$"
    with pytest.raises(UsageError, match=message):
        convert(tmp_path / "a.h5", tmp_path / "b.h5", particle="pi+", detector=CLOUD)
    assert not (tmp_path / "b.h5").exists()
    convert(tmp_path / "a.h5", tmp_path / "b.h5", particle="photon", detector=CLOUD)
    with open_showers(tmp_path / "b.h5") as reader:
        assert reader.particle == 22


@pytest.mark.parametrize("stated", [None, 0, "pions of 2019"])
def test_a_particle_can_be_named_for_a_file_that_states_none_that_is_known(tmp_path: Path, stated: object) -> None:
    write_hits(tmp_path / "hits.h5", "layer")
    with h5py.File(tmp_path / "hits.h5", "a") as file:
        del file.attrs["particle"]
        if stated is not None:
            file.attrs["particle"] = stated
    convert(tmp_path / "hits.h5", tmp_path / "out.h5", detector=GRIDS["cartesian"], particle="pi-")
    with open_showers(tmp_path / "out.h5") as reader:
        assert reader.particle == -211


def test_hits_as_points(tmp_path: Path) -> None:
    hits = write_hits(tmp_path / "hits.h5", "layer")
    convert(tmp_path / "hits.h5", tmp_path / "out.h5")
    with open_showers(tmp_path / "out.h5") as reader:
        assert reader.kind == "points"
        found = reader.read()
    for column, name in enumerate(("x", "y", "layer", "energy", "time")):
        np.testing.assert_array_equal(found.points[:, column], hits[name].astype(np.float32))
    np.testing.assert_array_equal(found.shower_index, hits["event"])


def test_hits_that_miss_the_detector(tmp_path: Path) -> None:
    write_hits(tmp_path / "hits.h5", "z")
    with pytest.raises(ShowerFileError, match="one must be named"):
        open_showers(tmp_path / "hits.h5")
    with pytest.raises(ShowerFileError, match="does not know the depth of its layers"):
        open_showers(tmp_path / "hits.h5", CLOUD)
    with h5py.File(tmp_path / "hits.h5", "r+") as file:
        file["z"][:] += 1804.0
    with pytest.raises(ShowerFileError, match=r"z goes from 1799.02 to 1838.98 mm, the layers from 0 to 30 mm"):
        open_showers(tmp_path / "hits.h5", GRIDS["cartesian"])


def test_interrupted_conversion_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caloforge.showers.convert._BLOCK_BYTES", 4 * 36 * 4)
    showers = made(tmp_path / "a.h5", GRIDS["cartesian"])
    seen: list[tuple[int, int]] = []

    def stop(done: int, of: int) -> None:
        seen.append((done, of))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"b\.h5 holds 12 of 25 showers, resume=True goes on from there"):
        convert(tmp_path / "a.h5", tmp_path / "b.h5", "calogan", progress=stop)
    assert seen == [(4, 25), (8, 25), (12, 25)]
    found = describe(tmp_path / "b.h5")
    assert (found["showers"], found["expected"], found["complete"], found["format"]) == (12, 25, False, "calogan")
    with pytest.raises(OutputError, match="exists already"):
        convert(tmp_path / "a.h5", tmp_path / "b.h5", "calogan")
    convert(tmp_path / "a.h5", tmp_path / "b.h5", "calogan", resume=True, progress=lambda *s: seen.append(s))
    assert seen[3] == (16, 25)
    with open_showers(tmp_path / "b.h5") as reader:
        assert reader.complete
        np.testing.assert_array_equal(reader.read().deposits, showers.deposits)


def test_a_file_is_not_converted_into_itself(tmp_path: Path) -> None:
    made(tmp_path / "a.h5", GRIDS["cartesian"])
    with pytest.raises(UsageError, match="cannot be converted into itself"):
        convert(tmp_path / "a.h5", tmp_path / "a.h5", "calogan", overwrite=True)
    with pytest.raises(UsageError, match="the format 'root' is not known, expected one of native, calochallenge"):
        convert(tmp_path / "a.h5", tmp_path / "b.h5", "root")


def test_description(tmp_path: Path) -> None:
    showers = made(tmp_path / "a.h5", GRIDS["cartesian"])
    found = describe(tmp_path / "a.h5")
    assert found.pop("bytes") == (tmp_path / "a.h5").stat().st_size
    assert found == {
        "path": str(tmp_path / "a.h5"),
        "format": "native",
        "kind": "voxels",
        "showers": 25,
        "expected": None,
        "complete": True,
        "detector": "c",
        "detector_hash": GRIDS["cartesian"].hash,
        "layers": 3,
        "voxels": 36,
        "particle": 22,
        "energy_range": (showers.incident_energy.min(), showers.incident_energy.max()),
        "extras": ["overflow"],
        "provenance": {"seed": 1},
    }
