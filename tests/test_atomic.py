"""Files that are replaced in one step: what is there after failures, interruptions, and other writers."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from caloforge.atomic import output_error, reason, replace_file, written_beside
from caloforge.errors import OutputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["température\n", b"\x00\xff"])
def test_a_file_is_written_and_replaced(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a"
    replace_file(path, "before")
    replace_file(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(tmp_path) == ["a"]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("refused", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    path = tmp_path / "a"
    replace_file(path, "before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, refused, full)
    with pytest.raises(OutputError, match=r"/a: cannot be written \(no space left on device\)$"):
        replace_file(path, "after")
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a"]


def test_a_file_that_the_system_does_not_take_whole(tmp_path: Path) -> None:
    """With a real limit: half of the new content is on the disk when the rest is refused."""
    path = tmp_path / "a"
    path.write_text("before")
    script = f"""
import resource, signal
from pathlib import Path
from caloforge.atomic import replace_file
from caloforge.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    replace_file(Path({str(path)!r}), "x" * 20_000)
except OutputError as error:
    print(error)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip().endswith("a: cannot be written (file too large)"), answer.stderr
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("alone", [False, True])
def test_an_interrupted_writer_changes_nothing(tmp_path: Path, alone: bool) -> None:
    path = tmp_path / "a"
    replace_file(path, "before")

    def write() -> None:
        with written_beside(path, alone=alone) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a"]


def test_writers_of_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with written_beside(path) as one:
        one.write_text("one")
        with written_beside(path) as two:
            two.write_text("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"
    assert names(tmp_path) == ["a"]


def test_what_a_killed_lone_writer_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a"
    script = f"""
import os, signal
from pathlib import Path
from caloforge.atomic import written_beside
with written_beside(Path({str(path)!r}), alone=True) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert len(names(tmp_path)) == 1
    assert not path.exists()
    with written_beside(path, alone=True) as beside:
        beside.write_text("whole")
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("durable", [True, False])
def test_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        done.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    with written_beside(tmp_path / "a", durable=durable) as beside:
        beside.write_text("x")
    assert done == (["file", "name", "folder"] if durable else ["name"])


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere/a: cannot be written \(no such file or directory\)$"):
        replace_file(tmp_path / "nowhere" / "a", "x")


def test_reasons_are_those_of_the_system() -> None:
    assert reason(OSError(errno.EACCES, "Permission denied")) == "permission denied"
    wrapped = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert reason(wrapped) == "no space left on device"
    assert (
        str(output_error(Path("a"), wrapped, "; b is kept"))
        == "a: cannot be written (no space left on device); b is kept"
    )
