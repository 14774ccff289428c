"""Particle names and PDG ids, through the library ``particle``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from particle import InvalidParticle, Particle, ParticleNotFound
from particle.exceptions import MatchingIDNotFound

from caloforge.errors import UsageError

__all__ = ["particle_id", "particle_mass", "particle_name"]

# What people type, where it differs from the library's own names.
_ALIASES = {
    "photon": 22, "electron": 11, "positron": -11, "e": 11, "eplus": -11, "eminus": 11, "pion": 211, "piplus": 211,
    "piminus": -211, "proton": 2212, "neutron": 2112, "muon": 13,
    "k0s": 310, "k0l": 130,
}  # fmt: skip


@cache
def particle_id(name: str | int) -> int:
    """PDG id of a particle given by name or id.

    Raises:
        UsageError: if no such particle is known.
    """
    text = str(name).strip()
    if text.lower() in _ALIASES:
        return _ALIASES[text.lower()]
    try:
        if re.fullmatch(r"[+-]?\d+", text):
            return int(Particle.from_pdgid(int(text)).pdgid)
        return int(Particle.from_evtgen_name(text).pdgid)
    except (ParticleNotFound, InvalidParticle, MatchingIDNotFound):
        raise UsageError(
            f"the particle '{name}' is not known, expected a name such as gamma, e+, pi+ or a PDG id"
        ) from None


@cache
def particle_name(pdg: int) -> str:
    """Name of a particle as used on the command line; the PDG id itself if it is not known."""
    try:
        return str(Particle.from_pdgid(pdg).evtgen_name)
    except (ParticleNotFound, InvalidParticle):
        return str(pdg)


def particle_names(pdg: Iterable[int]) -> str:
    """Names of several particles, for people."""
    return ", ".join(map(particle_name, pdg))


@cache
def particle_mass(pdg: int) -> float:
    """Rest mass in MeV.

    Raises:
        UsageError: if no such particle is known.
    """
    try:
        return float(Particle.from_pdgid(pdg).mass or 0.0)
    except (ParticleNotFound, InvalidParticle):
        raise UsageError(f"the PDG id {pdg} is not known") from None
