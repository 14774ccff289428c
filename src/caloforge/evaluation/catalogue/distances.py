"""Distances between samples as a whole: FPD, KPD, precision, recall, density, coverage."""

from __future__ import annotations

from caloforge.evaluation.fpd import far_rows, fpd, kpd
from caloforge.evaluation.measures import Comparison, Measure
from caloforge.evaluation.observables import high_level_features
from caloforge.evaluation.prdc import prdc_of_showers
from caloforge.evaluation.results import FarShowers, PrdcResult, Value
from caloforge.showers.scratch import by_blocks

ENTRIES = ("fpd", "kpd", "prdc")

__all__ = ["MEASURES"]

#: More showers than this share of all are no exception.
_FEW = 0.005


def _fpd(job: Comparison) -> tuple[Value, FarShowers | None]:
    one, two = (by_blocks(high_level_features, s) for s in job.voxels)
    value = fpd(two, one)
    far = far_rows(two, one)
    number = int(far.sum())
    if not 0 < number <= _FEW * len(far):
        return value, None
    return value, FarShowers(showers=number, fpd=fpd(two, one[~far]))


def _kpd(job: Comparison) -> Value:
    one, two = job.voxels
    return kpd(by_blocks(high_level_features, two), by_blocks(high_level_features, one))


def _prdc(job: Comparison) -> PrdcResult:
    one, two = job.voxels
    return prdc_of_showers(two, one)


MEASURES = (
    Measure("fpd", "Fréchet physics distance", "fpd", _fpd),
    Measure("kpd", "kernel physics distance", "kpd", _kpd),
    Measure("prdc", "precision, recall, density, coverage", "prdc", _prdc),
)
