"""What an evaluation found: frozen, versioned, and the same in memory as in ``report.json``.

Pooled classifier scores stand under keys that end in ``auc``, with ``mean`` and ``std`` over the retrainings; scores of
a part of the energy range stand under ``slices`` only. Scores of the generated showers are below ``generated``, those
of the second reference, in the same form, below ``floor``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caloforge.evaluation.results_base import ObservableResult, Result, Value
from caloforge.evaluation.results_classifiers import (
    ClassifierResult,
    CrossParticleResult,
    CrossParticleScore,
    Importance,
    LogPosteriorResult,
    Roc,
    Slice,
    Spread,
)
from caloforge.evaluation.results_clouds import (
    AngleBias,
    AngleResult,
    AngleScanPoint,
    CloudObservable,
    CloudSlice,
    DiphotonResult,
    JensenShannon,
    SeparationCurve,
)

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
    "Importance",
    "JensenShannon",
    "LayerMeans",
    "LogPosteriorResult",
    "Neighbour",
    "NeighbourGroup",
    "Number",
    "ObservableResult",
    "PrdcResult",
    "Roc",
    "SampleInfo",
    "Scores",
    "SeparationCurve",
    "SharedRows",
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


class Check(Result):
    """One thing that was looked at before anything was measured."""

    name: str
    passed: bool
    text: str


class SharedRows(Result):
    """Two samples that hold the same showers to the last bit, so that they are not independent.

    Attributes:
        samples: which two of ``generated``, ``reference`` and ``floor``.
        showers: showers of the first one that are in the second, too; as they are in the files or above the threshold.
        of: number of showers of the two samples.
        same_file: whether both were read from one file.
    """

    samples: tuple[str, str]
    showers: int
    of: tuple[int, int]
    same_file: bool = False

    @property
    def spoils(self) -> bool:
        """Whether so much is shared (more than 1 % of a sample) that no score of the two has a meaning."""
        return self.same_file or self.showers > 0.01 * min(self.of)

    @property
    def text(self) -> str:
        """The same in words."""
        first, second = self.samples
        if self.showers == self.of[0] == self.of[1]:
            text = f"{first} and {second} are the same {self.showers:,} showers"
        else:
            text = (
                f"{self.showers:,} of the {self.of[0]:,} {first} showers are also among the {self.of[1]:,} {second} showers, "
                "bit for bit"
            )
        return f"{text}, of one file" if self.same_file else text


class SampleInfo(Result):
    """Which showers were used."""

    label: str
    showers: int
    particle: int
    energy_min: float = Field(description="MeV")
    energy_max: float = Field(description="MeV")
    cut_deposits: int = Field(description="deposits that the analysis threshold removed")
    fingerprint: str
    made_by: str = Field(
        "", description="model that made the showers, with its profile and aids; empty if the file names none"
    )


def observable_name(key: str) -> str:
    """An observable's key for people: ``caloflow/energy-ratio/0`` is "energy ratio 0"."""
    return key.split("/", 1)[1].replace("-", " ").replace("/", " ")


class CorrelationResult(Result):
    """Pearson correlations of the layer energies."""

    layers: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    reference_matrix: tuple[tuple[float, ...], ...]
    largest_difference: Value
    rms_difference: Value


class LayerMeans(Result):
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


class PrdcResult(Result):
    """Precision, recall, density and coverage (k nearest neighbours)."""

    k: int
    showers: tuple[int, int]
    precision: float
    recall: float
    density: float
    coverage: float


class Images(Result):
    """Mean energy of every voxel, MeV."""

    generated: tuple[float, ...]
    reference: tuple[float, ...]


class Neighbour(Result):
    """One reference shower and the generated shower nearest to it (MeV; distance over the former's deposited energy)."""

    energy: float
    neighbour_energy: float
    distance: float
    deposits: tuple[float, ...]
    neighbour_deposits: tuple[float, ...]


class NeighbourGroup(Result):
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


class VoxelResult(Result):
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


class FarShowers(Result):
    """A few generated showers far outside the reference, which may dominate the FPD by themselves.

    Attributes:
        showers: generated showers with a feature more than twice as large as any reference shower's.
        fpd: without them.
    """

    showers: int
    fpd: Value


class Number(Result):
    """One number that a measure gives, as it stands in the table of all scores.

    Attributes:
        title: for people.
        value: the number.
        error: its statistical error (one standard deviation), if it is known.
        best: the best possible value, or ``floor`` if neither more nor less is better than that of a second reference.
    """

    title: str
    value: float
    error: float | None = None
    best: Literal["0", "1", "floor"] = "floor"


class Scores(Result):
    """Everything measured between one sample and the reference.

    Attributes:
        measured: numbers of measures that have no field of their own here, by the name of the measure.
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
    measured: dict[str, tuple[Number, ...]] = Field(default_factory=dict)


class TimingRow(Result):
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


class TimingResult(Result):
    """How fast a model is and how large.

    Attributes:
        rows: generation times.
        parameters: trainable parameters used for generation.
        training_seconds: wall-clock time of the training.
        training_device: where it was trained.
        megabytes: size of the model's file on the disk.
        left_out: batch sizes that would have taken too long.
    """

    rows: tuple[TimingRow, ...] = ()
    parameters: int | None = None
    megabytes: float | None = None
    training_seconds: float | None = None
    training_device: str = ""
    left_out: tuple[str, ...] = ()


class EvaluationResult(Result):
    """The result of one ``evaluate``.

    Attributes:
        schema_version: of this structure.
        suite: name of the suite.
        measures: which measures were asked for.
        detector: name, description (TOML) and fingerprint of the detector.
        samples: ``generated``, ``reference`` and, if given, ``floor``.
        uncut: whether the analysis threshold was applied to none of the samples; else it was applied to all.
        checks: what was looked at first.
        shared: which of the samples share showers.
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
    uncut: bool = False
    checks: tuple[Check, ...]
    shared: tuple[SharedRows, ...] = ()
    generated: Scores
    floor: Scores | None
    notes: tuple[str, ...]
    seconds: dict[str, float]
    timing: TimingResult | None = None
    cross_particle: tuple[CrossParticleResult, ...] = ()

    @property
    def spoiled(self) -> bool:
        """Whether two of the samples share so much that no verdict can be given."""
        return any(shared.spoils for shared in self.shared)
