"""From points of deposited energy to voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Readout
from caloforge.errors import ShowerFileError
from caloforge.showers.showers import ShowerPoints, Showers

__all__ = ["sum_in_voxels", "to_points", "voxelise"]


def sum_in_voxels(
    readout: Readout,
    n_showers: int,
    shower: NDArray[np.int64],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    layer: NDArray[np.integer],
    energy: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Add up deposits in the voxels of a readout.

    Args:
        readout: the voxels.
        n_showers: N.
        shower: number of the shower of each deposit, (M,), from 0 to N-1.
        x: position, mm, (M,).
        y: position, mm, (M,).
        layer: layer number, (M,); deposits with a number outside the readout are left out.
        energy: MeV, (M,).

    Returns:
        Energy in each voxel, float64 (N, V), and energy of each layer outside its voxels, float64 (N, layers).
    """
    voxel = readout.voxel_index(x, y, layer)
    inside = voxel >= 0
    missed = ~inside & (layer >= 0) & (layer < readout.n_layers)
    n_voxels, n_layers = readout.n_voxels, readout.n_layers
    flat = np.bincount(
        shower[inside] * n_voxels + voxel[inside], weights=energy[inside], minlength=n_showers * n_voxels
    )
    outside = np.bincount(
        shower[missed] * n_layers + layer[missed], weights=energy[missed], minlength=n_showers * n_layers
    )
    # bincount gives whole numbers where there is nothing to weigh.
    deposits = flat.astype(np.float64, copy=False).reshape(n_showers, n_voxels)
    return deposits, outside.astype(np.float64, copy=False).reshape(n_showers, n_layers)


def voxelise(points: ShowerPoints, readout: Readout) -> Showers:
    """Put points into the voxels of a readout; what falls outside a layer's cells becomes its overflow.

    Raises:
        ShowerFileError: if a point's layer is not one of the readout's.
    """
    layer = points.points[:, 2].astype(np.int64)
    if len(layer) and (layer.min() < 0 or layer.max() >= readout.n_layers):
        raise ShowerFileError(
            f"the points lie in layers {layer.min()} to {layer.max()}, the readout has layers 0 to {readout.n_layers - 1}"
        )
    x, y, energy = points.points[:, 0], points.points[:, 1], points.points[:, 3]
    deposits, overflow = sum_in_voxels(readout, len(points), points.shower_index, x, y, layer, energy)
    return Showers(
        deposits.astype(np.float32),
        points.incident_energy,
        points.particle,
        readout,
        points.direction,
        overflow.astype(np.float32),
        points.provenance,
    )


def to_points(showers: Showers) -> ShowerPoints:
    """One point at the centre of every voxel that is not empty; the overflow, which has no place, is left out."""
    shower, voxel = np.nonzero(showers.deposits)
    readout = showers.readout
    points = np.empty((len(voxel), 4), dtype=np.float32)
    points[:, :2] = readout.centres()[voxel, :2]
    points[:, 2] = readout.voxel_layers[voxel]
    points[:, 3] = showers.deposits[shower, voxel]
    offsets = np.searchsorted(shower, np.arange(len(showers) + 1))
    return ShowerPoints(
        offsets.astype(np.int64),
        points,
        showers.incident_energy,
        showers.particle,
        readout,
        showers.direction,
        showers.provenance,
    )
