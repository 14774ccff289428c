"""The per-user folder for what can be made again: compiled kernels, Geant4's tables."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """``CALOFORGE_CACHE``, else ``XDG_CACHE_HOME/caloforge``, else ``~/.cache/caloforge``; it need not exist.

    A user without a home, as in many containers, gets a folder of his own among the temporary files.
    """
    if own := os.environ.get("CALOFORGE_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "caloforge"
    try:
        home = Path.home()
    except RuntimeError:  # no HOME and no entry among the users
        home = Path("/nowhere")
    if home.is_dir():
        return home / ".cache" / "caloforge"
    return Path(tempfile.gettempdir()) / f"caloforge-{os.getuid()}"
