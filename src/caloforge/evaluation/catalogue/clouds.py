"""What is said of clouds of cells: profiles, angles, photons near each other."""

from __future__ import annotations

from typing import Any

from caloforge.evaluation.angles import compare_angles
from caloforge.evaluation.cells import square_cells
from caloforge.evaluation.checks import AnyShowers
from caloforge.evaluation.clouds import compare_clouds, energy_windows
from caloforge.evaluation.diphotons import compare_diphotons
from caloforge.evaluation.measures import Comparison, Measure

ENTRIES = ("caloclouds-profiles", "internal-angle", "di-photon")

__all__ = ["MEASURES"]


def _diphotons(job: Comparison) -> Any:
    one, two = job.raw or (job.generated, job.reference)
    return compare_diphotons(one, two, job.detector, job.streams)


def _flat(generated: AnyShowers, reference: AnyShowers) -> str:
    readout = reference.readout
    deep = readout is not None and len(readout.depths) and readout.n_layers >= 3
    return "" if deep else "needs at least three layers of known depth"


def _no_pairs(generated: AnyShowers, reference: AnyShowers) -> str:
    readout = reference.readout
    if readout is None or square_cells(readout) is None:
        return "needs equal Cartesian cells in all layers"
    if reference.particle != 22:
        return "needs photons"
    if not energy_windows(generated.incident_energy, reference.incident_energy):
        return "needs 20 showers of about one energy in each sample"
    return ""


MEASURES = (
    Measure(
        "caloclouds-profiles", "ten observables of CaloClouds", "clouds",
        lambda job: compare_clouds(*job.cells, job.detector, job.streams), voxels=False,
    ),
    Measure(
        "internal-angle", "internal angle", "angles", lambda job: compare_angles(*job.cells, job.streams), voxels=False,
        unsuited=_flat,
    ),
    Measure("di-photon", "di-photon separation", "diphotons", _diphotons, voxels=False, unsuited=_no_pairs),
)  # fmt: skip
