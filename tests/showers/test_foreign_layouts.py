"""Files of neighbours: CaloClouds' training files, LEMURS grids, voxels with axes; and what is no HDF5 file at all."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caloforge.cli.main import main
from caloforge.detectors import detector_from_toml, load_detector
from caloforge.errors import CaloForgeWarning, ShowerFileError, UsageError
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.convert import MovePoints, SeveralChanges, convert, describe
from caloforge.showers.files import open_showers

RNG = np.random.default_rng(1)


def write(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


# ---- CaloClouds


def clouds(path: Path, *, entry: float = 0.0, front: bool = True, **more: Any) -> tuple[Path, list[np.ndarray]]:
    """Three showers of 5, 0 and 2 points as CaloClouds writes them, and the same as rows x, layer, z, energy in GeV."""
    rows = [
        np.stack(
            [RNG.normal(0, 2, n), RNG.integers(0, 30, n), RNG.normal(entry, 2, n), RNG.uniform(1e-4, 1e-2, n)], axis=1
        ).astype("f4")
        for n in (5, 0, 2)
    ]
    events = np.zeros((3, 4, 6), "f4")
    for shower, points in enumerate(rows):
        where = slice(6 - len(points), 6) if front else slice(0, len(points))
        events[shower, :, where] = points.T
    return write(path, events=events, energy=np.array([[10.0], [20.0], [30.0]], "f4"), **more), rows


@pytest.mark.parametrize("front", [True, False])
def test_caloclouds_files_are_read(tmp_path: Path, front: bool) -> None:
    """Fails for other axes (x and z swapped), without GeV, or if the padding counts as points."""
    path, rows = clouds(tmp_path / "a.h5", front=front)
    with open_showers(path, "ild-ecal", particle="gamma") as reader:
        assert (reader.format, reader.kind, len(reader)) == ("caloclouds", "points", 3)
        showers = reader.read()
        second = reader.read(1, 3)
    assert isinstance(showers, ShowerPoints)
    assert showers.offsets.tolist() == [0, 5, 5, 7]
    assert showers.incident_energy.tolist() == [1e4, 2e4, 3e4]
    assert showers.direction is None
    expected = np.concatenate(rows)
    assert np.array_equal(showers.points[:, :3], expected[:, [2, 0, 1]])
    assert np.allclose(showers.points[:, 3], 1000 * expected[:, 3], rtol=1e-6)
    assert isinstance(second, ShowerPoints)
    assert np.array_equal(second.points, showers.points[5:])
    assert describe(path)["format"] == "caloclouds"


def test_caloclouds_with_directions_and_spread_depths(tmp_path: Path) -> None:
    directions = np.array([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0], [0.0, 0.8, 0.6]], "f4")  # x, depth, z
    path, rows = clouds(tmp_path / "a.h5", p_norm_local=directions)
    with h5py.File(path, "r+") as file:
        events = file["events"][:]
        file["events"][:, 1] = np.where(events[:, 3] > 0, events[:, 1] + 0.7, 0)
    with open_showers(path, "ild-ecal", particle=22) as reader:
        showers = reader.read()
    assert np.array_equal(showers.points[:, 2], np.concatenate(rows)[:, 1])  # type: ignore[union-attr]
    assert showers.direction is not None
    assert np.allclose(showers.direction, directions[:, [2, 0, 1]])


def test_an_entry_that_is_not_the_origin_is_noticed_and_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CaloClouds2's own file has its gun 40 mm beside the origin. Fails without ``_look_at_entry``."""
    path, rows = clouds(tmp_path / "a.h5", entry=40.0)
    with pytest.warns(CaloForgeWarning, match=r"centred at x = \d+ mm, y = -?\d mm.*--entry \d+,-?\d' moves"):
        open_showers(path, "ild-ecal").close()
    options = ["--detector", "ild-ecal", "--particle", "gamma", "--kind", "points"]
    assert main(["convert", str(path), str(tmp_path / "b.h5"), *options, "--entry", "40,0.5"]) == 0
    assert "note:" in capsys.readouterr().err
    with open_showers(tmp_path / "b.h5") as reader:
        moved = reader.read()
        assert reader.provenance["converted"]["entry_mm"] == [40.0, 0.5]
    expected = np.concatenate(rows)[:, [2, 0]] - np.array([40.0, 0.5], "f4")
    assert np.array_equal(moved.points[:, :2], expected.astype("f4"))  # type: ignore[union-attr]
    for text in ("40", "a,b", "1,2,3"):
        assert main(["convert", str(path), str(tmp_path / "c.h5"), *options, "--entry", text]) == 2


def test_several_changes_come_one_after_the_other(tmp_path: Path) -> None:
    path, _ = clouds(tmp_path / "a.h5")
    change = SeveralChanges((MovePoints((1.0, 2.0)), MovePoints((10.0, -2.0))))
    convert(path, tmp_path / "b.h5", detector="ild-ecal", particle=22, kind="points", change=change)
    with open_showers(path, "ild-ecal") as one, open_showers(tmp_path / "b.h5") as two:
        assert np.allclose(two.read().points[:, :2], one.read().points[:, :2] - [11, 0], atol=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"events": np.ones((3, 4, 2), "f4") * np.array([1, 1, 1, 1e6], "f4")[:, None]},
            "times the incident energy",
        ),  # in keV or eV
        ({"events": np.full((3, 4, 2), np.nan, "f4")}, "NaN"),
        ({"events": np.full((3, 4, 2), 77.0, "f4")}, "layer number 77"),
        ({"energy": np.ones((2, 1))}, "'events' has shape"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*centred at")
def test_what_cannot_be_right_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path, _ = clouds(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        for name, value in changes.items():
            del file[name]
            file[name] = value
    with pytest.raises(ShowerFileError, match=message):
        open_showers(path, "ild-ecal", particle=22)


# ---- LEMURS, and voxels with axes

SMALL = """name = "small"
[[readout.layers]]
repeat = 5
r = { bins = 3, range = [0.0, 30.0] }
alpha = 4
"""


def test_lemurs_grids_are_read(tmp_path: Path) -> None:
    """Fails if the axes stay in the file's order, or if theta is taken for the angle to our z."""
    small = detector_from_toml(SMALL, where="small")
    grid = RNG.uniform(1, 2, (6, 3, 4, 5)).astype("f4")  # r, phi, z
    theta = np.linspace(0.9, 2.2, 6).astype("f4")
    path = write(
        tmp_path / "a.h5", showers=grid, incident_energy=np.full(6, 5e3, "f4"), incident_theta=theta,
        incident_phi=np.zeros(6, "f4"),
    )  # fmt: skip
    with open_showers(path, small, particle="gamma") as reader:
        assert (reader.format, reader.kind) == ("lemurs", "voxels")
        showers = reader.read()
    assert isinstance(showers, Showers)
    for z, cells in enumerate(showers.layers()):  # (alpha, r)
        assert np.array_equal(cells, grid[:, :, :, z].transpose(0, 2, 1))
    assert showers.direction is not None
    assert np.allclose(showers.direction[:, 2], np.sin(theta))  # straight in where theta is a right angle
    assert np.allclose(showers.direction[:, 0], np.cos(theta))
    assert showers.incident_energy.tolist() == [5e3] * 6


def test_lemurs_grids_need_a_detector_that_fits(tmp_path: Path) -> None:
    """All its detectors have 9 x 16 x 45 cells, as par04-ds2, so the number of cells says nothing."""
    path = write(tmp_path / "a.h5", showers=np.ones((2, 9, 16, 45), "f4"), incident_energy=np.full(2, 5e4))
    with open_showers(path) as reader:
        assert reader.detector is None
        with pytest.raises(ShowerFileError, match="does not say which detector it belongs to"):
            reader.read()
    with open_showers(path, "par04-ds2", particle=22) as reader:
        assert reader.read().direction is None
    with pytest.raises(ShowerFileError, match=r"has 45 layers of 16 x 9 cells .*'par04-ds3' has not"):
        open_showers(path, "par04-ds3")


@pytest.mark.parametrize("shape", [(45, 16, 9), (1, 45, 16, 9), (45, 16, 9, 1), (6480,), (6480, 1)])
def test_voxels_with_axes_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Fails if only (N, voxels) is expected."""
    values = RNG.uniform(0, 1, (3, 6480)).astype("f4")
    path = write(tmp_path / "a.h5", showers=values.reshape(3, *shape), incident_energies=np.full((3, 1), 5e4))
    with open_showers(path, particle="gamma") as reader:
        assert reader.detector is not None
        assert reader.detector.name == "par04-ds2"
        assert np.array_equal(reader.read().deposits, values)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((9, 16, 45), r"has 9 layers of 16 x 45 cells, but .* has 6480 \(45 layers of 16 x 9\)"),
        ((45, 144), r"'showers' has shape \(3, 45, 144\), expected \(N, voxels\) or \(N, layers, a, b\)"),
        ((6481,), r"has 6481 voxels, but the detector 'par04-ds2' has 6480"),
    ],
)
def test_axes_in_another_order_are_no_voxels(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    """Equal numbers of cells are not enough: fails with ``reshape`` alone."""
    path = write(tmp_path / "a.h5", showers=np.ones((3, *shape), "f4"), incident_energies=np.full((3, 1), 5e4))
    with pytest.raises(ShowerFileError, match=message):
        open_showers(path, "par04-ds2")


# ---- no HDF5 files


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("a.h5")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a", "b")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "is a pointer of Git LFS .*git lfs pull",
        ),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><body>Please log in</body></html>", "is a web page, perhaps .* login"),
        (b"<html>404</html>", "is a web page"),
        (gzip.compress(b"\x89HDF", mtime=0), "is compressed with gzip .gunzip"),
        (archive(), "is a tar archive"),
        (zipped(), "is a ZIP archive"),
        (pickle.dumps({"a": 1}), "is a pickle"),
        (b"root\x00\x00\xf7", "is a ROOT file"),
        (b"\x93NUMPY\x01\x00", "is a NumPy array"),
        (b'{"error": "not found"}', "is a text file"),
        ("energy, layer\n1, 2\n# é\n".encode(), "is a text file"),
        (bytes(600), "is something else"),
    ],
)
def test_what_is_no_hdf5_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """Fails with "is not an HDF5 file", which helps nobody to see that a download went wrong."""
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ShowerFileError, match=rf"a\.h5: {message}.*, expected an HDF5 file$"):
        open_showers(tmp_path / "a.h5")


def test_an_unknown_layout_names_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", events=np.ones((2, 3)), energy=np.ones(2), other=1)
    with pytest.raises(ShowerFileError, match=r"it holds energy, events, other \(docs/files\.md lists the layouts\)"):
        open_showers(path)


def test_foreign_layouts_become_our_own(tmp_path: Path) -> None:
    path, _ = clouds(tmp_path / "a.h5")
    done = convert(path, tmp_path / "b.h5", detector=load_detector("ild-ecal"), particle="gamma")
    assert (done.showers, done.source, done.kind) == (3, "caloclouds", "voxels")
    with pytest.raises(UsageError, match="'caloclouds' is not known"):
        convert(path, tmp_path / "c.h5", "caloclouds")
