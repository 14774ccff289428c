"""Two-sample tests by classifiers: networks by their recipes, boosted trees, and one network for several samples."""

from __future__ import annotations

from collections.abc import Callable

from caloforge.evaluation.checks import AnyShowers
from caloforge.evaluation.classifiers import (
    RECIPES,
    boosted_test,
    expected_boosted_seconds,
    log_posterior_test,
    recipe,
    two_sample_test,
)
from caloforge.evaluation.classifiers.boosted import FEWEST_SHOWERS
from caloforge.evaluation.measures import Comparison, Measure
from caloforge.evaluation.results import ClassifierResult, LogPosteriorResult

ENTRIES = (
    "caloflow-dnn-unnormalised",
    "caloflow-dnn-normalised",
    "caloflow-dnn-logit",
    "caloflow-dnn-logit-normalised",
    "caloflow-cnn-unnormalised",
    "caloflow-cnn-normalised",
    "caloflow-cnn-logit",
    "caloflow-cnn-logit-normalised",
    "calochallenge-low",
    "calochallenge-high",
    "calochallenge-low-normalised",
    "calochallenge-resnet",
    "high-level",
    "caloclouds-features",
    "boosted",
    "log-posterior",
)

__all__ = ["MEASURES"]

#: The recipe of the multi-class test.
_SEVERAL = "calochallenge-low"


def _classifier(name: str) -> Callable[[Comparison], ClassifierResult]:
    def run(job: Comparison) -> ClassifierResult:
        one, two = job.cells if recipe(name).inputs == "caloclouds" else job.voxels
        return two_sample_test(recipe(name), one, two, settings=job.settings, streams=job.streams, work=job.work)

    return run


def _boosted(job: Comparison) -> ClassifierResult:
    one, two = job.cells
    return boosted_test(
        one, two, threshold=job.detector.analysis_threshold, slices=job.settings.slices, streams=job.streams
    )


def _log_posterior(job: Comparison) -> LogPosteriorResult | None:
    if not job.others:
        return None
    one, two = job.voxels
    chosen = recipe(_SEVERAL)
    samples = {"generated": one, **job.others}
    return log_posterior_test(chosen, samples, two, settings=job.settings, streams=job.streams, work=job.work)


def _uneven(generated: AnyShowers, reference: AnyShowers) -> str:
    readout = reference.readout
    if readout is None or len(set(readout.layer_shapes)) == 1:
        return ""
    return "needs layers of equal shape, and those of this readout differ"


MEASURES = (
    *(
        Measure(
            name, r.title, "classifiers", _classifier(name), voxels=r.inputs != "caloclouds", recipe=name,
            unsuited=_uneven if r.network == "resnet" else None,
        )
        for name, r in RECIPES.items()
    ),
    Measure(
        "boosted", "boosted trees on high-level features", "classifiers", _boosted, voxels=False, fewest=FEWEST_SHOWERS,
        seconds=expected_boosted_seconds,
    ),
    Measure(
        "log-posterior", "multi-class log-posterior", "log_posterior", _log_posterior, recipe=_SEVERAL, several=True
    ),
)  # fmt: skip
