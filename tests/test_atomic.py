"""Files that are replaced in one step: what is there after failures, interruptions, and other writers."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from caloforge.atomic import (
    make_folder,
    output_error,
    reason,
    refuse_existing,
    replace_file,
    save_figure,
    special_kind,
    written_beside,
)
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


# ---- links, pipes, devices


@pytest.fixture
def device() -> Iterator[tuple[Path, int]]:
    """A character device, and the descriptor from which one reads what was written to it."""
    reading, writing = os.openpty()
    tty.setraw(writing)
    yield Path(os.ttyname(writing)), reading
    os.close(reading)
    os.close(writing)


def test_a_link_stays_one(tmp_path: Path) -> None:
    """Fails without ``link_target``: ``os.replace`` replaces the link."""
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "b"
    (tmp_path / "a").symlink_to("there/b")
    for content in ("new", "newer"):  # at first the link leads to nothing
        replace_file(tmp_path / "a", content)
        assert os.readlink(tmp_path / "a") == "there/b"
        assert target.read_text() == content
    assert names(tmp_path) == ["a", "there"]
    assert names(tmp_path / "there") == ["b"]


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OutputError, match=r"/a: cannot be written \(too many levels of symbolic links\)$"):
        replace_file(tmp_path / "a", "x")
    assert names(tmp_path) == ["a", "b"]


def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    """Fails with ``os.replace`` alone, which puts a file in the place of the pipe (and nobody reads anything)."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen([sys.executable, "-c", f"print(open({str(pipe)!r}).read())"], stdout=subprocess.PIPE)
    replace_file(pipe, "content")
    assert reader.communicate(timeout=60)[0] == b"content\n"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert special_kind(pipe) == "pipe"


def test_a_device_is_written_through(tmp_path: Path, device: tuple[Path, int]) -> None:
    path, reading = device
    (tmp_path / "link").symlink_to(path)
    assert special_kind(path) == special_kind(tmp_path / "link") == "character device"
    replace_file(tmp_path / "link", "one")
    with written_beside(path) as whole:
        whole.write_text("two")
        assert whole.parent != path.parent
    written = b""
    while len(written) < 6:  # a terminal hands over what has come so far
        written += os.read(reading, 100)
    assert written == b"onetwo"
    assert stat.S_ISCHR(path.stat().st_mode)
    assert (tmp_path / "link").is_symlink()


def test_a_pipe_does_not_count_as_a_file_that_is_there(tmp_path: Path) -> None:
    """Fails with ``exists`` alone: results on their way through a pipe would need --overwrite, though nothing can be lost."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nothing yet")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path / "new", Path("/dev/null")):
        refuse_existing(path, "advice")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file: exists already; advice$"):
        refuse_existing(tmp_path / "file", "advice")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for path, why in ((tmp_path / "file", "file exists"), (tmp_path / "file" / "b", "not a directory")):
        with pytest.raises(OutputError, match=rf"^the directory '{path}' cannot be made \({why}\)$"):
            make_folder(path)


def test_nothing_reaches_a_pipe_if_something_goes_wrong(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def fail() -> None:
        with written_beside(tmp_path / "pipe"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()


def test_what_the_shell_has_open_is_not_taken_from_it(tmp_path: Path) -> None:
    """Fails if /dev/stdout is resolved and replaced, and if it is opened anew and written from the beginning."""
    script = "from pathlib import Path; from caloforge.atomic import replace_file as r; print('before', flush=True); "
    script += "r(Path('/dev/stdout'), 'content\\n'); print('after')"
    out = tmp_path / "out"
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, timeout=60, check=True)
    assert out.read_text() == "before\ncontent\nafter\n"
    piped = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert piped.stdout == "before\ncontent\nafter\n"


def test_long_names(tmp_path: Path) -> None:
    """Fails if the name of the file beside it is always made longer."""
    path = tmp_path / ("ü" * 127)  # 254 bytes, of 255
    replace_file(path, "x")
    assert names(tmp_path) == [path.name]


def test_pictures_have_the_format_of_their_ending(tmp_path: Path) -> None:
    figure = Figure()
    starts = {"a.png": b"\x89PNG", "b": b"\x89PNG", "c.PDF": b"%PDF", "d.svg": b"<?xml"}
    for name, start in starts.items():
        save_figure(tmp_path / name, figure, dpi=20)
        assert (tmp_path / name).read_bytes().startswith(start)
    assert names(tmp_path) == sorted(starts)
    with pytest.raises(OutputError, match=r"pictures are not written as 'foo', expected one of .*png"):
        save_figure(tmp_path / "a.foo", figure, dpi=20)
    assert names(tmp_path) == sorted(starts)
