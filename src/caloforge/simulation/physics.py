"""Which particles can be simulated, and with what physics; the same for every engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import particle_name
from caloforge.errors import UsageError
from caloforge.units import MeV, TeV, format_energy

__all__ = ["ENERGY_RANGE", "check_energies", "check_particle", "hadronic_physics"]

#: Kinetic energies that the physics lists and the memory of a worker are good for, MeV.
ENERGY_RANGE = (1.0 * MeV, 10.0 * TeV)

#: A pi0 decays into photons within micrometres, so it needs no hadronic physics.
_ELECTROMAGNETIC = frozenset({11, -11, 22, 13, -13, 111})
_HADRONS = frozenset({211, -211, 321, -321, 130, 310, 2212, -2212, 2112, -2112})


def check_particle(pdg: int) -> None:
    """Refuse particles that cannot be simulated.

    Raises:
        UsageError: naming those that can.
    """
    if pdg not in _ELECTROMAGNETIC | _HADRONS:
        known = ", ".join(particle_name(p) for p in sorted(_ELECTROMAGNETIC | _HADRONS, key=lambda p: (abs(p), -p)))
        raise UsageError(f"Geant4 runs are set up for {known}, not for {particle_name(pdg)}")


def check_energies(energies: NDArray[np.float64]) -> None:
    """Refuse kinetic energies outside ``ENERGY_RANGE``.

    Args:
        energies: MeV, shape (N,).

    Raises:
        UsageError: naming the first such energy.
    """
    low, high = ENERGY_RANGE
    wrong = energies[~((energies >= low) & (energies <= high))]
    if len(wrong):
        raise UsageError(
            f"an incident energy is {format_energy(float(wrong[0]))}, "
            f"expected {format_energy(low)} to {format_energy(high)}"
        )


def hadronic_physics(pdg: int) -> str | None:
    """Hadronic physics list for an incident particle; None (electromagnetic physics only) for e+-, mu+-, gamma and pi0."""
    return "FTFP_BERT" if pdg in _HADRONS else None
