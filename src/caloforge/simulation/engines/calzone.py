"""Geant4 through calzone: deposits are collected in C++; there is no magnetic field.

calzone keeps a run's deposits by volume, counts lengths in cm, and reads its tables from ``GEANT4_DATA_DIR`` when its
first run in a process starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, Stack
from caloforge.errors import SimulationError
from caloforge.simulation.engines.base import Deposits, Engine, Floats, one_sentence
from caloforge.simulation.geometry import WORLD_MARGIN, material_name
from caloforge.simulation.physics import hadronic_physics
from caloforge.simulation.tables import atomic_number, find_tables
from caloforge.units import cm

__all__ = ["Calzone", "geometry_of", "volume_name"]

_WORLD = "World"

_tables_in_use: Path | None = None


class Calzone(Engine):
    """See ``Engine``."""

    name = "calzone"

    def _prepare(self, detector: Detector, tables: str | Path) -> None:
        import calzone

        self._calzone = calzone
        stack = self._stack
        hadronic = hadronic_physics(self._particle)
        definition = geometry_of(stack)
        try:
            if "materials" in definition:
                calzone.define(materials=definition["materials"])
            elements = self._elements({(p.material, material_name(stack, p.material)) for p in stack.plates})
            self.tables = find_tables(tables, elements, hadronic=hadronic is not None)
            self._simulation = calzone.Simulation(
                definition,
                physics=calzone.Physics(em_model="standard", had_model=hadronic, default_cut=stack.cut / cm),
                sample_deposits="detailed",
                sample_particles=False,
            )
        except (calzone.Geant4Exception, TypeError, ValueError, OSError) as error:
            raise SimulationError(
                f"Geant4 does not accept the detector '{detector.name}': {one_sentence(error)}"
            ) from error
        self._plates = {volume_name(plate.index): number for number, plate in enumerate(stack.plates)}

    def seed(self, seed: int) -> None:
        """Start Geant4's random stream anew from a 128-bit seed."""
        self._simulation.random = self._calzone.Random(seed)

    def versions(self) -> dict[str, str]:
        """Versions of Geant4 and calzone."""
        return {"geant4": str(self._calzone.GEANT4_VERSION), "calzone": version("calzone")}

    def run_bare(self, energies: Floats, directions: Floats) -> None:
        """Simulate showers with only the energy per shower and volume recorded."""
        self.run_brief(energies, directions)

    def run_brief(self, energies: Floats, directions: Floats) -> dict[str, Any]:
        """Simulate showers with only the energy per shower and volume recorded: calzone's own record, by volume."""
        self._simulation.sample_deposits = "brief"
        try:
            return self.run_detailed(energies, directions)
        finally:
            self._simulation.sample_deposits = "detailed"

    def run_detailed(self, energies: Floats, directions: Floats) -> dict[str, Any]:
        """Simulate showers with every step recorded: calzone's own record, by volume, lengths in cm.

        Args:
            energies: kinetic, MeV, shape (N,).
            directions: unit vectors in the local frame, shape (N, 3).
        """
        particles: NDArray[Any] = self._calzone.particles(len(energies), pid=self._particle)
        particles["energy"] = energies
        particles["position"] = self._frame.to_geant4(self._origin)[0] / cm
        particles["direction"] = self._frame.rotate(directions)
        try:
            with _data_directory(self.tables.path):
                result: dict[str, Any] = self._simulation.run(particles)
                return result
        except self._calzone.Geant4Exception as error:
            raise SimulationError(f"Geant4 failed: {one_sentence(error)}") from error

    def _elements(self, materials: set[tuple[str, str]]) -> set[int]:
        """Atomic numbers of the elements in some materials, given as (name in the description, name in calzone)."""
        elements = set()
        for name, known_as in sorted(materials):
            described = self._calzone.describe(material=known_as)
            if described is None:
                raise SimulationError(f"Geant4 does not know the material '{name}'")
            elements |= {atomic_number(symbol) for symbol, _ in described.composition}
        return elements

    def _simulate(self, energies: Floats, directions: Floats, depth: bool) -> Deposits:
        return self._joined(self.run_detailed(energies, directions), depth)

    def _joined(self, record: dict[str, Any], depth: bool) -> Deposits:
        """Join the deposits of all volumes."""
        # Those of charged particles, along a step ("line"), and of neutral ones, at its end ("point").
        lines = [(name, deposits.line) for name, deposits in record.items() if len(deposits.line)]
        ends = [(name, deposits.point) for name, deposits in record.items() if len(deposits.point)]
        parts = [part for _, part in lines + ends]
        if not parts:
            return Deposits.none()

        def coordinate(local_axis: int) -> Floats:
            axis = self._frame.axes[local_axis]
            values = np.concatenate([t["start"][:, axis] for _, t in lines] + [t["position"][:, axis] for _, t in ends])
            if self._stack.deposit_point == "middle" and lines:
                along = np.concatenate([t["end"][:, axis] for _, t in lines])
                values[: len(along)] += along
                values[: len(along)] *= 0.5
            return self._frame.to_local(values * cm, local_axis)

        plates = np.array([self._plates[name] for name, _ in lines + ends])
        return Deposits(
            shower=np.concatenate([t["event"] for t in parts]).view(np.int64),
            plate=np.repeat(plates, [len(t) for t in parts]),
            x=coordinate(0),
            y=coordinate(1),
            z=coordinate(2) if depth else np.zeros(0),
            energy=np.concatenate([t["value"] for t in parts]),
        )


def volume_name(index: int) -> str:
    """Path in calzone of the plate with this number."""
    return f"{_WORLD}.P{index}"


def geometry_of(stack: Stack) -> dict[str, Any]:
    """The stack as calzone's geometry definition; plates whose deposits are scored record them."""
    if stack.kind == "planar":
        assert stack.world is not None  # the description guarantees it
        size = [width / cm for width in stack.world]
    else:
        assert stack.inner_radius is not None
        across = 2 * (stack.inner_radius + stack.thickness + WORLD_MARGIN) / cm
        size = [across, across, (stack.lateral[0] + 2 * WORLD_MARGIN) / cm]
    world: dict[str, Any] = {"box": size, "material": "G4_Galactic"}
    for plate in stack.plates:
        volume: dict[str, Any] = {"material": material_name(stack, plate.material)}
        if stack.kind == "planar":
            middle = plate.start + plate.thickness / 2 - stack.thickness / 2
            volume["box"] = [stack.lateral[0] / cm, stack.lateral[1] / cm, plate.thickness / cm]
            volume["position"] = [0.0, 0.0, middle / cm]
        else:
            assert stack.inner_radius is not None
            volume["cylinder"] = {
                "length": stack.lateral[0] / cm,
                "radius": (stack.inner_radius + plate.end) / cm,
                "thickness": plate.thickness / cm,
            }
        if plate.active or stack.deposits == "all":
            volume["role"] = "record_deposits"
        world[f"P{plate.index}"] = volume
    geometry: dict[str, Any] = {_WORLD: world}
    if stack.materials:
        geometry["materials"] = {
            "mixtures": {
                material_name(stack, name): {"density": material.density, "composition": dict(material.composition)}
                for name, material in stack.materials.items()
            }
        }
    return geometry


@contextmanager
def _data_directory(path: Path) -> Iterator[None]:
    """Tell calzone where the tables are; it asks when its first run in a process starts, and never again."""
    global _tables_in_use
    if _tables_in_use not in (None, path):
        raise SimulationError(f"Geant4 in this process uses the tables in '{_tables_in_use}' already, not '{path}'")
    _tables_in_use = path
    before = os.environ.get("GEANT4_DATA_DIR")
    os.environ["GEANT4_DATA_DIR"] = str(path)
    try:
        yield
    finally:
        # Built-in tables must not be taken for the official ones that this variable points to.
        if before is None:
            del os.environ["GEANT4_DATA_DIR"]
        else:
            os.environ["GEANT4_DATA_DIR"] = before
