"""Checks for models, measures and file formats, and toys to check them on; for tests, here and in packages of others.

Example:
    >>> from caloforge.models import build_model
    >>> from caloforge.testing import check_model, toy_detector
    >>> model = build_model("shower-library", {}, toy_detector())
    >>> "batches" in check_model(model)
    True
"""

from caloforge.testing.checks import CheckFailedError
from caloforge.testing.formats import check_format
from caloforge.testing.measures import check_measure
from caloforge.testing.models import MODEL_CHECKS, check_model
from caloforge.testing.toys import ToyRows, fit_stages, toy_detector, toy_points, toy_showers, training_batch

__all__ = [
    "MODEL_CHECKS",
    "CheckFailedError",
    "ToyRows",
    "check_format",
    "check_measure",
    "check_model",
    "fit_stages",
    "toy_detector",
    "toy_points",
    "toy_showers",
    "training_batch",
]
