"""No home: HOME unset, empty, missing or not writable, a user without an entry in /etc/passwd."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from caloforge.caches import cache_folder, home
from caloforge.errors import SimulationError
from caloforge.simulation.tables import find_official, geant4_data


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Neither variables nor an entry in /etc/passwd; temporary files in a folder of the test's."""
    for name in ("HOME", "CALOFORGE_CACHE", "XDG_CACHE_HOME", "GEANT4_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return monkeypatch


def test_the_cache_follows_the_environment(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "caloforge"
    nowhere.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "caloforge"
    nowhere.setenv("CALOFORGE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tmp"]  # to look makes nothing


@pytest.mark.parametrize("value", [None, "", "relative", "/nonexistent/folder", "/dev/null"])
def test_without_a_home_the_cache_is_among_the_temporary_files(
    nowhere: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    """Fails with ``Path.home()``: RuntimeError, or (empty) ``.cache`` in the working directory."""
    nowhere.chdir(tmp_path)
    if value is not None:
        nowhere.setenv("HOME", value)
    assert home() is None
    found = cache_folder()
    assert found == tmp_path / "tmp" / f"caloforge-cache-{os.getuid()}"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert cache_folder() == found
    assert find_official() is None
    with pytest.raises(SimulationError, match=r"there is no home directory .* GEANT4_DATA_DIR can name another"):
        geant4_data()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o500)
    nowhere.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder().parent == tmp_path / "tmp"


@pytest.mark.parametrize("trap", ["link", "open to all", "file"])
def test_a_cache_that_others_could_have_filled_is_not_used(
    nowhere: pytest.MonkeyPatch, tmp_path: Path, trap: str
) -> None:
    """Libraries are loaded from there. Fails if the name alone is trusted."""
    taken = tmp_path / "tmp" / f"caloforge-cache-{os.getuid()}"
    if trap == "link":
        taken.symlink_to(tmp_path)
    elif trap == "file":
        taken.touch()
    else:
        taken.mkdir()
        taken.chmod(0o777)
    found = cache_folder()
    assert found != taken
    assert found.parent == tmp_path / "tmp"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700


@pytest.mark.geant4
@pytest.mark.parametrize("variables", [{}, {"HOME": ""}, {"HOME": "/nonexistent", "GEANT4_DATA_DIR": ""}], ids=str)
def test_simulation_without_a_home(tmp_path: Path, variables: dict[str, str]) -> None:
    """Fails with the panic of a worker (calzone asks for HOME), or with a folder of tables that nobody named."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")}
    (tmp_path / "tmp").mkdir()
    words = ["simulate", "--detector", "calogan", "--energy", "1", "--events", "2", "--jobs", "1", "-o", "a.h5"]
    done = subprocess.run(
        [sys.executable, "-m", "caloforge", *words], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=kept | {"TMPDIR": str(tmp_path / "tmp")} | variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "builtin" in done.stdout
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "tmp"]
