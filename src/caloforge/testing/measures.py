"""What every measure promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from caloforge.detectors import Detector
from caloforge.evaluation import Comparison, Measure, Number
from caloforge.evaluation.checks import AnyShowers
from caloforge.evaluation.classifiers import ClassifierSettings
from caloforge.evaluation.measures import find_measure
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.testing.checks import expect, failing_as
from caloforge.testing.toys import toy_detector, toy_points, toy_showers

__all__ = ["check_measure"]

#: Showers of each toy sample.
_ROWS = 400


def _brighter(showers: AnyShowers) -> AnyShowers:
    """Showers that deposit half of it more than they should."""
    if isinstance(showers, Showers):
        return replace(showers, deposits=showers.deposits * np.float32(1.5))
    points = showers.points.copy()
    points[:, 3] *= 1.5
    return replace(showers, points=points)


def check_measure(
    measure: Measure | str,
    *,
    detector: Detector | None = None,
    damage: Callable[[AnyShowers], AnyShowers] = _brighter,
) -> tuple[Number, ...]:
    """Check what every measure promises, on toy showers.

    It gives finite numbers with titles; the same ones for the same showers and random streams; it changes no shower; and a
    damaged sample is farther from the best value than an independent sample of the same distribution is.

    Args:
        measure: the measure, or its name.
        detector: of the toy showers; None takes :func:`~caloforge.testing.toy_detector`.
        damage: what makes showers that the measure must notice; by default they deposit half of it more.

    Returns:
        The numbers of the independent sample: the measure's floor.

    Raises:
        CheckFailedError: naming the check and what is wrong.
    """
    with failing_as("name"):
        found = find_measure(measure) if isinstance(measure, str) else measure
    expect(isinstance(found, Measure), "name", f"it is a {type(found).__name__}, expected a Measure")
    expect(found.name and found.title, "name", "it has no name or no title")
    expect(found.field == "measured", "name", f"it fills '{found.field}', expected 'measured'")
    where = detector or toy_detector()
    make = toy_showers if where.readout.has_voxels else toy_points
    reference, other = make(where, _ROWS, seed=1), make(where, _ROWS, seed=2)

    def numbers(generated: AnyShowers, check: str) -> tuple[Number, ...]:
        job = Comparison(generated, reference, where, ClassifierSettings(retrainings=1), Streams(5, "measure"))
        with failing_as(check):
            result = tuple(found.run(job))
        for one in result:
            expect(isinstance(one, Number), check, f"it gives a {type(one).__name__}, expected a Number")
            expect(one.title, check, "a number has no title")
            expect(np.isfinite(one.value), check, f"'{one.title}' is {one.value}")
        expect(result, check, "it gives no number")
        return result

    kept = [_copied(showers) for showers in (other, reference)]
    floor = numbers(other, "numbers")
    for before, showers in zip(kept, (other, reference), strict=True):
        same = all(np.array_equal(a, b) for a, b in zip(before, _arrays(showers), strict=True))
        expect(same, "showers", "it changes the showers that it is given")
    expect(
        numbers(other, "random numbers") == floor, "random numbers", "the same showers and streams give other numbers"
    )
    damaged = numbers(damage(other), "damage")
    titles = [[one.title for one in result] for result in (floor, damaged)]
    expect(titles[0] == titles[1], "damage", "which numbers it gives depends on the showers")
    seen = [
        one.title
        for one, two in zip(damaged, floor, strict=True)
        if _distance(one, two) > max(_distance(two, two), 3 * (two.error or 0.0))
    ]
    expect(seen, "damage", "none of its numbers tells damaged showers from an independent sample of the reference")
    return floor


def _distance(number: Number, floor: Number) -> float:
    """How far a number is from its best value; from the floor's value where neither more nor less is better."""
    return abs(number.value - (floor.value if number.best == "floor" else float(number.best)))


def _arrays(showers: AnyShowers) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], ...]:
    large = showers.points if isinstance(showers, ShowerPoints) else showers.deposits
    return large, showers.incident_energy.astype(np.float32)


def _copied(showers: AnyShowers) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], ...]:
    return tuple(array.copy() for array in _arrays(showers))
