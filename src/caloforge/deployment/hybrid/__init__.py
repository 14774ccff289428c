"""Hybrid simulation: Geant4 up to the face of the calorimeter, trained models behind it."""

from caloforge.deployment.hybrid.acceptance import REASONS, Acceptance
from caloforge.deployment.hybrid.answering import Models
from caloforge.deployment.hybrid.faces import Faces, read_faces
from caloforge.deployment.hybrid.placement import LateralProfile, Placement
from caloforge.deployment.hybrid.run import HybridProduction, HybridSummary, hybrid_simulation, plan_hybrid
from caloforge.deployment.hybrid.work import HybridWork

__all__ = [
    "REASONS",
    "Acceptance",
    "Faces",
    "HybridProduction",
    "HybridSummary",
    "HybridWork",
    "LateralProfile",
    "Models",
    "Placement",
    "hybrid_simulation",
    "plan_hybrid",
    "read_faces",
]
