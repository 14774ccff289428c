"""Files that are replaced in one step: a kill or a full disk leaves the old one or the new one, never a part.

The new content is written beside its place, brought to the disk, and renamed; then the folder is brought to the disk, so
that the name survives a power cut too. A link stays a link, and the file that it points to is replaced. Pipes and devices are
written through, as nobody wants them replaced by a file.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from caloforge.errors import OutputError

__all__ = [
    "link_target",
    "make_folder",
    "move_into_place",
    "output_error",
    "reason",
    "refuse_existing",
    "replace_file",
    "save_figure",
    "special_kind",
    "written_beside",
]

#: Bytes of a name that can be made longer; file systems end at 255.
_LONG_NAME = 230
#: Open files of a process, which is what /dev/stdout leads to.
_DESCRIPTOR = re.compile(r"/proc/(\d+)/fd/(\d+)")
_KINDS = (
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISCHR, "character device"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISSOCK, "socket"),
)


def special_kind(path: Path) -> str:
    """What a path leads to, if that is neither a file nor a folder nor nothing at all: "pipe", "character device" ...

    Raises:
        OSError: if the system does not tell, for instance because links go round in a circle.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return ""
    kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "")
    # /dev/stdout may lead to a file that the shell has open: replaced, it would no longer be the shell's.
    return kind or ("" if _descriptor(path) is None else "descriptor")


def _descriptor(path: Path) -> int | None:
    """The open file of this process that a path such as /dev/stdout means."""
    while path.is_symlink():
        found = _DESCRIPTOR.fullmatch(f"{path.parent.resolve()}/{path.name}")
        if found and int(found[1]) == os.getpid():
            return int(found[2])
        path = path.parent / os.readlink(path)
    return None


def _through(path: Path) -> BinaryIO:
    """A pipe, device or descriptor, open for writing."""
    number = _descriptor(path)
    # Opened anew, a file would be written from its beginning, over what the shell has put there.
    return path.open("wb") if number is None else os.fdopen(os.dup(number), "wb")


def link_target(path: Path) -> Path:
    """Where a link leads to in the end, whether there is a file or not; anything else stays what it is.

    Raises:
        OSError: if links go round in a circle.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        os.stat(path)  # says what is wrong
    return target


@contextmanager
def written_beside(path: Path, *, alone: bool = False, durable: bool = True) -> Iterator[Path]:
    """A place beside a file for its new content, which takes the file's place when the block ends without an error.

    Args:
        path: the file to write or replace; its folder exists.
        alone: nobody else writes this file at the same time; what a killed writer left beside it is then overwritten
            instead of staying there under a name of its own.
        durable: see :func:`move_into_place`.

    Yields:
        The path to write to. Whatever goes wrong, it is gone afterwards and ``path`` is as it was. It may lie elsewhere,
        if ``path`` is a link or a pipe.

    Raises:
        OSError: if the file cannot be moved into its place, or not be written through.
    """
    if special_kind(path):
        with tempfile.TemporaryDirectory(prefix="caloforge-") as folder:
            whole = Path(folder) / path.name
            yield whole
            with whole.open("rb") as content, _through(path) as target:
                shutil.copyfileobj(content, target)
        return
    path = link_target(path)
    # Process numbers repeat on other machines that write to the same file system; random names do not.
    stem = "" if len(os.fsencode(path.name)) > _LONG_NAME else f"{path.name}."
    name = f".{stem}partial" if alone else f".{stem}{secrets.token_hex(6)}.partial"
    beside = path.with_name(name)
    try:
        yield beside
        move_into_place(beside, path, durable=durable)
    finally:
        beside.unlink(missing_ok=True)


def move_into_place(beside: Path, path: Path, *, durable: bool = True) -> None:
    """Give a finished file its name.

    Args:
        beside: the file, closed, on the same file system.
        path: the name that it gets; a file of this name is replaced.
        durable: wait until content and name are on the disk; without it a power cut may lose both, which only files
            that are quickly made again should risk.

    Raises:
        OSError: if that is not possible.
    """
    if durable:
        _sync(beside, os.O_RDWR)
    os.replace(beside, path)
    if durable:
        _sync(path.parent, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: str | bytes) -> None:
    r"""Write a whole file, text as UTF-8, so that a reader sees the old one or the new one.

    Bytes of file names that are no text (surrogates, in Python) are written as ``\udcff``, which JSON reads back.

    Raises:
        OutputError: if it cannot be written; what was there before is still there.
    """
    try:
        with written_beside(path) as beside:
            beside.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
    except OSError as error:
        raise output_error(path, error) from None


def refuse_existing(path: Path, advice: str) -> None:
    """Refuse to write over a file; a pipe or device has nothing that could be lost, and is written through.

    Args:
        path: where output is to go.
        advice: end of the sentence, what to do.

    Raises:
        OutputError: if there is something.
    """
    try:
        there = os.path.lexists(path) and path.exists() and not special_kind(path)
    except OSError as error:
        raise output_error(path, error) from None
    if there:
        raise OutputError(f"{path}: exists already; {advice}")


def make_folder(folder: Path) -> None:
    """Make a folder and those that it lies in, unless they are there.

    Raises:
        OutputError: if that is not possible, for instance because it is a file or a link to one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the directory '{folder}' cannot be made ({reason(error)})") from None


def save_figure(path: Path, figure: Any, dpi: int) -> None:
    """Write a figure of matplotlib, in the format that the ending of the name says; PNG if there is none.

    Raises:
        OutputError: if there is no such format, or it cannot be written; what was there before is still there.
    """
    kind = path.suffix.removeprefix(".").lower() or "png"
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise OutputError(f"{path}: pictures are not written as '{kind}', expected one of {', '.join(known)}")
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=dpi)
    replace_file(path, content.getvalue())


def output_error(path: Path, error: Exception, kept: str = "") -> OutputError:
    """A refusal of the operating system as one sentence.

    Args:
        path: what cannot be written.
        error: what was raised.
        kept: end of the sentence, what is not lost.
    """
    return OutputError(f"{path}: cannot be written ({reason(error)}){kept}")


def reason(error: Exception) -> str:
    """Why something cannot be written, in the words of the operating system: "no space left on device"."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    # safetensors wraps them: "Error while serializing: I/O error: No space left on device (os error 28)".
    words = str(error).removeprefix("Error while serializing: ").removeprefix("I/O error: ")
    return words.split(" (os error")[0].lower()
