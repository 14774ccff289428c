"""What a measure is: it compares one sample with the reference and fills one part of the scores; ``catalogue`` has our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caloforge import plugins
from caloforge.detectors import Detector
from caloforge.errors import CaloForgeError, PluginError, UsageError
from caloforge.evaluation.checks import AnyShowers
from caloforge.evaluation.classifiers import (
    ClassifierSettings,
    Work,
)
from caloforge.evaluation.collapse import Sampler
from caloforge.evaluation.observables import (
    cells_as_points,
)
from caloforge.evaluation.results import (
    Number,
    Scores,
)
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.scratch import blocks_of, gathered

__all__ = ["Comparison", "Measure", "cut", "find_measure", "measure_names", "run_measures"]


@dataclass(frozen=True)
class Comparison:
    """Two thresholded samples and how to compare them.

    Attributes:
        generated: the sample that is judged; for the floor, the second reference. Points have become cells.
        reference: what it is judged by, likewise.
        detector: of both.
        settings: of the classifiers.
        streams: random numbers.
        work: who does retrainings, where they are kept, and who is told of them.
        sampler: draws showers of the model at one energy.
        others: further generated samples by name, for the multi-class test; empty for the floor.
        raw: both samples before cells were made and the threshold was applied.
    """

    generated: AnyShowers
    reference: AnyShowers
    detector: Detector
    settings: ClassifierSettings
    streams: Streams
    work: Work = field(default_factory=Work)
    sampler: Sampler | None = None
    others: Mapping[str, Showers] = field(default_factory=dict)
    raw: tuple[AnyShowers, AnyShowers] | None = None

    @property
    def voxels(self) -> tuple[Showers, Showers]:
        """Both samples on voxels.

        Raises:
            UsageError: if they are points.
        """
        if isinstance(self.generated, Showers) and isinstance(self.reference, Showers):
            return self.generated, self.reference
        raise UsageError("this measure needs showers on voxels, and these are points; 'convert' puts them on a readout")

    @property
    def cells(self) -> tuple[ShowerPoints, ShowerPoints]:
        """The cells of both samples as points at their centres."""
        one, two = (cells_as_points(s) if isinstance(s, Showers) else s for s in (self.generated, self.reference))
        return one, two


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: unique name.
        title: for people.
        field: the field of ``Scores`` that it fills; ``measured`` takes the numbers of any measure into all tables.
        run: gives the value of that field, for ``measured`` a sequence of ``Number``; observables and classifiers are
            gathered from several measures.
        voxels: whether it needs voxels.
        unsuited: why it cannot be run on generated showers and a reference; empty if it can. None for any showers.
        recipe: of the network that it trains; its progress is told in epochs then.
        several: whether it compares several generated samples.
        fewest: showers of each sample that it needs.
        seconds: how long it takes on this machine, given a reference and a number of showers, if that is more than some seconds
            and there is no recipe.
    """

    name: str
    title: str
    field: str
    run: Callable[[Comparison], Any]
    voxels: bool = True
    unsuited: Callable[[AnyShowers, AnyShowers], str] | None = None
    recipe: str = ""
    several: bool = False
    fewest: int = 0
    seconds: Callable[[AnyShowers, int], float] | None = None

    @property
    def epochs(self) -> bool:
        """Whether it trains a network, so that its progress is told in epochs."""
        return bool(self.recipe)


def cut(showers: AnyShowers, threshold: float) -> AnyShowers:
    """The showers without deposits (or points) below a threshold (MeV)."""
    if isinstance(showers, Showers):
        if threshold <= 0:
            return showers
        return gathered((block.above(threshold) for block in blocks_of(showers)), len(showers))
    kept = showers.points[:, 3] >= threshold
    ends = np.concatenate([[0], np.cumsum(kept)])[showers.offsets].astype(np.int64)
    return ShowerPoints(
        ends, showers.points[kept], showers.incident_energy, showers.particle, showers.readout, showers.direction
    )


def measure_names() -> list[str]:
    """Names of all measures: those of the package, then those of other distributions."""
    return sorted(plugins.names("measures"), key=_of_others)


def _of_others(name: str) -> bool:
    return plugins.find("measures")[name].distribution != "caloforge"


def find_measure(name: str) -> Measure:
    """A measure by name.

    Raises:
        UsageError: if there is none of this name.
        PluginError: if it is of another distribution and cannot be loaded.
    """
    if name not in plugins.find("measures"):
        raise UsageError(f"the measure '{name}' is not known, expected one of {', '.join(measure_names())}")
    plugin = plugins.find("measures")[name]
    found: Measure = plugins.checked(plugin, plugins.load("measures", name), Measure)
    if _of_others(name) and found.field != "measured":
        raise plugin.broken(f": it fills '{found.field}', expected 'measured'")
    return found


def run_measures(
    names: tuple[str, ...],
    job: Comparison,
    *,
    after: Callable[[str, float], None],
    clock: Callable[[], float],
    failed: dict[str, str] | None = None,
) -> Scores:
    """Run measures one after the other and gather their results.

    Args:
        names: of the measures.
        job: the samples.
        after: told the name of each measure and the seconds it took.
        clock: seconds of a running clock.
        failed: told of measures of other distributions that failed, by name, and why; None lets their errors through.
    """
    gathered: dict[str, Any] = {"observables": [], "classifiers": {}, "measured": {}}
    for name in names:
        started = clock()
        measure = find_measure(name)
        if not _of_others(name):
            result = measure.run(job)
        else:
            try:
                result = _foreign(measure, job)
            except PluginError as error:
                if failed is None:
                    raise
                failed[name] = str(error)
                result = None
        if measure.field == "observables":
            gathered["observables"] += result
        elif measure.field in ("classifiers", "measured"):
            if result is not None:
                gathered[measure.field][name] = result
        elif measure.field == "fpd":
            gathered["fpd"], gathered["far_showers"] = result
        elif result is not None:
            gathered[measure.field] = result
        after(name, clock() - started)
    gathered["observables"] = tuple(gathered["observables"])
    return Scores(**gathered)


def _foreign(measure: Measure, job: Comparison) -> tuple[Number, ...]:
    """The numbers of another distribution's measure; whatever it does wrong is a plugin error."""
    plugin = plugins.find("measures")[measure.name]
    try:
        result = tuple(measure.run(job))
    except CaloForgeError as error:
        raise PluginError(str(error)) from None
    except Exception as error:  # whatever somebody else's function does
        raise plugin.broken(f" ({type(error).__name__}: {error})", "run") from error
    if not all(isinstance(number, Number) for number in result):
        raise plugin.broken(": it gives something else than numbers", "run")
    return result
