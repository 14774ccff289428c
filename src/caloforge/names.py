"""Words on the command line that may be the name of something built in, or a path.

A built-in name is always what it says, whatever lies in the working directory: a script that says ``calogan-gamma`` does
not change its meaning because somebody made a folder. ``./calogan-gamma`` is the folder.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from pathlib import Path

from caloforge.errors import CaloForgeWarning

__all__ = ["is_builtin", "printable"]


def printable(text: str) -> str:
    """A text with names of files in it, on one line and without bytes that are no characters.

    A name may hold anything but zero bytes: ends of lines, what makes a terminal change its colours, Latin-1.
    """
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python writes a byte of a name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def is_builtin(word: str | Path, known: Collection[str], what: str) -> bool:
    """Whether a word is one of the built-in names rather than a path; a ``Path`` object always is a path.

    Where there is a file or folder of that name too, a warning says how to name it.

    Args:
        word: as the user typed it.
        known: the built-in names.
        what: what they name, for the warning: "model".
    """
    if not isinstance(word, str) or word not in known:
        return False
    if os.path.lexists(word):
        kind = "folder" if os.path.isdir(word) else "file"
        warnings.warn(
            f"'{word}' is the {what} that is built in; the {kind} of this name in the working directory is './{word}'",
            CaloForgeWarning,
            stacklevel=3,
        )
    return True
