"""Showers as images of layers: in which units a generator makes them, and what a critic sees of them.

The units and features are those of CaloGAN (arXiv:1712.10321), in GeV, or relative to what is usual in each cell and layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from caloforge.detectors.readout import Readout
from caloforge.parts.cell_scales import CellScales
from caloforge.parts.layer_grids import LayerGroup
from caloforge.units import GeV

__all__ = ["ImageUnits", "ShowerImages", "View"]

#: Of images: GeV; or shares of the incident energy, over what is usual in each cell.
ImageUnits = Literal["GeV", "shares"]

#: Energies of layers and of the shower, as a critic sees them; how far the latter may be off before a flag says it.
_LAYER_UNIT, _SUM_UNIT, _OFF = 10 * GeV, 100 * GeV, 5 * GeV
#: Where a detector has no threshold, MeV: deposits have logarithms from here on.
_FAINT = 1e-3
#: Logarithms of deposits over the threshold are up to ten or so.
_LOG_UNIT = 4.0


class View(NamedTuple):
    """What a critic sees of showers.

    Attributes:
        images: of every group of layers, (N, images, rows, columns).
        lit: shares of lit cells in the layers of every group, (N, layers).
        layers: numbers of the layers, (N, numbers).
        event: numbers of the shower, (N, numbers).
    """

    images: list[Tensor]
    lit: list[Tensor]
    layers: Tensor
    event: Tensor


class ShowerImages:
    """The way from deposits to images, and to what a critic sees.

    Args:
        readout: with voxels.
        groups: layers whose images are made together.
        scales: what is usual in each cell and layer; a part of the model, which moves and saves it.
        units: of images.
        threshold: deposits below are 0, MeV.
        reference: incident energy whose logarithm is 0, MeV.

    Attributes:
        per_layer: images of each layer, and numbers of each, that a critic sees.
        per_event: numbers of a shower that it sees.
    """

    def __init__(
        self,
        readout: Readout,
        groups: Sequence[LayerGroup],
        scales: CellScales,
        *,
        units: ImageUnits,
        threshold: float,
        reference: float,
    ) -> None:
        self.groups, self.scales, self.units = tuple(groups), scales, units
        self.threshold, self.reference = threshold, reference
        self.cells = torch.tensor(readout.layer_sizes, dtype=torch.float64)
        # With shares two images and energies each; for both, the sum of energies and two numbers or three of the shower.
        self.per_layer, self.per_event = (2, 5) if units == "shares" else (1, 3)

    def log_energy(self, incident_energy: Tensor, dtype: torch.dtype) -> Tensor:
        """Decimal logarithm of incident energies (N,), MeV, over the reference."""
        return torch.log10(incident_energy.double() / self.reference).to(dtype)

    def unit(self, incident_energy: Tensor, dtype: torch.dtype) -> Tensor:
        """Energy of a voxel of value 1 in an image, (N, V) or (1, 1), MeV, for incident energies (N,), MeV."""
        if self.units == "GeV":
            return incident_energy.new_full((1, 1), GeV).to(dtype)
        return (incident_energy.double()[:, None] * self.scales.cells.double()).to(dtype)

    def view(self, deposits: Tensor, incident_energy: Tensor, direction: Tensor | None) -> View:
        """What a critic sees, with gradients.

        Args:
            deposits: (N, V), MeV, in the precision of the critic.
            incident_energy: (N,), MeV.
            direction: unit vectors (N, 3); None for showers along the axis.
        """
        if self.threshold:
            # What is cut goes on pulling at the generator, or a dark cell would never light up.
            deposits = deposits + torch.where(deposits < self.threshold, -deposits, 0.0).detach()
        relative = deposits / self.unit(incident_energy, deposits.dtype)
        sums = self.scales.sums
        layers = sums(deposits)
        if self.units == "GeV":
            images = [group.images(relative) for group in self.groups]
            lit = sums((deposits > 0).to(deposits)) / self.cells.to(deposits)
            layers, total = layers / _LAYER_UNIT, layers.sum(dim=1) / _SUM_UNIT
            off = (layers.sum(dim=1) * _LAYER_UNIT - incident_energy.to(deposits)).abs() / GeV
            event = torch.stack([total, off, 10 * (off > _OFF / GeV).to(off)], dim=1)
        else:
            above = (deposits.clamp_min(0) / max(self.threshold, _FAINT)).clamp_min(1e-30).log()
            images = [
                torch.cat([g.images(relative.clamp_min(0).log1p()), g.images(above.relu() / _LOG_UNIT)], dim=1)
                for g in self.groups
            ]
            # Lit or not, forward; backward as if a cell lit up gradually.
            gradual = torch.sigmoid(2 * above)
            lit = sums(gradual + ((above >= 0).to(gradual) - gradual).detach()) / self.cells.to(deposits)
            layers, event = self._relative_energies(layers, incident_energy, direction)
        return View(images, [lit[:, g.layers[0] : g.layers[-1] + 1] for g in self.groups], layers, event)

    def _relative_energies(
        self, layers: Tensor, incident_energy: Tensor, direction: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Energies of layers (N, 2 L), and of the shower with its condition (N, 5), each relative and as a logarithm."""
        shares = self.scales.shares.to(layers)
        share = layers / incident_energy.to(layers)[:, None]
        relative, total = share / shares, (share.sum(dim=1, keepdim=True) / shares.sum())
        across = layers.new_zeros(len(layers), 2) if direction is None else direction[:, :2].to(layers)
        each = torch.cat([relative, (relative + 1e-3).log() / _LOG_UNIT], dim=1)
        energy = self.log_energy(incident_energy, layers.dtype)
        event = [total, 4 * (total + 1e-3).log(), energy[:, None], across]
        return each, torch.cat(event, dim=1)
