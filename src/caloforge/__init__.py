"""CaloForge: the open toolkit for generative calorimeter simulation.

Describe a detector, produce real Geant4 showers, train published models, generate, prove the fidelity, deploy.
Energies are MeV, lengths mm, angles radians everywhere inside the package.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("caloforge")
except PackageNotFoundError:  # a source tree on PYTHONPATH that was never installed
    __version__ = "0.0.0+source"

__all__ = ["__version__"]
