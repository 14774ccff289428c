"""Units: MeV, mm and radians inside; GeV only at the command line and where a file format says so.

Multiply by a unit to go in, divide by it to come out: ``energy = 50 * GeV``, ``energy / GeV``.
"""

from __future__ import annotations

from math import pi

__all__ = ["ELECTRON_MASS", "PION_MASS", "GeV", "MeV", "TeV", "cm", "deg", "format_energy", "keV", "m", "mm", "um"]

MeV = 1.0
keV = 1.0e-3  # noqa: N816 - the unit is written so
GeV = 1.0e3
TeV = 1.0e6

mm = 1.0
um = 1.0e-3
cm = 10.0
m = 1000.0

deg = pi / 180.0

#: Rest masses in MeV (PDG 2024), for the energy balance of a shower.
ELECTRON_MASS = 0.51099895
PION_MASS = 139.57039


def format_energy(energy: float) -> str:
    """Write an energy (MeV) with the unit in which it reads best.

    Example:
        >>> format_energy(50_000.0)
        '50 GeV'
    """
    for unit, name in ((TeV, "TeV"), (GeV, "GeV"), (MeV, "MeV"), (keV, "keV")):
        if abs(energy) >= unit:
            return f"{energy / unit:.4g} {name}"
    return f"{energy / keV:.4g} keV"
