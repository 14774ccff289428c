"""Small detectors and showers for the tests of models: those of ``caloforge.testing``, and some from Geant4."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caloforge.detectors import Detector, detector_from_toml, load_detector
from caloforge.showers import Showers
from caloforge.testing import ToyRows as Rows
from caloforge.testing import fit_stages as fit
from caloforge.testing import toy_detector, training_batch
from caloforge.testing import toy_points as point_showers
from caloforge.testing import toy_showers as sparse_showers

__all__ = [
    "Rows",
    "fit",
    "geant4_showers",
    "lead_argon",
    "point_showers",
    "sparse_showers",
    "toy_detector",
    "training_batch",
]


def lead_argon() -> Detector:
    """A small sampling calorimeter with a stack: ten plates of lead and argon each, in three layers of 12, 9 and 4 cells."""
    plates = '[{ material = "G4_Pb", thickness = 4.0 }, { material = "G4_lAr", thickness = 4.0, active = true }]'
    stack = (
        'kind = "planar"\nlateral = [200.0, 200.0]\nworld = [300.0, 300.0, 400.0]\ndeposits = "active"\n'
        f"groups = [{{ repeat = 30, plates = {plates} }}]\n"
    )
    cells = "".join(
        f"[[readout.layers]]\ndepth = [{80.0 * k}, {80.0 * (k + 1)}]\n"
        f"x = {{ bins = {x}, range = [-60.0, 60.0] }}\ny = {{ bins = {y}, range = [-60.0, 60.0] }}\n"
        for k, (x, y) in enumerate(((4, 3), (3, 3), (2, 2)))
    )
    text = (
        'name = "lead-argon"\nreadout_threshold = 0.001\nanalysis_threshold = 0.01\nsampling_fraction = 0.1\n'
        f'symmetries = ["reflect-x"]\n[gun]\nparticles = ["gamma"]\nenergy = "1:100"\n[stack]\n{stack}{cells}'
    )
    return detector_from_toml(text, where="lead-argon")


def geant4_showers(particle: int) -> Showers:
    """Real Geant4 showers in the CaloGAN calorimeter: ordinary ones, and those with an empty or almost empty layer."""
    with np.load(Path(__file__).with_name("geant4_calogan.npz")) as data:
        rows = data["particle"] == particle
        deposits, incident = data["deposits"][rows], data["incident_energy"][rows]
    return Showers(deposits, incident, particle, load_detector("calogan").readout)
