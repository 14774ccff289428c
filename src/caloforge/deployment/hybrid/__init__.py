"""Hybrid simulation: Geant4 up to the face of the calorimeter, trained models behind it."""

from caloforge.deployment.hybrid.acceptance import REASONS, Acceptance
from caloforge.deployment.hybrid.faces import Faces, read_faces
from caloforge.deployment.hybrid.placement import LateralProfile, Placement
from caloforge.deployment.hybrid.run import HybridSummary, hybrid_simulation

__all__ = [
    "REASONS",
    "Acceptance",
    "Faces",
    "HybridSummary",
    "LateralProfile",
    "Placement",
    "hybrid_simulation",
    "read_faces",
]
