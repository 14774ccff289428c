"""Shower library: the nearest of real showers, turned by a symmetry and scaled to the energy that is asked for.

What experiments have used for decades: frozen showers in ATLAS (``LArG4ShowerLib``), CMS's ``HFShowerLibrary``. Nothing is
learnt: its showers are the training showers. No test of two samples can tell as many of them as the library holds from Geant4's,
so it is the ceiling of every measure, and the price list of every model: the size on disk, and that showers repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from caloforge.conditions import Conditions
from caloforge.detectors import Detector
from caloforge.models import Difference, Latents, ModelConfig, ShowerModel
from caloforge.parts.shower_shelves import SAME_LOG_ENERGY, ShowerShelves, powers
from caloforge.parts.stored_showers import StoredShowers, SymmetryChoice
from caloforge.random import Streams
from caloforge.stage import FitStage, Stage, TrainingBatch, TrainingConfig, TrainingData
from caloforge.validation import Size

__all__ = ["ShowerLibrary", "ShowerLibraryConfig"]


class ShowerLibraryConfig(ModelConfig):
    """Configuration of the library.

    Attributes:
        neighbours: from so many of the nearest showers one is chosen at random (and from all that are as near as the last).
        symmetries: which images of a shower count as showers of their own; of showers that come at an angle none do.
        scaling: ``linear`` multiplies all deposits by the ratio of the energies; ``layers`` also moves each layer's share as the
            mean share of the layer moves with the energy.
        showers: how many are kept, evenly spread over the training rows; None keeps all.
        points: whether the file holds points although the detector has cells.
    """

    neighbours: Size = 10
    symmetries: SymmetryChoice = "exact"
    scaling: Literal["linear", "layers"] = "linear"
    showers: Annotated[int, Field(ge=1)] | None = None
    points: bool = False


class ShowerLibrary(ShowerModel):
    """Training showers, re-used.

    Args:
        config: how they are chosen.
        detector: any calorimeter, of voxels or of points.
    """

    kind = "shower-library"
    Config = ShowerLibraryConfig
    differences = (
        Difference(
            "which shower",
            "the nearest in energy (ATLAS)",
            "one of the ten nearest",
            "the same energy asked for twice need not give the same shower twice",
            "neighbours",
            (1, 10),
        ),
        Difference(
            "images",
            "turned with the track",
            "also mirrored by the detector's symmetries",
            "four times as many showers in a rectangular detector",
            "symmetries",
            ("none", "exact"),
        ),
        Difference(
            "what is kept",
            "spots of low-energy secondaries, inside full simulation",
            "cells of whole showers",
            "that is what shower files hold",
        ),
    )
    config: ShowerLibraryConfig

    def __init__(self, config: ShowerLibraryConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        if config.points or not detector.readout.has_voxels:
            self.shower_kind = "points"
        # Files hold deposits behind the division by the sampling fraction, the readout's threshold is one before it.
        self.least = detector.readout_threshold / (detector.sampling_fraction or 1.0)
        self.library = ShowerShelves(detector, config.symmetries, points=config.points)

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """One fit: the showers themselves."""
        return [_Keep(self)]

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Uniform numbers that choose the ``shower`` and its image, float64 (N, 2)."""
        return {"shower": torch.from_numpy(streams.uniform(conditions.index, 2, counters=conditions.attempt))}

    def rows(self, conditions: Mapping[str, Tensor], chance: Tensor) -> Tensor:
        """Which showers of the library are chosen, int64 (N,), by uniform numbers (N,)."""
        shelves, wanted = self.library, conditions["incident_energy"].log()
        if not shelves.straight:
            return shelves.nearest(wanted, conditions["direction"].double(), chance, self.config.neighbours)
        energies = shelves.log_energy
        count = min(self.config.neighbours, len(energies))
        first = torch.searchsorted(energies, wanted) - count
        window = (first[:, None] + torch.arange(2 * count, device=wanted.device)).clamp(0, len(energies) - 1)
        distance = (energies[window] - wanted[:, None]).abs()
        # The clamped ends of the window repeat the first or last shower, which is counted once.
        distance[:, 1:] = torch.where(window.diff(dim=1) == 0, torch.inf, distance[:, 1:])
        reach = distance.kthvalue(count, dim=1).values + SAME_LOG_ENERGY
        low, high = (
            torch.searchsorted(energies, wanted - reach),
            torch.searchsorted(energies, wanted + reach, right=True),
        )
        return torch.minimum(low + (chance * (high - low)).long(), high - 1)

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The chosen showers, scaled; every shower is valid."""
        shelves, chance = self.library, latents["shower"]
        rows = self.rows(conditions, chance[:, 0])
        energy, own = conditions["incident_energy"], shelves.log_energy[rows]
        # An energy that the library holds gives a factor of exactly 1.
        same = (energy.log() - own).abs() < SAME_LOG_ENERGY
        factors = torch.where(same, torch.ones_like(energy), energy / own.exp())[:, None]
        if self.config.scaling == "layers":
            factors = factors * shelves.shares_moved(rows, energy.log(), own)
        valid = torch.ones_like(same)
        if self.shower_kind == "points":
            offsets, points = shelves.stored.as_points(rows, factors)
            return {"offsets": offsets, "points": points}, valid
        images = shelves.stored.images
        image = (chance[:, 1] * len(images)).long() if shelves.straight else torch.zeros_like(rows)
        return {"deposits": shelves.stored.deposits(rows, image, factors, self.least)}, valid

    def reuse(self, count: int, seed: int = 0) -> float:
        """Share of different showers, images apart, among as many showers as asked for, at the library's own energies."""
        shelves = self.library
        random = torch.from_numpy(Streams(seed, "reuse").generator(0).random((2, count)))
        asked = (random[0] * len(shelves.log_energy)).long()
        conditions = {"incident_energy": shelves.log_energy[asked].exp(), "direction": shelves.direction[asked]}
        return len(np.unique(self.rows(conditions, random[1]).numpy())) / count

    def describe_representation(self) -> dict[str, Any]:
        """Size, and how often showers repeat."""
        size = len(self.library.stored)
        if not size:
            return {}
        images = len(self.library.stored.images) if self.library.straight else 1
        once, ten = self.reuse(size), self.reuse(10 * size)
        return {
            "showers": size,
            "images": images,
            "megabytes": round(self.library.stored.megabytes, 3),
            "distinct_share": {"1": round(once, 4), "10": round(ten, 4)},
            "remark": f"The generated showers are training showers, re-used: {size:,} of them, with {images} images each "
            f"({self.library.stored.megabytes:.1f} MB). Of as many as these {once:.0%} are distinct, of ten times as many "
            f"{ten:.1%}; but for image and scaling their distance to a training shower is 0.",
        }


class _Keep(FitStage):
    """Keeps the training showers, in the order of their energies."""

    def __init__(self, model: ShowerLibrary) -> None:
        super().__init__("library", {"library": model.library})
        self.model = model

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """The showers, and how the mean shares of the layers move."""
        shelves, most = self.model.library, self.model.config.showers or len(data)
        step = max(len(data) / most, 1.0)
        batches = [batch.to("cpu") for batch in data]
        energy = torch.cat([batch.incident_energy.double() for batch in batches])
        chosen = (torch.arange(min(most, len(energy)), dtype=torch.float64) * step).long()
        order = chosen[energy[chosen].argsort(stable=True)]
        whole = StoredShowers(self.model.detector, "none", points=self.model.config.points)
        for name, value in whole.kept(batches).items():
            setattr(whole, name, value)
        _, entry = whole.entries(order)
        counts = whole.starts.diff()[order]
        log_energy = energy[order].log()
        shares = whole.layer_energies(order) / energy[order, None]
        basis = powers(log_energy - log_energy.mean())
        # So few numbers for each layer that pseudo-inverse and all are cheap; discrete energies allow a lower degree only.
        trend = (torch.linalg.pinv(basis, rtol=1e-9) @ shares).T
        state = {
            "log_energy": log_energy,
            "direction": _directions(batches)[order],
            "trend": trend.contiguous(),
            "stored.starts": torch.cat([torch.zeros_like(counts[:1]), counts.cumsum(0)]),
            "stored.place": whole.place[entry],
            "stored.energy": whole.energy[entry],
        }
        assert set(state) == set(shelves.state_dict())
        return {f"library.{name}": value for name, value in state.items()}


def _directions(batches: list[TrainingBatch]) -> Tensor:
    straight = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return torch.cat([straight.expand(len(b), 3) if b.direction is None else b.direction.double() for b in batches])
