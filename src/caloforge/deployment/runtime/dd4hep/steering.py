"""The model in ddsim: in a steering file, `from steering import caloforge; SIM.physics.setupUserPhysics(caloforge)`."""

from typing import Any

from DDG4 import DetectorConstruction, Geant4, PhysicsList

PARTICLE = "gamma"  # that the model was trained for


def caloforge(kernel: Any) -> None:
    """Put the model into its region, and let Geant4 ask it."""
    sequence = Geant4(kernel).detectorConstruction()
    model = DetectorConstruction(kernel, "CaloForgeShowerModel/caloforge")
    model.RegionName = "EcalBarrelRegion"  # the detector's XML has to name it for the volume of the barrel
    model.Enable = True
    model.ModelPath = "model"  # the folder of the export
    model.Seed = 1  # of the run: the one that ddsim gets
    model.BarrelRadius = 1804.8  # mm, inner side of the region's volume
    model.BarrelSides = 8
    model.BarrelMargin = 100.0  # of each face at both of its edges, left to Geant4
    model.enableUI()
    sequence.adopt(model)

    fast = PhysicsList(kernel, "Geant4FastPhysics/fast")
    fast.EnabledParticles = [PARTICLE]
    fast.enableUI()
    kernel.physicsList().adopt(fast)
