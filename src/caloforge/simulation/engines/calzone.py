"""Geant4 through calzone: deposits are collected in C++; there is no magnetic field.

calzone keeps a run's deposits by volume, counts lengths in cm, and reads its tables from ``GEANT4_DATA_DIR`` when its
first run in a process starts.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, Stack
from caloforge.errors import SimulationError, UsageError
from caloforge.simulation.engines.base import (
    GROUP_ENERGY,
    Deposits,
    Engine,
    Floats,
    Group,
    Track,
    consecutive,
    one_sentence,
)
from caloforge.simulation.geometry import WORLD_MARGIN, material_name
from caloforge.simulation.physics import check_energies, hadronic_physics
from caloforge.simulation.removal import SHEET, Removed
from caloforge.simulation.tables import atomic_number, find_tables
from caloforge.units import cm

__all__ = ["Calzone", "geometry_of", "volume_name"]

_WORLD = "World"
#: Energy of the showers that go up to a removal plane together, in that of a group: hardly anything is deposited there.
_IN_FRONT = 10

_tables_in_use: Path | None = None


class Calzone(Engine):
    """See ``Engine``."""

    name = "calzone"

    def _prepare(self, detector: Detector, tables: str | Path) -> None:
        with _some_home():
            import calzone

        if detector.field is not None:
            raise SimulationError(f"calzone knows no magnetic field, and the detector '{detector.name}' has one")
        self._calzone = calzone
        stack = self._stack
        hadronic = hadronic_physics(self._particle)
        definition = geometry_of(stack, self._sheet)
        try:
            if "materials" in definition:
                calzone.define(materials=definition["materials"])
            elements = self._elements({(p.material, material_name(stack, p.material)) for p in stack.plates})
            self.tables = find_tables(tables, elements, hadronic=hadronic is not None)
            self._physics = calzone.Physics(em_model="standard", had_model=hadronic, default_cut=stack.cut / cm)
            self._simulation = self._made(definition, removing=self._removal is not None)
            # Without the sheet, for what came through it.
            self._behind = None if self._removal is None else self._made(geometry_of(stack))
        except (calzone.Geant4Exception, TypeError, ValueError, OSError) as error:
            raise SimulationError(
                f"Geant4 does not accept the detector '{detector.name}': {one_sentence(error)}"
            ) from error
        self._followed: tuple[int, float] | None = None
        self._tracks: list[Track] = []
        self._plates = {volume_name(plate.index): number for number, plate in enumerate(stack.plates)}

    def _made(self, definition: dict[str, Any], *, removing: bool = False) -> Any:
        return self._calzone.Simulation(
            definition, physics=self._physics, sample_deposits="detailed", sample_particles=removing
        )

    def seed(self, seed: int) -> None:
        """Start Geant4's random stream anew from a 128-bit seed."""
        self._simulation.random = self._calzone.Random(seed)
        if self._behind is not None:
            other = hashlib.blake2b(seed.to_bytes(16, "little"), digest_size=16).digest()
            self._behind.random = self._calzone.Random(int.from_bytes(other, "little"))

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
        result: dict[str, Any] = self._run(self._simulation, self._incident(energies, directions))
        return result

    def _incident(self, energies: Floats, directions: Floats) -> NDArray[Any]:
        particles: NDArray[Any] = self._calzone.particles(len(energies), pid=self._particle)
        particles["energy"] = energies
        particles["position"] = self._frame.to_geant4(self._origin)[0] / cm
        particles["direction"] = self._frame.rotate(directions)
        return particles

    def _run(self, simulation: Any, particles: NDArray[Any]) -> Any:
        try:
            with _data_directory(self.tables.path):
                return simulation.run(particles)
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

    def run(self, energies: Floats, directions: Floats, *, depth: bool = True) -> Iterator[Group]:
        """See ``Engine``; behind a removal plane groups are as large as what is left for Geant4 allows."""
        if self._removal is None:
            yield from super().run(energies, directions, depth=depth)
            return
        check_energies(energies)
        for start, number in consecutive(energies, _IN_FRONT * GROUP_ENERGY):
            rows = slice(start, start + number)
            record = self._run(self._simulation, self._incident(energies[rows], directions[rows]))
            self._follow(record, np.arange(start, start + number), behind=False)
            in_front = self._joined(record.deposits, depth)
            # calzone stops all that enters a volume; what the plane does not take starts again from there.
            caught = [particles for particles in record.particles.values() if len(particles)]
            everything = np.concatenate(caught) if caught else None
            removed, rest = (Removed(), None) if everything is None else self._split(everything)
            left = np.zeros(number)
            if rest is not None:
                np.add.at(left, rest["event"], rest["energy"])
            for first, count in consecutive(left, GROUP_ENERGY):
                parts = [in_front.of(first, count)]
                if rest is not None:
                    those = rest[(rest["event"] >= first) & (rest["event"] < first + count)]
                    parts.append(self._behind_the_plane(those, first, start, depth))
                here = (removed.shower >= first) & (removed.shower < first + count)
                deposits = Deposits.concatenate([part for part in parts if len(part.shower)] or [Deposits.none()])
                yield Group(start + first, count, deposits, removed[here].shifted(-first))

    def _behind_the_plane(self, particles: NDArray[Any], first: int, start: int, depth: bool) -> Deposits:
        """What particles deposit that the plane lets through, showers counted from one of them."""
        if not len(particles):
            return Deposits.none()
        owner = particles["event"].astype(np.int64)
        record = self._run(self._behind, particles)
        if self._followed is not None:
            self._follow(record, start + owner, behind=True)
            record = record.deposits
        deposits = self._joined(record, depth)
        return replace(deposits, shower=owner[deposits.shower] - first)

    def trace(self, energies: Floats, directions: Floats, shower: int, least: float) -> tuple[list[Track], Removed]:
        """See ``Engine``."""
        if self._behind is None:
            raise UsageError("tracks are told of showers with a removal plane")
        self._followed, tracks = (shower, least), self._tracks
        self._simulation.tracking = self._behind.tracking = True
        seen = []
        try:
            for group in self.run(energies, directions, depth=False):
                assert group.removed is not None  # there is a plane
                those = group.removed.shifted(group.first)
                seen.append(those[those.shower == shower])
        finally:
            self._simulation.tracking = self._behind.tracking = False
            self._followed, self._tracks = None, []
        return tracks, Removed.concatenate(seen)

    def _follow(self, record: Any, owner: NDArray[np.int64], *, behind: bool) -> None:
        """Keep the tracks of the shower that is followed; events of the record belong to showers."""
        if self._followed is None:
            return
        shower, least = self._followed
        for event in np.flatnonzero(owner == shower).tolist():
            particles = dict(record.tracks[record.tracks["event"] == event][["tid", "pid"]].tolist())
            steps = record.vertices[record.vertices["event"] == event]
            order = np.argsort(steps["tid"], kind="stable")
            steps = steps[order]
            for part in np.split(steps, np.flatnonzero(np.diff(steps["tid"])) + 1):
                if len(part) < 2 or part["energy"][0] < least:
                    continue
                place = [self._frame.to_local(part["position"][:, self._frame.axes[k]] * cm, k) for k in range(3)]
                kind, energy = particles[int(part["tid"][0])], float(part["energy"][0])
                self._tracks.append(Track(kind, energy, np.stack(place, axis=1), behind))

    def _simulate(self, energies: Floats, directions: Floats, depth: bool) -> tuple[Deposits, Removed | None]:
        return self._joined(self.run_detailed(energies, directions), depth), None

    def _split(self, caught: NDArray[Any]) -> tuple[Removed, NDArray[Any]]:
        """What the removal plane takes or sees of the particles that were caught at it, and those that it lets through."""
        assert self._removal is not None
        there = caught["position"] * cm
        position = np.stack(
            [self._frame.to_local(there[:, axis], k) for k, axis in enumerate(self._frame.axes)], axis=1
        )
        direction = caught["direction"][:, self._frame.axes]
        rows = zip(caught["pid"].tolist(), caught["energy"].tolist(), position, direction, strict=True)
        taken = np.array([self._removal.takes(*row) for row in rows], dtype=bool)
        ingoing = (direction[:, 2] > 0) & (caught["energy"] >= self._removal.seen_above)
        kept = taken | ingoing
        removed = Removed(
            caught["event"][kept].astype(np.int64),
            caught["pid"][kept].astype(np.int64),
            caught["energy"][kept],
            position[kept],
            direction[kept],
            np.full(int(kept.sum()), np.nan),
            caught["tid"][kept].astype(np.int64),
            taken[kept],
        )
        return removed, caught[~taken]

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


def geometry_of(stack: Stack, sheet: tuple[int | None, float] | None = None) -> dict[str, Any]:
    """The stack as calzone's geometry definition; plates whose deposits are scored record them.

    Args:
        stack: of the detector.
        sheet: plate and depth of the sheet of vacuum that stands for a removal plane (``RemovalPlane.place``).
    """
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
    if sheet is not None:
        number, depth = sheet
        volume = {"material": "G4_Galactic", "role": "catch_ingoing"}
        if stack.kind == "planar":
            start = stack.thickness / 2
            if number is not None:
                plate = stack.plates[number]
                start = plate.start + plate.thickness / 2
            volume["box"] = [stack.lateral[0] / cm, stack.lateral[1] / cm, SHEET / cm]
            volume["position"] = [0.0, 0.0, (depth - start) / cm]
        else:
            assert stack.inner_radius is not None
            volume["cylinder"] = {
                "length": stack.lateral[0] / cm,
                "radius": (stack.inner_radius + depth + SHEET / 2) / cm,
                "thickness": SHEET / cm,
            }
        (world if number is None else world[f"P{number}"])["Sheet"] = volume
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
def _some_home() -> Iterator[None]:
    """Calzone asks for HOME when it is imported, and panics in a container that has none; it is not used afterwards."""
    missing = "HOME" not in os.environ
    if missing:
        os.environ["HOME"] = tempfile.gettempdir()
    try:
        yield
    finally:
        if missing:
            del os.environ["HOME"]


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
