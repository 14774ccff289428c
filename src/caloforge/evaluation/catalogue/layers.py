"""What is said of layers: means, lit cells, correlations of their energies."""

from __future__ import annotations

from typing import Any

from caloforge.evaluation.distances import compare_correlations
from caloforge.evaluation.layers import compare_layers
from caloforge.evaluation.measures import Comparison, Measure
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.scratch import by_blocks

ENTRIES = ("layers", "correlations")

__all__ = ["MEASURES"]


def _layers(job: Comparison) -> Any:
    samples = (job.generated, job.reference)
    one, two = job.cells if any(isinstance(s, ShowerPoints) for s in samples) else samples
    return compare_layers(one, two, tuple(layer.label for layer in job.detector.readout.layers))


def _correlations(job: Comparison) -> Any:
    one, two = job.voxels
    labels = tuple(layer.label for layer in two.readout.layers)
    return compare_correlations(
        by_blocks(Showers.layer_energies, one), by_blocks(Showers.layer_energies, two), labels, job.streams
    )


MEASURES = (
    Measure("layers", "mean energy and lit cells by layer", "layers", _layers, voxels=False),
    Measure("correlations", "correlations of layer energies", "correlations", _correlations),
)
