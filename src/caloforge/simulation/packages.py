"""The packages that bring Geant4: each is an engine, and an optional extra of the same name."""

from __future__ import annotations

from importlib.util import find_spec

from caloforge.errors import MissingDependencyError, UsageError

__all__ = ["ENGINES", "need_engine"]

#: Engines, and the module that each needs.
ENGINES = {"calzone": "calzone"}


def need_engine(name: str) -> None:
    """Make sure that an engine is installed, without importing it.

    Raises:
        UsageError: if there is no such engine.
        MissingDependencyError: if its package is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"the engine '{name}' is not known, expected {' or '.join(ENGINES)}")
    if find_spec(ENGINES[name]) is None:
        raise MissingDependencyError(f'{name}, which brings Geant4, is not installed: pip install "caloforge[{name}]"')
