"""Geant4 through geant4-pybind: magnetic fields, and every step seen from Python.

Scoring a step in Python takes two to three times as long as Geant4 needs to make it (docs/simulation.md).
"""

from __future__ import annotations

import os
from array import array
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np

from caloforge.detectors import Detector
from caloforge.errors import MissingDependencyError, SimulationError
from caloforge.simulation.engines.base import Deposits, Engine, Floats
from caloforge.simulation.physics import hadronic_physics
from caloforge.simulation.removal import Removed
from caloforge.simulation.tables import DATASETS, TableSource, find_tables

__all__ = ["SYSTEM_LIBRARIES", "Geant4Pybind"]

#: What the wheel needs of the system and does not bring: Debian's and Ubuntu's names.
SYSTEM_LIBRARIES = "libgl1 libx11-6 libxext6 libsm6 libice6"

#: The variables under which Geant4 looks for its data sets, in the order of ``DATASETS``.
_VARIABLES = (
    "G4NEUTRONHPDATA", "G4LEDATA", "G4LEVELGAMMADATA", "G4RADIOACTIVEDATA", "G4PARTICLEXSDATA", "G4PIIDATA",
    "G4REALSURFACEDATA", "G4SAIDXSDATA", "G4ABLADATA", "G4INCLDATA", "G4ENSDFSTATEDATA", "G4CHANNELINGDATA",
)  # fmt: skip

_started = False


class Geant4Pybind(Engine):
    """See ``Engine``; only one can be made in a process, for Geant4 has one run manager."""

    name = "geant4-pybind"

    def _prepare(self, detector: Detector, tables: str | Path) -> None:
        global _started
        if _started:
            raise SimulationError("geant4-pybind runs in this process already, and Geant4 has one run manager")
        _started = True
        hadronic = hadronic_physics(self._particle)
        # Which elements a material has Geant4 says, and where the tables are it must know before it says anything.
        parts = _import(find_tables(tables, (), hadronic=False))
        self._g4 = g4 = parts.g4
        names = dict.fromkeys(plate.material for plate in self._stack.plates)
        materials = {name: parts.material_of(self._stack, name) for name in names}
        elements = {
            round(material.GetElement(k).GetZ())
            for material in materials.values()
            for k in range(material.GetNumberOfElements())
        }
        self.tables = find_tables(tables, elements, hadronic=hadronic is not None)
        g4.G4EmParameters.Instance().SetVerbose(0)
        g4.G4HadronicParameters.Instance().SetVerboseLevel(0)
        self._rows: array[float] = array("d")
        self._ends: list[int] = []
        # In this order: cuts need the default region of a run manager, and primaries its physics.
        self._manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.Serial)
        start = self._frame.to_geant4(self._origin)[0].tolist()
        field = None if detector.field is None else self._frame.rotate(np.array([detector.field]))[0].tolist()
        self._removed: list[tuple[float, ...]] = []
        guard = None if self._removal is None else parts.Guard(self._removal, self._frame, self._ends, self._removed)
        strength = 0.0 if field is None else float(np.linalg.norm(field))
        warden = parts.Warden(strength, self.given_up) if strength > 0 else None
        self._geometry = parts.Geometry(self._stack, materials, start, field, self._rows, guard, self._sheet, warden)
        self._manager.SetUserInitialization(self._geometry)
        self._physics = parts.Physics(hadronic)
        self._manager.SetUserInitialization(self._physics)
        self._primaries = parts.Primaries(self._particle, start)
        self._actions = parts.Actions(self._primaries, self._rows, self._ends, warden)
        self._manager.SetUserInitialization(self._actions)
        self._manager.Initialize()
        commands = g4.G4UImanager.GetUIpointer()
        commands.ApplyCommand("/process/em/verbose 0")
        # Initialisation forgets cuts that were set before it, without a message. After it SetDefaultCutValue works too, but
        # lets the interpreter crash when it ends.
        commands.ApplyCommand(f"/run/setCut {self._stack.cut!r} mm")

    def seed(self, seed: int) -> None:
        """Start Geant4's generator (MixMax) anew: each of the 2^128 seeds is a stream of its own."""
        words = [(seed >> shift) & 0xFFFFFFFF for shift in (0, 32, 64, 96)]
        self._g4.HepRandom.getTheEngine().setSeeds(words)

    def versions(self) -> dict[str, str]:
        """Versions of Geant4 and geant4-pybind."""
        digits = f"{self._g4.G4VERSION_NUMBER:d}"
        return {
            "geant4": f"{digits[:-2]}.{digits[-2]}.{digits[-1]}",
            "geant4-pybind": version("geant4-pybind"),
        }

    def run_bare(self, energies: Floats, directions: Floats) -> None:
        """Simulate showers with nothing recorded."""
        self._geometry.record(False)
        try:
            self._run(energies, directions)
        finally:
            self._geometry.record(True)

    def _run(self, energies: Floats, directions: Floats) -> None:
        del self._rows[:], self._ends[:], self._removed[:]
        self._primaries.load(energies, self._frame.rotate(directions))
        self._manager.BeamOn(len(energies))

    def _simulate(self, energies: Floats, directions: Floats, depth: bool) -> tuple[Deposits, Removed | None]:
        self._run(energies, directions)
        plate, *place, energy = np.array(self._rows).reshape(-1, 5).T
        x, y, z = (self._frame.to_local(place[self._frame.axes[k]], k) for k in range(3))
        shower = np.repeat(np.arange(len(energies)), np.diff(self._ends, prepend=0))
        deposits = Deposits(shower, plate.astype(np.int64), x, y, z if depth else np.zeros(0), energy)
        if self._removal is None:
            return deposits, None
        taken = np.array(self._removed, dtype=np.float64).reshape(-1, 12)
        number, pdg, track = taken[:, [0, 1, 10]].astype(np.int64).T
        return deposits, Removed(
            number, pdg, taken[:, 2], taken[:, 3:6], taken[:, 6:9], taken[:, 9], track, taken[:, 11] > 0
        )


def _import(tables: TableSource) -> ModuleType:
    """Import geant4-pybind with its tables in place.

    Geant4 looks up a variable for each data set whenever it opens a file; they stay set for the life of this process,
    in place of any that point to the data of another installation.
    """
    os.environ |= {variable: str(tables.path / name) for variable, name in zip(_VARIABLES, DATASETS, strict=True)}
    before = os.environ.get("GEANT4_DATA_DIR")
    os.environ["GEANT4_DATA_DIR"] = str(tables.path)
    try:
        parts = import_module("caloforge.simulation.engines.geant4_parts")
    except ImportError as error:
        raise MissingDependencyError(
            f"geant4-pybind cannot be loaded ({error}); it needs libraries of the system: "
            f"apt-get install {SYSTEM_LIBRARIES}"
        ) from error
    finally:
        # Built-in tables must not be taken for the official ones that this variable points to.
        if before is None:
            del os.environ["GEANT4_DATA_DIR"]
        else:
            os.environ["GEANT4_DATA_DIR"] = before
    if parts.g4.G4VERSION_NUMBER // 10 != 114:
        raise SimulationError(f"geant4-pybind brings Geant4 {parts.g4.G4Version}, expected 11.4")
    return parts
