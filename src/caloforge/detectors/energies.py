"""Incident-energy spectra: the text that a user types, and the energies drawn from it.

``50`` is one energy, ``5,10,20`` are discrete ones (equally likely), ``1:100`` is uniform and ``1:100:log`` is
log-uniform. The text is in GeV, everything else in MeV.
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

Kind = Literal["fixed", "discrete", "uniform", "log-uniform"]


@dataclass(frozen=True)
class EnergySpectrum:
    """Distribution of the incident kinetic energy.

    Attributes:
        kind: ``fixed``, ``discrete``, ``uniform`` or ``log-uniform``.
        values: MeV; the energy, the energies, or the two ends of the range.
    """

    kind: Kind
    values: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> EnergySpectrum:
        """Read a spectrum as typed on the command line (GeV).

        Raises:
            UsageError: if the text is not of one of the four forms, or an energy is not positive and finite.
        """
        expected = "expected 50, 5,10,20, 1:100 or 1:100:log (GeV)"
        parts = [part.strip() for part in text.split(":")]
        logarithmic = len(parts) == 3 and parts[2] == "log"
        if len(parts) > 2 and not logarithmic:
            raise UsageError(f"the energy '{text}' is not understood, {expected}")
        try:
            numbers = [float(v) for part in parts[:2] for v in part.split(",")]
        except ValueError:
            raise UsageError(f"the energy '{text}' is not understood, {expected}") from None
        if not all(math.isfinite(v) and v > 0 for v in numbers):
            raise UsageError(f"the energy '{text}' holds a value that is not positive and finite, {expected}")
        energies = tuple(v * GeV for v in numbers)
        if len(parts) == 1:
            return cls("fixed" if len(energies) == 1 else "discrete", energies)
        if len(energies) != 2:
            raise UsageError(f"the energy range '{text}' needs two ends, {expected}")
        if energies[0] >= energies[1]:
            raise UsageError(f"the energy range '{text}' has its lower end at or above its upper one")
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
        u = streams.uniform(indices, 1)[:, 0]
        if self.kind == "discrete":
            return np.asarray(self.values)[(u * len(self.values)).astype(np.int64)]
        low, high = self.values
        if self.kind == "log-uniform":
            # Rounding in exp may step past an end by one unit in the last place.
            return np.clip(low * np.exp(u * math.log(high / low)), low, high)
        return low + u * (high - low)
