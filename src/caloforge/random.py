"""Counter-based random streams: what a shower draws depends only on who it is.

Every draw is a pure function of ``(seed, purpose, index, attempt)``, where ``index`` is the number of the shower (or
of the block of showers) and ``attempt`` counts redraws of a rejected one. Batch size, number of workers and order of
work therefore cannot change a result. The generator is Philox-4x64 (Salmon et al., SC'11), whose 256-bit counter and
128-bit key make this a matter of addressing rather than of state.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.errors import UsageError

__all__ = ["Streams", "ragged_normal_of"]


@functools.lru_cache(1024)
def _key(seed: int, purpose: str) -> NDArray[np.uint64]:
    """See :meth:`Streams.key`; kept, since a model made shower by shower asks for the same ones every time."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}".encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    key.setflags(write=False)
    return key


@dataclass(frozen=True)
class Streams:
    """A family of independent random streams, one for each index.

    Attributes:
        seed: the user's seed, 0 <= seed < 2**63.
        purpose: what the numbers are for; different purposes give independent numbers for the same seed.
    """

    seed: int
    purpose: str

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"the seed is {self.seed}, expected a whole number from 0 to 2**63 - 1")

    def child(self, purpose: str) -> Streams:
        """Streams for a part of this purpose, independent of it and of all other parts."""
        return Streams(self.seed, f"{self.purpose}/{purpose}")

    def key(self) -> NDArray[np.uint64]:
        """Key of the Philox generator, (2,); indices and counters are its counter."""
        return _key(self.seed, self.purpose)

    def generator(self, index: int, attempt: int = 0) -> np.random.Generator:
        """Generator of one shower.

        Args:
            index: number of the shower, >= 0.
            attempt: how often this shower was drawn before and rejected.
        """
        # The two low counter words count the draws of the shower itself, so 2**128 of them before streams overlap.
        counter = np.array([0, 0, attempt, index], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=self.key(), counter=counter))

    def normal(
        self, indices: NDArray[np.int64], size: int, counters: NDArray[np.int64] | int = 0
    ) -> NDArray[np.float32]:
        """Standard normal numbers, shape ``(len(indices), size)``, row k belonging to shower ``indices[k]``."""
        out = np.empty((len(indices), size), dtype=np.float32)
        for row, generator in _rows(self.key(), indices, counters):
            generator.standard_normal(dtype=np.float32, out=out[row])
        return out

    def ragged_normal(
        self,
        indices: NDArray[np.int64],
        sizes: NDArray[np.int64],
        counters: NDArray[np.int64] | int = 0,
    ) -> NDArray[np.float32]:
        """Standard normal numbers, ``sizes[k]`` of them for shower ``indices[k]``, one shower behind the other."""
        ends = np.cumsum(sizes, dtype=np.int64)
        return ragged_normal_of(self.key(), indices, np.broadcast_to(np.asarray(counters), np.shape(indices)), ends)

    def uniform(
        self, indices: NDArray[np.int64], size: int, counters: NDArray[np.int64] | int = 0
    ) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), shape ``(len(indices), size)``, row k belonging to shower ``indices[k]``."""
        out = np.empty((len(indices), size), dtype=np.float64)
        for row, generator in _rows(self.key(), indices, counters):
            generator.random(out=out[row])
        return out

    def ragged_uniform(
        self,
        indices: NDArray[np.int64],
        sizes: NDArray[np.int64],
        counters: NDArray[np.int64] | int = 0,
    ) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), ``sizes[k]`` of them for shower ``indices[k]``, one shower behind the other."""
        ends = np.cumsum(sizes)
        out = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.float64)
        for row, generator in _rows(self.key(), indices, counters):
            generator.random(out=out[ends[row] - sizes[row] : ends[row]])
        return out

    def integer(self, index: int, attempt: int = 0) -> int:
        """A 64-bit seed for a foreign generator (Geant4's, torch's)."""
        return int(self.generator(index, attempt).integers(0, 2**64, dtype=np.uint64))


def _rows(
    key: NDArray[np.uint64], indices: NDArray[np.int64], counters: NDArray[np.int64] | int
) -> Iterator[tuple[int, np.random.Generator]]:
    """A generator aimed at one stream after the other, with the number of its row."""
    # Re-aiming one generator is several times cheaper than building one for each shower.
    bits = np.random.Philox(key=key)
    generator = np.random.Generator(bits)
    state: Any = bits.state
    tries = np.broadcast_to(np.asarray(counters), np.shape(indices))
    for row, (index, attempt) in enumerate(zip(indices, tries, strict=True)):
        state["state"]["counter"] = np.array([0, 0, attempt, index], dtype=np.uint64)
        state["buffer_pos"] = 4  # nothing left of the previous shower's numbers
        state["has_uint32"] = 0
        bits.state = state
        yield row, generator


def ragged_normal_of(
    key: NDArray[np.uint64], indices: NDArray[np.int64], counters: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.float32]:
    """As :meth:`Streams.ragged_normal`, of the streams with a key; ``ends[k]`` is where the numbers of row k end."""
    out = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.float32)
    for row, generator in _rows(key, indices, counters):
        generator.standard_normal(dtype=np.float32, out=out[ends[row - 1] if row else 0 : ends[row]])
    return out
