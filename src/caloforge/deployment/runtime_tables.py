"""Models that are tables and formulas rather than networks, as the C++ runtime opens them: GFlash, parametrisation, library."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from caloforge.models import ShowerModel
from caloforge.parts.stored_showers import StoredShowers
from caloforge.zoo.gflash import GFlash
from caloforge.zoo.pca_parametrisation import PcaParametrisation
from caloforge.zoo.shower_library import ShowerLibrary

__all__ = ["gflash_files", "library_files", "parametrisation_files"]

#: Settings and tensors.
_Files = tuple[dict[str, Any], dict[str, Tensor]]


def gflash_files(model: ShowerModel) -> _Files:
    """Formulas, steps and, for cells, tables of their shares; edges of cells for spots."""
    assert isinstance(model, GFlash)
    steps, seen, numbers, config = model.steps, model.steps.seen, model.numbers, model.config
    settings: dict[str, Any] = {
        "matter_z": model.radial.matter_z,
        "critical_energy": steps.matter.critical_energy,
        "moliere_radius": steps.matter.moliere_radius,
        "sampling": None
        if seen is None
        else {"frequency": seen.frequency, "e_over_mip": seen.e_over_mip, "stochastic": seen.stochastic},
        "longitudinal": numbers.longitudinal.tolist(),
        "response": numbers.response.tolist(),
        "radius": float(numbers.radius),
        "spots": config.spots,
        "least": model.least,
    }
    tensors = {
        f"steps.{name}": getattr(steps, name).clone() for name in ("edge", "weight", "z", "first", "last", "layer")
    }
    if model.shower_kind == "points":
        return settings, tensors
    layers = model.detector.readout.layers
    edges = [layer.grid.edges for layer in layers if layer.grid is not None]
    for place, name in enumerate(("outer", "inner")):
        tensors[f"edges.{name}"] = torch.from_numpy(np.concatenate([np.asarray(pair[place]) for pair in edges]))
    # As 32-bit numbers, which is how they enter the model.
    quanta = torch.tensor([[config.core_quantum], [config.tail_quantum]]).double() * numbers.quanta
    tensors |= {"core_portions": quanta[0].clone(), "tail_portions": quanta[1].clone()}
    starts: list[int] = []
    tables: list[Tensor] = []
    for number, (first, stop) in enumerate(model.cells.runs):
        starts += [sum(table.numel() for table in tables)] * (stop - first)
        tables.append(model.cells.get_buffer(f"table_{number}"))
    in_cells = config.fluctuations == "cells"
    if in_cells:
        tensors["tables"] = torch.cat([table.flatten() for table in tables])
    return (
        settings
        | {
            "grids": [[len(a) - 1, len(b) - 1] for a, b in edges],
            "cells": in_cells,
            "radii": [model.cells.low, model.cells.step],
            "tables": starts,
        },
        tensors,
    )


def _stored(showers: StoredShowers) -> dict[str, Tensor]:
    kept = {f"stored.{name}": getattr(showers, name).clone() for name in ("starts", "place", "energy")}
    return kept if showers.points else kept | {"stored.images": showers.images.int()}


def parametrisation_files(model: ShowerModel) -> _Files:
    """Nodes and groups, shares of faint layers, and how cells are lit."""
    assert isinstance(model, PcaParametrisation)
    fractions, bins, lateral = model.fractions, model.energies, model.lateral
    share = torch.where(fractions.faint, fractions.mean, 0.0)
    tensors = {
        name: getattr(bins, name).clone() for name in ("node_energy", "node_rows", "group_rows", "factor", "values")
    }
    tensors |= {"faint_share": share / share.sum().clamp_min(1e-300), "mean": lateral.mean.clone()}
    if lateral.kind == "showers":
        tensors |= _stored(lateral.stored) | {"log_layers": lateral.log_layers.clone()}
    else:
        names = ("lit", "hits") if lateral.kind == "hits" else ("lit", "log_mean", "log_spread")
        tensors |= {name: getattr(lateral, name).clone() for name in names}
    settings = {
        "recursive": fractions.recursive,
        "faint": torch.nonzero(fractions.faint)[:, 0].tolist(),
        "lateral": lateral.kind,
        "cut": model.cut,
    }
    return settings, tensors


def library_files(model: ShowerModel) -> _Files:
    """All showers, in the order of their energies."""
    assert isinstance(model, ShowerLibrary)
    shelves, config = model.library, model.config
    settings = {
        "neighbours": config.neighbours,
        "by_layers": config.scaling == "layers",
        "straight": shelves.straight,
        "least": model.least,
        "mean": float(shelves.log_energy.mean()),
    }
    tensors = {"log_energy": shelves.log_energy.clone(), "trend": shelves.trend.clone()} | _stored(shelves.stored)
    return settings, tensors if shelves.straight else tensors | {"direction": shelves.direction.clone()}
