"""Files that others have open, or had open when they crashed, are not called damaged."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caloforge.detectors import load_detector
from caloforge.errors import ShowerFileError
from caloforge.showers import Showers
from caloforge.showers.files import create_showers, open_showers
from caloforge.showers.hdf5 import open_hdf5

HOLD = "import h5py, sys; f = h5py.File(sys.argv[1], sys.argv[2]); print('open', flush=True); sys.stdin.read()"
CRASH = (
    "import h5py, os, sys; f = h5py.File(sys.argv[1], 'r+', libver='latest'); f.attrs['x'] = 1; f.flush(); os._exit(1)"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    detector = load_detector("calogan")
    with create_showers(tmp_path / "a.h5", detector=detector, particle=22) as writer:
        writer.write(Showers(np.ones((3, 504), np.float32), np.full(3, 1e4), 22, detector.readout))
    return tmp_path / "a.h5"


@pytest.fixture
def notebook(path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the file open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), request.param], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@pytest.mark.parametrize("notebook", ["r+"], indirect=True)
def test_a_file_that_a_notebook_writes(path: Path, notebook: subprocess.Popen[bytes]) -> None:
    """Fails (with "is damaged") if the reason is not looked at."""
    with pytest.raises(ShowerFileError, match=r"a\.h5: is open for writing in another program, .*; close it there$"):
        open_showers(path)
    notebook.communicate()
    with open_showers(path) as reader:
        assert len(reader) == 3


@pytest.mark.parametrize("notebook", ["r"], indirect=True)
@pytest.mark.usefixtures("notebook")
def test_a_file_that_a_notebook_reads_can_be_read_and_replaced(path: Path) -> None:
    with open_showers(path) as reader:
        showers = reader.read()
    with create_showers(path, detector=load_detector("calogan"), particle=22, overwrite=True) as writer:
        writer.write(showers)


def test_the_mark_of_a_crashed_writer(path: Path) -> None:
    """Fails (with "is damaged") if the reason is not looked at."""
    subprocess.run([sys.executable, "-c", CRASH, str(path)], check=False)
    with pytest.raises(ShowerFileError, match=r"a\.h5: is marked as being written: .* crashed .*'h5clear -s'"):
        open_showers(path)


def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if only the first attempt counts. The refusal is simulated: such file systems need a mount."""
    opened = h5py.File

    def refuse(*arguments: Any, **settings: Any) -> Any:
        if settings.get("locking") is not False:
            raise OSError(errno.ENOLCK, "Unable to open file (unable to lock file, errno = 37, error message = ...)")
        return opened(*arguments, **settings)

    monkeypatch.setattr(h5py, "File", refuse)
    with open_hdf5(path) as file:
        assert len(file["showers"]) == 3
