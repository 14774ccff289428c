"""Images of the layers of a readout: which of them a network makes together, and how one layer looks on the grid of another."""

from __future__ import annotations

from itertools import groupby
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caloforge.detectors.grids import PolarGrid
from caloforge.detectors.readout import Readout

__all__ = ["Carry", "LayerGroup", "Resampling", "layer_groups"]

#: ``average``: rows and columns are repeated or averaged, wherever they lie, as published for CaloGAN's layers;
#: ``conserving``: energy goes to the cells that overlap in space, by their share of the area.
Carry = Literal["average", "conserving"]


class LayerGroup:
    """Neighbouring layers of one shape.

    Args:
        readout: with voxels.
        layers: their numbers.

    Attributes:
        layers: their numbers.
        shape: rows and columns.
        voxels: where their voxels are.
        periodic: whether rows go round.
    """

    def __init__(self, readout: Readout, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self.shape = readout.layer_shapes[layers[0]]
        slices = readout.layer_slices
        self.voxels = slice(slices[layers[0]].start, slices[layers[-1]].stop)
        self.periodic = isinstance(readout.layers[layers[0]].grid, PolarGrid)

    def images(self, voxels: Tensor) -> Tensor:
        """Voxels of whole showers (N, V) to images (N, layers, rows, columns)."""
        return voxels[:, self.voxels].reshape(-1, len(self.layers), *self.shape)


def layer_groups(readout: Readout, most: int) -> list[LayerGroup]:
    """All layers in order, in so few groups of equally many neighbours of one shape as are possible, ``most`` or a little more.

    Args:
        readout: with voxels.
        most: wanted number of groups; more where shapes change.
    """
    size = -(-readout.n_layers // most)
    kinds = [(readout.layer_shapes[k], isinstance(readout.layers[k].grid, PolarGrid)) for k in range(readout.n_layers)]
    found = []
    for _, run in groupby(range(readout.n_layers), key=lambda k: kinds[k]):
        numbers = tuple(run)
        found += [LayerGroup(readout, numbers[k : k + size]) for k in range(0, len(numbers), size)]
    return found


class Resampling(nn.Module):
    """The image of one layer on the grid of another: a matrix for rows and one for columns.

    Args:
        readout: with voxels.
        source: number of the layer.
        target: number of the other one.
        kind: how; layers of different kinds of cells, or which do not overlap, are always averaged.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, readout: Readout, source: int, target: int, kind: Carry) -> None:
        super().__init__()
        one, other = readout.layers[source].grid, readout.layers[target].grid
        assert one is not None
        assert other is not None
        polar = isinstance(one, PolarGrid)
        found = []
        for axis in range(2):
            if kind == "conserving" and type(one) is type(other):
                edges = [np.asarray(grid.edges[axis], dtype=float) for grid in (one, other)]
                if polar and axis == 1:  # areas of rings grow with the square of the radius
                    edges = [np.square(e) for e in edges]
                overlap = _overlap(*edges)
                found.append(overlap / np.diff(edges[0])[None, :])
            else:
                places = [np.linspace(0.0, 1.0, grid.shape[axis] + 1) for grid in (one, other)]
                overlap = _overlap(*places)
                found.append(overlap / np.diff(places[1])[:, None])
        for name, matrix in zip(("rows", "columns"), found, strict=True):
            self.register_buffer(name, torch.from_numpy(matrix).float(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, rows, columns) to (N, C, rows, columns) of the target."""
        return self.rows.to(image.dtype) @ image @ self.columns.to(image.dtype).T


def _overlap(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Common length of every cell of the target with every cell of the source, (target cells, source cells)."""
    low = np.maximum(target[:-1, None], source[None, :-1])
    high = np.minimum(target[1:, None], source[None, 1:])
    return np.asarray(np.clip(high - low, 0.0, None), dtype=np.float64)
