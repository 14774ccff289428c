"""A file that survives whatever happens to its writer."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caloforge.errors import OutputError, ShowerFileError
from caloforge.showers import blocks as blocks_module
from caloforge.showers.blocks import BlockWriter
from caloforge.showers.hdf5 import Chunking, Column
from caloforge.validation import first_difference

WIDE = Column("showers", (40,), np.dtype(np.float32))
ENERGY = Column("incident_energies", (1,), np.dtype(np.float64))
COUNT = Column("num_points", (), np.dtype(np.int64))
POINTS = Column("cloud/points", (4,), np.dtype(np.float32), counted_by="num_points", split=True)
#: Ragged columns of another kind, counted by themselves.
FACES = Column("face/counts", (), np.dtype(np.int64))
FACE = Column("face/energy", (), np.dtype(np.float64), counted_by="face/counts")
COLUMNS = (WIDE, ENERGY, COUNT, POINTS, FACES, FACE)
NUMBER = itertools.count()


def block(position: int, rows: int = 3) -> dict[Column, Any]:
    """Block of a given position, always the same."""
    rng = np.random.default_rng(position)
    counts, faces = rng.integers(0, 4, rows), rng.integers(0, 3, rows)
    return {
        WIDE: rng.random((rows, 40)).astype(np.float32),
        ENERGY: rng.random((rows, 1)) + position,
        COUNT: counts,
        POINTS: rng.random((counts.sum(), 4)).astype(np.float32),
        FACES: faces,
        FACE: rng.random(faces.sum()),
    }


def joined(positions: list[int], rows: int = 3) -> dict[str, Any]:
    parts = [block(k, rows) for k in positions]
    return {column.path: np.concatenate([part[column] for part in parts]) for column in COLUMNS}


def content(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {c.path: file[c.path][:] for c in COLUMNS if c.path in file}


def assert_holds(path: Path, positions: list[int], rows: int = 3) -> None:
    found, wanted = content(path), joined(positions, rows)
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def present(path: Path) -> list[int]:
    """Positions that a file says it holds."""
    with h5py.File(path) as file:
        runs = json.loads(file.attrs["blocks"])
        assert file.attrs["showers_present"] == sum(run[1] * run[2] for run in runs)
    return [k for start, n, *_ in runs for k in range(start, start + n)]


def writer(path: Path, **options: Any) -> BlockWriter:
    return BlockWriter(path, **({"attributes": {"name": "x"}, "request": {"seed": 1}} | options))


@pytest.fixture
def small_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "_MERGE", 3)


@pytest.mark.usefixtures("small_tiers")
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.integers(1, 14).flatmap(lambda n: st.permutations(range(n))), stop=st.integers(0, 14))
def test_any_order_with_a_stop(tmp_path: Path, order: list[int], stop: int) -> None:
    """Readable after every block; rows in the order of the positions; resumed to the same file."""
    path = tmp_path / f"{next(NUMBER)}.h5"
    first = writer(path, expected=3 * len(order))
    for k, position in enumerate(order[:stop]):
        first.write(block(position), position)
        assert_holds(path, sorted(order[: k + 1]))
    first.abort()
    assert path.exists() == (min(stop, len(order)) > 0)
    second = writer(path, expected=3 * len(order), resume=True)
    assert second.missing(len(order)) == sorted(order[stop:])
    with second:
        for position in second.missing(len(order)):
            second.write(block(position), position)
    assert_holds(path, list(range(len(order))))
    with h5py.File(path) as file:
        assert file.attrs["complete"]
        assert file.attrs["name"] == b"x"
        assert not any(file[c.path].is_virtual for c in (WIDE, ENERGY, COUNT, POINTS))
    assert not (tmp_path / f"{path.name}.parts").exists()


@pytest.mark.usefixtures("small_tiers")
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=8), equal=st.booleans())
def test_blocks_of_any_size(tmp_path: Path, sizes: list[int], equal: bool) -> None:
    """Also where whole chunks are moved (blocks of equal length) and where they cannot be."""
    column = Column("x", (50,), np.dtype(np.float32))
    sizes = [sizes[0]] * len(sizes) if equal else sizes
    arrays = [np.random.default_rng(k).random((n, 50)).astype(np.float32) for k, n in enumerate(sizes)]
    path = tmp_path / f"{next(NUMBER)}.h5"
    with writer(path) as target:
        for array in arrays:
            target.write({column: array})
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][:], np.concatenate(arrays))


def test_equal_blocks_are_compressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "_MERGE", 3)
    column = Column("x", (512,), np.dtype(np.float32))
    assert Chunking.plan(column, 1000) == Chunking(125, True)
    compressed: list[int] = []
    compress = blocks_module.fill_block.__globals__["ChunkedDataset"]._compress
    monkeypatch.setattr(
        "caloforge.showers.hdf5.ChunkedDataset._compress",
        lambda self, rows: compressed.append(len(rows)) or compress(self, rows),
    )
    arrays = [np.random.default_rng(k).random((1000, 512)).astype(np.float32) for k in range(10)]
    with writer(tmp_path / "a.h5") as target:
        for array in arrays:
            target.write({column: array})
    assert sum(compressed) == 10_000
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"][:], np.concatenate(arrays))


@pytest.mark.slow
@pytest.mark.usefixtures("small_tiers")
def test_every_moment_of_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the directory at every step is what a kill at that step would leave behind."""
    home = tmp_path / "home"
    home.mkdir()
    path = home / "a.h5"
    moments: list[tuple[Path, int]] = []
    finished = itertools.count()
    state = {"done": 0, "calls": 0}

    def remember() -> None:
        copy = tmp_path / f"moment{len(moments)}"
        shutil.copytree(home, copy)
        moments.append((copy, state["done"]))

    def watched(function: Any, every: int = 1) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            state["calls"] += 1
            if state["calls"] % every == 0:
                remember()
            return function(*args, **options)

        return call

    for owner, name, every in (
        (os, "pwrite", 9), (os, "replace", 1), (os, "ftruncate", 3),
        (Path, "unlink", 1), (Path, "mkdir", 1), (Path, "rmdir", 1),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, watched(getattr(owner, name), every))
    target = writer(path, expected=3 * 11)
    for position in (0, 2, 1, 3, 5, 4, 6, 10, 7, 8, 9):
        target.write(block(position), position)
        state["done"] = next(finished) + 1
    target.close()
    monkeypatch.undo()
    monkeypatch.setattr(blocks_module, "_MERGE", 3)
    assert len(moments) > 100
    order = [0, 2, 1, 3, 5, 4, 6, 10, 7, 8, 9]
    for number, (copy, done) in enumerate(moments):
        killed = copy / "a.h5"
        if killed.exists():
            found = present(killed)
            assert set(order[:done]) <= set(found) <= set(order[: done + 1])
            if found:
                assert_holds(killed, found)
        else:
            assert done == 0
        if number % 8 == 0 or done == len(order):
            with writer(killed, expected=33, resume=True) as resumed:
                for position in resumed.missing(11):
                    resumed.write(block(position), position)
            assert_holds(killed, list(range(11)))
            assert [entry.name for entry in copy.iterdir()] == ["a.h5"]


CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_block_writer import block, writer
from caloforge.showers import blocks
blocks._MERGE = 3
print("begin", flush=True)
with writer(Path(sys.argv[1]), expected=3 * 60, resume=True) as target:
    for position in target.missing(60):
        target.write(block(position), position)
        print(position, flush=True)
"""


@pytest.mark.slow
def test_sigkill(tmp_path: Path) -> None:
    """Real kills at random moments, each time of a process that goes on where the last one died."""
    path = tmp_path / "a.h5"
    chance = random.Random(4)
    said: set[int] = set()
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(Path(__file__).parent)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "begin\n"
        said.add(int(child.stdout.readline()))  # however slow the machine is, one block is finished
        time.sleep(chance.uniform(0.0, 0.3))
        child.send_signal(signal.SIGKILL)
        output, errors = child.communicate()
        assert child.returncode == -signal.SIGKILL, errors
        said |= {int(line) for line in output.split()}
        found = present(path) if path.exists() else []
        assert said <= set(found)
        if found:
            assert_holds(path, found)
    assert len(said) >= 2
    with writer(path, expected=3 * 60, resume=True) as target:
        for position in target.missing(60):
            target.write(block(position), position)
    assert_holds(path, list(range(60)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """A disk with so many bytes left."""
    space = {"left": float("inf")}
    real = os.pwrite

    def limited(descriptor: int, data: Any, offset: int) -> int:
        if len(data) > space["left"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        space["left"] -= len(data)
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", limited)
    return space


@pytest.mark.usefixtures("small_tiers")
@pytest.mark.parametrize("left", [0, 100, 3000, 9000, 20_000, 40_000])
def test_disk_full(tmp_path: Path, disk: dict[str, float], left: int) -> None:
    """Nothing that was finished is lost, the error says so, and freeing space is all that it takes to go on."""
    path = tmp_path / "a.h5"
    target = writer(path, expected=30)
    target.write(block(0))
    done = [0]

    def go_on() -> None:
        for position in range(1, 10):
            target.write(block(position))
            done.append(position)
        target.close()

    disk["left"] = left
    with pytest.raises(OutputError, match=r"no space left on device\); the \d+ finished showers are kept") as caught:
        go_on()
    assert_holds(path, done)
    assert f"the {3 * len(done)} finished" in str(caught.value)
    disk["left"] = float("inf")
    target.abort()
    with writer(path, expected=30, resume=True) as again:
        for position in again.missing(10):
            again.write(block(position), position)
    assert_holds(path, list(range(10)))


def test_disk_full_at_the_start(tmp_path: Path, disk: dict[str, float]) -> None:
    disk["left"] = 0
    with pytest.raises(OutputError, match="no space left"):
        writer(tmp_path / "a.h5")
    disk["left"] = float("inf")
    with writer(tmp_path / "a.h5") as target:
        target.write(block(0))
    assert_holds(tmp_path / "a.h5", [0])


@pytest.mark.usefixtures("small_tiers")
def test_interrupt_waits_for_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of HDF5's work comes out behind it, as what it is."""
    path = tmp_path / "a.h5"
    real, calls = os.pwrite, itertools.count()

    def interrupting(descriptor: int, data: Any, offset: int) -> int:
        if next(calls) == 40:
            signal.raise_signal(signal.SIGINT)
        return real(descriptor, data, offset)

    target = writer(path, expected=30)
    monkeypatch.setattr(os, "pwrite", interrupting)

    def go_on() -> None:
        with target:
            for position in range(10):
                target.write(block(position))

    with pytest.raises(KeyboardInterrupt):
        go_on()
    found = present(path)
    assert 0 < len(found) < 10
    assert_holds(path, found)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with writer(path, expected=30, resume=True) as again:
        for position in again.missing(10):
            again.write(block(position), position)
    assert_holds(path, list(range(10)))


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with writer(path, expected=6) as target:
        target.write(block(1), 1)
        with pytest.raises(OutputError, match="being written by another process"):
            writer(path, resume=True)
        with pytest.raises(OutputError, match="block 1 is written already"):
            target.write(block(1), 1)
        with pytest.raises(OutputError, match="brings 7 showers, but only 6 were asked for"):
            target.write(block(0, rows=4), 0)
        with pytest.raises(OutputError, match="holds no showers"):
            target.write(block(0, rows=0), 0)
    with pytest.raises(OutputError, match="exists already"):
        writer(path)
    with pytest.raises(OutputError, match="it was begun with seed = 1, now it is 2"):
        writer(path, resume=True, request={"seed": 2})
    with pytest.raises(OutputError, match="holds 3 showers already, so it cannot become one of 2"):
        writer(path, resume=True, expected=2)
    with pytest.raises(OutputError, match="no directory"):
        writer(tmp_path / "no" / "a.h5")
    with pytest.raises(OutputError, match="is a directory"):
        writer(tmp_path, overwrite=True)
    with writer(path, expected=3, overwrite=True) as target:
        target.write(block(7), 0)
    assert_holds(path, [7])
    with writer(path, expected=3, resume=True) as target:
        assert target.missing(1) == []
        with pytest.raises(OutputError, match="is closed"):
            target.write(block(1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_other_files_cannot_be_resumed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(3)
    with pytest.raises(OutputError, match="not a file that can be resumed"):
        writer(tmp_path / "a.h5", resume=True)
    (tmp_path / "b.h5").write_text("hello")
    with pytest.raises(ShowerFileError, match="expected an HDF5 file"):
        writer(tmp_path / "b.h5", resume=True)


def test_lost_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    target = writer(path, expected=30)
    target.write(block(0))
    target.write(block(1))
    target.abort()
    (tmp_path / "a.h5.parts" / "p00000001.h5").unlink()
    with pytest.raises(OutputError, match=r"its part 'a.h5.parts/p00000001.h5' is lost"):
        writer(path, expected=30, resume=True)
    assert np.isnan(content(path)["showers"][3:]).all()  # loud for everyone else
    path.unlink()
    with pytest.raises(OutputError, match="left from a file that is gone"):
        writer(path)


@pytest.mark.parametrize("resume", [True, False])
def test_killed_before_there_was_the_file(tmp_path: Path, resume: bool) -> None:
    """What was to become the file lies among the parts; mutation: take it for a part of a file that is gone."""
    (tmp_path / "a.h5.parts").mkdir()
    (tmp_path / "a.h5.parts" / "lock").touch()
    (tmp_path / "a.h5.parts" / "master.tmp").write_bytes(b"half")
    with writer(tmp_path / "a.h5", expected=3, resume=resume) as target:
        target.write(block(0))
    assert_holds(tmp_path / "a.h5", [0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """A user's own file in the directory of the parts is not removed."""
    (tmp_path / "a.h5.parts").mkdir()
    (tmp_path / "a.h5.parts" / "notes.txt").write_text("mine")
    with writer(tmp_path / "a.h5") as target:
        target.write(block(0))
    assert (tmp_path / "a.h5.parts" / "notes.txt").read_text() == "mine"
    assert_holds(tmp_path / "a.h5", [0])


FORKING = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_block_writer import block, writer
target = writer(Path(sys.argv[1]), expected=6)
target.write(block(0))
born, tell = os.pipe()
child = os.fork()
if child == 0:
    os.write(tell, b"!")  # by now it has let go of the lock
    time.sleep(60)
    os._exit(0)
os.read(born, 1)
print(child, flush=True)
os._exit(0)
"""


def test_children_do_not_keep_the_lock(tmp_path: Path) -> None:
    """A worker that outlives its killed parent does not keep the file from being resumed."""
    path = tmp_path / "a.h5"
    with (tmp_path / "said").open("w+") as said:  # a pipe would stay open as long as the child lives
        subprocess.run([sys.executable, "-c", FORKING, str(path), str(Path(__file__).parent)], stdout=said, check=True)
        said.seek(0)
        child = int(said.read())
    try:
        with writer(path, expected=6, resume=True) as target:
            target.write(block(1))
    finally:
        os.kill(child, signal.SIGKILL)
    assert_holds(path, [0, 1])


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "link.h5").symlink_to(tmp_path / "scratch" / "a.h5")
    with writer(tmp_path / "link.h5") as target:
        target.write(block(0))
    assert (tmp_path / "link.h5").is_symlink()
    assert_holds(tmp_path / "scratch" / "a.h5", [0])


def test_gaps_are_not_complete(tmp_path: Path) -> None:
    with writer(tmp_path / "a.h5") as target:
        target.write(block(0), 0)
        target.write(block(2), 2)
    with h5py.File(tmp_path / "a.h5") as file:
        assert not file.attrs["complete"]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OutputError, match=r"cannot be written \(permission denied\)"):
        writer(tmp_path / "a.h5")


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> int:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(blocks_module.fcntl, "flock", refused)
    with pytest.warns(UserWarning, match="cannot lock files"), writer(tmp_path / "a.h5") as target:
        target.write(block(0))
    assert_holds(tmp_path / "a.h5", [0])


def test_many_blocks_cost_few_files(tmp_path: Path) -> None:
    """Merging in tiers of 16 leaves at most 15 parts of each tier, and those just superseded."""
    column = Column("x", (), np.dtype(np.float64))
    with writer(tmp_path / "a.h5", expected=120) as target:
        for k in range(120):
            target.write({column: np.full(1, float(k))})
            assert len(list((tmp_path / "a.h5.parts").glob("*.h5"))) <= 15 + 16 + 15
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"][:], np.arange(120))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "a.b = [1, 2], now it is [1, 3]"),
        ({"a": 1}, {}, "a = 1, now it is not given"),
        ({}, {"a": "x"}, 'a not given, now it is "x"'),
    ],
)
def test_first_difference(old: Any, new: Any, words: str) -> None:
    assert first_difference(old, new) == words
