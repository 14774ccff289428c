"""A few numbers that say at a glance what showers look like."""

from __future__ import annotations

import numpy as np

from caloforge.showers.showers import Showers

__all__ = ["layer_table"]


def layer_table(showers: Showers, threshold: float) -> tuple[list[str], list[list[str]]]:
    """Mean energy and occupancy of each layer, as a table for people.

    Args:
        showers: at least one.
        threshold: energy (MeV) from which a voxel counts as lit.

    Returns:
        Column titles and rows; the last row is for all layers together. Occupancy is the mean fraction of voxels at or
        above the threshold; a layer is empty if it holds less than the threshold.
    """
    energies = showers.layer_energies()
    total = energies.sum(axis=1)
    lit = showers.deposits >= max(threshold, float(np.finfo(np.float32).tiny))
    # Sampling calorimeters collect a few per cent, which in GeV would be mostly zeros.
    unit, scale = ("GeV", 1000.0) if total.mean() >= 1000 else ("MeV", 1.0)
    columns = ["layer", f"mean energy [{unit}]", "share of deposits", "lit voxels", "empty"]
    rows = []
    for number, where in enumerate(showers.readout.layer_slices):
        share = energies[:, number].sum() / max(total.sum(), 1e-300)
        rows.append(
            [
                showers.readout.layers[number].label,
                f"{energies[:, number].mean() / scale:.4g}",
                f"{share:.2%}",
                f"{lit[:, where].mean():.1%}",
                f"{(energies[:, number] < threshold).mean():.2%}",
            ]
        )
    fraction = total.sum() / max(showers.incident_energy.sum(), 1e-300)
    rows.append(
        [
            "all",
            f"{total.mean() / scale:.4g}",
            f"{fraction:.2%} of incident",
            f"{lit.mean():.1%}",
            f"{(total < threshold).mean():.2%}",
        ]
    )
    return columns, rows
