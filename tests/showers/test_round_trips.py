"""What is written is what is read, bit by bit, in every format."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caloforge.detectors import Detector, detector_from_toml, load_detector
from caloforge.errors import MissingDependencyError, OutputError, ShowerFileError
from caloforge.showers import ShowerPoints, Showers, create_showers, open_showers
from caloforge.showers.formats.gev import energies_from_gev, energies_to_gev, points_from_gev, points_to_gev

SMALL = """
name = "small"
[[readout.layers]]
repeat = 2
x = { bins = 3, range = [-3.0, 3.0] }
y = { bins = 2, range = [-1.0, 1.0] }
"""
MIXED = """
name = "mixed"
[[readout.layers]]
x = { bins = 3, range = [-3.0, 3.0] }
y = { bins = 2, range = [-1.0, 1.0] }
[[readout.layers]]
r = { bins = 2, range = [0.0, 4.0] }
alpha = 4
"""
POINTS = """
name = "cloud"
[[readout.layers]]
repeat = 5
"""
COUNTER = itertools.count()


def detector(text: str) -> Detector:
    return detector_from_toml(text, where="test")


def make_showers(
    seed: int, n: int, det: Detector, *, direction: bool = False, overflow: bool = False, scale: float = 1.0
) -> Showers:
    rng = np.random.default_rng(seed)
    deposits = rng.exponential(scale, (n, det.readout.n_voxels)).astype(np.float32)
    deposits[rng.random(deposits.shape) < 0.6] = 0
    energies = deposits.sum(axis=1, dtype=np.float64) * rng.uniform(1, 2, n) + 1e-3 * scale
    unit = rng.normal(size=(n, 3))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    beside = rng.random((n, det.readout.n_layers)).astype(np.float32) * np.float32(scale)
    return Showers(deposits, energies, 22, det.readout, unit if direction else None, beside if overflow else None)


def make_points(
    seed: int, counts: list[int], det: Detector | None, *, time: bool = False, direction: bool = False
) -> ShowerPoints:
    rng = np.random.default_rng(seed)
    total = sum(counts)
    points = rng.normal(scale=30, size=(total, 5 if time else 4)).astype(np.float32)
    points[:, 2] = rng.integers(0, 5, total)
    points[:, 3] = np.exp(rng.normal(0, 3, total)) + 1e-6
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    sums = np.add.reduceat(np.append(points[:, 3], 0), offsets[:-1]) if counts else np.empty(0)
    energies = np.where(np.diff(offsets) > 0, sums, 0) * 1.3 + 1
    unit = rng.normal(size=(len(counts), 3))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    readout = None if det is None else det.readout
    return ShowerPoints(offsets, points, energies, 11, readout, unit if direction else None)


def assert_same(a: Any, b: Any) -> None:
    """Equal to the last bit."""
    assert type(a) is type(b)
    names = ["deposits", "overflow"] if isinstance(a, Showers) else ["points", "offsets"]
    for name in [*names, "incident_energy", "direction"]:
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.dtype == y.dtype, name
            np.testing.assert_array_equal(x, y, err_msg=name)
    assert a.particle == b.particle
    assert a.readout == b.readout


def write(path: Path, blocks: list[Any], fmt: str, det: Detector | None, **options: Any) -> None:
    kind = "voxels" if isinstance(blocks[0], Showers) else "points"
    particle = blocks[0].particle
    with create_showers(path, fmt, detector=det, particle=particle, kind=kind, **options) as writer:
        for block in blocks:
            writer.write(block)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    direction=st.booleans(),
    overflow=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 1e5]),
)
@pytest.mark.parametrize(
    ("fmt", "text"),
    [("native", MIXED), ("calochallenge", MIXED), ("calogan", MIXED), ("ild", SMALL)],
)
def test_voxels(
    tmp_path: Path, fmt: str, text: str, seed: int, sizes: list[int], direction: bool, overflow: bool, scale: float
) -> None:
    det = detector(text)
    blocks = [
        make_showers(seed + k, n, det, direction=direction, overflow=overflow, scale=scale) for k, n in enumerate(sizes)
    ]
    path = tmp_path / f"{next(COUNTER)}.h5"
    write(path, blocks, fmt, det, provenance={"why": "test", "n": 1})
    whole = Showers.concatenate(blocks)
    with open_showers(path) as reader:
        assert (reader.format, reader.kind, len(reader), reader.complete) == (fmt, "voxels", len(whole), True)
        assert reader.detector == det
        assert reader.provenance == {"why": "test", "n": 1}
        assert_same(reader.read(), whole)
        assert_same(reader.read(len(whole) // 2, len(whole)), whole[len(whole) // 2 :])
        assert_same(Showers.concatenate(list(reader.blocks(2))), whole)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    counts=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=3),
    direction=st.booleans(),
    time=st.booleans(),
    known=st.booleans(),
)
@pytest.mark.parametrize("fmt", ["native", "showerdata"])
def test_points(
    tmp_path: Path, fmt: str, seed: int, counts: list[list[int]], direction: bool, time: bool, known: bool
) -> None:
    det = detector(POINTS) if known else None
    blocks = [make_points(seed + k, c, det, time=time, direction=direction) for k, c in enumerate(counts)]
    path = tmp_path / f"{next(COUNTER)}.h5"
    write(path, blocks, fmt, det)
    whole = ShowerPoints.concatenate(blocks)
    if not any(map(any, counts)):
        with pytest.raises(ShowerFileError, match="showers are empty"):
            open_showers(path)
        return
    with open_showers(path) as reader:
        assert (reader.format, reader.kind, len(reader)) == (fmt, "points", len(whole))
        assert_same(reader.read(), whole)
        assert_same(reader.read(1, len(whole)), whole[1:])
        assert_same(ShowerPoints.concatenate(list(reader.blocks(2))), whole)


@given(st.lists(st.floats(1e-30, 1e30, allow_nan=False), min_size=1))
def test_incident_energies_survive_gev(values: list[float]) -> None:
    energies = np.asarray(values)
    np.testing.assert_array_equal(energies_from_gev(*energies_to_gev(energies)), energies)


@given(st.lists(st.floats(float(np.float32(1e-34)), float(np.float32(1e38)), width=32), min_size=1))
def test_point_energies_survive_gev(values: list[float]) -> None:
    energies = np.asarray(values, dtype=np.float32)
    in_gev, steps = points_to_gev(energies)
    assert np.abs(steps).max() <= 2
    np.testing.assert_allclose(in_gev, energies / 1000, rtol=1e-6)
    np.testing.assert_array_equal(points_from_gev(in_gev, steps), energies)


def test_gev_steps_are_needed() -> None:
    """Without them the way through GeV does change float32 energies, so the correction is no decoration."""
    energies = np.random.default_rng(0).random(1000).astype(np.float32)
    assert (points_from_gev(points_to_gev(energies)[0], None) != energies).any()


def test_showerdata_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library pads every batch to the longest shower, so batches must stay small; here 7 showers."""
    monkeypatch.setattr("caloforge.showers.formats.showerdata._BATCH", 7 * 4 * 5 * 60)
    cloud = make_points(0, [60, *np.random.default_rng(3).integers(0, 60, 99).tolist()], None, time=True)
    path = tmp_path / "many.h5"
    write(path, [cloud[:70], cloud[70:]], "showerdata", None)
    with open_showers(path) as reader:
        assert_same(reader.read(), cloud)
        assert_same(reader.read(33, 91), cloud[33:91])


def test_other_programs_read_our_files(tmp_path: Path) -> None:
    """Plain h5py sees the published layouts."""
    det = load_detector("calogan")
    showers = make_showers(0, 12, det, overflow=True, scale=100.0)
    write(tmp_path / "n.h5", [showers], "native", det)
    write(tmp_path / "c.h5", [showers], "calogan", det)
    with h5py.File(tmp_path / "n.h5") as file:
        assert file["showers"].shape == (12, 504)
        assert file["incident_energies"].shape == (12, 1)
        assert file.attrs["caloforge"] == 1
        assert file.attrs["particle"] == 22
        np.testing.assert_array_equal(file["showers"][:], showers.deposits)
        np.testing.assert_array_equal(file["incident_energies"][:, 0], showers.incident_energy)
    with h5py.File(tmp_path / "c.h5") as file:
        assert [file[f"layer_{k}"].shape for k in range(3)] == [(12, 3, 96), (12, 12, 12), (12, 12, 6)]
        np.testing.assert_allclose(file["energy"][:, 0] * 1000, showers.incident_energy, rtol=1e-15)
        np.testing.assert_array_equal(file["layer_1"][:].reshape(12, -1), showers.deposits[:, 288:432])
        np.testing.assert_array_equal(file["overflow"][:], showers.overflow)


def test_ild_group(tmp_path: Path) -> None:
    det = load_detector("ild-ecal")
    showers = make_showers(0, 3, det, scale=0.01)
    write(tmp_path / "i.h5", [showers], "ild", det)
    with h5py.File(tmp_path / "i.h5") as file:
        group = file["30x30"]
        assert group["layers"].shape == (3, 30, 30, 30)
        assert group["energy"].shape == (3, 1)
        np.testing.assert_allclose(group["layer_e"][:] * 1000, showers.layer_energies(), rtol=1e-6)
        x, y, layer = 4, 17, 22
        edges = np.linspace(-76.324997, 76.324997, 31)
        voxel = det.readout.voxel_index(edges[[x]] + 1, edges[[y]] + 1, [layer])
        np.testing.assert_array_equal(group["layers"][:, layer, x, y], showers.deposits[:, voxel[0]])


def test_showerdata_library_reads_our_files(tmp_path: Path) -> None:
    showerdata = pytest.importorskip("showerdata")
    cloud = make_points(5, [4, 0, 7], None, time=True, direction=True)
    write(tmp_path / "s.h5", [cloud], "showerdata", None)
    theirs = showerdata.load(tmp_path / "s.h5")
    assert theirs.points.shape == (3, 7, 5)
    np.testing.assert_array_equal(theirs._num_points, [4, 0, 7])
    np.testing.assert_allclose(theirs.points[0, :4, 3] * 1000, cloud.points[:4, 3], rtol=1e-6)
    np.testing.assert_array_equal(theirs.points[0, :4, 4], cloud.points[:4, 4])
    np.testing.assert_allclose(theirs.energies[:, 0] * 1000, cloud.incident_energy, rtol=1e-6)
    np.testing.assert_array_equal(theirs.pdg, [11, 11, 11])


def test_reads_the_showerdata_library_own_files(tmp_path: Path) -> None:
    showerdata = pytest.importorskip("showerdata")
    points = np.zeros((2, 3, 4), dtype=np.float32)
    points[0, :2] = [[1, 2, 0, 0.5], [3, 4, 1, 0.25]]
    points[1, :3] = [[1, 2, 4, 0.125], [3, 4, 1, 0.5], [5, 6, 2, 1]]
    showerdata.Showers(points=points, energies=[10.0, 20.0], pdg=22).save(tmp_path / "s.h5")
    with open_showers(tmp_path / "s.h5") as reader:
        cloud = reader.read()
    assert isinstance(cloud, ShowerPoints)
    np.testing.assert_array_equal(cloud.offsets, [0, 2, 5])
    np.testing.assert_array_equal(cloud.points[:, 3], [500, 250, 125, 500, 1000])
    np.testing.assert_array_equal(cloud.incident_energy, [10_000, 20_000])
    assert cloud.particle == 22


def test_showerdata_refuses_points_without_energy(tmp_path: Path) -> None:
    cloud = make_points(0, [3], None)
    cloud.points[1, 3] = 0
    with (
        pytest.raises(OutputError, match="point 1 of this block has 0 MeV"),
        create_showers(tmp_path / "s.h5", "showerdata", detector=None, particle=11, kind="points") as writer,
    ):
        writer.write(cloud)
    assert list(tmp_path.iterdir()) == []


def test_showerdata_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "showerdata", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'caloforge\[showerdata\]'"):
        create_showers(tmp_path / "s.h5", "showerdata", detector=None, particle=11, kind="points")


@pytest.mark.parametrize(("name", "detector_name"), [("ds1-photons", "ds1-photons"), ("par04-ds2", "par04-ds2")])
def test_foreign_calochallenge_files_are_recognised(tmp_path: Path, name: str, detector_name: str) -> None:
    det = load_detector(name)
    showers = make_showers(1, 4, det)
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        file["showers"] = showers.deposits.astype(np.float64)
        file["incident_energies"] = showers.incident_energy[:, None]
    with open_showers(tmp_path / "f.hdf5") as reader:
        assert reader.format == "calochallenge"
        assert reader.detector is not None
        assert reader.detector.name == detector_name
        assert reader.particle == 0
        np.testing.assert_array_equal(reader.read().deposits, showers.deposits)
    with open_showers(tmp_path / "f.hdf5", particle="e-") as reader:
        assert reader.read().particle == 11


def test_foreign_calogan_files_are_recognised(tmp_path: Path) -> None:
    det = load_detector("calogan")
    showers = make_showers(1, 4, det, scale=50.0)
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        for k, layer in enumerate(showers.layers()):
            file[f"layer_{k}"] = layer.astype(np.float64)
        file["energy"] = showers.incident_energy[:, None] / 1000
        file["overflow"] = np.zeros((4, 3))
        file.attrs["particle"] = "e+"
    with open_showers(tmp_path / "f.hdf5") as reader:
        assert (reader.format, reader.particle) == ("calogan", -11)
        assert reader.detector == det
        block = reader.read()
    np.testing.assert_array_equal(block.deposits, showers.deposits)
    np.testing.assert_allclose(block.incident_energy, showers.incident_energy, rtol=1e-15)


def test_files_without_a_detector_need_one(tmp_path: Path) -> None:
    det = detector(SMALL)
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        file["showers"] = np.ones((2, 12))
        file["incident_energies"] = np.full((2, 1), 50.0)
    with open_showers(tmp_path / "f.hdf5") as reader, pytest.raises(ShowerFileError, match="one must be named"):
        reader.read()
    with open_showers(tmp_path / "f.hdf5", det) as reader:
        assert reader.read().deposits.sum() == 24


@pytest.mark.parametrize(("factor", "incident"), [(1, 1000), (1000, 1), (1, 1)])
def test_wrong_units_are_noticed(tmp_path: Path, factor: float, incident: float) -> None:
    """Deposits of 24 MeV and an incident energy of 25 MeV, one of them or none in the wrong unit."""
    det = load_detector("calogan")
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        file["showers"] = np.full((3, 504), factor * 24 / 504)
        file["incident_energies"] = np.full((3, 1), 25.0 * incident)
    if factor > 1:
        with pytest.raises(ShowerFileError, match=r"960 times the incident energy.*wrong unit"):
            open_showers(tmp_path / "f.hdf5", det)
    elif incident > 1:
        with pytest.warns(UserWarning, match=r"only 0.00096 of the incident energy.*wrong unit"):
            open_showers(tmp_path / "f.hdf5", det).close()
    else:
        open_showers(tmp_path / "f.hdf5", det).close()


def test_columns_must_stay_the_same(tmp_path: Path) -> None:
    det = detector(SMALL)
    with create_showers(tmp_path / "a.h5", detector=det, particle=22, expected=6) as writer:
        writer.write(make_showers(0, 2, det, overflow=True))
        with pytest.raises(OutputError, match="block 1 differs from the others in what it holds: overflow"):
            writer.write(make_showers(0, 2, det))
        with pytest.raises(OutputError, match="another readout"):
            writer.write(make_showers(0, 2, detector(MIXED)))
        with pytest.raises(OutputError, match="particle 22, now it is 11"):
            writer.write(
                Showers(
                    *[getattr(make_showers(0, 2, det), k) for k in ("deposits", "incident_energy")], 11, det.readout
                )
            )


@pytest.mark.parametrize("fmt", ["calogan", "ild", "calochallenge"])
def test_voxel_formats_take_no_points(tmp_path: Path, fmt: str) -> None:
    with pytest.raises(OutputError, match="holds voxels, not points"):
        create_showers(tmp_path / "a.h5", fmt, detector=detector(POINTS), particle=22, kind="points")
    with pytest.raises(OutputError, match="detector with voxels"):
        create_showers(tmp_path / "a.h5", fmt, detector=detector(POINTS), particle=22)


def test_ild_needs_equal_layers(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="all have equally many"):
        create_showers(tmp_path / "a.h5", "ild", detector=detector(MIXED), particle=22)


def test_impossible_values_are_not_written(tmp_path: Path) -> None:
    det = detector(SMALL)
    showers = make_showers(0, 3, det)
    showers.deposits[1, 5] = np.nan
    with (
        pytest.raises(ShowerFileError, match="NaN"),
        create_showers(tmp_path / "a.h5", detector=det, particle=22) as writer,
    ):
        writer.write(showers)


def test_request_and_state_are_readable(tmp_path: Path) -> None:
    det = detector(SMALL)
    with create_showers(tmp_path / "a.h5", detector=det, particle=22, expected=10, request={"seed": 5}) as writer:
        writer.write(make_showers(0, 4, det), position=1)
    with h5py.File(tmp_path / "a.h5") as file:
        assert not file.attrs["complete"]
        assert file.attrs["showers_present"] == 4
        assert file.attrs["showers_expected"] == 10
        assert json.loads(file.attrs["request"])["seed"] == 5
        assert file["showers"].shape == (4, 12)
