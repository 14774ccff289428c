"""How far apart two photons have to come in to be told apart: a test of showers, of where they are put, and of how they add up.

Pairs are those of decayed pi0 that reach the face without having converted; where they came in stands in the file, of
simulations by Geant4 alone, too. What is looked at is a profile of an event: the energy of the layers with the narrowest cells,
summed along the other axis. The photons are told apart if the profile has two peaks (strips with more than their neighbours, and
a tenth of the brightest one) between which a strip has less than half of the lower one. The separation is the distance along the
profile at which a logistic curve, fitted to whether pairs are told apart, is one half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from caloforge.deployment.hybrid.faces import Faces, read_faces
from caloforge.detectors import CartesianGrid, Readout
from caloforge.errors import ShowerFileError, UsageError
from caloforge.showers import ShowerPoints, open_showers, voxelise

__all__ = ["BINS", "Separation", "photon_separation", "told_apart"]

Floats = NDArray[np.float64]

#: Edges of the distances for which the share of pairs is given, mm.
BINS = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0)

#: The two photons have this part of the energy at the face, and the lesser one this part of theirs.
_OF_ALL, _LESSER = 0.95, 0.2
_PEAK, _VALLEY = 0.1, 0.5
_FEWEST, _DRAWS = 50, 200
_PHOTON = 22


@dataclass(frozen=True)
class Separation:
    """What was found.

    Attributes:
        pairs: of photons.
        distance: at which half of them are told apart, mm, and its standard error (bootstrap over pairs).
        width: over which the curve rises, mm: its share goes from 0.27 to 0.73 within two of them; and its error.
        told: share of pairs told apart in each of ``BINS``; NaN where there are none.
        numbers: of pairs in each.
    """

    pairs: int
    distance: tuple[float, float]
    width: tuple[float, float]
    told: tuple[float, ...]
    numbers: tuple[int, ...]


def photon_separation(paths: Sequence[str | Path], *, seed: int = 1) -> Separation:
    """The separation in the events of some files of hybrid simulations, taken together.

    Args:
        paths: the files, all of one detector with Cartesian voxels.
        seed: of the bootstrap.

    Raises:
        ShowerFileError: if a file cannot be read, or is not of a hybrid simulation.
        UsageError: if it has no Cartesian voxels, or there are too few pairs, or all or none of them are told apart.
    """
    parts = [_pairs(Path(path)) for path in paths]
    distance, told = (np.concatenate(values) for values in zip(*parts, strict=True))
    names = ", ".join(map(str, paths))
    if len(distance) < _FEWEST:
        raise UsageError(f"{names}: {len(distance)} pairs of photons are too few, expected {_FEWEST} or more")
    if told.all() or not told.any():
        raise UsageError(
            f"{names}: {'all' if told.all() else 'none'} of the {len(told)} pairs of photons are told apart, so there is no "
            "distance at which half of them are"
        )
    generator = np.random.default_rng(seed)
    best = _fitted(distance, told)
    draws: list[Floats] = []
    while len(draws) < _DRAWS:
        rows = generator.integers(0, len(told), len(told))
        if told[rows].any() and not told[rows].all():
            draws.append(_fitted(distance[rows], told[rows]))
    errors = np.std(draws, axis=0, ddof=1)
    which = np.digitize(distance, BINS) - 1
    members = [told[which == k] for k in range(len(BINS) - 1)]
    return Separation(
        len(told),
        (float(best[0]), float(errors[0])),
        (float(best[1]), float(errors[1])),
        tuple(float(part.mean()) if len(part) else math.nan for part in members),
        tuple(len(part) for part in members),
    )


def told_apart(profile: Floats) -> bool:
    """Whether a profile (n,) has two peaks with a valley between them."""
    padded = np.concatenate([[-1.0], profile, [-1.0]])
    peak = (profile > padded[:-2]) & (profile >= padded[2:]) & (profile >= _PEAK * profile.max())
    peaks = np.flatnonzero(peak & (profile > 0)).tolist()
    return any(
        profile[a : b + 1].min() <= _VALLEY * min(profile[a], profile[b])
        for k, a in enumerate(peaks)
        for b in peaks[k + 1 :]
    )


def _pairs(path: Path) -> tuple[Floats, NDArray[np.bool_]]:
    """Distances of the pairs in a file, mm, and whether each is told apart."""
    faces = read_faces(path)
    events, places = _two_photons(faces)
    with open_showers(path) as reader:
        readout = reader.readout
        axis, members = _strips(readout, path)
        distance, told = [], []
        for start in range(0, len(reader), 1000):
            stop = min(start + 1000, len(reader))
            read = reader.read(start, stop)
            block = voxelise(read, readout) if isinstance(read, ShowerPoints) else read
            layers = list(block.layers())
            profiles = sum(layers[k].astype(np.float64).sum(axis=2 - axis) for k in members)
            for row in np.flatnonzero((events >= start) & (events < stop)).tolist():
                distance.append(abs(float(places[row, 0, axis] - places[row, 1, axis])))
                told.append(told_apart(np.asarray(profiles)[events[row] - start]))
    return np.array(distance), np.array(told, dtype=bool)


def _two_photons(faces: Faces) -> tuple[NDArray[np.int64], Floats]:
    """Events with two photons and next to nothing else at the face, and where these came in, (N, 2, 2)."""
    events, places = [], []
    for event, (first, last) in enumerate(zip(faces.offsets[:-1], faces.offsets[1:], strict=True)):
        energy = faces.energy[first:last]
        order = np.argsort(energy)[::-1][:2]
        if len(order) < 2 or (faces.particle[first:last][order] != _PHOTON).any():
            continue
        two = float(energy[order].sum())
        if two >= _OF_ALL * float(energy.sum()) and float(energy[order[1]]) >= _LESSER * two:
            events.append(event)
            places.append(faces.position[first:last][order])
    return np.array(events, dtype=np.int64), np.array(places, dtype=np.float64).reshape(-1, 2, 2)


def _strips(readout: Readout, path: Path) -> tuple[int, list[int]]:
    """The axis with the narrowest cells, and the layers that have them."""
    widths: dict[tuple[int, int], float] = {}
    for number, layer in enumerate(readout.layers):
        if not isinstance(layer.grid, CartesianGrid):
            raise UsageError(f"{path}: the separation of photons is looked for in Cartesian voxels, and there are none")
        for axis in (0, 1):
            widths[number, axis] = float(np.diff(layer.grid.edges[axis]).min())
    least = min(widths.values())
    axis = next(axis for (_, axis), width in widths.items() if width <= least * (1 + 1e-6))
    members = [n for (n, a), width in widths.items() if a == axis and width <= least * (1 + 1e-6)]
    shapes = {readout.layer_shapes[n][axis] for n in members}
    if len(shapes) > 1:
        raise ShowerFileError(f"{path}: its layers have different numbers of the narrowest cells")
    return axis, members


def _fitted(distance: Floats, told: NDArray[np.bool_]) -> Floats:
    """Middle and width of the logistic curve of greatest likelihood, (2,)."""

    def loss(p: Floats) -> float:
        x = (distance - p[0]) / np.exp(p[1])
        share = np.clip(expit(x), 1e-9, 1 - 1e-9)
        return -float(np.log(np.where(told, share, 1 - share)).sum())

    start = np.array([float(np.median(distance)), math.log(3.0)])
    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-4})
    return np.array([found.x[0], math.exp(found.x[1])])
