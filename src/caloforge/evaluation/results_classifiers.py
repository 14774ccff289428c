"""Results of classifier tests."""

from __future__ import annotations

from pydantic import Field

from caloforge.evaluation.results_base import Result, Value

__all__ = [
    "ClassifierResult",
    "CrossParticleResult",
    "CrossParticleScore",
    "Importance",
    "LogPosteriorResult",
    "Roc",
    "Slice",
    "Spread",
]


class Spread(Result):
    """A score over several retrainings.

    Attributes:
        mean: over the retrainings.
        std: standard deviation between them, as publications state it; 0 for a single one.
        values: every single one.
        error: of the mean (one standard deviation), from the test showers, each of which counts once however many
            retrainings are scored on it, and from the trainings; None in reports of earlier versions.
    """

    mean: float
    std: float
    values: tuple[float, ...]
    error: float | None = None


class Roc(Result):
    """ROC curve of the first retraining: efficiency for Geant4 against that for generated showers."""

    generated: tuple[float, ...]
    reference: tuple[float, ...]


class Slice(Result):
    """Scores of the same classifiers in a part of the energy range (MeV)."""

    energy_min: float
    energy_max: float
    showers: int
    auc: Spread


class Importance(Result):
    """What a classifier loses without a feature, or without all features of a family.

    Attributes:
        name: of the feature (``energy/0``) or of the family (``energy``).
        drop: fall of the AUC if the feature's values are shuffled among the test showers.
        shift: mean of the generated showers minus that of the reference, in standard deviations of the reference; None for a
            family and for a feature that does not vary.
        undefined: share of showers without a value, generated and reference; None for a family.
    """

    name: str
    drop: Value
    shift: Value | None = None
    undefined: tuple[float, float] | None = None


class ClassifierResult(Result):
    """One classifier between generated showers (label 0) and reference showers (label 1).

    Attributes:
        auc: over retrainings, or over the folds of a cross-validation.
        best_epochs: of each retraining; empty where there are none.
        roc: of the first retraining, or of all folds.
        importance: of the features, the most important ones first; of classifiers that read named features.
        families: likewise of the families of features.
    """

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
    importance: tuple[Importance, ...] = ()
    families: tuple[Importance, ...] = ()


class LogPosteriorResult(Result):
    """Mean log-posterior of each generated sample from one classifier among all of them; higher is better."""

    on_reference: dict[str, Spread]
    on_generated: dict[str, Spread]
    settings: dict[str, float | int | str]


class CrossParticleScore(Result):
    """AUC between two particles of a classifier trained on one source of showers and scored on another."""

    trained_on: str
    scored_on: str
    auc: Spread


class CrossParticleResult(Result):
    """Particle identification on Geant4 and on generated showers (``geant4`` and ``generated``)."""

    particles: tuple[str, str]
    recipe: str
    showers: int
    scores: tuple[CrossParticleScore, ...]
