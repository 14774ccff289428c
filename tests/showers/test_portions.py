"""Parts that workers make: the file is the one that a writer makes of the same showers."""

from __future__ import annotations

import errno
import pickle
from dataclasses import replace

import h5py
import numpy as np
import pytest

from caloforge.errors import OutputError, ShowerFileError
from caloforge.executor import UnsuitedWorkerError
from caloforge.showers import create_showers, portions
from caloforge.testing.toys import toy_detector, toy_points, toy_showers

ROWS, N = 40, 330


def showers_of(kind, detector):
    return toy_showers(detector, N) if kind == "voxels" else toy_points(detector, N)


def opened(path, kind, detector, **settings):
    return create_showers(path, detector=detector, particle=22, kind=kind, expected=N, **settings)


def contents(path):
    found = {}
    with h5py.File(path) as file:
        assert file.attrs["complete"]
        file.visititems(lambda name, item: found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
    # ShowerData's rows are of different lengths.
    return {name: np.concatenate(rows) if rows.dtype == object else rows for name, rows in found.items()}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["voxels", "points"])
def test_the_file_is_that_of_one_writer(tmp_path, kind, shared):
    """Mutations: points of a run counted over all blocks, or the position of the last block left out, lose rows."""
    detector = toy_detector()
    showers = showers_of(kind, detector)
    with opened(tmp_path / "one.h5", kind, detector) as writer:
        for start in range(0, N, ROWS):
            writer.write(showers[start : start + ROWS], start // ROWS)
    writer = opened(tmp_path / "two.h5", kind, detector)
    with writer:
        maker = pickle.loads(pickle.dumps(writer.portions(ROWS, shared=shared)))
        maker.look()
        # Several blocks at a time, the last ones first, the very last one short; one block by the writer itself.
        for first, end in ((6, 9), (0, 3), (4, 6)):
            made = maker.make(showers[first * ROWS : end * ROWS], first)
            assert (made.content is None) == shared
            writer.take(pickle.loads(pickle.dumps(made)))
            assert writer.has(first)
            assert not writer.has(3)
        writer.write(showers[3 * ROWS : 4 * ROWS], 3)
    one, two = contents(tmp_path / "one.h5"), contents(tmp_path / "two.h5")
    assert sorted(one) == sorted(two)
    for name, rows in one.items():
        np.testing.assert_array_equal(rows, two[name], err_msg=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.h5", "two.h5"]


def test_every_format_can_be_made_of_parts(tmp_path):
    detector = toy_detector()
    showers = toy_points(detector, N)
    for name in ("showerdata", "native"):
        for word in ("one", "two"):
            with opened(tmp_path / f"{word}.{name}.h5", "points", detector, format=name) as writer:
                maker = writer.portions(ROWS)
                for start in range(0, N, ROWS):
                    block = showers[start : start + ROWS]
                    if word == "one":
                        writer.write(block, start // ROWS)
                    else:
                        writer.take(maker.make(block, start // ROWS))
        one, two = (contents(tmp_path / f"{word}.{name}.h5") for word in ("one", "two"))
        assert one.keys() == two.keys()
        for key, rows in one.items():
            np.testing.assert_array_equal(rows, two[key], err_msg=key)


def test_what_a_writer_refuses_is_refused(tmp_path):
    detector = toy_detector()
    showers = toy_showers(detector, N)
    with opened(tmp_path / "g.h5", "voxels", detector) as writer:
        maker = writer.portions(ROWS)
        bad = showers.deposits.copy()
        bad[3, 2] = np.nan
        with pytest.raises(ShowerFileError):
            maker.make(replace(showers, deposits=bad), 0)
        with pytest.raises(OutputError, match="was begun for the particle 22"):
            maker.make(replace(showers, particle=11), 0)
        with pytest.raises(OutputError, match="was begun for voxels"):
            maker.make(toy_points(detector, 3), 0)
        writer.take(maker.make(showers[:80], 0))
        with pytest.raises(OutputError, match="block 1 is written already"):
            writer.take(maker.make(showers[40:120], 1))
        with pytest.raises(OutputError, match="brings 410 showers, but only 330"):
            writer.take(maker.make(showers, 2))
        straight = np.tile(np.array([0, 0, 1], np.float32), (40, 1))
        with pytest.raises(OutputError, match="block 2 differs from the others in what it holds: directions"):
            writer.take(maker.make(replace(showers[:40], direction=straight), 2))
        writer.take(maker.make(showers[80:], 2))


def test_a_folder_that_a_worker_does_not_see(tmp_path, monkeypatch):
    detector = toy_detector()
    showers = toy_showers(detector, N)
    writer = opened(tmp_path / "g.h5", "voxels", detector)
    with writer:
        maker = writer.portions(ROWS, shared=True)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        with pytest.raises(UnsuitedWorkerError, match="it does not see"):
            replace(maker, folder=str(elsewhere)).look()
        with monkeypatch.context() as patch:
            # Root may write everywhere.
            patch.setattr(portions, "move_into_place", lambda *_: fail(errno.EACCES, "Permission denied"))
            with pytest.raises(UnsuitedWorkerError, match=r"it cannot write into '.*' \(permission denied\)"):
                maker.make(showers[:40], 0)
            patch.setattr(portions, "move_into_place", lambda *_: fail(errno.ENOSPC, "No space left on device"))
            with pytest.raises(OSError, match="No space"):
                maker.make(showers[:40], 0)
        assert not list((tmp_path / "g.h5.parts").glob("*.tmp.tmp"))
        made = maker.make(showers[:40], 0)
        with pytest.raises(OutputError, match="not as long as its worker made it"):
            writer.take(replace(made, stored=made.stored + 1))
        forgotten = maker.make(showers, 0)  # as of a worker that was thought to hang
        writer.take(maker.make(showers, 0))
        assert (tmp_path / "g.h5.parts" / forgotten.file).exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != "elsewhere"] == ["g.h5"]


def fail(number, text):
    raise OSError(number, text)
