"""Pi0 through aluminium into a calorimeter that stands askew, in geant4-pybind, with C++ fast-simulation models in its region.

Run by ``test_geant4_binary`` in a process of its own: one run manager, and symbols that everybody sees.
Usage: geant4_host.py PLUG OUT.npz MODEL ...
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import numpy as np

sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)  # the plug finds Geant4 in the module

from caloforge.simulation.engines.geant4_pybind import _import  # noqa: E402
from caloforge.simulation.tables import find_tables  # noqa: E402

g4 = _import(find_tables("builtin", [13, 18, 82], hadronic=False)).g4

SEED, FIRST, EVENTS, ENERGY = 5, 1000, 30, 20000.0
#: Where the middle of the calorimeter is in the world, mm; its z lies along the world's x, its y is turned upside down.
PLACE, MAX_ANGLE, MAX_OFFSET = (640.0, 20.0, -30.0), 0.05, 20.0


class Wanted(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int),
        ("region", ctypes.c_char_p),
        ("model", ctypes.c_char_p),
        ("seed", ctypes.c_uint64),
        ("first_event", ctypes.c_int64),
        ("face", ctypes.c_double * 9),
        ("max_angle", ctypes.c_double),
        ("max_offset", ctypes.c_double),
    )


class Told(ctypes.Structure):
    _fields_ = (
        ("particle", ctypes.c_int64),
        ("event", ctypes.c_int64),
        ("track", ctypes.c_int64),
        ("number", ctypes.c_uint64),
        ("energy", ctypes.c_double),
        ("time", ctypes.c_double),
        ("deposited", ctypes.c_double),
        ("direction", ctypes.c_double * 3),
        ("hits", ctypes.c_int64),
    )


plug = ctypes.CDLL(sys.argv[1])
plug.error_text.restype = ctypes.c_char_p
plug.answered.restype = ctypes.c_int64


def wanted(**changes: Any) -> Wanted:
    values = {
        "version": g4.G4VERSION_NUMBER, "region": b"calorimeter", "model": sys.argv[3].encode(), "seed": SEED,
        "first_event": FIRST, "max_angle": MAX_ANGLE, "max_offset": MAX_OFFSET,
    }  # fmt: skip
    face = changes.pop("face", (0, 0, -240, 1, 0, 0, 0, 1, 0))
    made = Wanted(**(values | changes))
    made.face[:] = face
    return made


refused: dict[str, str] = {}


class Detector(g4.G4VUserDetectorConstruction):
    def Construct(self) -> Any:
        nist, self.kept = g4.G4NistManager.Instance(), []
        vacuum = nist.FindOrBuildMaterial("G4_Galactic")
        world, placed = self.place("World", (1500, 600, 600), vacuum)
        self.place("Plate", (5, 500, 500), nist.FindOrBuildMaterial("G4_Al"), world, (290, 0, 0))
        turn = g4.G4RotationMatrix()
        turn.rotateY(np.pi / 2)
        turn.rotateX(np.pi)
        self.kept.append(turn)
        stack, _ = self.place("Stack", (500, 500, 240), vacuum, world, PLACE, turn)
        for k in range(80):
            self.place("Pb", (500, 500, 1), nist.FindOrBuildMaterial("G4_Pb"), stack, (0, 0, -240 + 6 * k + 1))
            self.place("LAr", (500, 500, 2), nist.FindOrBuildMaterial("G4_lAr"), stack, (0, 0, -240 + 6 * k + 4))
        self.region = g4.G4Region("calorimeter")
        self.region.AddRootLogicalVolume(stack)
        return placed

    def place(self, name, half, material, mother=None, where=(0, 0, 0), turn=None):  # type: ignore[no-untyped-def]
        solid = g4.G4Box(name, *map(float, half))
        volume = g4.G4LogicalVolume(solid, material, name)
        placed = g4.G4PVPlacement(turn, g4.G4ThreeVector(*map(float, where)), volume, name, mother, False, 0)
        self.kept += [solid, volume, placed]
        return volume, placed

    def ConstructSDandField(self) -> None:
        for name, change in {
            "version": {"version": 1132},
            "region": {"region": b"elsewhere"},
            "model": {"model": b"/nowhere"},
            "face": {"face": (0, 0, -240, 1, 0, 0, 1, 0, 0)},
        }.items():
            if plug.attach(ctypes.byref(wanted(**change))):
                refused[name] = plug.error_text().decode()
        for model in sys.argv[3:]:
            if plug.attach(ctypes.byref(wanted(model=model.encode()))):
                sys.exit(plug.error_text().decode())


class Primaries(g4.G4VUserPrimaryGeneratorAction):
    def __init__(self) -> None:
        super().__init__()
        self.gun = g4.G4ParticleGun(1)

    def GeneratePrimaries(self, event: Any) -> None:
        self.gun.SetParticleDefinition(g4.G4ParticleTable.GetParticleTable().FindParticle("pi0"))
        self.gun.SetParticleEnergy(ENERGY)
        self.gun.SetParticleMomentumDirection(g4.G4ThreeVector(1, 0, 0))
        self.gun.SetParticlePosition(g4.G4ThreeVector(100, PLACE[1], PLACE[2]))
        self.gun.GeneratePrimaryVertex(event)


#: What Geant4 says of the steps that the model took: track, where, kinetic energy before, deposit, whether the track was stopped.
steps: list[tuple[float, ...]] = []
#: Energy of all steps of each event, MeV.
booked = np.zeros(EVENTS)


class Steps(g4.G4UserSteppingAction):
    def UserSteppingAction(self, step: Any) -> None:
        booked[event_number[0]] += step.GetTotalEnergyDeposit()
        process = step.GetPostStepPoint().GetProcessDefinedStep()
        if process is not None and process.GetProcessName().startswith("fastSim"):
            track, point = step.GetTrack(), step.GetPreStepPoint()
            p = point.GetPosition()
            stopped = float(track.GetTrackStatus() == g4.fStopAndKill)
            energies = point.GetKineticEnergy(), step.GetTotalEnergyDeposit()
            steps.append((event_number[0], track.GetTrackID(), p.x, p.y, p.z, *energies, stopped))


event_number = [-1]


class Events(g4.G4UserEventAction):
    def BeginOfEventAction(self, event: Any) -> None:
        event_number[0] = event.GetEventID()


class Actions(g4.G4VUserActionInitialization):
    def Build(self) -> None:
        self.made = [Primaries(), Steps(), Events()]
        for action in self.made:
            self.SetUserAction(action)


class Physics(g4.G4VModularPhysicsList):
    def __init__(self) -> None:
        super().__init__()
        fast = g4.G4FastSimulationPhysics()
        for particle in ("gamma", "e-", "e+"):
            fast.ActivateFastSimulation(particle)
        for part in (g4.G4EmStandardPhysics(), g4.G4DecayPhysics(), fast):
            self.RegisterPhysics(part)
        self.SetVerboseLevel(0)


g4.G4EmParameters.Instance().SetVerbose(0)
manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.Serial)
detector, physics, actions = Detector(), Physics(), Actions()
for part in (detector, physics, actions):
    manager.SetUserInitialization(part)
manager.Initialize()
g4.G4UImanager.GetUIpointer().ApplyCommand("/process/em/verbose 0")
g4.HepRandom.getTheEngine().setSeeds([SEED, 0, 0, 0])
manager.BeamOn(EVENTS)

if plug.error_text().decode() not in refused.values():
    sys.exit(plug.error_text().decode())
found, hits = [], []
for k in range(plug.answered()):
    told = Told()
    plug.told(ctypes.c_int64(k), ctypes.byref(told))
    own = np.zeros((told.hits, 6))
    plug.hits_of(ctypes.c_int64(k), ctypes.c_void_p(own.ctypes.data))
    found.append(
        (told.particle, told.event, told.track, told.number, told.energy, told.time, told.deposited, *told.direction)
    )
    hits.append(own)
counts = (ctypes.c_uint64 * 9)()
plug.counts(counts)
np.savez(
    sys.argv[2], found=np.array(found), hits=np.concatenate(hits), lengths=[len(h) for h in hits], steps=np.array(steps),
    counts=list(counts), booked=booked, refused=np.array(list(refused.items())),
)  # fmt: skip
