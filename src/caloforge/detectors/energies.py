"""Incident-energy spectra: the text that a user types, and the energies drawn from it.

``50`` is one energy, ``5,10,20`` are discrete ones (equally likely), ``1:100`` is uniform, ``1:100:log`` is log-uniform, and
``10:100:10`` goes from 10 to 100 in steps of 10, over and over. The text is in GeV, everything else in MeV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from caloforge.errors import UsageError
from caloforge.random import Streams
from caloforge.units import GeV

__all__ = ["EnergySpectrum"]

Kind = Literal["fixed", "discrete", "uniform", "log-uniform", "steps"]

#: Steps in one range; more are a slip of the pen.
_MOST_STEPS = 10_000


@dataclass(frozen=True)
class EnergySpectrum:
    """Distribution of the incident kinetic energy.

    Attributes:
        kind: ``fixed``, ``discrete``, ``uniform``, ``log-uniform`` or ``steps`` (shower k has energy k modulo their number,
            so that there are equally many of each).
        values: MeV; the energy, the energies, or the two ends of the range.
    """

    kind: Kind
    values: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> EnergySpectrum:
        """Read a spectrum as typed on the command line (GeV).

        Raises:
            UsageError: if the text is not of one of the five forms, or an energy is not positive and finite.
        """
        expected = "expected 50, 5,10,20, 1:100, 1:100:log or 10:100:10 (GeV)"
        parts = [part.strip() for part in text.split(":")]
        logarithmic = len(parts) == 3 and parts[2] == "log"
        stepwise = len(parts) == 3 and not logarithmic
        if len(parts) > 3:
            raise UsageError(f"the energy '{text}' is not understood, {expected}")
        try:
            numbers = [float(v) for part in (parts if stepwise else parts[:2]) for v in part.split(",")]
        except ValueError:
            raise UsageError(f"the energy '{text}' is not understood, {expected}") from None
        if not all(math.isfinite(v) and v > 0 for v in numbers):
            raise UsageError(f"the energy '{text}' holds a value that is not positive and finite, {expected}")
        energies = tuple(v * GeV for v in numbers)
        if len(parts) == 1:
            return cls("fixed" if len(energies) == 1 else "discrete", energies)
        if len(energies) != 2 + stepwise:
            raise UsageError(f"the energy range '{text}' needs two ends, {expected}")
        if energies[0] >= energies[1]:
            raise UsageError(f"the energy range '{text}' has its lower end at or above its upper one")
        if stepwise:
            low, high, step = energies
            count = (high - low) / step
            if not 1 <= round(count) <= _MOST_STEPS or abs(count - round(count)) > 1e-6 * count:
                raise UsageError(
                    f"the step of '{text}' does not lead from one end to the other in 1 to {_MOST_STEPS} steps"
                )
            return cls("steps", tuple(np.linspace(low, high, round(count) + 1).tolist()))
        return cls("log-uniform" if logarithmic else "uniform", energies)

    @property
    def minimum(self) -> float:
        """Lowest energy that can be drawn, MeV."""
        return min(self.values)

    @property
    def maximum(self) -> float:
        """Highest energy that can be drawn, MeV."""
        return max(self.values)

    def text(self) -> str:
        """The spectrum as a user would type it (GeV); ``parse`` reads it back."""
        if self.kind in ("fixed", "discrete"):
            return ",".join(repr(v / GeV) for v in self.values)
        if self.kind == "steps":
            low, high = self.values[0], self.values[-1]
            return f"{low / GeV!r}:{high / GeV!r}:{(high - low) / (len(self.values) - 1) / GeV!r}"
        return f"{self.values[0] / GeV!r}:{self.values[1] / GeV!r}" + (":log" if self.kind == "log-uniform" else "")

    def sample(self, streams: Streams, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Draw the energies of the showers with the given numbers.

        Args:
            streams: random streams; the energy of a shower depends only on them and on its number.
            indices: shower numbers, shape (N,).

        Returns:
            Energies in MeV, shape (N,).
        """
        if self.kind == "fixed":
            return np.full(len(indices), self.values[0])
        if self.kind == "steps":
            return np.asarray(self.values)[indices % len(self.values)]
        u = streams.uniform(indices, 1)[:, 0]
        if self.kind == "discrete":
            return np.asarray(self.values)[(u * len(self.values)).astype(np.int64)]
        low, high = self.values
        if self.kind == "log-uniform":
            # Rounding in exp may step past an end by one unit in the last place.
            return np.clip(low * np.exp(u * math.log(high / low)), low, high)
        return low + u * (high - low)
