"""Standard output and error that no terminal, pipe, or full disk can turn against the work.

What a command prints is the least of what it does: hours of training must not end because the reader of a pipe has gone,
the disk of the log is full, or a terminal knows no dashes. Such output is dropped, or written in other characters.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO

__all__ = ["install", "lost_output", "spell"]

#: What stands for characters that an encoding does not have; all others become question marks.
_SPELLINGS = {
    "–": "-", "—": "-", "−": "-", "…": "...", "±": "+-", "×": "x", "µ": "u", "μ": "u", "≥": ">=", "≤": "<=", "→": "->",
    "“": '"', "”": '"', "‘": "'", "’": "'", "°": " deg", "²": "2", "³": "3", "σ": "sigma", "χ": "chi", "ä": "ae", "ö": "oe",
    "ü": "ue", "ß": "ss",
}  # fmt: skip


def spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """Error handler of an encoder: similar characters, and the bytes of file names that are no text."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a name, as the file system has it
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _SPELLINGS.get(character, "?"), error.start + 1


codecs.register_error("caloforge-spell", spell)


class _Patient(io.RawIOBase):
    """A descriptor that takes everything, and remembers why it could not pass it on.

    Attributes:
        error: the first error; what is written after it is dropped.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        while self.error is None:
            try:
                return os.write(self.descriptor, view)
            except BlockingIOError:  # whoever shares the terminal with us does not want to wait, but we do
                select.select([], [self.descriptor], [])
            except OSError as error:
                self.error = error
        return len(view)


_installed: list[_Patient] = []


def install() -> None:
    """Make the standard streams of this process patient; to be done once, before anything is printed."""
    _fill_gaps()
    if _installed:
        return
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        raw = _Patient(1 if name == "stdout" else 2)
        encoding = "utf-8" if stream is None else stream.encoding
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()
        wrapped = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=encoding,
            errors="caloforge-spell",
            line_buffering=name == "stderr" or raw.isatty(),
        )
        setattr(sys, name, wrapped)
        _installed.append(raw)


def _fill_gaps() -> None:
    """Open the standard descriptors that are closed; the next file that is opened would get their numbers.

    A shower file on descriptor 2 would take in every warning of a C library.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


def lost_output() -> str:
    """Why standard output did not arrive, as a sentence; empty if it did, or nobody wanted to read on."""
    if not _installed:
        return ""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    error = _installed[0].error
    if error is None or error.errno == errno.EPIPE:
        return ""
    return f"standard output cannot be written ({(error.strerror or str(error)).lower()}); everything else is done"
