"""The packages that bring Geant4: each is an engine, and an optional extra of the same name."""

from __future__ import annotations

from importlib.util import find_spec

from caloforge.detectors import Detector
from caloforge.errors import MissingDependencyError, UsageError
from caloforge.options import ENGINE_NAMES

__all__ = ["ENGINES", "choose_engine", "need_engine"]

#: Engines, and the module that each needs.
ENGINES = {name: name.replace("-", "_") for name in ENGINE_NAMES}


def choose_engine(detector: Detector, engine: str | None) -> str:
    """The engine that simulates a detector: the one that was asked for, else calzone, else one that knows fields.

    Raises:
        UsageError: if there is no such engine, or it cannot simulate the detector.
    """
    if engine is None:
        return "calzone" if detector.field is None else "geant4-pybind"
    if engine not in ENGINES:
        raise UsageError(f"the engine '{engine}' is not known, expected {' or '.join(ENGINES)}")
    if engine == "calzone" and detector.field is not None:
        raise UsageError(
            f"the engine calzone knows no magnetic field, and the detector '{detector.name}' has one of "
            f"{detector.field_strength:g} T; geant4-pybind does, and a strength of 0 switches the field off"
        )
    return engine


def need_engine(name: str) -> None:
    """Make sure that an engine is installed, without importing it.

    Raises:
        MissingDependencyError: if its package is not installed.
    """
    if find_spec(ENGINES[name]) is None:
        raise MissingDependencyError(f'{name}, which brings Geant4, is not installed: pip install "caloforge[{name}]"')
