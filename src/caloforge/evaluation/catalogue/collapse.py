"""Whether a model repeats itself, or leaves something out."""

from __future__ import annotations

from typing import Any

from caloforge.evaluation.collapse import average_images, lit_voxels, neighbour_groups
from caloforge.evaluation.measures import Comparison, Measure

ENTRIES = ("images", "neighbours", "voxels")

__all__ = ["MEASURES"]


def _neighbours(job: Comparison) -> Any:
    one, two = job.voxels
    return neighbour_groups(one, two, sampler=job.sampler, streams=job.streams)


MEASURES = (
    Measure("images", "average images", "images", lambda job: average_images(*job.voxels)),
    Measure("neighbours", "nearest neighbours", "neighbours", _neighbours),
    Measure("voxels", "voxels lit never or too often", "voxels", lambda job: lit_voxels(*job.voxels)),
)
