"""What the fixture ``built`` gives; a module of its own, since several rooms of the tests have a ``conftest``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime_library import Library

__all__ = ["Built"]


@dataclass(frozen=True)
class Built:
    """An export of the packaged model, and what CMake made of it."""

    export: Path
    build: Path
    library: Library

    @property
    def parity(self) -> Path:
        return self.build / "parity"
