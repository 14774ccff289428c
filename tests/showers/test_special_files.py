"""Shower files that are no files: links stay links; pipes, devices and folders are refused in one sentence."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from caloforge.detectors import load_detector
from caloforge.errors import OutputError, ShowerFileError
from caloforge.showers import Showers
from caloforge.showers.files import create_showers, open_showers

DETECTOR = load_detector("calogan")


def write(path: Path, **settings: bool) -> None:
    showers = Showers(np.ones((3, 504), np.float32), np.full(3, 1e4), 22, DETECTOR.readout)
    with create_showers(path, detector=DETECTOR, particle=22, **settings) as writer:
        writer.write(showers)


def test_a_pipe_is_neither_replaced_nor_waited_for(tmp_path: Path) -> None:
    """Fails (for ever, when reading) if only files and folders are told apart."""
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(OutputError, match=r"pipe\.h5: is a pipe, expected a file"):
        write(tmp_path / "pipe.h5", overwrite=True)
    with pytest.raises(ShowerFileError, match=r"pipe\.h5: is a pipe, expected an HDF5 file"):
        open_showers(tmp_path / "pipe.h5")
    assert stat.S_ISFIFO((tmp_path / "pipe.h5").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe.h5"]


def test_a_device_is_not_replaced() -> None:
    reading, writing = os.openpty()
    device = Path(os.ttyname(writing))
    with pytest.raises(OutputError, match="is a character device, expected a file"):
        write(device, overwrite=True)
    with pytest.raises(ShowerFileError, match="is a character device, expected an HDF5 file"):
        open_showers(device)
    assert stat.S_ISCHR(device.stat().st_mode)
    os.close(reading)
    os.close(writing)


def test_a_link_stays_one_and_may_lead_to_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.h5").symlink_to("disk/b.h5")
    for overwrite in (False, True):
        write(tmp_path / "a.h5", overwrite=overwrite)
        assert os.readlink(tmp_path / "a.h5") == "disk/b.h5"
    with open_showers(tmp_path / "disk" / "b.h5") as reader:
        assert len(reader) == 3
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "disk"]
    assert os.listdir(tmp_path / "disk") == ["b.h5"]


def test_links_in_a_circle(tmp_path: Path) -> None:
    """Fails with ``Path.resolve``, whose RuntimeError nobody expects."""
    (tmp_path / "a.h5").symlink_to("a.h5")
    with pytest.raises(OutputError, match=r"cannot be written \(too many levels of symbolic links\)"):
        write(tmp_path / "a.h5", overwrite=True)
    with pytest.raises(ShowerFileError, match=r"cannot be read \(too many levels of symbolic links\)"):
        open_showers(tmp_path / "a.h5")


def test_what_the_shell_has_open_can_be_read(tmp_path: Path) -> None:
    """As in ``caloforge info /dev/stdin < a.h5``."""
    write(tmp_path / "a.h5")
    with (tmp_path / "a.h5").open("rb") as file, open_showers(f"/dev/fd/{file.fileno()}") as reader:
        assert len(reader) == 3
