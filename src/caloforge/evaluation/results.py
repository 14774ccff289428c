"""What an evaluation found: frozen, versioned, and the same in memory as in ``report.json``.

Pooled classifier scores stand under keys that end in ``auc``, with ``mean`` and ``std`` over the retrainings; scores of
a part of the energy range stand under ``slices`` only. Scores of the generated showers are below ``generated``, those
of the second reference, in the same form, below ``floor``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "SCHEMA_VERSION",
    "AngleBias",
    "AngleResult",
    "AngleScanPoint",
    "Check",
    "ClassifierResult",
    "CloudObservable",
    "CloudSlice",
    "CorrelationResult",
    "CrossParticleResult",
    "CrossParticleScore",
    "DiphotonResult",
    "EvaluationResult",
    "FarShowers",
    "Images",
    "JensenShannon",
    "LayerMeans",
    "LogPosteriorResult",
    "Neighbour",
    "NeighbourGroup",
    "ObservableResult",
    "PrdcResult",
    "Roc",
    "SampleInfo",
    "Scores",
    "SeparationCurve",
    "Slice",
    "Spread",
    "TimingResult",
    "TimingRow",
    "Value",
    "VoxelResult",
    "observable_name",
]

#: Raised whenever a reader of the JSON file would have to change.
SCHEMA_VERSION = 1


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Value(_Result):
    """A number and its statistical error (one standard deviation)."""

    value: float
    error: float


class Spread(_Result):
    """A score over several retrainings: mean, standard deviation, and every single one."""

    mean: float
    std: float
    values: tuple[float, ...]


class Check(_Result):
    """One thing that was looked at before anything was measured."""

    name: str
    passed: bool
    text: str


class SampleInfo(_Result):
    """Which showers were used."""

    label: str
    showers: int
    particle: int
    energy_min: float = Field(description="MeV")
    energy_max: float = Field(description="MeV")
    cut_deposits: int = Field(description="deposits that the analysis threshold removed")
    fingerprint: str


class ObservableResult(_Result):
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


def observable_name(key: str) -> str:
    """An observable's key for people: ``caloflow/energy-ratio/0`` is "energy ratio 0"."""
    return key.split("/", 1)[1].replace("-", " ").replace("/", " ")


class CorrelationResult(_Result):
    """Pearson correlations of the layer energies."""

    layers: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    reference_matrix: tuple[tuple[float, ...], ...]
    largest_difference: Value
    rms_difference: Value


class LayerMeans(_Result):
    """Mean share of the incident energy and mean number of lit cells in every layer, generated over reference.

    Attributes:
        share: each layer's share of the reference's energy.
        energy: ratio of the energies; None where the reference has none.
        lit: ratio of the numbers of lit cells (or points), likewise.
    """

    layers: tuple[str, ...]
    share: tuple[float, ...]
    energy: tuple[Value | None, ...]
    lit: tuple[Value | None, ...]


class Roc(_Result):
    """ROC curve of the first retraining: efficiency for Geant4 against that for generated showers."""

    generated: tuple[float, ...]
    reference: tuple[float, ...]


class Slice(_Result):
    """Scores of the same classifiers in a part of the energy range (MeV)."""

    energy_min: float
    energy_max: float
    showers: int
    auc: Spread


class ClassifierResult(_Result):
    """One classifier between generated showers (label 0) and reference showers (label 1)."""

    name: str
    title: str
    source: str
    settings: dict[str, float | int | str]
    parameters: int
    auc: Spread
    calibrated_auc: Spread
    jsd: Spread
    statistical_error: float = Field(description="error of one retraining's AUC from the size of its test set")
    best_epochs: tuple[int, ...]
    slices: tuple[Slice, ...]
    roc: Roc


class LogPosteriorResult(_Result):
    """Mean log-posterior of each generated sample from one classifier among all of them; higher is better."""

    on_reference: dict[str, Spread]
    on_generated: dict[str, Spread]
    settings: dict[str, float | int | str]


class CrossParticleScore(_Result):
    """AUC between two particles of a classifier trained on one source of showers and scored on another."""

    trained_on: str
    scored_on: str
    auc: Spread


class CrossParticleResult(_Result):
    """Particle identification on Geant4 and on generated showers (``geant4`` and ``generated``)."""

    particles: tuple[str, str]
    recipe: str
    showers: int
    scores: tuple[CrossParticleScore, ...]


class PrdcResult(_Result):
    """Precision, recall, density and coverage (k nearest neighbours)."""

    k: int
    showers: tuple[int, int]
    precision: float
    recall: float
    density: float
    coverage: float


class Images(_Result):
    """Mean energy of every voxel, MeV."""

    generated: tuple[float, ...]
    reference: tuple[float, ...]


class Neighbour(_Result):
    """One reference shower and the generated shower nearest to it (MeV; distance over the former's deposited energy)."""

    energy: float
    neighbour_energy: float
    distance: float
    deposits: tuple[float, ...]
    neighbour_deposits: tuple[float, ...]


class NeighbourGroup(_Result):
    """Nearest neighbours at one incident energy.

    Attributes:
        energy: MeV.
        how: ``window`` (showers within a few per cent of the energy) or ``sampled`` (generated at that energy).
        targets: number of reference showers.
        candidates: number of generated showers.
        median_distance: median distance from a reference shower to the nearest generated one, over its total energy.
        matched_distance: the same with only as many generated showers as there are other reference showers.
        reference_distance: the same from each reference shower to the nearest of the others; None if they are too few.
        repeated: largest number of reference showers that share one nearest neighbour.
        example: one shower with its neighbour.
    """

    energy: float
    how: Literal["window", "sampled"]
    targets: int
    candidates: int
    median_distance: float
    matched_distance: float | None
    reference_distance: float | None
    repeated: int
    example: Neighbour


class VoxelResult(_Result):
    """Voxels that are lit too rarely or too often.

    Attributes:
        never_lit: voxels that no generated shower lights although the reference makes that all but impossible.
        under_lit: voxels lit far more rarely than in the reference.
        over_lit: voxels lit far more often.
        significance: number of standard deviations that counts as far.
    """

    never_lit: tuple[int, ...]
    under_lit: tuple[int, ...]
    over_lit: tuple[int, ...]
    significance: float


class JensenShannon(_Result):
    """Jensen-Shannon divergence (bits, 0 to 1) and distance (its square root) of two histograms.

    Attributes:
        expected_divergence: mean divergence if the showers of both samples are shuffled: what statistics alone give.
        expected_distance: likewise the distance.
    """

    divergence: Value
    distance: Value
    expected_divergence: float
    expected_distance: float


class CloudSlice(_Result):
    """The same observable at one incident energy, or in a window around it (MeV); ``showers`` generated and reference."""

    energy: float
    energy_min: float
    energy_max: float
    showers: tuple[int, int]
    js: JensenShannon


class CloudObservable(_Result):
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


class AngleScanPoint(_Result):
    """Error of the internal angle (radians, mean and standard deviation) with a share of the hits."""

    fraction: float
    generated: Value
    generated_spread: Value
    reference: Value
    reference_spread: Value


class AngleBias(_Result):
    """Mean error of an angle in bins of its true value (radians); None where there are too few showers."""

    angle: Literal["theta", "phi"]
    fraction: float
    edges: tuple[float, ...]
    generated: tuple[float | None, ...]
    generated_error: tuple[float | None, ...]
    reference: tuple[float | None, ...]
    reference_error: tuple[float | None, ...]


class AngleResult(_Result):
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


class SeparationCurve(_Result):
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


class DiphotonResult(_Result):
    """Di-photon separation from overlaid single-photon showers."""

    algorithm: str
    settings: dict[str, float]
    curves: tuple[SeparationCurve, ...]


class FarShowers(_Result):
    """A few generated showers far outside the reference, which may dominate the FPD by themselves.

    Attributes:
        showers: generated showers with a feature more than twice as large as any reference shower's.
        fpd: without them.
    """

    showers: int
    fpd: Value


class Scores(_Result):
    """Everything measured between one sample and the reference.

    Attributes:
        far_showers: None if no generated shower lies far outside the reference, or so many do that they are no exception.
    """

    observables: tuple[ObservableResult, ...] = ()
    layers: LayerMeans | None = None
    correlations: CorrelationResult | None = None
    classifiers: dict[str, ClassifierResult] = Field(default_factory=dict)
    log_posterior: LogPosteriorResult | None = None
    fpd: Value | None = None
    far_showers: FarShowers | None = None
    kpd: Value | None = None
    prdc: PrdcResult | None = None
    images: Images | None = None
    neighbours: tuple[NeighbourGroup, ...] = ()
    voxels: VoxelResult | None = None
    clouds: tuple[CloudObservable, ...] = ()
    angles: AngleResult | None = None
    diphotons: DiphotonResult | None = None


class TimingRow(_Result):
    """Time to generate one shower.

    Attributes:
        program: what generates.
        device: processor or GPU, with the number of threads.
        batch: showers at a time.
        milliseconds: per shower.
        std: over repetitions, or None for a single one.
    """

    program: str
    device: str
    batch: int
    milliseconds: float
    std: float | None = None


class TimingResult(_Result):
    """How fast a model is and how large.

    Attributes:
        rows: generation times.
        parameters: trainable parameters used for generation.
        training_seconds: wall-clock time of the training.
        training_device: where it was trained.
        left_out: batch sizes that would have taken too long.
    """

    rows: tuple[TimingRow, ...] = ()
    parameters: int | None = None
    training_seconds: float | None = None
    training_device: str = ""
    left_out: tuple[str, ...] = ()


class EvaluationResult(_Result):
    """The result of one ``evaluate``.

    Attributes:
        schema_version: of this structure.
        suite: name of the suite.
        measures: which measures were asked for.
        detector: name, description (TOML) and fingerprint of the detector.
        samples: ``generated``, ``reference`` and, if given, ``floor``.
        checks: what was looked at first.
        generated: scores of the generated showers.
        floor: scores of a second reference: what a perfect generator would get at this sample size.
        notes: what a reader must know to read the numbers.
        seconds: time that each measure took.
        timing: speed and size of the model, if it was measured.
        cross_particle: particle identification with generated showers, if it was tested.
    """

    schema_version: int = SCHEMA_VERSION
    caloforge_version: str
    suite: str
    measures: tuple[str, ...]
    seed: int
    detector: dict[str, str]
    samples: dict[str, SampleInfo]
    checks: tuple[Check, ...]
    generated: Scores
    floor: Scores | None
    notes: tuple[str, ...]
    seconds: dict[str, float]
    timing: TimingResult | None = None
    cross_particle: tuple[CrossParticleResult, ...] = ()
