"""Where files go that can be made again at any time: built kernels, Geant4's built-in tables.

A container or a batch node may have no home: HOME unset, empty, or a folder that is not there or cannot be written, and a user
without an entry in /etc/passwd. The cache is then a folder of the user's own among the temporary files.
"""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from pathlib import Path

__all__ = ["cache_folder", "home"]


def home() -> Path | None:
    """The user's home; None if there is none."""
    named = os.environ.get("HOME")
    if not named:  # an empty one would be the root of all files
        try:
            named = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    found = Path(named)
    return found if found.is_absolute() and found.is_dir() else None


def cache_folder() -> Path:
    """The first of the user's caches that can be written.

    These are ``CALOFORGE_CACHE``, ``XDG_CACHE_HOME/caloforge``, ``~/.cache/caloforge``, and a folder among the temporary files.

    Whoever names ``CALOFORGE_CACHE`` means it, so that one is taken without a look. The folder may not exist yet.
    """
    if own := os.environ.get("CALOFORGE_CACHE"):
        return Path(own)
    bases = [Path(named)] if (named := os.environ.get("XDG_CACHE_HOME")) and os.path.isabs(named) else []
    bases += [] if (found := home()) is None else [found / ".cache"]
    for base in bases:
        if _writable(base / "caloforge"):
            return base / "caloforge"
    return _temporary()


def _writable(folder: Path) -> bool:
    """Whether files can be put into a folder, or into the one in which it would have to be made."""
    while not folder.exists():
        if folder.parent == folder:
            return False
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _temporary() -> Path:
    """A folder among the temporary files that belongs to this user alone; a new one if somebody else has taken its name."""
    folder = Path(tempfile.gettempdir()) / f"caloforge-cache-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        state = None
    # What is loaded from there is run, so nobody else may have put it there.
    private = (
        state is not None and stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022
    )
    return folder if private else Path(tempfile.mkdtemp(prefix="caloforge-cache-"))
