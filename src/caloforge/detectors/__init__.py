"""What a calorimeter is: material, readout and gun, described once in TOML."""

from caloforge import html
from caloforge.detectors.card import detector_page
from caloforge.detectors.detector import Detector, catalogue, detector_from_toml, load_detector
from caloforge.detectors.energies import EnergySpectrum
from caloforge.detectors.grids import CartesianGrid, PolarGrid
from caloforge.detectors.gun import AngularRange, Directions, Gun
from caloforge.detectors.particles import particle_id, particle_mass, particle_name, particle_names
from caloforge.detectors.readout import Layer, Readout
from caloforge.detectors.stack import Material, PlacedPlate, Plate, PlateGroup, Stack
from caloforge.detectors.upstream import Upstream, behind, load_upstream

__all__ = [
    "AngularRange",
    "CartesianGrid",
    "Detector",
    "Directions",
    "EnergySpectrum",
    "Gun",
    "Layer",
    "Material",
    "PlacedPlate",
    "Plate",
    "PlateGroup",
    "PolarGrid",
    "Readout",
    "Stack",
    "Upstream",
    "behind",
    "catalogue",
    "detector_from_toml",
    "load_detector",
    "load_upstream",
    "particle_id",
    "particle_mass",
    "particle_name",
    "particle_names",
]

html.register_page(Detector, detector_page)
