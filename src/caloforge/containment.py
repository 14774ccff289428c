"""Folders that others have made are read and written, and nothing outside of them.

A link in a model directory from elsewhere may lead anywhere: what is read through it ends up in messages, what is written
through it replaces files of the user's own, and what is cleared behind it is gone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from caloforge.errors import CaloForgeError

__all__ = ["check_contained"]


def check_contained(folder: Path, names: Iterable[str], error: type[CaloForgeError]) -> None:
    """Refuse links that lead out of a model directory, pipes and devices in it, and a name that is not UTF-8.

    Args:
        folder: it may be a link itself, since its user has named it.
        names: what in it will be read or written, files or folders; what is not there does not matter.
        error: what to raise.

    Raises:
        CaloForgeError: of the class ``error``, naming the first of them.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise error(f"the name of '{folder}' is not UTF-8, and the library safetensors opens no such files") from None
    root = os.path.realpath(folder)
    for name in names:
        for path in _below(folder / name):
            if os.path.islink(path):
                target = os.path.realpath(path)
                if os.path.commonpath([root, target]) != root:
                    raise error(
                        f"'{path}' is a link that leads out of its folder; put a copy of what it leads to there"
                    )
            try:
                mode = os.stat(path).st_mode
            except OSError:
                continue  # not there, or a link to nothing, or one that nobody may follow
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise error(f"'{path}' is neither a file nor a folder, so it has no business in a model directory")


def _below(path: Path) -> Iterator[Path]:
    """A path and, if it is a folder and no link, everything in it."""
    yield path
    for folder, folders, files in os.walk(path):
        yield from (Path(folder) / name for name in (*folders, *files))
