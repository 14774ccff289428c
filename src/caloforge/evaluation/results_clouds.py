"""Results of the measures of point clouds."""

from __future__ import annotations

from typing import Literal

from caloforge.evaluation.results_base import ObservableResult, Result, Value

__all__ = [
    "AngleBias",
    "AngleResult",
    "AngleScanPoint",
    "CloudObservable",
    "CloudSlice",
    "DiphotonResult",
    "JensenShannon",
    "SeparationCurve",
]


class JensenShannon(Result):
    """Jensen-Shannon divergence (bits, 0 to 1) and distance (its square root) of two histograms.

    Attributes:
        expected_divergence: mean divergence if the showers of both samples are shuffled: what statistics alone give.
        expected_distance: likewise the distance.
    """

    divergence: Value
    distance: Value
    expected_divergence: float
    expected_distance: float


class CloudSlice(Result):
    """The same observable at one incident energy, or in a window around it (MeV); ``showers`` generated and reference."""

    energy: float
    energy_min: float
    energy_max: float
    showers: tuple[int, int]
    js: JensenShannon


class CloudObservable(Result):
    """One of the ten observables of CaloClouds.

    Attributes:
        key: unique name.
        content: what the bins hold, a mean per shower: showers, cells, or energy.
        edges: bin edges; the contents have one more entry on either side, for what lies outside.
        generated: content of the bins in the generated sample, per shower.
        generated_error: its bootstrap error.
        reference: likewise in the reference.
        reference_error: likewise.
        js: of the whole sample; profiles are compared as shapes.
        slices: at single incident energies; for numbers of a whole shower with bins of their own.
    """

    key: str
    label: str
    unit: str
    content: str
    binning: str
    log: bool
    edges: tuple[float, ...]
    generated: tuple[float, ...]
    generated_error: tuple[float, ...]
    reference: tuple[float, ...]
    reference_error: tuple[float, ...]
    js: JensenShannon
    slices: tuple[CloudSlice, ...]


class AngleScanPoint(Result):
    """Error of the internal angle (radians, mean and standard deviation) with a share of the hits."""

    fraction: float
    generated: Value
    generated_spread: Value
    reference: Value
    reference_spread: Value


class AngleBias(Result):
    """Mean error of an angle in bins of its true value (radians); None where there are too few showers."""

    angle: Literal["theta", "phi"]
    fraction: float
    edges: tuple[float, ...]
    generated: tuple[float | None, ...]
    generated_error: tuple[float | None, ...]
    reference: tuple[float | None, ...]
    reference_error: tuple[float | None, ...]


class AngleResult(Result):
    """The internal angle against the true direction.

    Attributes:
        undefined: showers without an axis, generated and reference.
        errors: of total angle, theta and phi, with all hits (``/100``) and the 4 % of highest energy (``/4``).
        scan: over the share of hits.
        bias: against theta and phi; empty if all showers have one direction.
    """

    undefined: tuple[int, int]
    errors: tuple[ObservableResult, ...]
    scan: tuple[AngleScanPoint, ...]
    bias: tuple[AngleBias, ...]


class SeparationCurve(Result):
    """Mean number of photons found of two, in bins of their distance (edges, mm).

    Attributes:
        energy: of each photon, MeV; they lie between ``energy_min`` and ``energy_max``.
        pairs: generated and reference.
        largest_difference: largest absolute difference of the two curves, with the error of that point.
        mean_difference: mean absolute difference.
    """

    energy: float
    energy_min: float
    energy_max: float
    pairs: tuple[int, int]
    edges: tuple[float, ...]
    generated: tuple[Value, ...]
    reference: tuple[Value, ...]
    largest_difference: Value
    mean_difference: Value


class DiphotonResult(Result):
    """Di-photon separation from overlaid single-photon showers."""

    algorithm: str
    settings: dict[str, float]
    curves: tuple[SeparationCurve, ...]
