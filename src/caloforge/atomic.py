"""Files that are replaced in one step: a kill or a full disk leaves the old one or the new one, never a part.

The new content is written beside its place, brought to the disk, and renamed; then the folder is brought to the disk, so
that the name survives a power cut too.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caloforge.errors import OutputError

__all__ = ["move_into_place", "output_error", "reason", "replace_file", "written_beside"]


@contextmanager
def written_beside(path: Path, *, alone: bool = False, durable: bool = True) -> Iterator[Path]:
    """A place beside a file for its new content, which takes the file's place when the block ends without an error.

    Args:
        path: the file to write or replace; its folder exists.
        alone: nobody else writes this file at the same time; what a killed writer left beside it is then overwritten
            instead of staying there under a name of its own.
        durable: see :func:`move_into_place`.

    Yields:
        The path to write to. Whatever goes wrong, it is gone afterwards and ``path`` is as it was.

    Raises:
        OSError: if the file cannot be moved into its place.
    """
    # Process numbers repeat on other machines that write to the same file system; random names do not.
    name = f".{path.name}.partial" if alone else f".{path.name}.{secrets.token_hex(6)}.partial"
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
    """Write a whole file, text as UTF-8, so that a reader sees the old one or the new one.

    Raises:
        OutputError: if it cannot be written; what was there before is still there.
    """
    try:
        with written_beside(path) as beside:
            beside.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise output_error(path, error) from None


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
