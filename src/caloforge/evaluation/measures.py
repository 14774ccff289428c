"""The measures that suites are made of: each compares one sample with the reference and fills one part of the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge import plugins
from caloforge.detectors import Detector, PolarGrid
from caloforge.errors import CaloForgeError, PluginError, UsageError
from caloforge.evaluation.angles import compare_angles
from caloforge.evaluation.checks import AnyShowers
from caloforge.evaluation.classifiers import (
    RECIPES,
    ClassifierSettings,
    Work,
    boosted_test,
    log_posterior_test,
    recipe,
    two_sample_test,
)
from caloforge.evaluation.clouds import compare_clouds, relative_to_axis
from caloforge.evaluation.collapse import Sampler, average_images, lit_voxels, neighbour_groups
from caloforge.evaluation.diphotons import compare_diphotons
from caloforge.evaluation.distances import compare_correlations, compare_observable, compare_spectrum
from caloforge.evaluation.fpd import far_rows, fpd, kpd
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
from caloforge.evaluation.layers import compare_layers
from caloforge.evaluation.observables import (
    Observable,
    calochallenge_observables,
    caloclouds,
    caloclouds_observables,
    caloflow_observables,
    cells_as_points,
    high_level_features,
)
from caloforge.evaluation.prdc import prdc, prdc_features
from caloforge.evaluation.results import (
    ClassifierResult,
    FarShowers,
    LogPosteriorResult,
    Number,
    ObservableResult,
    PrdcResult,
    Scores,
    Value,
)
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.units import format_energy

__all__ = ["MEASURES", "Comparison", "Measure", "cut", "find_measure", "measure_names", "run_measures"]

#: More showers than this share of all are no exception.
_FEW = 0.005


@dataclass(frozen=True)
class Comparison:
    """Two thresholded samples and how to compare them.

    Attributes:
        generated: the sample that is judged; for the floor, the second reference. Points have become cells.
        reference: what it is judged by, likewise.
        detector: of both.
        settings: of the classifiers.
        streams: random numbers.
        work: who does retrainings, where they are kept, and who is told of them.
        sampler: draws showers of the model at one energy.
        others: further generated samples by name, for the multi-class test; empty for the floor.
        raw: both samples before cells were made and the threshold was applied.
    """

    generated: AnyShowers
    reference: AnyShowers
    detector: Detector
    settings: ClassifierSettings
    streams: Streams
    work: Work = field(default_factory=Work)
    sampler: Sampler | None = None
    others: Mapping[str, Showers] = field(default_factory=dict)
    raw: tuple[AnyShowers, AnyShowers] | None = None

    @property
    def voxels(self) -> tuple[Showers, Showers]:
        """Both samples on voxels.

        Raises:
            UsageError: if they are points.
        """
        if isinstance(self.generated, Showers) and isinstance(self.reference, Showers):
            return self.generated, self.reference
        raise UsageError("this measure needs showers on voxels, and these are points; 'convert' puts them on a readout")

    @property
    def cells(self) -> tuple[ShowerPoints, ShowerPoints]:
        """The cells of both samples as points at their centres."""
        one, two = (cells_as_points(s) if isinstance(s, Showers) else s for s in (self.generated, self.reference))
        return one, two


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: unique name.
        title: for people.
        field: the field of ``Scores`` that it fills; ``measured`` takes the numbers of any measure into all tables.
        run: gives the value of that field, for ``measured`` a sequence of ``Number``; observables and classifiers are
            gathered from several measures.
        voxels: whether it needs voxels.
        unsuited: why it cannot be run on generated showers and a reference; empty if it can. None for any showers.
    """

    name: str
    title: str
    field: str
    run: Callable[[Comparison], Any]
    voxels: bool = True
    unsuited: Callable[[AnyShowers, AnyShowers], str] | None = None

    @property
    def epochs(self) -> bool:
        """Whether it trains a network, so that its progress is told in epochs."""
        return self.name in RECIPES or self.name == "log-posterior"


def cut(showers: AnyShowers, threshold: float) -> AnyShowers:
    """The showers without deposits (or points) below a threshold (MeV)."""
    if isinstance(showers, Showers):
        return showers.above(threshold)
    kept = showers.points[:, 3] >= threshold
    ends = np.concatenate([[0], np.cumsum(kept)])[showers.offsets].astype(np.int64)
    return ShowerPoints(
        ends, showers.points[kept], showers.incident_energy, showers.particle, showers.readout, showers.direction
    )


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


def _caloflow(job: Comparison) -> list[ObservableResult]:
    one, two = (caloflow_observables(s) for s in job.voxels)
    return _compare_all(one, two, caloflow_binning, job.streams, "caloflow")


def _response(job: Comparison) -> list[ObservableResult]:
    """E_tot / E_inc in bins as fine as the resolution; the published ones were made for other detectors."""
    one, two = (
        Observable(
            "response", "response", None, r"$E_\mathrm{tot} / E_\mathrm{inc}$", "", s.total_energy() / s.incident_energy
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
        calochallenge_observables(one), calochallenge_observables(two), binning, job.streams, "calochallenge"
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
                (s.total_energy() / s.incident_energy)[s.incident_energy == energy],
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


def _layers(job: Comparison) -> Any:
    samples = (job.generated, job.reference)
    one, two = job.cells if any(isinstance(s, ShowerPoints) for s in samples) else samples
    return compare_layers(one, two, tuple(layer.label for layer in job.detector.readout.layers))


def _correlations(job: Comparison) -> Any:
    one, two = job.voxels
    labels = tuple(layer.label for layer in two.readout.layers)
    return compare_correlations(one.layer_energies(), two.layer_energies(), labels, job.streams)


def _classifier(name: str) -> Callable[[Comparison], ClassifierResult]:
    def run(job: Comparison) -> ClassifierResult:
        one, two = job.voxels
        return two_sample_test(recipe(name), one, two, settings=job.settings, streams=job.streams, work=job.work)

    return run


def _boosted(job: Comparison) -> ClassifierResult:
    one, two = job.cells
    return boosted_test(
        one, two, threshold=job.detector.analysis_threshold, slices=job.settings.slices, streams=job.streams
    )


def _clouds_classifier(job: Comparison) -> ClassifierResult:
    one, two = job.cells
    chosen = recipe("caloclouds-features")
    return two_sample_test(chosen, one, two, settings=job.settings, streams=job.streams, work=job.work)


def _diphotons(job: Comparison) -> Any:
    one, two = job.raw or (job.generated, job.reference)
    return compare_diphotons(one, two, job.detector, job.streams)


def _log_posterior(job: Comparison) -> LogPosteriorResult | None:
    if not job.others:
        return None
    one, two = job.voxels
    chosen = recipe("calochallenge-low")
    samples = {"generated": one, **job.others}
    return log_posterior_test(chosen, samples, two, settings=job.settings, streams=job.streams, work=job.work)


def _fpd(job: Comparison) -> tuple[Value, FarShowers | None]:
    one, two = (high_level_features(s) for s in job.voxels)
    value = fpd(two, one)
    far = far_rows(two, one)
    number = int(far.sum())
    if not 0 < number <= _FEW * len(far):
        return value, None
    return value, FarShowers(showers=number, fpd=fpd(two, one[~far]))


def _kpd(job: Comparison) -> Value:
    one, two = job.voxels
    return kpd(high_level_features(two), high_level_features(one))


def _prdc(job: Comparison) -> PrdcResult:
    one, two = job.voxels
    return prdc(prdc_features(two), prdc_features(one))


def _neighbours(job: Comparison) -> Any:
    one, two = job.voxels
    return neighbour_groups(one, two, sampler=job.sampler, streams=job.streams)


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure("response", "response", "observables", _response, voxels=False),
        Measure("caloflow-observables", "CaloFlow observables", "observables", _caloflow),
        Measure("calochallenge-observables", "CaloChallenge observables", "observables", _calochallenge),
        Measure("caloclouds-observables", "CaloClouds observables", "observables", _caloclouds, voxels=False),
        Measure("voxel-energy", "voxel energy spectrum", "observables", lambda job: [_voxel_spectrum(job)]),
        Measure("layers", "mean energy and lit cells by layer", "layers", _layers, voxels=False),
        Measure("correlations", "correlations of layer energies", "correlations", _correlations),
        Measure("boosted", "boosted trees on high-level features", "classifiers", _boosted, voxels=False),
        *(Measure(name, r.title, "classifiers", _classifier(name)) for name, r in RECIPES.items()),
        Measure(
            "caloclouds-profiles", "ten observables of CaloClouds", "clouds",
            lambda job: compare_clouds(*job.cells, job.detector, job.streams), voxels=False,
        ),
        Measure(
            "caloclouds-features", RECIPES["caloclouds-features"].title, "classifiers", _clouds_classifier, voxels=False
        ),
        Measure(
            "internal-angle", "internal angle", "angles", lambda job: compare_angles(*job.cells, job.streams),
            voxels=False,
        ),
        Measure("di-photon", "di-photon separation", "diphotons", _diphotons, voxels=False),
        Measure("log-posterior", "multi-class log-posterior", "log_posterior", _log_posterior),
        Measure("fpd", "Fréchet physics distance", "fpd", _fpd),
        Measure("kpd", "kernel physics distance", "kpd", _kpd),
        Measure("prdc", "precision, recall, density, coverage", "prdc", _prdc),
        Measure("images", "average images", "images", lambda job: average_images(*job.voxels)),
        Measure("neighbours", "nearest neighbours", "neighbours", _neighbours),
        Measure("voxels", "voxels lit never or too often", "voxels", lambda job: lit_voxels(*job.voxels)),
    )
}  # fmt: skip


def measure_names() -> list[str]:
    """Names of all measures: those of the package, then those of other distributions."""
    return [*MEASURES, *(name for name in plugins.names("measures") if name not in MEASURES)]


def find_measure(name: str) -> Measure:
    """A measure by name.

    Raises:
        UsageError: if there is none of this name.
        PluginError: if it is of another distribution and cannot be loaded.
    """
    if name in MEASURES:
        return MEASURES[name]
    if name not in plugins.find("measures"):
        raise UsageError(f"the measure '{name}' is not known, expected one of {', '.join(measure_names())}")
    plugin = plugins.find("measures")[name]
    found: Measure = plugins.checked(plugin, plugins.load("measures", name), Measure)
    if found.field != "measured":
        raise plugin.broken(f": it fills '{found.field}', expected 'measured'")
    return found


def run_measures(
    names: tuple[str, ...],
    job: Comparison,
    *,
    after: Callable[[str, float], None],
    clock: Callable[[], float],
    failed: dict[str, str] | None = None,
) -> Scores:
    """Run measures one after the other and gather their results.

    Args:
        names: of the measures.
        job: the samples.
        after: told the name of each measure and the seconds it took.
        clock: seconds of a running clock.
        failed: told of measures of other distributions that failed, by name, and why; None lets their errors through.
    """
    gathered: dict[str, Any] = {"observables": [], "classifiers": {}, "measured": {}}
    for name in names:
        started = clock()
        measure = find_measure(name)
        if name in MEASURES:
            result = measure.run(job)
        else:
            try:
                result = _foreign(measure, job)
            except PluginError as error:
                if failed is None:
                    raise
                failed[name] = str(error)
                result = None
        if measure.field == "observables":
            gathered["observables"] += result
        elif measure.field in ("classifiers", "measured"):
            if result is not None:
                gathered[measure.field][name] = result
        elif measure.field == "fpd":
            gathered["fpd"], gathered["far_showers"] = result
        elif result is not None:
            gathered[measure.field] = result
        after(name, clock() - started)
    gathered["observables"] = tuple(gathered["observables"])
    return Scores(**gathered)


def _foreign(measure: Measure, job: Comparison) -> tuple[Number, ...]:
    """The numbers of another distribution's measure; whatever it does wrong is a plugin error."""
    plugin = plugins.find("measures")[measure.name]
    try:
        result = tuple(measure.run(job))
    except CaloForgeError as error:
        raise PluginError(str(error)) from None
    except Exception as error:  # whatever somebody else's function does
        raise plugin.broken(f" ({type(error).__name__}: {error})", "run") from error
    if not all(isinstance(number, Number) for number in result):
        raise plugin.broken(": it gives something else than numbers", "run")
    return result
