"""Hashes of single showers, by which a model knows the rows that it was trained on."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from caloforge.showers.showers import ShowerPoints, Showers

__all__ = ["row_hashes"]


def row_hashes(showers: Showers | ShowerPoints) -> NDArray[np.uint64]:
    """A 64-bit hash of each shower, uint64 (N,).

    It covers the incident energy and all deposits (or points) in float32, so a shower keeps its hash in every file
    that stores its energies in MeV; among a million showers of each of two files a chance agreement has a probability
    of 5e-8.
    """
    energies = np.ascontiguousarray(showers.incident_energy, dtype="<f4")
    if isinstance(showers, Showers):
        values = np.ascontiguousarray(showers.deposits, dtype="<f4")
        rows = [values[k] for k in range(len(showers))]
    else:
        values = np.ascontiguousarray(showers.points[:, :4], dtype="<f4")
        rows = [values[a:b] for a, b in zip(showers.offsets[:-1], showers.offsets[1:], strict=True)]
    out = np.empty(len(showers), dtype="<u8")
    for k, row in enumerate(rows):
        digest = hashlib.blake2b(energies[k].tobytes(), digest_size=8)
        digest.update(row)
        out[k] = int.from_bytes(digest.digest(), "little")
    return out.astype(np.uint64)
