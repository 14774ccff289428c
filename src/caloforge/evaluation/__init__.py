"""How good generated showers are: observables, distances, classifiers, and suites of all of them.

Example:
    >>> from caloforge import datasets
    >>> from caloforge.detectors import load_detector
    >>> test, floor = (datasets.load("calogan-gamma-sample", split=s) for s in ("test", "floor"))
    >>> result = evaluate(floor, test, detector=load_detector("calogan"), only=["fpd"])
    >>> result.generated.fpd.value < 0.01
    True
"""

from caloforge.evaluation.measures import Comparison, Measure
from caloforge.evaluation.results import EvaluationResult, Number, Scores
from caloforge.evaluation.run import evaluate
from caloforge.evaluation.suites import SUITES, Plan, plan_evaluation

__all__ = [
    "SUITES",
    "Comparison",
    "EvaluationResult",
    "Measure",
    "Number",
    "Plan",
    "Scores",
    "evaluate",
    "plan_evaluation",
]
