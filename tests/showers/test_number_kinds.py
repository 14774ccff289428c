"""Files of other writers: every plain kind of number, every compression, by name where it is not known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from caloforge.detectors import load_detector
from caloforge.errors import ShowerFileError
from caloforge.showers import Showers, open_showers
from caloforge.showers.convert import convert
from caloforge.showers.files import create_showers

DEPOSITS = np.random.default_rng(0).integers(0, 100, (50, 368))  # whole numbers, which every kind can hold
ENERGIES = np.full((50, 1), 32768)

PLUGINS = {
    "Zstandard": hdf5plugin.Zstd(),
    "Blosc": hdf5plugin.Blosc(cname="zstd"),
    "Blosc2": hdf5plugin.Blosc2(),
    "LZ4": hdf5plugin.LZ4(),
    "bitshuffle": hdf5plugin.Bitshuffle(),
    "bzip2": hdf5plugin.BZip2(),
    "ZFP": hdf5plugin.Zfp(reversible=True),
}
PLAIN: dict[str, dict[str, Any]] = {
    "lzf": {"compression": "lzf"},
    "szip": {"compression": "szip"},
    "gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "scale-offset": {"scaleoffset": 2},
    "contiguous": {},
}


def write(path: Path, deposits: str = "<f4", energies: str = "<f8", **settings: Any) -> Path:
    """A CaloChallenge file as somebody else would write it."""
    with h5py.File(path, "w") as file:
        file.create_dataset("showers", data=DEPOSITS.astype(deposits), **settings)
        file["incident_energies"] = ENERGIES.astype(energies)
    return path


def check(path: Path) -> None:
    with open_showers(path, particle="gamma") as reader:
        showers = reader.read()
    assert isinstance(showers, Showers)
    assert (showers.deposits.dtype, showers.incident_energy.dtype) == (np.float32, np.float64)
    assert np.array_equal(showers.deposits, DEPOSITS)
    assert np.array_equal(showers.incident_energy, ENERGIES[:, 0])


KINDS = ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "<i4", ">i4", "<u2", ">u2", "<i8", ">u8"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_plain_kind_of_number_is_read(tmp_path: Path, kind: str) -> None:
    """Fails where bytes are taken as they are, or a kind is refused."""
    check(write(tmp_path / "a.h5", deposits=kind, energies=kind))
    convert(tmp_path / "a.h5", tmp_path / "b.h5", particle="gamma")
    check(tmp_path / "b.h5")


@pytest.mark.parametrize("kind", ["<c8", "S8", "?"])
def test_what_is_no_number_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ShowerFileError, match="'showers' holds no numbers"):
        open_showers(write(tmp_path / "a.h5", deposits=kind))


@pytest.mark.parametrize("name", PLAIN)
def test_what_plain_hdf5_has_is_read(tmp_path: Path, name: str) -> None:
    check(write(tmp_path / "a.h5", **PLAIN[name]))


@pytest.mark.parametrize("name", PLUGINS)
def test_plug_ins_are_used_where_they_are_installed(tmp_path: Path, name: str) -> None:
    """In a process of its own, in which nobody has imported the package: fails without the import in ``filters``."""
    write(tmp_path / "a.h5", chunks=(10, 368), **PLUGINS[name])
    script = (
        "import sys; from caloforge.showers import open_showers as o; "
        "r = o(sys.argv[1], particle=22); print(r.read().deposits.sum(dtype='i8'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.h5"], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{DEPOSITS.sum()}\n", done.stderr


NAMED = """
import sys
sys.modules["hdf5plugin"] = None  # as if it were not installed
from caloforge.cli.main import main
for path in sys.argv[1:]:
    print(main(["info", path]), file=sys.stderr)
"""


def test_missing_plug_ins_are_named(tmp_path: Path) -> None:
    """Fails (with "is damaged") if reading is simply tried."""
    paths = [write(tmp_path / f"{name}.h5", chunks=(10, 368), **settings) for name, settings in PLUGINS.items()]
    done = subprocess.run([sys.executable, "-c", NAMED, *paths], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        line
        for path, name in zip(paths, PLUGINS, strict=True)
        for line in (
            f"caloforge: {path}: 'showers' is compressed with {name}, which plain HDF5 does not have: "
            "pip install 'caloforge[filters]'",
            "1",
        )
    ]


@pytest.mark.parametrize("change", [lambda a: a.astype(">f8"), lambda a: a.astype("<f8")])
def test_point_clouds_too(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    detector = load_detector("ild-ecal")
    points = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("points", data=change(points), **hdf5plugin.Zstd(), chunks=(1, 4))
        file["num_points"], file["incident_energies"] = np.array([2], ">i2"), change(np.array([[1000]]))
    with open_showers(tmp_path / "a.h5", detector, particle=22) as reader:
        assert np.array_equal(reader.read().points, points)  # type: ignore[union-attr]


def test_what_is_written_needs_no_plug_in(tmp_path: Path) -> None:
    detector = load_detector("ds1-photons")
    with create_showers(tmp_path / "a.h5", detector=detector, particle=22) as writer:
        writer.write(Showers(DEPOSITS.astype(np.float32), ENERGIES[:, 0].astype(float), 22, detector.readout))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["showers"].compression in (None, "gzip")
