"""CaloForge: the open toolkit for generative calorimeter simulation.

Describe a detector, produce real Geant4 showers, train published models, generate, prove the fidelity, deploy.
Energies are MeV, lengths mm, angles radians everywhere inside the package.
"""

from caloforge.version import __version__

__all__ = ["__version__"]
