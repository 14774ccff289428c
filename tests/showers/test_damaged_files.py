"""Damaged, foreign and impossible files: one sentence that says what is wrong and where, and never anything else."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caloforge.detectors import detector_from_toml
from caloforge.errors import CaloForgeError, OutputError, ShowerFileError
from caloforge.showers import ShowerPoints, Showers, create_showers, open_showers
from caloforge.showers.convert import describe

DETECTOR = detector_from_toml(
    """
name = "small"
[[readout.layers]]
repeat = 3
x = { bins = 4, range = [-2.0, 2.0] }
y = { bins = 2, range = [-1.0, 1.0] }
""",
    where="test",
)
FORMATS = ["native", "calochallenge", "calogan", "ild", "points", "showerdata", "hits"]


def sample(path: Path, fmt: str, *, complete: bool = True) -> Path:
    """A good file of each format, 50 showers in two blocks."""
    rng = np.random.default_rng(1)
    deposits = rng.random((50, 24)).astype(np.float32)
    energies = deposits.sum(axis=1, dtype=np.float64) * 1.1
    if fmt == "hits":
        with h5py.File(path, "w") as file:
            file["event"] = np.repeat(np.arange(50), 24)
            for name in ("x", "y", "time"):
                file[name] = rng.random(1200)
            file["layer"] = np.tile(np.arange(24) % 3, 50)
            file["energy"] = deposits.ravel()
            file["incident_energies"] = energies
        return path
    showers: Any = Showers(deposits, energies, 22, DETECTOR.readout, None, np.zeros((50, 3), dtype=np.float32))
    if fmt in ("points", "showerdata"):
        points = np.column_stack([rng.random((1200, 2)), np.tile(np.arange(24) % 3, 50), deposits.ravel()])
        showers = ShowerPoints(np.arange(51) * 24, points.astype(np.float32), energies, 22, DETECTOR.readout)
    kind = "points" if isinstance(showers, ShowerPoints) else "voxels"
    with create_showers(
        path,
        "native" if fmt == "points" else fmt,
        detector=DETECTOR, particle=22, kind=kind, provenance={"made": "here"}, expected=50 if complete else 99,
    ) as writer:  # fmt: skip
        writer.write(showers[:30])
        writer.write(showers[30:])
    return path


def read_all(path: Path) -> list[Any]:
    describe(path)
    with open_showers(path, None, particle=22) as reader:
        return list(reader.blocks(17))


def same(a: list[Any], b: list[Any]) -> bool:
    return all(
        np.array_equal(getattr(x, name), getattr(y, name))
        for x, y in zip(a, b, strict=True)
        for name in ("incident_energy", "deposits" if isinstance(x, Showers) else "points")
    )


@pytest.mark.parametrize("fmt", FORMATS)
def test_truncated_anywhere(tmp_path: Path, fmt: str) -> None:
    data = sample(tmp_path / "good.h5", fmt).read_bytes()
    bad = tmp_path / "bad.h5"
    for length in sorted(
        {0, 1, 7, 8, 9, 50, 100, len(data) - 1, *np.linspace(0, len(data) - 1, 60).astype(int).tolist()}
    ):
        bad.write_bytes(data[:length])
        with pytest.raises(ShowerFileError) as caught:
            read_all(bad)
        assert str(caught.value).startswith(f"{bad}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fmt", FORMATS)
def test_flipped_bytes(tmp_path: Path, fmt: str) -> None:
    """Our own files are covered by checksums: what can be read is what was written. Others must at least fail well."""
    good = sample(tmp_path / "good.h5", fmt)
    data, original = good.read_bytes(), read_all(good)
    bad, chance, sentences = tmp_path / "bad.h5", random.Random(FORMATS.index(fmt)), list[str]()
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 1, 8])):
            damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        bad.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # damaged numbers may look like numbers in the wrong unit
                found = read_all(bad)
        except CaloForgeError as error:
            sentences.append(str(error))
        else:
            assert fmt in ("showerdata", "hits") or same(found, original)
    assert len(sentences) > 10
    assert not any("\n" in sentence for sentence in sentences)


def put(name: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if values is not None:
            file[name] = values

    return change


def edit(name: str, where: Any, value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][where] = value

    return change


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.attrs[name] = value

    return change


@pytest.mark.parametrize(
    ("fmt", "change", "sentence"),
    [
        ("native", put("incident_energies", None), "has no dataset 'incident_energies', which a native file needs"),
        ("native", put("showers", None), "has no dataset 'showers', which a native file needs"),
        ("native", put("showers", np.ones((50, 23))), "has 23 voxels, but the detector 'small' has 24"),
        ("native", put("showers", np.ones((49, 24))), r"'showers' has shape \(49, 24\), expected \(50, any\)"),
        ("native", put("showers", np.ones(50)), r"'showers' has shape \(50,\), expected \(50, any\)"),
        ("native", put("showers", np.array(["a"] * 50, dtype="S1")), "'showers' holds no numbers"),
        ("native", put("overflow", np.ones((50, 2))), r"'overflow' has shape \(50, 2\), expected \(50, 3\)"),
        ("native", put("incident_energies", np.ones((0, 1))), r"'showers' has shape \(50, 24\), expected \(0, any\)"),
        ("native", edit("showers", (31, 5), np.nan), "deposit of shower 31, voxel 5 is NaN"),
        ("native", edit("showers", (49, 0), np.inf), "deposit of shower 49, voxel 0 is infinite"),
        ("native", edit("showers", (40, 23), -2.5), r"deposit of shower 40, voxel 23 is negative \(-2.5\)"),
        ("native", edit("overflow", (35, 1), -2.5), r"overflow of shower 35, layer 1 is negative \(-2.5\)"),
        ("native", edit("incident_energies", (44, 0), np.nan), "incident energy of shower 44 is NaN"),
        ("native", attribute("caloforge", 99), "has version 99 of the native layout, this program reads version 1"),
        ("native", attribute("detector", "name = 3"), "its detector: "),
        ("native", attribute("particle", 123456), "its particle .*123456.* is not known"),
        ("native", attribute("particle", "zork"), "its particle 'zork' is not known"),
        ("native", attribute("particle", np.arange(3)), "its attribute 'particle' is not a single value"),
        ("native", attribute("provenance", "{"), "its provenance is not JSON"),
        # More levels than Python's parser takes: RecursionError, if only ValueError is expected.
        ("native", attribute("provenance", '{"a":[' * 9000), "its provenance is not JSON"),
        ("native", attribute("particle", float("inf")), "its particle .*inf.* is not known"),
        ("native", attribute("showers_expected", "many"), "its attribute 'showers_expected' is 'many', expected a whole"),
        ("native", attribute("complete", False), "is incomplete, and the list of its parts is damaged"),
        ("calochallenge", put("incident_energies", np.ones((50, 2))), r"has shape \(50, 2\), expected \(any, 1\)"),
        ("calochallenge", put("showers", None), "is no shower file of a known format; it holds incident_energies, overflow"),
        ("calogan", put("layer_1", None), "has no dataset 'layer_1', which a calogan file needs"),
        ("calogan", put("layer_2", np.ones((50, 2, 4))), "has layers of 4 x 2, 4 x 2, 2 x 4 cells, but the detector 'small' has"),
        ("calogan", put("energy", np.ones((49, 1))), r"'layer_0' has shape \(50, 4, 2\), expected \(49, any, any\)"),
        ("calogan", edit("layer_1", (12, 3, 1), -1), "deposit of shower 12, voxel 15 is negative"),
        ("ild", put("4x2/energy", None), "is no shower file of a known format; it holds 4x2"),
        ("ild", put("4x2/layers", np.ones((50, 3, 2, 4))), "has 3 layers of 2 x 4 cells, which the detector 'small' has not"),
        ("points", put("num_points", np.full(50, 23)), "'num_points' adds up to 1150, but there are 1200 points"),
        ("points", edit("num_points", 3, -1), "shower 3 has -1 points according to 'num_points'"),
        ("points", put("points", np.ones((1200, 3))), "'points' has 3 columns, expected 4 or 5"),
        ("points", edit("points", (24 * 40 + 2, 0), np.nan), "point 2 of shower 40 has a coordinate or energy that is NaN"),
        ("points", edit("points", (24 * 41 + 5, 3), -1), "energy of point 5 of shower 41 is negative"),
        ("points", edit("points", (24 * 41 + 5, 2), 3), "shower 41 has the layer number 3, expected a whole number from 0 to 2"),
        ("points", edit("points", (24 * 41 + 5, 2), 1.5), "has the layer number 1.5"),
        ("showerdata", edit("num_points", 7, 23), "shower 7 has 23 points according to 'num_points', which cannot be right"),
        ("showerdata", edit("pdg", 3, 11), r"holds different particles \(11, 22\), expected one"),
        ("showerdata", put("shape", np.array([50, 24, 3])), r"'shape' says \(50, 24, 3\), expected 50 showers with 4 or"),
        ("showerdata", put("showers", np.ones(50)), "'showers' is not a list of 50 point clouds"),
        ("showerdata", put("directions", np.ones((50, 2))), r"'directions' has shape \(50, 2\), expected \(50, 3\)"),
        ("showerdata", put("energies", np.full((50, 1), 9e9)), "contradict each other near shower 0"),
        ("hits", edit("event", 100, 49), "hit 101 belongs to event 4, after one of event 49; sort them"),
        ("hits", edit("event", 1199, 50), "hit 1199 belongs to event 50, expected 0 to 49"),
        ("hits", put("layer", None), "has no dataset 'z', which a hits file needs"),
        ("hits", put("x", np.ones(3)), r"'x' has shape \(3,\), expected \(1200\)"),
    ],
)  # fmt: skip
def test_sentences(tmp_path: Path, fmt: str, change: Callable[[h5py.File], None], sentence: str) -> None:
    path = sample(tmp_path / "a.h5", fmt)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ShowerFileError, match=sentence) as caught:
        read_all(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("names", [("parts",), ("request",), ("parts", "request")])
def test_nested_beyond_reason_in_an_unfinished_file(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Fails with RecursionError if only ValueError is expected of the parser."""
    path = sample(tmp_path / "a.h5", "native")
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = False
        for name in names:
            file.attrs[name] = "[" * 60000
    with pytest.raises(ShowerFileError, match="the list of its parts is damaged"):
        read_all(path)
    with pytest.raises(OutputError, match="is not a file that can be resumed"):
        create_showers(path, detector=DETECTOR, particle=22, resume=True, request={})


@pytest.mark.parametrize("fmt", ["native", "calochallenge", "calogan", "ild"])
def test_what_a_damaged_file_hides_is_not_taken_for_absent(tmp_path: Path, fmt: str) -> None:
    """Everything but the showers themselves may be absent: a name that a flipped byte has changed must not be taken for that."""
    path = sample(tmp_path / "a.h5", fmt)
    content = path.read_bytes()
    damaged = 0
    for name in (b"overflow", b"provenance", b"showers_expected"):
        for place in (k for k in range(len(content)) if content.startswith(name, k)):
            path.write_bytes(content[:place] + b"~" + content[place + 1 :])
            damaged += 1
            with pytest.raises(ShowerFileError, match="is damaged and cannot be read"):
                read_all(path)
    assert damaged >= 3


def test_a_heap_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """Lists of points lie in heaps whose objects follow each other; HDF5 itself goes round for ever if one has no length. Fails
    (never ends) without ``_sound_heap``."""
    path = sample(tmp_path / "a.h5", "showerdata")
    content = bytearray(path.read_bytes())
    place = content.rindex(b"GCOL")  # the first one holds texts
    for offset, value in ((24, bytes(8)), (8, (2**62).to_bytes(8, "little")), (16, bytes(16))):
        damaged = content.copy()
        damaged[place + offset : place + offset + len(value)] = value
        path.write_bytes(damaged)
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; "
        code += f"import test_damaged_files as t; t.read_all(Path({str(path)!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert "is damaged between the showers" in done.stderr.splitlines()[-1]


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ShowerFileError, match=r"none.h5: there is no such file"):
        open_showers(tmp_path / "none.h5")
    with pytest.raises(ShowerFileError, match="is a directory, expected an HDF5 file"):
        open_showers(tmp_path)
    (tmp_path / "a.h5").write_text("hello, world")
    with pytest.raises(ShowerFileError, match="expected an HDF5 file"):
        open_showers(tmp_path / "a.h5")
    (tmp_path / "b.h5").touch()
    with pytest.raises(ShowerFileError, match="is empty, expected an HDF5 file"):
        open_showers(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["something"] = 1
    with pytest.raises(ShowerFileError, match="is no shower file of a known format; it holds something"):
        open_showers(tmp_path / "c.h5")


def test_named_detector_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ShowerFileError, match="has 24 voxels, but the detector 'calogan' has 504"):
        open_showers(sample(tmp_path / "a.h5", "native"), "calogan")
    with pytest.raises(
        ShowerFileError, match=r"4 x 2, 4 x 2 cells, but the detector 'calogan' has 3 x 96, 12 x 12, 12 x 6"
    ):
        open_showers(sample(tmp_path / "b.h5", "calogan"), "calogan")


def test_no_showers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["showers"] = np.ones((0, 24))
        file["incident_energies"] = np.ones((0, 1))
    with pytest.raises(ShowerFileError, match=r"holds no showers$"):
        open_showers(tmp_path / "a.h5", DETECTOR)
    writer = create_showers(tmp_path / "b.h5", "ild", detector=DETECTOR, particle=22, expected=5)
    with pytest.raises(ShowerFileError, match="holds no showers yet"):
        open_showers(tmp_path / "b.h5")
    found = describe(tmp_path / "b.h5")
    assert (found["format"], found["showers"], found["expected"], found["complete"]) == ("ild", 0, 5, False)
    assert found["detector"] == "small"
    writer.abort()


@pytest.mark.parametrize("fmt", ["native", "ild", "points"])
def test_lost_part(tmp_path: Path, fmt: str) -> None:
    path = sample(tmp_path / "a.h5", fmt, complete=False)
    with open_showers(path) as reader:
        assert (len(reader), reader.expected, reader.complete) == (50, 99, False)
        assert len(reader.read()) == 50
    moved = tmp_path / "moved.h5"
    path.rename(moved)  # the parts are found under their old name
    assert len(read_all(moved)) == 3
    shutil.rmtree(tmp_path / "a.h5.parts")
    with pytest.raises(ShowerFileError, match=r"its part 'a.h5.parts/p00000000.h5' is lost"):
        open_showers(moved)


def test_rounding_below_zero_is_forgiven(tmp_path: Path) -> None:
    path = sample(tmp_path / "a.h5", "calogan")
    with h5py.File(path, "r+") as file:
        file["overflow"][4, 2] = -7e-15
    assert min(block.overflow.min() for block in read_all(path)) == 0


READ_A_LITTLE = """
import resource, sys
from caloforge.showers import open_showers
with open_showers(sys.argv[1]) as reader:
    reader.read(0, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, len(reader), len(reader) // 20):
        reader.read(start, start + 10)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, len(reader))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["voxels", "points"])
def test_reading_a_little_takes_little_memory(tmp_path: Path, kind: str) -> None:
    """Slices of a file of 160 MB (voxels) or 200 MB (points) need less than 20 MB."""
    path = tmp_path / "big.h5"
    detector = detector_from_toml(
        'name="big"\n[[readout.layers]]\nrepeat=2\nx={bins=50,range=[-1.0,1.0]}\ny={bins=20,range=[-1.0,1.0]}',
        where="test",
    )
    with create_showers(path, detector=detector, particle=22, kind=kind) as writer:
        for k in range(10):
            deposits = np.zeros((2000, 2000), dtype=np.float32)
            deposits[:, ::7] = k + 1
            energies = np.full(2000, 1e4)
            if kind == "voxels":
                writer.write(Showers(deposits, energies, 22, detector.readout))
            else:
                points = np.zeros((2000 * 500, 5), dtype=np.float32)
                points[:, 3] = k + 1
                writer.write(ShowerPoints(np.arange(2001) * 500, points, energies, 22, detector.readout))
    done = subprocess.run(
        [sys.executable, "-c", READ_A_LITTLE, str(path)], capture_output=True, text=True, check=True
    )  # fmt: skip
    grown, n = map(int, done.stdout.split())
    assert n == 20_000
    assert grown < 20


def test_memory_is_measured_in_kilobytes() -> None:
    """The unit of ru_maxrss, on which the test above rests."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 10_000 < size < 100_000_000
