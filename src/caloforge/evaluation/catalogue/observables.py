"""Distributions of observables, as publications define and bin them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import PolarGrid
from caloforge.evaluation.checks import total_energy
from caloforge.evaluation.clouds import relative_to_axis
from caloforge.evaluation.distances import compare_observable, compare_spectrum
from caloforge.evaluation.histograms import (
    Binning,
    adapted_binning,
    calochallenge_binning,
    caloclouds_binning,
    caloflow_binning,
    fill_spectrum,
    radial_edges,
    response_binning,
    voxel_energy_binning,
)
from caloforge.evaluation.measures import Comparison, Measure
from caloforge.evaluation.observables import (
    Observable,
    calochallenge_observables,
    caloclouds,
    caloclouds_observables,
    caloflow_observables,
)
from caloforge.evaluation.results import ObservableResult
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.scratch import blocks_of
from caloforge.units import format_energy

ENTRIES = ("response", "caloflow-observables", "calochallenge-observables", "caloclouds-observables", "voxel-energy")

__all__ = ["MEASURES"]


def _compare_all(
    one: list[Observable],
    two: list[Observable],
    binning: Callable[[Observable, NDArray[np.float64]], Binning],
    streams: Streams,
    prefix: str,
) -> list[ObservableResult]:
    return [
        compare_observable(a, b, binning(b, b.values), streams, prefix=prefix) for a, b in zip(one, two, strict=True)
    ]


def _by_blocks(found: Callable[[Showers], list[Observable]], showers: Showers) -> list[Observable]:
    """Observables of any number of showers, a block of them at a time."""
    blocks = [found(block) for block in blocks_of(showers)]
    return [
        replace(same[0], values=np.concatenate([o.values for o in same]), empty=sum(o.empty for o in same))
        for same in zip(*blocks, strict=True)
    ]


def _caloflow(job: Comparison) -> list[ObservableResult]:
    one, two = (_by_blocks(caloflow_observables, s) for s in job.voxels)
    return _compare_all(one, two, caloflow_binning, job.streams, "caloflow")


def _response(job: Comparison) -> list[ObservableResult]:
    """E_tot / E_inc in bins as fine as the resolution; the published ones were made for other detectors."""
    one, two = (
        Observable(
            "response", "response", None, r"$E_\mathrm{tot} / E_\mathrm{inc}$", "", total_energy(s) / s.incident_energy
        )
        for s in (job.generated, job.reference)
    )  # fmt: skip
    return [
        compare_observable(one, two, adapted_binning(two.values, bins=90, margin=0.25), job.streams, prefix="shower")
    ]


def _voxel_spectrum(job: Comparison) -> ObservableResult:
    one, two = job.voxels
    binning = voxel_energy_binning(two, job.detector.analysis_threshold)
    return compare_spectrum(
        fill_spectrum(binning, one),
        fill_spectrum(binning, two),
        binning,
        job.streams,
        key="shower/voxel-energy",
        label="voxel energy",
    )


def _calochallenge(job: Comparison) -> list[ObservableResult]:
    one, two = job.voxels
    layers = two.readout.layers

    def binning(observable: Observable, values: NDArray[np.float64]) -> Binning:
        layer = None if observable.layer is None else layers[observable.layer]
        return calochallenge_binning(observable, layer, job.detector.analysis_threshold, values)

    found = _compare_all(
        _by_blocks(calochallenge_observables, one),
        _by_blocks(calochallenge_observables, two),
        binning,
        job.streams,
        "calochallenge",
    )
    energies = np.unique(two.incident_energy)
    if len(energies) > 20:
        return found
    for number, energy in enumerate(energies):
        # Dataset 1's discrete energies: the response at each of them, too.
        one_response, two_response = (
            Observable(
                f"response-at/{energy:g}", "response-at", None,
                rf"$E_\mathrm{{tot}} / E_\mathrm{{inc}}$ at {format_energy(float(energy))}", "",
                (total_energy(s) / s.incident_energy)[s.incident_energy == energy],
            )
            for s in (one, two)
        )  # fmt: skip
        if len(one_response.values):
            binned = response_binning(number, two.particle)
            found.append(compare_observable(one_response, two_response, binned, job.streams, prefix="calochallenge"))
    return found


def _caloclouds(job: Comparison) -> list[ObservableResult]:
    samples = [relative_to_axis(s) for s in job.cells]
    readout = job.detector.readout
    cell, radius = 10.0, 300.0  # points without cells: rings of a centimetre over a shower's core and halo
    if readout.has_voxels:
        grid = readout.layers[0].grid
        assert grid is not None
        inner = np.asarray(grid.edges[1])
        cell = float(np.median(np.diff(inner)))
        # A square grid's corners are reached by fewer cells; rings end where they are no longer whole.
        radius = grid.radius if isinstance(grid, PolarGrid) else float(inner[-1])
    edges = radial_edges(cell, radius)
    one, two = (caloclouds_observables(s, readout.n_layers, edges) for s in samples)
    found = _compare_all(one, two, caloclouds_binning, job.streams, "caloclouds")
    spectrum = Binning(np.geomspace(0.01, 1100, 101), log=True, source="arXiv:2511.01460")
    rows_one, rows_two = (_point_spectrum(spectrum, s) for s in samples)
    found.append(
        compare_spectrum(rows_one, rows_two, spectrum, job.streams, key="caloclouds/cell-energy", label="cell energy")
    )
    return found


def _point_spectrum(binning: Binning, points: ShowerPoints) -> NDArray[np.int64]:
    """Histogram of the cells of each shower, shape (N, bins + 2)."""
    width = binning.bins + 2
    numbers = np.searchsorted(binning.edges, caloclouds.cell_energies(points), side="right")
    total = np.bincount(points.shower_index * width + numbers, minlength=len(points) * width)
    return total.reshape(len(points), width)


MEASURES = (
    Measure("response", "response", "observables", _response, voxels=False),
    Measure("caloflow-observables", "CaloFlow observables", "observables", _caloflow),
    Measure("calochallenge-observables", "CaloChallenge observables", "observables", _calochallenge),
    Measure("caloclouds-observables", "CaloClouds observables", "observables", _caloclouds, voxels=False),
    Measure("voxel-energy", "voxel energy spectrum", "observables", lambda job: [_voxel_spectrum(job)]),
)
