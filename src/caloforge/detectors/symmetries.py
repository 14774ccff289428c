"""Symmetries of detector and gun as permutations of voxels.

A symmetry maps a shower onto one that is exactly as likely. It is written as an index array ``p`` of shape (V,):
``deposits[:, p]`` is the mirrored or rotated shower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors.grids import CartesianGrid, Grid, PolarGrid
from caloforge.detectors.readout import Readout
from caloforge.errors import DetectorError

__all__ = ["SymmetryName", "breaks_symmetry", "symmetry_group", "symmetry_permutation"]

SymmetryName = Literal["reflect-x", "reflect-y", "swap-xy", "rotate-alpha"]

Index = NDArray[np.int64]


def symmetry_permutation(readout: Readout, name: SymmetryName) -> Index:
    """Voxel permutation of one symmetry, shape (V,).

    ``reflect-x`` takes x to -x, ``reflect-y`` y to -y, ``swap-xy`` exchanges the two, ``rotate-alpha`` turns every
    polar layer by one of its sectors (all layers must have equally many).

    Raises:
        DetectorError: if the cells of a layer are not mapped onto each other.
    """
    if name not in get_args(SymmetryName):
        raise DetectorError(f"the symmetry '{name}' is not known, expected one of {', '.join(get_args(SymmetryName))}")
    sectors = {layer.grid.n_alpha for layer in readout.layers if isinstance(layer.grid, PolarGrid)}
    if name == "rotate-alpha" and len(sectors) != 1:
        raise DetectorError("the symmetry 'rotate-alpha' needs polar layers with equally many sectors")
    parts = []
    for layer, where in zip(readout.layers, readout.layer_slices, strict=True):
        if layer.grid is None:
            raise DetectorError("this readout is made of points, so it has no voxel symmetries")
        cells = np.arange(where.start, where.stop).reshape(layer.grid.shape)
        moved = _moved(layer.grid, cells, name)
        if moved is None:
            raise DetectorError(f"the symmetry '{name}' does not map the cells of layer {layer.label} onto each other")
        parts.append(moved.ravel())
    return np.concatenate(parts)


def breaks_symmetry(field: tuple[float, float, float], name: SymmetryName) -> bool:
    """Whether a magnetic field (x, y, z) breaks a symmetry that a detector would have without it.

    A field is an axial vector: a mirror leaves its component along the mirror's normal as it is and turns the others
    round, a rotation about z leaves that along z.
    """
    kept = {"reflect-x": (1, 0, 0), "reflect-y": (0, 1, 0), "swap-xy": (1, -1, 0), "rotate-alpha": (0, 0, 1)}[name]
    across = np.linalg.norm(np.cross(field, kept))
    return bool(across > 1e-9 * np.linalg.norm(field) * np.linalg.norm(kept))


def _moved(grid: Grid, cells: Index, name: SymmetryName) -> Index | None:
    if isinstance(grid, CartesianGrid):
        if name == "reflect-x" and _mirrored(grid.x_edges):
            return cells[::-1]
        if name == "reflect-y" and _mirrored(grid.y_edges):
            return cells[:, ::-1]
        if name == "swap-xy" and grid.x_edges == grid.y_edges:
            return cells.T
        return None
    n = grid.n_alpha
    sector = np.arange(n)
    if name == "rotate-alpha":
        return np.roll(cells, 1, axis=0)
    if name == "reflect-y":  # alpha -> -alpha; sector k covers -pi + 2 pi (k, k+1)/n
        return cells[n - 1 - sector]
    if name == "reflect-x" and (n % 2 == 0 or n == 1):  # alpha -> pi - alpha
        return cells[(n // 2 - 1 - sector) % n]
    if name == "swap-xy" and (n % 4 == 0 or n == 1):  # alpha -> pi/2 - alpha
        return cells[(n // 4 - 1 - sector) % n]
    return None


def _mirrored(edges: Sequence[float]) -> bool:
    e = np.asarray(edges)
    return bool(np.allclose(e, -e[::-1], rtol=0, atol=1e-9 * np.abs(e).max()))


def symmetry_group(readout: Readout, names: Sequence[SymmetryName]) -> Index:
    """All combinations of the named symmetries, the identity first, shape (G, V)."""
    generators = [symmetry_permutation(readout, name) for name in names]
    found = {np.arange(readout.n_voxels).tobytes(): np.arange(readout.n_voxels)}
    fresh = list(found.values())
    while fresh:
        products = [known[generator] for known in fresh for generator in generators]
        fresh = []
        for product in products:
            if product.tobytes() not in found:
                found[product.tobytes()] = product
                fresh.append(product)
    return np.stack(list(found.values()))
