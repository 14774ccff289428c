"""What the study of learning curves measures."""

from __future__ import annotations

from dataclasses import dataclass

from caloforge.studies.extrapolation import Extrapolated

__all__ = ["Curve", "Point"]


@dataclass(frozen=True)
class Point:
    """One evaluation.

    Attributes:
        showers: on the axis, training showers of the generator or showers of each kind that the classifier was given.
        scores: value and statistical error by quantity.
        floor: the same of a second Geant4 sample; empty without one.
        training_seconds: time of the training; 0 where nothing was trained anew.
    """

    showers: int
    scores: dict[str, tuple[float, float]]
    floor: dict[str, tuple[float, float]]
    training_seconds: float = 0.0


@dataclass(frozen=True)
class Curve:
    """Points of one preset.

    Attributes:
        preset: its name.
        training: against training showers, all evaluated on the same test showers.
        classifier: against showers of the evaluation, of the model with the most training showers.
        beyond: of each AUC what 100,000 training showers and classifiers with 100,000 + 100,000 showers would give.
    """

    preset: str
    training: tuple[Point, ...]
    classifier: tuple[Point, ...]
    beyond: dict[str, Extrapolated]
