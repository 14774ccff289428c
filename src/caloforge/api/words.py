"""What people write for energies and conditions, as the rooms below want it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import EnergySpectrum, Gun
from caloforge.errors import UsageError
from caloforge.generation import (
    ConditionSource,
    ListedConditions,
    SpectrumConditions,
    conditions_of_file,
    refuse_other_particle,
)
from caloforge.showers import ShowerPoints, Showers
from caloforge.units import GeV

__all__ = ["Energy", "Like", "wanted"]

#: GeV: words as on the command line, a number, or one number for each shower.
Energy = str | float | Sequence[float] | NDArray[np.floating]
#: Showers whose energies and directions are asked for again: in memory, or by the name of their file.
Like = Showers | ShowerPoints | str | Path


def wanted(
    events: int | None,
    energy: Energy | None,
    like: Like | None,
    *,
    seed: int,
    particle: int,
    named: int | None = None,
    gun: Gun | None,
    random_directions: bool,
) -> ConditionSource:
    """What is asked for, as conditions.

    Args:
        events: number of showers; None for 1000, or for as many as there are energies.
        energy: see ``Energy``.
        like: see ``Like``; instead of an energy.
        seed: of the energies.
        particle: PDG id of the model's particle, if nothing says which.
        named: that of the request; None for that of ``like``.
        gun: where random directions come from.
        random_directions: whether they are wanted.

    Raises:
        UsageError: if both or none of energy and ``like`` are given, or something else makes no sense.
    """
    if (energy is None) == (like is None):
        raise UsageError("expected either energy='1:100' (GeV) or like=showers")
    if like is not None:
        if random_directions:
            raise UsageError("random directions are for energies; showers that are asked for again have their own")
        if isinstance(like, str | Path):
            return conditions_of_file(like, showers=events, named=named)
        if events is not None and events > len(like):
            raise UsageError(f"there are {len(like)} showers, {events} were asked for")
        refuse_other_particle("these are", like.particle, named)
        rows = like[: len(like) if events is None else events]
        return ListedConditions(rows.incident_energy, rows.particle or named or particle, rows.direction)
    particle = particle if named is None else named
    if isinstance(energy, int | float | np.number):
        energy = repr(float(energy))
    if isinstance(energy, str):
        spectrum = EnergySpectrum.parse(energy)
        direction = "random" if random_directions else "straight"
        count = 1000 if events is None else events
        return SpectrumConditions(spectrum, count, seed, particle, gun, direction)  # type: ignore[arg-type] # two words
    return _listed(energy, events, particle, random_directions)


def _listed(energy: object, events: int | None, particle: int, random_directions: bool) -> ListedConditions:
    try:
        listed = np.asarray(energy, dtype=np.float64) * GeV
    except (TypeError, ValueError):
        raise UsageError(f"the energy {energy!r} is not understood, expected '1:100', 50, or a list of GeV") from None
    if listed.ndim != 1:
        raise UsageError(f"the energies have the shape {listed.shape}, expected one number (GeV) for each shower")
    if events is not None and events != len(listed):
        raise UsageError(f"{events} showers were asked for, but {len(listed)} energies are given")
    if random_directions:
        raise UsageError("random directions are for energies as words ('1:100'), not for a list")
    return ListedConditions(listed, particle)
