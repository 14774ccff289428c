"""Parametrisation by principal components: the method of FastCaloSim V2 (AtlFast3, arXiv:2109.02551), for any file of voxels.

The energies of the layers are drawn from Gaussianised principal components, in bins of the leading one; the energy of a layer is
spread over its cells as in showers of the same bin. Nothing is trained: a look at a few thousand showers takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from caloforge.conditions import Conditions
from caloforge.detectors import Detector
from caloforge.errors import ConfigError, UsageError
from caloforge.models import Difference, Latents, ModelConfig, ShowerModel
from caloforge.parts.component_bins import ComponentBins
from caloforge.parts.differences import CUT_FIRST
from caloforge.parts.lateral import LateralKind, LateralShapes
from caloforge.parts.stored_showers import SymmetryChoice
from caloforge.random import Streams
from caloforge.representation import LayerSums, cut_layers
from caloforge.stage import FitStage, Stage, TrainingConfig, TrainingData, deposits_of
from caloforge.validation import Count

__all__ = ["PcaParametrisation", "PcaParametrisationConfig"]

#: Showers whose cells are made together.
_PIECE = 100


class PcaParametrisationConfig(ModelConfig):
    """Configuration of the parametrisation.

    Attributes:
        nodes: incident energies between which the choice is made; None takes one for 500 showers, but 4 to 24. A file of discrete
            energies has these as nodes.
        bins: of the leading component, in nodes of at least 250 showers. Hadrons need them, electrons and photons do not.
        fractions: ``plain`` shares of the deposited energy, or ``recursive`` ones, of what the layers before have left.
        least_share: layers with a smaller share of the energy are one variable, which is divided by their mean shares.
        lateral: how the energy of a layer is spread over its cells, see :mod:`caloforge.parts.lateral`.
        symmetries: over which the tables of cells are averaged, or by which real showers are turned.
        cut_first: whether deposits below the detector's analysis threshold are taken away from the data, and never made.
    """

    nodes: Count | None = None
    bins: Count = 5
    fractions: Literal["plain", "recursive"] = "recursive"
    least_share: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    lateral: LateralKind = "cells"
    symmetries: SymmetryChoice = "exact"
    cut_first: bool = True


class _LayerFractions(nn.Module):
    """Energies of L layers, and L + 1 variables: fractions, and the deposited over the incident energy.

    Attributes:
        mean: mean share of each layer, (L,).
        faint: layers that are taken together, at the place of the first of them, bool (L,).
    """

    mean: Tensor
    faint: Tensor

    def __init__(self, layers: int, *, recursive: bool) -> None:
        super().__init__()
        self.recursive = recursive
        self.register_buffer("mean", torch.zeros(layers, dtype=torch.float64))
        self.register_buffer("faint", torch.zeros(layers, dtype=torch.bool))

    def fit(self, energies: Tensor, least: float) -> None:
        """Find the faint layers."""
        self.mean = energies.mean(dim=0) / energies.mean(dim=0).sum().clamp_min(1e-300)
        self.faint = self.mean < least

    def encode(self, energies: Tensor, incident: Tensor) -> Tensor:
        """Variables (N, L + 1) of energies (N, L) and incident energies (N,), MeV."""
        joined = torch.where(self.faint, 0.0, energies)
        if bool(self.faint.any()):
            joined[:, int(self.faint.int().argmax())] += energies[:, self.faint].sum(dim=1)
        total = joined.sum(dim=1, keepdim=True)
        whole = joined.flip(1).cumsum(1).flip(1) if self.recursive else total
        fractions = torch.where(whole > 0, joined / whole.clamp_min(1e-300), 0.0)
        if self.recursive:
            fractions[:, -1] = 1.0  # the last layer gets what is left
        return torch.cat([fractions, total / incident[:, None]], dim=1)

    def decode(self, variables: Tensor, incident: Tensor) -> Tensor:
        """Energies (N, L), MeV."""
        fractions, total = variables[:, :-1].clamp_min(0), variables[:, -1:].clamp_min(0) * incident[:, None]
        if self.recursive:
            fractions = fractions.clamp_max(1)
            left = torch.cat([torch.ones_like(total), (1 - fractions[:, :-1]).cumprod(dim=1)], dim=1)
            fractions = fractions * left
        energies: Tensor = total * fractions / fractions.sum(dim=1, keepdim=True).clamp_min(1e-300)
        if not bool(self.faint.any()):
            return energies
        share = torch.where(self.faint, self.mean, 0.0)
        share = share / share.sum().clamp_min(1e-300)
        return torch.where(self.faint, energies[:, self.faint].sum(dim=1, keepdim=True) * share, energies)


class PcaParametrisation(ShowerModel):
    """Layer energies by principal components, cells by tables or by real showers.

    Args:
        config: sizes and choices.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if the detector has no voxels.
    """

    kind = "pca-parametrisation"
    Config = PcaParametrisationConfig
    differences = (
        Difference(
            "layer energies",
            "share of each layer, rescaled to a sum of one",
            "share of what the layers before have left",
            "no rescaling, which would tie the layers together",
            "fractions",
            ("plain", "recursive"),
        ),
        Difference(
            "cells",
            "hits of equal energy",
            "lit or not, and a log-normal share",
            "equal hits light half as many cells as Geant4, or fluctuate too much",
            "lateral",
            ("hits", "cells"),
        ),
        CUT_FIRST,
        Difference(
            "energies",
            "simulated at momenta that double, spline for the response between them",
            "those of the file, or bins of equally many showers",
            "any file will do",
        ),
        Difference(
            "number of hits",
            "from the resolution of each calorimeter",
            "from the fluctuations of the cells",
            "the file knows them",
        ),
    )
    config: PcaParametrisationConfig

    def __init__(self, config: PcaParametrisationConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        readout = detector.readout
        if not readout.has_voxels:
            raise ConfigError(f"the model '{self.kind}' needs voxels, and '{detector.name}' is read out as points")
        self.cut = detector.analysis_threshold if config.cut_first else 0.0
        self.sums = LayerSums(readout.layer_sizes)
        self.fractions = _LayerFractions(readout.n_layers, recursive=config.fractions == "recursive")
        self.energies = ComponentBins(readout.n_layers + 1)
        self.lateral = LateralShapes(config.lateral, detector, config.symmetries)

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """One fit."""
        return [_Fit(self)]

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Uniform numbers for ``node`` and bin (N, 2), standard normal ones for ``energies`` (N, L + 1) and ``cells``."""
        sizes = {"energies": self.detector.readout.n_layers + 1, "cells": self.lateral.latents}
        found: Latents = {
            name: torch.from_numpy(streams.child(name).normal(conditions.index, size, counters=conditions.attempt))
            for name, size in sizes.items()
        }
        found["node"] = torch.from_numpy(
            streams.child("node").uniform(conditions.index, 2, counters=conditions.attempt)
        )
        return found

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Deposits (N, V), MeV; every shower is valid."""
        incident = conditions["incident_energy"]
        group = self.energies.group(incident.log(), latents["node"])
        energies = self.fractions.decode(self.energies(group, latents["energies"].double()), incident)
        # In pieces, which stay in the caches of a processor.
        rows = [slice(start, start + _PIECE) for start in range(0, len(group), _PIECE)]
        deposits = torch.cat([self._cells(group[k], energies[k], latents["cells"][k]) for k in rows])
        return {"deposits": deposits}, torch.ones_like(incident, dtype=torch.bool)

    def _cells(self, group: Tensor, energies: Tensor, normal: Tensor) -> Tensor:
        """Deposits of some showers, float32 (N, V), from their groups (N,), layer energies (N, L) and random numbers."""
        deposits: Tensor = self.lateral(group, normal.double(), energies) * self.sums.spread(energies)
        if self.cut > 0:
            deposits = cut_layers(deposits, energies, self.cut, self.sums, stable=True)
        return deposits.float()

    def describe_representation(self) -> dict[str, Any]:
        """Nodes, groups and what is taken together."""
        stored = self.lateral.stored.megabytes if self.config.lateral == "showers" else 0.0
        return {
            "nodes_GeV": [round(float(e) / 1000, 3) for e in self.energies.node_energy.exp()],
            "groups": max(len(self.energies.group_rows) - 1, 0),
            "cut": self.cut,
            "faint_layers": torch.nonzero(self.fractions.faint)[:, 0].tolist(),
        } | ({"real_showers_MB": round(stored, 3)} if stored else {})


class _Fit(FitStage):
    """Looks at all training showers once."""

    def __init__(self, model: PcaParametrisation) -> None:
        parts = {"fractions": model.fractions, "energies": model.energies, "lateral": model.lateral}
        super().__init__("parametrisation", parts)
        self.model = model

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """Nodes, components and cells."""
        model, config = self.model, self.model.config
        batches = [batch.to("cpu") for batch in data]
        if any(b.direction is not None and bool((b.direction[:, 2] < 1 - 1e-6).any()) for b in batches):
            raise UsageError(f"the model '{model.kind}' knows no directions, and the training showers come at an angle")
        deposits = torch.cat([deposits_of(batch).float() for batch in batches])
        deposits = torch.where(deposits < self.model.cut, torch.zeros_like(deposits), deposits)
        incident = torch.cat([batch.incident_energy.double() for batch in batches])
        # Work on copies: the model itself is not changed.
        sums, lateral = (
            LayerSums(model.sums.layer_sizes),
            LateralShapes(config.lateral, model.detector, config.symmetries),
        )
        fractions = _LayerFractions(len(sums.layer_sizes), recursive=model.fractions.recursive)
        energies = sums(deposits, dtype=torch.float64)
        fractions.fit(energies, config.least_share)
        found, order = ComponentBins.fitted(
            fractions.encode(energies, incident),
            incident.log(),
            nodes=config.nodes,
            bins=config.bins,
            generator=streams.child("ranks").generator(0),
        )
        parts = {
            "fractions": fractions.state_dict(),
            "energies": found,
            "lateral": lateral.fitted(deposits, order, found["group_rows"]),
        }
        return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
