"""What all results of an evaluation share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["ObservableResult", "Result", "Value"]


class Result(BaseModel):
    """Frozen, and read from JSON without anything unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Value(Result):
    """A number and its statistical error (one standard deviation)."""

    value: float
    error: float


class ObservableResult(Result):
    """One observable in both samples.

    Attributes:
        key: unique name, ``set/family/layer``.
        edges: bin edges; ``counts`` and ``reference_counts`` have one more entry on either side, for what lies outside.
        separation: separation power with under- and overflow counted, 0 (equal) to 1 (disjoint).
        separation_in_range: the same as published, inside the plotted range only.
        separation_expected: what two equal samples of this size give on average.
        chi2_ndf: chi-squared of the two histograms over the number of degrees of freedom; None for spectra of voxels,
            whose entries are not independent.
        ks: largest difference of the cumulative distributions.
        wasserstein: earth mover's distance in the observable's unit.
        js_divergence: Jensen-Shannon divergence in bits, 0 to 1; js_distance is its square root.
        empty: showers with the convention's value for an empty layer, generated and reference.
    """

    key: str
    family: str
    layer: int | None
    label: str
    unit: str
    binning: str
    log: bool
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    reference_counts: tuple[int, ...]
    separation: Value
    separation_in_range: float
    separation_expected: float
    chi2_ndf: float | None
    ks: Value
    wasserstein: Value
    js_divergence: Value
    js_distance: Value
    empty: tuple[int, int]
