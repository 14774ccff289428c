"""How the energy of a layer is spread over its cells, in groups of showers (as in arXiv:2109.02551, and otherwise).

- ``hits``: the energy of a layer comes in hits of equal energy, whose places follow the mean shower. Their number is that of the
  publication's: a Poisson number whose mean makes the fluctuations of the cells as large as they are.
- ``cells``: each cell is lit or not, and its share of the layer is log-normal.
- ``showers``: the cells of a real shower of the same group, one of the five whose layers have the most similar energies.

All give shares, which add up to one in every layer that has any.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.parts.stored_showers import StoredShowers, SymmetryChoice, moved_by
from caloforge.representation import LayerSums
from caloforge.stage import TrainingBatch, VoxelBatch

__all__ = ["LateralKind", "LateralShapes"]

LateralKind = Literal["hits", "cells", "showers"]

#: Cells with more hits than this on average have so many that a Gaussian number is as good as a Poisson one.
_MANY = 16.0
#: Numbers of hits that are looked for one by one; more have a probability of less than 1e-6.
_COUNTED = 44
#: Fewest and most hits of a layer.
_HITS = (1.0, 1e6)
#: Of so many real showers of a group that are nearest in the energies of their layers one is taken.
_NEAREST = 5
#: Keeps empty layers from dividing by zero.
_TINY = 1e-12


class LateralShapes(nn.Module):
    """Shares of cells in their layers, one distribution for each group of showers.

    Attributes:
        mean: mean share of each cell over all showers; a layer without anything gets it, (V,).
        lit: ``cells``: probability that a cell is lit, (G, V). ``hits``: mean share of the layer, (G, V).
        log_mean, log_spread: ``cells``: of the logarithm of the share, where lit, (G, V).
        hits: ``hits``: mean number of hits of each layer, (G, L).
        group_rows: ``showers``: where the showers of each group begin and end, (G + 1,).
        log_layers: ``showers``: ln(1 + energy/MeV) of each layer of each of them, (R, L).

    Args:
        kind: which of the three ways.
        detector: a calorimeter with voxels.
        symmetries: over which the tables are averaged, or by which real showers are turned.
    """

    mean: Tensor
    lit: Tensor
    log_mean: Tensor
    log_spread: Tensor
    hits: Tensor
    group_rows: Tensor
    log_layers: Tensor
    images: Tensor

    def __init__(self, kind: LateralKind, detector: Detector, symmetries: SymmetryChoice) -> None:
        super().__init__()
        readout = detector.readout
        self.kind, self.voxels = kind, readout.n_voxels
        self.sums = LayerSums(readout.layer_sizes)
        self.register_buffer("mean", torch.zeros(self.voxels, dtype=torch.float64))
        self.register_buffer("images", moved_by(detector, symmetries), persistent=False)
        if kind == "showers":
            self.stored = StoredShowers(detector, symmetries)
            self.register_buffer("group_rows", torch.zeros(0, dtype=torch.int64))
            self.register_buffer("log_layers", torch.zeros(0, readout.n_layers))
            return
        self.register_buffer("lit", torch.zeros(0, self.voxels))
        for name in ("log_mean", "log_spread") if kind == "cells" else ():
            self.register_buffer(name, torch.zeros(0, self.voxels))
        if kind == "hits":
            self.register_buffer("hits", torch.zeros(0, readout.n_layers))

    @property
    def latents(self) -> int:
        """Standard normal numbers of a shower."""
        return 2 if self.kind == "showers" else self.voxels

    # ---- fitting --------------------------------------------------------------------------------------------------

    def fitted(self, deposits: Tensor, order: Tensor, group_rows: Tensor) -> dict[str, Tensor]:
        """The buffers that some showers give.

        Args:
            deposits: float32 (R, V), MeV.
            order: numbers of the showers group by group, (R,).
            group_rows: where each group begins, and where the last ends, (G + 1,).
        """
        shares = deposits / self.sums.spread(self.sums(deposits, dtype=torch.float64)).clamp_min(_TINY)
        mean = self._averaged(shares.mean(dim=0))
        mean = mean / self.sums.spread(self.sums(mean[None])).clamp_min(_TINY)[0]
        # A layer that no shower reaches is filled evenly if a draw ever puts energy into it.
        sizes = torch.tensor(self.sums.layer_sizes, dtype=torch.float64)
        dark = self.sums.spread(self.sums(mean[None]))[0] < 0.5
        state = {"mean": torch.where(dark, 1 / self.sums.spread(sizes[None])[0], mean)}
        if self.kind == "showers":
            empty = torch.zeros(len(order), dtype=torch.float64)
            batch: TrainingBatch = VoxelBatch(incident_energy=empty, row=order, deposits=deposits[order])
            kept = self.stored.kept([batch])
            logs = self.sums(deposits[order], dtype=torch.float64).log1p().float()
            state |= {"group_rows": group_rows, "log_layers": logs}
            return state | {f"stored.{name}": value for name, value in kept.items()}
        tables = [self._table(shares[order[a:b]]) for a, b in pairwise(group_rows.tolist())]
        return state | {name: torch.stack([table[name] for table in tables]).float() for name in tables[0]}

    def _averaged(self, values: Tensor) -> Tensor:
        """Averages of cells that symmetries map onto each other."""
        return values[self.images].mean(dim=0)

    def _table(self, shares: Tensor) -> dict[str, Tensor]:
        if self.kind == "hits":
            mean = self._averaged(shares.mean(dim=0))
            variance = self._averaged(shares.square().mean(dim=0)) - mean.square()
            # Of N hits with probability p in a cell the share has the variance p (1 - p) / N.
            wanted, found = self.sums((mean * (1 - mean))[None])[0], self.sums(variance[None])[0]
            return {"lit": mean, "hits": (wanted / found.clamp_min(_TINY)).clamp(*_HITS)}
        on = shares > 0
        logs = torch.where(on, shares, torch.ones_like(shares)).log()
        lit = self._averaged(on.double().mean(dim=0))
        first = self._averaged(logs.mean(dim=0)) / lit.clamp_min(_TINY)
        second = self._averaged(logs.square().mean(dim=0)) / lit.clamp_min(_TINY)
        return {"lit": lit, "log_mean": first, "log_spread": (second - first.square()).clamp_min(0).sqrt()}

    # ---- drawing --------------------------------------------------------------------------------------------------

    def forward(self, group: Tensor, normal: Tensor, energies: Tensor) -> Tensor:
        """Shares of the cells, float64 (N, V).

        Args:
            group: of each shower, (N,).
            normal: standard normal numbers, float64 (N, latents).
            energies: of the layers, float64 (N, L), MeV.
        """
        if self.kind == "showers":
            shares = self._showers(group, normal, energies)
        else:
            shares = self._hits(group, normal) if self.kind == "hits" else self._cells(group, normal)
        totals = self.sums(shares)
        shares = shares / self.sums.spread(totals.clamp_min(1e-300))
        return torch.where(self.sums.spread(totals) > 0, shares, self.mean)

    def _cells(self, group: Tensor, normal: Tensor) -> Tensor:
        lit = self.lit[group].double()
        chance = torch.special.ndtr(normal)
        # Given that it is below the probability, its share of it is uniform, and so a Gaussian number of its own.
        own = (chance / lit.clamp_min(_TINY)).clamp(1e-9, 1 - 1e-9)
        shares = (self.log_mean[group] + self.log_spread[group] * torch.special.ndtri(own)).exp()
        return torch.where(chance < lit, shares, torch.zeros_like(shares))

    def _hits(self, group: Tensor, normal: Tensor) -> Tensor:
        # A Poisson number of hits that fall into cells independently: a Poisson number of its own in every cell.
        mean = self.lit[group].double() * self.sums.spread(self.hits[group].double())
        chance = torch.special.ndtr(normal)
        few = mean.clamp_max(_MANY)
        probability = (-few).exp()
        below, count = probability.clone(), torch.zeros_like(mean)
        for number in range(1, _COUNTED):
            count += chance > below
            probability = probability * few / number
            below += probability
        many = (mean + mean.sqrt() * normal + (normal.square() - 1) / 6).round()
        return torch.where(mean < _MANY, count, many)

    def _showers(self, group: Tensor, normal: Tensor, energies: Tensor) -> Tensor:
        chance, wanted = torch.special.ndtr(normal), energies.log1p()
        row = torch.empty_like(group)
        for number in group.unique().tolist():  # type: ignore[no-untyped-call]
            members = torch.nonzero(group == number)[:, 0]
            first, stop = int(self.group_rows[number]), int(self.group_rows[number + 1])
            known = self.log_layers[first:stop].double()
            distance = torch.cdist(wanted[members], known, compute_mode="donot_use_mm_for_euclid_dist")
            count = min(_NEAREST, stop - first)
            nearest = distance.topk(count, dim=1, largest=False).indices
            place = (chance[members, 0] * count).long().clamp_max(count - 1)
            row[members] = first + nearest.gather(1, place[:, None])[:, 0]
        image = (chance[:, 1] * len(self.images)).long().clamp_max(len(self.images) - 1)
        return self.stored.deposits(row, image, torch.ones_like(normal[:, :1])).double()
