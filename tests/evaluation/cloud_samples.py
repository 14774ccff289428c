"""Point showers for the tests of clouds: with analytic truth, and a few of Geant4's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import load_detector
from caloforge.showers import ShowerPoints

DETECTOR = load_detector("ild-ecal")
PITCH = 2 * 76.324997 / 30
DEPTHS = DETECTOR.readout.depths.mean(axis=1)


def shower_points(
    points: list[NDArray[np.floating]], energy: NDArray[np.floating], direction: NDArray[np.floating] | None = None
) -> ShowerPoints:
    """Photon showers of the points (x, y, layer, energy) of each."""
    return ShowerPoints(
        np.cumsum([0, *map(len, points)]).astype(np.int64),
        np.concatenate(points).astype(np.float32),
        np.asarray(energy, dtype=np.float64),
        22,
        DETECTOR.readout,
        None if direction is None else np.asarray(direction, dtype=np.float32),
    )


def toy_showers(n: int, seed: int, energies: tuple[float, ...] = (10e3, 20e3)) -> ShowerPoints:
    """Showers along z whose points lie at the centres of distinct cells and are far above any cut."""
    rng = np.random.default_rng(seed)
    incident = np.resize(energies, n)
    made = []
    for energy in incident:
        layer = np.repeat(np.arange(30), 4)
        cells = np.array([[a, b] for a in range(-4, 4) for b in range(-4, 4)])
        chosen = np.concatenate([rng.choice(64, 4, replace=False) for _ in range(30)])
        profile = (layer + 1) ** 2 * np.exp(-0.25 * layer)
        deposit = energy / 10e3 * profile * rng.gamma(4, 0.25, len(layer)) + 0.5
        kept = rng.random(len(layer)) < 0.8
        place = (cells[chosen] + 0.5) * PITCH
        made.append(np.column_stack([place, layer, deposit])[kept])
    return shower_points(made, incident)


def real_showers(inclined: bool) -> ShowerPoints:
    """Photons of 10 to 30 GeV from Geant4: deposits added up in cells, without a cut.

    Made by ``caloforge simulate --detector ild-ecal --particle gamma --energy 10:30 --points`` with seed 11 along z, and
    with seed 12 and ``--direction random``, when ild-ecal had no field and a production cut of 0.7 mm; then put into
    cells with the axis at a corner of cells.
    """
    with np.load(Path(__file__).parent / "geant4_ild_ecal.npz") as file:
        word = "inclined" if inclined else "normal"
        cells, energy = file[f"{word}_cells"], file[f"{word}_energy"]
        place = (cells[:, :2] + 0.5) * PITCH
        return ShowerPoints(
            file[f"{word}_offsets"].astype(np.int64),
            np.column_stack([place, cells[:, 2], energy]).astype(np.float32),
            file[f"{word}_incident"].astype(np.float64),
            22,
            DETECTOR.readout,
            file[f"{word}_direction"] if inclined else None,
        )
