"""What geant4-pybind is given: geometry, physics, primaries and scoring, as subclasses of Geant4's own classes.

Imported by ``geant4_pybind`` alone, once the tables are in place: the import of the package asks for a download of 2 GB,
and with ``CI=true`` begins it unasked, unless ``GEANT4_DATA_DIR`` is set.

Geant4 keeps pointers to what it is given without keeping it alive, so that is done here.
"""

from __future__ import annotations

import math
import os
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Stack
from caloforge.errors import SimulationError
from caloforge.simulation.geometry import WORLD_MARGIN, Frame, material_name
from caloforge.simulation.removal import SHEET, RemovalPlane

if "GEANT4_DATA_DIR" not in os.environ:
    raise ImportError("geant4_pybind must not be imported before its tables are in place")

import geant4_pybind as g4

__all__ = ["Actions", "Geometry", "Guard", "Physics", "Primaries", "Warden", "material_of"]

Floats = NDArray[np.float64]

#: Vacuum behind the place where particles start, mm.
_GUN_MARGIN = 1.0
#: Density below which a material counts as vacuum, g/cm3: an electron that makes ``MAX_TURNS`` turns there keeps its energy.
_VACUUM = 1e-9
#: Turns in vacuum after which a particle is given up, half a second of CPU time. An electron of 10 keV that flies along a
#: field of 3.5 T makes 1,600 in a metre.
MAX_TURNS = 100_000
#: Path in vacuum, mm, below which turns are not counted, to save time: in 20 T 100,000 turns of an electron of 10 eV are longer.
_SHORT = 300.0


def material_of(stack: Stack, name: str) -> Any:
    """A material of Geant4's own list, or one that the stack defines.

    Raises:
        SimulationError: if Geant4 does not know the material, or an element of it.
    """
    nist = g4.G4NistManager.Instance()
    if name not in stack.materials:
        if (found := nist.FindOrBuildMaterial(name)) is None:
            raise SimulationError(f"Geant4 does not know the material '{name}'")
        return found
    described = stack.materials[name]
    g4_material = g4.G4Material(
        material_name(stack, name), described.density * g4.g / g4.cm3, len(described.composition)
    )
    whole = sum(described.composition.values())
    for symbol, fraction in described.composition.items():
        if (element := nist.FindOrBuildElement(symbol)) is None:
            raise SimulationError(f"'{symbol}' is not the symbol of an element from H to U")
        g4_material.AddElement(element, fraction / whole)
    return g4_material


class Geometry(g4.G4VUserDetectorConstruction):
    """The stack in its world, its field, and what scores the plates.

    Args:
        stack: of the detector.
        materials: by their names in the stack.
        start: where particles start, mm, in Geant4's frame.
        field: uniform magnetic field, tesla, in Geant4's frame; None without one.
        rows: where scored steps go, five numbers each: plate, x, y, z (mm, Geant4's frame), energy (MeV).
        guard: stands at the removal plane, if there is one.
        sheet: plate and depth of the sheet of vacuum where it stands (``RemovalPlane.place``).
        warden: watches the vacuum, if there is a field.
    """

    def __init__(
        self,
        stack: Stack,
        materials: dict[str, Any],
        start: list[float],
        field: list[float] | None,
        rows: array[float],
        guard: Guard | None = None,
        sheet: tuple[int | None, float] | None = None,
        warden: Warden | None = None,
    ) -> None:
        super().__init__()
        self._warden = warden
        self._guard, self._sheet = guard, sheet
        self._stack, self._materials, self._start, self._field, self._rows = stack, materials, start, field, rows
        self._kept: list[Any] = []
        self._scorers: list[Any] = []

    def record(self, on: bool) -> None:
        """Switch scoring on or off."""
        for scorer in self._scorers:
            scorer.Activate(on)

    def Construct(self) -> Any:
        stack = self._stack
        vacuum = g4.G4NistManager.Instance().FindOrBuildMaterial("G4_Galactic")
        if stack.kind == "planar":
            assert stack.world is not None  # the description guarantees it
            size = stack.world
        else:
            assert stack.inner_radius is not None
            across = 2 * (stack.inner_radius + stack.thickness + WORLD_MARGIN)
            size = (across, across, stack.lateral[0] + 2 * WORLD_MARGIN)
        # Particles must start inside the world, and CaloGAN's start on its face.
        halves = [max(width / 2, abs(at) + _GUN_MARGIN) for width, at in zip(size, self._start, strict=True)]
        world, placed_world = self._place("World", g4.G4Box("World", *halves), vacuum)
        self._world = world
        self._plates = []
        for plate in stack.plates:
            name = f"P{plate.index}"
            if stack.kind == "planar":
                half = plate.thickness / 2
                solid = g4.G4Box(name, stack.lateral[0] / 2, stack.lateral[1] / 2, half)
                middle = plate.start + half - stack.thickness / 2
            else:
                assert stack.inner_radius is not None
                radii = stack.inner_radius + plate.start, stack.inner_radius + plate.end
                solid = g4.G4Tubs(name, *radii, stack.lateral[0] / 2, 0.0, g4.twopi)
                middle = 0.0
            volume, _ = self._place(name, solid, self._materials[plate.material], world, middle)
            self._plates.append(volume)
        if self._sheet is not None:
            number, depth = self._sheet
            mother, middle = (world, stack.thickness / 2) if number is None else (self._plates[number], 0.0)
            if number is not None:
                plate = stack.plates[number]
                middle = plate.start + plate.thickness / 2
            if stack.kind == "planar":
                solid = g4.G4Box("Sheet", stack.lateral[0] / 2, stack.lateral[1] / 2, SHEET / 2)
                middle = depth - middle
            else:
                assert stack.inner_radius is not None
                radius = stack.inner_radius + depth
                solid = g4.G4Tubs("Sheet", radius - SHEET / 2, radius + SHEET / 2, stack.lateral[0] / 2, 0.0, g4.twopi)
                middle = 0.0
            self._sheet_volume, _ = self._place("Sheet", solid, vacuum, mother, middle)
        return placed_world

    def ConstructSDandField(self) -> None:
        score = _StartScorer if self._stack.deposit_point == "start" else _MiddleScorer
        for plate, volume in zip(self._stack.plates, self._plates, strict=True):
            if plate.active or self._stack.deposits == "all":
                scorer = score(f"P{plate.index}", plate.index, self._rows)
                g4.G4SDManager.GetSDMpointer().AddNewDetector(scorer)
                self.SetSensitiveDetector(volume, scorer)
                self._scorers.append(scorer)
        if self._guard is not None:
            g4.G4SDManager.GetSDMpointer().AddNewDetector(self._guard)
            self.SetSensitiveDetector(self._sheet_volume, self._guard)
        if self._warden is not None:
            g4.G4SDManager.GetSDMpointer().AddNewDetector(self._warden)
            for volume in (self._world, *self._plates):
                if volume.GetMaterial().GetDensity() < _VACUUM * g4.g / g4.cm3:
                    self.SetSensitiveDetector(volume, self._warden)  # beside its scorer, where it has one
        if self._field is not None:
            field = g4.G4UniformMagField(g4.G4ThreeVector(*(b * g4.tesla for b in self._field)))
            manager = g4.G4TransportationManager.GetTransportationManager().GetFieldManager()
            manager.SetDetectorField(field)
            manager.CreateChordFinder(field)
            self._kept.append(field)

    def _place(self, name: str, solid: Any, material: Any, mother: Any = None, z: float = 0.0) -> tuple[Any, Any]:
        volume = g4.G4LogicalVolume(solid, material, name)
        placed = g4.G4PVPlacement(None, g4.G4ThreeVector(0.0, 0.0, z), volume, name, mother, False, 0)
        self._kept += [solid, volume, placed]
        return volume, placed


class _StartScorer(g4.G4VSensitiveDetector):
    """Books the deposits of charged particles where their steps start, those of neutral ones where they end."""

    def __init__(self, name: str, plate: int, rows: array[float]) -> None:
        super().__init__(name)
        self._plate, self._extend = plate, rows.extend

    def ProcessHits(self, step: Any, history: Any) -> bool:
        energy = step.GetTotalEnergyDeposit()
        if energy > 0.0:
            point = step.GetPreStepPoint()
            if point.GetCharge() == 0.0:
                point = step.GetPostStepPoint()
            place = point.GetPosition()
            self._extend((self._plate, place.x, place.y, place.z, energy))
        return True


class _MiddleScorer(_StartScorer):
    """Books the deposits of charged particles in the middle of their steps, those of neutral ones where they end."""

    def ProcessHits(self, step: Any, history: Any) -> bool:
        energy = step.GetTotalEnergyDeposit()
        if energy > 0.0:
            point, b = step.GetPreStepPoint(), step.GetPostStepPoint().GetPosition()
            if point.GetCharge() == 0.0:
                self._extend((self._plate, b.x, b.y, b.z, energy))
            else:
                a = point.GetPosition()
                middle = (a.x + b.x) * 0.5, (a.y + b.y) * 0.5, (a.z + b.z) * 0.5
                self._extend((self._plate, *middle, energy))
        return True


class Guard(g4.G4VSensitiveDetector):
    """Stops what a removal plane takes, as it enters the sheet of vacuum.

    Args:
        plane: says what is taken.
        frame: from the local frame to Geant4's.
        ends: one for each shower of the run that has ended; their number is that of the present one.
        removed: gets shower, PDG id, kinetic energy, position and direction in the local frame, time (ns), track, and
            whether it was stopped.
    """

    def __init__(self, plane: RemovalPlane, frame: Frame, ends: list[int], removed: list[tuple[float, ...]]) -> None:
        super().__init__("Guard")
        self._plane, self._ends, self._removed = plane, ends, removed
        self._axes, self._origin = frame.axes, frame.origin

    def ProcessHits(self, step: Any, history: Any) -> bool:
        point, track = step.GetPreStepPoint(), step.GetTrack()
        if point.GetStepStatus() != g4.fGeomBoundary:
            return True
        p, d = point.GetPosition(), point.GetMomentumDirection()
        there, along = (p.x, p.y, p.z), (d.x, d.y, d.z)
        position = [there[k] - self._origin[k] for k in self._axes]
        direction = [along[k] for k in self._axes]
        pdg, energy = track.GetDefinition().GetPDGEncoding(), point.GetKineticEnergy()
        taken = self._plane.takes(pdg, energy, position, direction)
        if taken or self._plane.sees(energy, direction):
            time, number = point.GetGlobalTime(), track.GetTrackID()
            row = (len(self._ends), pdg, energy, *position, *direction, time, number, taken)
            self._removed.append(row)
        if taken:
            # Nothing can have happened to it in a micrometre of vacuum, so it has left nothing behind.
            track.SetTrackStatus(g4.fStopAndKill)
        return True


class Warden(g4.G4VSensitiveDetector):
    """Gives up charged particles that circle in vacuum.

    Geant4 follows a circle along chords and asks only of the chords whether they leave the volume. Of a slow electron's circle
    (0.08 mm at 7.5 keV in 3.5 T) they see little: it grazes the face of the calorimeter, is found there on its way out only,
    makes a step of no length and circles on with its energy kept. Geant4's own check for such particles looks at single steps,
    and these end at the face before they are long.

    Args:
        field: strength, tesla.
        given_up: gets the kinetic energy (MeV) of each particle that is given up.
    """

    def __init__(self, field: float, given_up: list[float]) -> None:
        super().__init__("Warden")
        self._given_up = given_up
        self._track, self._path = -1, 0.0
        # Circumference of a circle, mm, for a momentum of 1 MeV across the field and a unit of charge.
        self._around = 2 * math.pi / (0.299792458 * field)

    def forget(self) -> None:
        """Begin another shower, which numbers its tracks anew."""
        self._track = -1

    def ProcessHits(self, step: Any, history: Any) -> bool:
        track = step.GetTrack()
        number = track.GetTrackID()
        if number != self._track:
            self._track, self._path = number, 0.0
        self._path += step.GetStepLength()
        if self._path < _SHORT:
            return True
        point = step.GetPostStepPoint()
        if self._path * abs(point.GetCharge()) > MAX_TURNS * self._around * point.GetMomentum().mag():
            self._given_up.append(point.GetKineticEnergy())
            track.SetTrackStatus(g4.fStopAndKill)
        return True


class Physics(g4.G4VModularPhysicsList):
    """The physics that calzone sets up: decays, standard electromagnetic physics, and with FTFP_BERT its companions.

    Args:
        hadronic: the hadronic list, or None.
    """

    def __init__(self, hadronic: str | None) -> None:
        super().__init__()
        parts = [g4.G4DecayPhysics, g4.G4EmStandardPhysics, g4.G4EmExtraPhysics]
        if hadronic is not None:
            assert hadronic == "FTFP_BERT"
            parts += [g4.G4HadronElasticPhysics, g4.G4HadronPhysicsFTFP_BERT, g4.G4StoppingPhysics, g4.G4IonPhysics]
        for part in parts:
            self.RegisterPhysics(part())
        self.SetVerboseLevel(0)


class Primaries(g4.G4VUserPrimaryGeneratorAction):
    """One incident particle for each shower, as loaded before a run.

    Args:
        particle: PDG id.
        start: where particles start, mm, in Geant4's frame.
    """

    def __init__(self, particle: int, start: list[float]) -> None:
        super().__init__()
        self._particle, self._start = particle, start
        self._gun = g4.G4ParticleGun(1)

    def load(self, energies: Floats, directions: Floats) -> None:
        """Set the showers of the next run: energies (N,), directions (N, 3) in Geant4's frame."""
        self._gun.SetParticleDefinition(g4.G4ParticleTable.GetParticleTable().FindParticle(self._particle))
        self._gun.SetParticlePosition(g4.G4ThreeVector(*self._start))
        placed = self._gun.GetParticlePosition()
        if [placed.x, placed.y, placed.z] != self._start:
            raise SimulationError(f"Geant4 does not let particles start at {tuple(self._start)} mm")
        self._energies, self._directions = energies.tolist(), directions.tolist()

    def GeneratePrimaries(self, event: Any) -> None:
        number = event.GetEventID()
        self._gun.SetParticleEnergy(self._energies[number])
        self._gun.SetParticleMomentumDirection(g4.G4ThreeVector(*self._directions[number]))
        self._gun.GeneratePrimaryVertex(event)


class _EndOfEvent(g4.G4UserEventAction):
    """Notes how many scored steps there are when a shower ends."""

    def __init__(self, rows: array[float], ends: list[int], warden: Warden | None) -> None:
        super().__init__()
        self._rows, self._ends, self._warden = rows, ends, warden

    def EndOfEventAction(self, event: Any) -> None:
        self._ends.append(len(self._rows) // 5)
        if self._warden is not None:
            self._warden.forget()


class Actions(g4.G4VUserActionInitialization):
    """Primaries, and the ends of the showers among the scored steps.

    Args:
        primaries: the incident particles.
        rows: scored steps.
        ends: gets the number of scored steps at the end of every shower.
        warden: hears when a shower ends.
    """

    def __init__(self, primaries: Primaries, rows: array[float], ends: list[int], warden: Warden | None = None) -> None:
        super().__init__()
        self._primaries, self._rows, self._ends, self._warden = primaries, rows, ends, warden

    def Build(self) -> None:
        self.SetUserAction(self._primaries)
        self.SetUserAction(_EndOfEvent(self._rows, self._ends, self._warden))
