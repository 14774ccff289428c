"""Engines: the ways in which Geant4 is run. An engine's package is imported only when the engine is made."""

from __future__ import annotations

from pathlib import Path

from caloforge.detectors import Detector
from caloforge.simulation.engines.base import Deposits, Engine, Group, Track
from caloforge.simulation.packages import need_engine
from caloforge.simulation.removal import RemovalPlane

__all__ = ["Deposits", "Engine", "Group", "Track", "make_engine"]


def make_engine(
    name: str, detector: Detector, particle: int, tables: str | Path = "auto", removal: RemovalPlane | None = None
) -> Engine:
    """Start Geant4 in this process; arguments and errors are those of ``Engine``."""
    need_engine(name)
    if name == "calzone":
        from caloforge.simulation.engines.calzone import Calzone

        return Calzone(detector, particle, tables, removal)
    from caloforge.simulation.engines.geant4_pybind import Geant4Pybind

    return Geant4Pybind(detector, particle, tables, removal)
