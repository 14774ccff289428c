"""Geant4, through calzone: one process, one detector, one kind of particle.

Nothing here is imported by ``caloforge.simulation`` itself, and calzone only when a ``Geant4`` is made: the bundled
Geant4 writes to the terminal, keeps global state and may abort its process, so production runs it in worker processes.
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

from caloforge.detectors import Detector, particle_name
from caloforge.errors import SimulationError, UsageError
from caloforge.simulation.geometry import Frame, geometry_of, material_name, volume_name
from caloforge.simulation.scoring import Deposits
from caloforge.simulation.tables import TableSource, atomic_number, find_tables, need_calzone
from caloforge.units import GeV, MeV, TeV, cm, format_energy

__all__ = ["ENERGY_RANGE", "Geant4", "check_particle", "hadronic_physics"]

Floats = NDArray[np.float64]

#: Kinetic energies that the physics lists and the memory of a worker are good for, MeV.
ENERGY_RANGE = (1.0 * MeV, 10.0 * TeV)

_ELECTROMAGNETIC = frozenset({11, -11, 22, 13, -13})
_HADRONS = frozenset({211, -211, 321, -321, 130, 310, 2212, -2212, 2112, -2112})

#: Showers are handed to Geant4 one after the other until they add up to this energy. Larger groups cost memory
#: (120 bytes per deposit), smaller ones cost calls.
_GROUP_ENERGY = 20.0 * GeV

_tables_in_use: Path | None = None


def check_particle(pdg: int) -> None:
    """Refuse particles that cannot be simulated.

    Raises:
        UsageError: naming those that can.
    """
    if pdg not in _ELECTROMAGNETIC | _HADRONS:
        known = ", ".join(particle_name(p) for p in sorted(_ELECTROMAGNETIC | _HADRONS, key=lambda p: (abs(p), -p)))
        raise UsageError(f"Geant4 runs are set up for {known}, not for {particle_name(pdg)}")


def hadronic_physics(pdg: int) -> str | None:
    """Hadronic physics list for an incident particle; None (electromagnetic physics only) for e+-, mu+- and gamma."""
    return "FTFP_BERT" if pdg in _HADRONS else None


class Geant4:
    """A ready Geant4 for one detector and one kind of particle.

    Args:
        detector: with a stack.
        particle: PDG id.
        tables: ``auto``, ``builtin``, ``official`` or a directory.

    Raises:
        MissingDependencyError: if calzone is not installed.
        SimulationError: if there is no stack, a material is not known, or the tables are not complete.
        UsageError: if the particle cannot be simulated.
    """

    def __init__(self, detector: Detector, particle: int, tables: str | Path = "auto") -> None:
        check_particle(particle)
        if detector.stack is None:
            raise SimulationError(f"the detector '{detector.name}' is readout-only: it has no stack to simulate")
        need_calzone()
        import calzone

        self._calzone = calzone
        self._particle = particle
        stack = detector.stack
        self._frame = Frame.of(stack)
        self._middle = stack.deposit_point == "middle"
        assert detector.gun is not None  # a stack comes with a gun
        self._position = self._frame.to_geant4(np.asarray([detector.gun.position], dtype=np.float64))[0]
        definition = geometry_of(stack)
        try:
            if "materials" in definition:
                calzone.define(materials=definition["materials"])
            elements = self._elements({(p.material, material_name(stack, p.material)) for p in stack.plates})
            self.tables: TableSource = find_tables(tables, elements, hadronic=hadronic_physics(particle) is not None)
            self._simulation = calzone.Simulation(
                definition,
                physics=calzone.Physics(
                    em_model="standard", had_model=hadronic_physics(particle), default_cut=stack.cut / cm
                ),
                sample_deposits="detailed",
                sample_particles=False,
            )
        except (calzone.Geant4Exception, TypeError, ValueError, OSError) as error:
            raise SimulationError(
                f"Geant4 does not accept the detector '{detector.name}': {_sentence(error)}"
            ) from error
        names = (volume_name(plate.index) for plate in stack.plates)
        self._plates = {name: number for number, name in enumerate(names)}

    def run_brief(self, energies: Floats, directions: Floats) -> dict[str, Any]:
        """Simulate showers with only the energy per shower and volume recorded: the least that calzone can do.

        Args:
            energies: kinetic, MeV, shape (N,).
            directions: unit vectors in the local frame, shape (N, 3).

        Returns:
            Calzone's own record, by volume.
        """
        self._simulation.sample_deposits = "brief"
        try:
            return self._run(self.primaries(energies, directions))
        finally:
            self._simulation.sample_deposits = "detailed"

    def _run(self, particles: NDArray[Any]) -> dict[str, Any]:
        try:
            with _data_directory(self.tables.path):
                result: dict[str, Any] = self._simulation.run(particles)
                return result
        except self._calzone.Geant4Exception as error:
            raise SimulationError(f"Geant4 failed: {_sentence(error)}") from error

    def versions(self) -> dict[str, str]:
        """Versions of Geant4 and calzone."""
        return {"geant4": str(self._calzone.GEANT4_VERSION), "calzone": version("calzone")}

    def _elements(self, materials: set[tuple[str, str]]) -> set[int]:
        """Atomic numbers of the elements in some materials, given as (name in the description, name in calzone)."""
        elements = set()
        for name, known_as in sorted(materials):
            described = self._calzone.describe(material=known_as)
            if described is None:
                raise SimulationError(f"Geant4 does not know the material '{name}'")
            elements |= {atomic_number(symbol) for symbol, _ in described.composition}
        return elements

    def primaries(self, energies: Floats, directions: Floats) -> NDArray[Any]:
        """The calzone array of incident particles.

        Args:
            energies: kinetic, MeV, shape (N,).
            directions: unit vectors in the local frame, shape (N, 3).
        """
        low, high = ENERGY_RANGE
        wrong = energies[~((energies >= low) & (energies <= high))]
        if len(wrong):
            raise UsageError(
                f"an incident energy is {format_energy(float(wrong[0]))}, "
                f"expected {format_energy(low)} to {format_energy(high)}"
            )
        particles: NDArray[Any] = self._calzone.particles(len(energies), pid=self._particle)
        particles["energy"] = energies
        particles["position"] = self._position
        particles["direction"] = self._frame.rotate(directions)
        return particles

    def seed(self, seed: int) -> None:
        """Start Geant4's random stream anew from a 128-bit seed."""
        self._simulation.random = self._calzone.Random(seed)

    def run(self, energies: Floats, directions: Floats, *, depth: bool = True) -> Iterator[tuple[int, int, Deposits]]:
        """Simulate showers one after the other, in groups of a bounded energy.

        Args:
            energies: kinetic, MeV, shape (N,).
            directions: unit vectors in the local frame, shape (N, 3).
            depth: whether the depth of the deposits is needed.

        Yields:
            Number of the first shower of a group, number of its showers, and their deposits, in which showers are
            counted from the first of the group.

        Raises:
            SimulationError: if Geant4 reports an error.
        """
        particles = self.primaries(energies, directions)
        first = 0
        while first < len(particles):
            sums = np.cumsum(energies[first:])
            count = max(1, int(np.searchsorted(sums, _GROUP_ENERGY, side="right")))
            yield first, count, self._collect(self._run(particles[first : first + count]), depth)
            first += count

    def _collect(self, result: dict[str, Any], depth: bool) -> Deposits:
        """Join the deposits of all volumes."""
        # Ionisation along a step ("line"), and what stays at its end ("point": recoiling nuclei).
        lines = [(name, deposits.line) for name, deposits in result.items() if len(deposits.line)]
        ends = [(name, deposits.point) for name, deposits in result.items() if len(deposits.point)]
        tables = [table for _, table in lines + ends]
        if not tables:
            nothing = np.zeros(0)
            return Deposits(nothing.astype(np.int64), nothing.astype(np.int64), nothing, nothing, nothing, nothing)

        def coordinate(local_axis: int) -> Floats:
            axis = self._frame.axes[local_axis]
            values = np.concatenate([t["start"][:, axis] for _, t in lines] + [t["position"][:, axis] for _, t in ends])
            if self._middle and lines:
                along = np.concatenate([t["end"][:, axis] for _, t in lines])
                values[: len(along)] += along
                values[: len(along)] *= 0.5
            return self._frame.to_local(values, local_axis)

        plates = np.array([self._plates[name] for name, _ in lines + ends])
        return Deposits(
            shower=np.concatenate([t["event"] for t in tables]).view(np.int64),
            plate=np.repeat(plates, [len(t) for t in tables]),
            x=coordinate(0),
            y=coordinate(1),
            z=coordinate(2) if depth else np.zeros(0),
            energy=np.concatenate([t["value"] for t in tables]),
        )


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


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
