"""Showers that a model keeps as they are, without their empty cells, and their images under the detector's symmetries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.errors import UsageError
from caloforge.stage import PointBatch, TrainingBatch, deposits_of

__all__ = ["StoredShowers", "SymmetryChoice", "moved_by"]

#: Which images of a shower count as showers of their own: none, those of exact symmetries, or also of approximate ones.
SymmetryChoice = Literal["none", "exact", "approximate"]

#: Showers that are put on their voxels together.
_PIECE = 200


def moved_by(detector: Detector, choice: SymmetryChoice) -> Tensor:
    """Where each voxel's energy goes under each symmetry, the identity first, int64 (G, V)."""
    readout = detector.readout
    if choice == "none" or not readout.has_voxels:
        return torch.arange(readout.n_voxels)[None]
    # A group holds the inverse of each of its elements, so the permutations may be read in either direction.
    return torch.from_numpy(detector.symmetry_group(approximate=choice == "approximate"))


class StoredShowers(nn.Module):
    """Lit cells of showers, or their points, one shower behind the other.

    Attributes:
        starts: where the deposits of each shower begin and those of the last end, int64 (N + 1,); no rows before the fit.
        place: number of the voxel, int32 (M,); of points x and y (mm) and the number of the layer, float32 (M, 3).
        energy: of each deposit, MeV, float32 (M,).

    Args:
        detector: the calorimeter.
        symmetries: which images there are.
        points: whether showers of points are kept although the detector has voxels.
    """

    starts: Tensor
    place: Tensor
    energy: Tensor
    images: Tensor
    layer: Tensor

    def __init__(self, detector: Detector, symmetries: SymmetryChoice, *, points: bool = False) -> None:
        super().__init__()
        readout = detector.readout
        self.points = points or not readout.has_voxels
        self.voxels, self.layers = readout.n_voxels, readout.n_layers
        self.register_buffer("starts", torch.zeros(0, dtype=torch.int64))
        place = torch.zeros(0, 3) if self.points else torch.zeros(0, dtype=torch.int32)
        self.register_buffer("place", place)
        self.register_buffer("energy", torch.zeros(0))
        self.register_buffer("images", moved_by(detector, symmetries), persistent=False)
        self.register_buffer("layer", torch.from_numpy(np.asarray(readout.voxel_layers)), persistent=False)

    def __len__(self) -> int:
        return max(len(self.starts) - 1, 0)

    @property
    def megabytes(self) -> float:
        """Size of what is kept, MB."""
        return sum(t.numel() * t.element_size() for t in (self.starts, self.place, self.energy)) / 1e6

    def kept(self, batches: Sequence[TrainingBatch]) -> dict[str, Tensor]:
        """State that keeps the showers of some batches, by the names of the buffers.

        Raises:
            UsageError: if they are points and the detector has voxels, or the other way round.
        """
        counts, places, energies = [], [], []
        for batch in batches:
            if self.points:
                if not isinstance(batch, PointBatch):
                    raise UsageError("showers of points are to be kept, and the data hold voxels")
                counts.append(batch.offsets.diff())
                places.append(batch.points[:, :3].float())
                energies.append(batch.points[:, 3].float())
            else:
                deposits = deposits_of(batch).float()
                rows, cells = deposits.nonzero(as_tuple=True)
                counts.append(torch.bincount(rows, minlength=len(deposits)))
                places.append(cells.int())
                energies.append(deposits[rows, cells])
        starts = torch.cat([torch.zeros_like(counts[0][:1]), torch.cat(counts).cumsum(0)])
        return {"starts": starts, "place": torch.cat(places), "energy": torch.cat(energies)}

    def entries(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Deposits of some showers: the number of its shower among ``rows`` and its own number, for each, (K,) and (K,)."""
        first = self.starts[rows]
        counts = self.starts[rows + 1] - first
        shower = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
        begins = counts.cumsum(0) - counts
        return shower, torch.arange(len(shower), device=rows.device) + (first - begins)[shower]

    def layer_of(self, entry: Tensor) -> Tensor:
        """Layer of deposits given by their numbers, int64 (K,)."""
        return self.place[entry, 2].long() if self.points else self.layer[self.place[entry].long()]

    def layer_energies(self, rows: Tensor) -> Tensor:
        """Energy of some showers in each layer, float64 (N, L), MeV."""
        shower, entry = self.entries(rows)
        sums = torch.zeros(len(rows) * self.layers, dtype=torch.float64, device=rows.device)
        sums.index_add_(0, shower * self.layers + self.layer_of(entry), self.energy[entry].double())
        return sums.reshape(len(rows), self.layers)

    def deposits(self, rows: Tensor, image: Tensor, factors: Tensor, least: float = 0.0) -> Tensor:
        """Showers on their voxels, float32 (N, V), MeV.

        Args:
            rows: numbers of the showers, (N,).
            image: which symmetry turns each, (N,).
            factors: of the energies, float64 (N, L), or (N, 1) for all layers alike.
            least: deposits of less are left out, MeV.
        """
        # In pieces, which stay in the caches of a processor.
        pieces = [slice(start, start + _PIECE) for start in range(0, len(rows), _PIECE)]
        return torch.cat([self._deposits(rows[k], image[k], factors[k], least) for k in pieces])

    def _deposits(self, rows: Tensor, image: Tensor, factors: Tensor, least: float) -> Tensor:
        shower, entry = self.entries(rows)
        cell = self.place[entry].long()
        # Factors of 1 leave every deposit as it is, to the last bit.
        factor = factors[shower, self.layer[cell] if factors.shape[1] > 1 else 0]
        energy = (self.energy[entry].double() * factor).float()
        energy = torch.where(energy < least, torch.zeros_like(energy), energy)
        out = torch.zeros(len(rows) * self.voxels, dtype=torch.float32, device=rows.device)
        out[shower * self.voxels + self.images[image[shower], cell]] = energy
        return out.reshape(len(rows), self.voxels)

    def as_points(self, rows: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Showers as points: ``offsets`` (N + 1,) and ``points`` (M, 4); arguments as for :meth:`deposits`."""
        shower, entry = self.entries(rows)
        factor = factors[shower, self.layer_of(entry) if factors.shape[1] > 1 else 0]
        energy = (self.energy[entry].double() * factor).float()
        counts = self.starts[rows + 1] - self.starts[rows]
        offsets = torch.cat([torch.zeros_like(counts[:1]), counts.cumsum(0)])
        return offsets, torch.cat([self.place[entry], energy[:, None]], dim=1)
