"""More showers than should be held in memory: their deposits lie in a file without a name, and are worked on in blocks.

A file of a million showers has two gigabytes of deposits, and every step of an evaluation would make arrays as large. What is
kept of a shower is a few numbers; so steps go through the deposits block by block (:func:`by_blocks`) and join what they found.
The file is on the disk that temporary files are on (``TMPDIR``), has been removed before it is written, and is gone with the
process. Small samples stay in memory and are one block, for which nothing changes.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from caloforge.atomic import reason
from caloforge.errors import OutputError
from caloforge.showers.showers import Showers

__all__ = ["block_of", "blocks_of", "by_blocks", "gathered", "let_go"]

#: Bytes of deposits that are held in memory, and of a block.
HELD, BLOCK = 1 << 27, 1 << 25

R = TypeVar("R", NDArray[Any], tuple[NDArray[Any], ...])


def block_of(voxels: int) -> int:
    """Showers of a block."""
    return max(256, BLOCK // (4 * max(1, voxels)))


def gathered(blocks: Iterable[Showers], rows: int) -> Showers:
    """Showers of several blocks as one, as ``Showers.concatenate`` makes it.

    Args:
        blocks: at least one; taken one at a time.
        rows: showers in all of them.

    Raises:
        OutputError: if the disk for temporary files is full.
    """
    iterator = iter(blocks)
    first = next(iterator)
    if 4 * rows * first.readout.n_voxels <= HELD:
        return Showers.concatenate([first, *iterator])
    voxels = first.readout.n_voxels
    light: list[Showers] = []  # everything but the deposits
    try:
        with tempfile.TemporaryFile() as file:
            for block in _with(first, iterator):
                file.write(np.ascontiguousarray(block.deposits, dtype=np.float32).data)
                light.append(_without_deposits(block))
                let_go(block.deposits)
            file.flush()
            deposits: NDArray[np.float32] = np.memmap(file, np.float32, "r", shape=(rows, voxels))
    except OSError as error:
        raise OutputError(
            f"{tempfile.gettempdir()}: {rows} showers cannot be laid down there ({reason(error)}), which takes "
            f"{4e-9 * rows * voxels:.2g} GB; the variable TMPDIR names another directory"
        ) from None
    return Showers.concatenate(light, deposits)


def _with(first: Showers, others: Iterator[Showers]) -> Iterator[Showers]:
    yield first
    yield from others


def _without_deposits(block: Showers) -> Showers:
    """The same showers with deposits that take no memory, and nothing that holds the block's."""
    nothing = np.broadcast_to(np.float32(0), block.deposits.shape)
    return Showers(
        nothing, block.incident_energy.copy(), block.particle, block.readout, _copied(block.direction),
        _copied(block.overflow), block.provenance, block.detector,
    )  # fmt: skip


def _copied(array: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    return None if array is None else array.copy()


def blocks_of(showers: Showers) -> Iterator[Showers]:
    """The showers in blocks, at least one, whose deposits are not held any longer than one is worked on."""
    rows = block_of(showers.readout.n_voxels)
    for start in range(0, max(1, len(showers)), rows):
        yield showers[start : start + rows]
        let_go(showers.deposits)


def by_blocks(function: Callable[[Showers], R], showers: Showers) -> R:
    """What a function finds of each shower.

    Args:
        function: gives one array, or several, with a row for each shower.
        showers: any number; of few, all are one block.
    """
    if len(showers) <= block_of(showers.readout.n_voxels):
        return function(showers)
    found = [function(block) for block in blocks_of(showers)]
    if isinstance(found[0], tuple):
        return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return np.concatenate(found)


def let_go(array: NDArray[Any]) -> None:
    """Take the pages of an array that lies in a file out of this process; they are read again when they are needed."""
    holder: Any = array
    while isinstance(holder, np.ndarray):
        holder = holder.base
    if isinstance(holder, mmap.mmap):
        holder.madvise(mmap.MADV_DONTNEED)
