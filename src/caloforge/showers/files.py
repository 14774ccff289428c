"""Shower files: open one of any format, or write one that survives being killed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from caloforge.detectors import Detector, load_detector, particle_id
from caloforge.errors import CaloForgeWarning, OutputError, ShowerFileError
from caloforge.showers.blocks import BlockWriter
from caloforge.showers.formats.base import Block, Kind, Reader
from caloforge.showers.formats.registry import find_format, sniff
from caloforge.showers.hdf5 import Column, closed_quietly, open_hdf5
from caloforge.showers.portions import Portion, PortionMaker, check_block
from caloforge.showers.showers import refuse_bad_energies

__all__ = ["Reader", "Writer", "check_energies", "create_showers", "energy_balance", "open_any", "open_showers"]


#: Deposits are never so many times the incident energy; a sampling fraction of 3 % in the wrong unit makes 30.
_LARGEST = 20.0


def open_showers(
    path: str | Path, detector: Detector | str | Path | None = None, *, particle: int | str | None = None
) -> Reader:
    """Open a shower file of any known format.

    Args:
        path: the file.
        detector: what the file belongs to, if it does not say itself (or says something else).
        particle: the incident particle, likewise.

    Returns:
        A reader, which is a context manager.

    Raises:
        ShowerFileError: if the file is damaged, foreign, without showers, or its energies have the wrong unit.
    """
    reader = open_any(Path(path), detector, particle)
    try:
        if not len(reader):
            raise reader.error("holds no showers" + ("" if reader.complete else " yet"))
        check_energies(reader)
        _check_units(reader)
    except BaseException:
        reader.close()
        raise
    return reader


def open_any(path: Path, detector: Detector | str | Path | None, particle: int | str | None) -> Reader:
    """Open a shower file without a look at its values; it may hold no showers yet (see ``open_showers``)."""
    named = detector if detector is None or isinstance(detector, Detector) else load_detector(detector)
    pdg = None if particle is None else particle_id(particle)
    file = open_hdf5(path)
    try:
        reader = sniff(path, file)(path, file, named, pdg)
        reader.check_parts()
    except BaseException:
        closed_quietly(file)
        raise
    return reader


def check_energies(reader: Reader) -> None:
    """Look at the incident energies of all showers, which every use of them divides by or takes the logarithm of.

    Raises:
        ShowerFileError: naming the first one that is not a positive number.
    """
    for start in range(0, len(reader), 2**18):
        try:
            refuse_bad_energies(reader.incident_energies(start, min(start + 2**18, len(reader))), first_row=start)
        except ShowerFileError as error:
            raise reader.error(str(error)) from None


def energy_balance(block: Block) -> float:
    """Deposited energy of all showers over their incident energy; NaN if nothing came in."""
    incident = float(block.incident_energy.sum())
    return float(block.total_energy().sum()) / incident if incident > 0 else float("nan")


def _check_units(reader: Reader) -> None:
    """GeV taken for MeV is the classic mistake in this field, and a factor of 1000 shows in the first showers."""
    if reader.kind == "voxels" and reader.detector is None:
        return
    balance = energy_balance(reader.read(0, min(len(reader), 100)))
    if balance == 0 and not any(block.total_energy().any() for block in reader.blocks()):
        raise reader.error(f"all of its {len(reader)} showers are empty, so there is nothing in it to work with")
    if balance > _LARGEST:
        raise reader.error(
            f"its deposits are {balance:.3g} times the incident energy, so one of the two seems to be in the wrong unit "
            "(expected MeV, or what the format says)"
        )
    sees_all = reader.detector is not None and (
        reader.detector.sampling_fraction is not None
        or (reader.detector.stack is not None and reader.detector.stack.deposits == "all")
    )
    if 0 < balance < (1e-2 if sees_all else 3e-4):
        warnings.warn(
            f"{reader.path}: its deposits are only {balance:.3g} of the incident energy, so one of the two may be in the "
            "wrong unit (expected MeV, or what the format says)",
            CaloForgeWarning,
            stacklevel=3,
        )


class Writer:
    """A shower file being written, block by block; made by ``create_showers``.

    Use it as a context manager: leaving it normally closes the file, leaving it by an exception keeps what is
    finished, ready to be resumed.

    Attributes:
        path: the file.
        kind: voxels or points.
        blocks: the block writer behind it.
    """

    def __init__(
        self,
        path: Path,
        format: str,  # noqa: A002 - the word that everyone uses
        detector: Detector | None,
        particle: int,
        kind: Kind,
        encode: Any,
        blocks: BlockWriter,
    ) -> None:
        self.path = path
        self.detector = detector
        self.particle = particle
        self.kind = kind
        self.blocks = blocks
        self._encode, self._format = encode, format

    def __len__(self) -> int:
        """Showers in the finished blocks."""
        return self.blocks.rows

    @property
    def complete(self) -> bool:
        """Whether all showers asked for are there."""
        return self.blocks.complete

    def has(self, position: int) -> bool:
        """Whether the block at this position is finished."""
        return self.blocks.has(position)

    def missing(self, blocks: int) -> list[int]:
        """Positions below ``blocks`` that are still to be written, in order."""
        return self.blocks.missing(blocks)

    def write(
        self, block: Block, position: int | None = None, beside: Mapping[Column, NDArray[Any]] | None = None
    ) -> None:
        """Write one block of showers; when this returns, it is in the file, whatever happens next.

        Args:
            block: the showers.
            beside: columns that the format does not know; all blocks have the same ones.
            position: place of the block among all blocks, from 0; None for the place behind the last one. Blocks may come
                in any order, showers are in the order of the positions.

        Raises:
            ShowerFileError: if the showers hold impossible values.
            OutputError: if they do not belong into this file, or it cannot be written.
        """
        check_block(self.path, self.kind, self.particle, self.detector, block)
        self.blocks.write(self._encode(block) | dict(beside or {}), position)

    def set_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Change what is said about where the showers come from; it reaches the file with the next block."""
        self.blocks.set_attribute("provenance", json.dumps(dict(provenance)))

    def portions(self, rows: int, *, shared: bool = False) -> PortionMaker:
        """What makes finished parts of this file in other processes, for :meth:`take`.

        Args:
            rows: showers of a block.
            shared: whether they write them into the folder of the parts, on a disk that all see; else they give them back.
        """
        folder, mark = self.blocks.shared_folder() if shared else ("", "")
        return PortionMaker(str(self.path), self._format, self.detector, self.particle, self.kind, rows, folder, mark)

    def take(self, portion: Portion) -> None:
        """Take in showers that another process has made a part of; when this returns, they are in the file.

        Raises:
            OutputError: if they do not belong into this file, or it cannot be written.
        """
        self.blocks.take(portion)

    def close(self) -> None:
        """Finish the file if everything asked for is there; else keep it, ready to be resumed."""
        self.blocks.close()

    def abort(self) -> None:
        """Stop; what is finished is kept."""
        self.blocks.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.blocks.__exit__(kind, error, traceback)


def create_showers(
    path: str | Path,
    format: str = "native",  # noqa: A002 - the word that everyone uses
    *,
    detector: Detector | None,
    particle: int | str,
    kind: Kind = "voxels",
    provenance: Mapping[str, Any] | None = None,
    request: Mapping[str, Any] | None = None,
    expected: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Writer:
    """Begin a shower file, or go on with one.

    Args:
        path: the file; from now on there is always a readable file of this name.
        format: one of the formats that can be written.
        detector: what the showers belong to; voxels need one.
        particle: the incident particle.
        kind: voxels or points.
        provenance: where the showers come from, as JSON can hold it.
        request: what was asked for (seed, spectrum, block size ...); resuming is refused if it differs. Format,
            detector, particle and kind are added to it.
        expected: showers asked for; without it, every gapless sequence of blocks counts as complete.
        resume: go on with an incomplete file; start anew if there is none.
        overwrite: replace an existing file.

    Raises:
        OutputError: if the file exists already, is being written, or cannot be written, or if the format has no
            place for this kind or detector.
        UsageError: if the format is not known.
    """
    path = Path(path)
    form = find_format(format, writing=True)
    pdg = particle_id(particle) if particle != 0 else 0
    if kind not in form.kinds or form.encoder is None:
        raise OutputError(f"{path}: the format '{form.name}' holds {' or '.join(form.kinds)}, not {kind}")
    if kind == "voxels" and (detector is None or not detector.readout.has_voxels):
        raise OutputError(f"{path}: voxels need a detector with voxels")
    try:
        encode = form.encoder(None if detector is None or kind == "points" else detector.readout)
    except OutputError as error:
        raise OutputError(f"{path}: {error}") from None
    attributes: dict[str, Any] = dict(form.attributes or {}) | {"particle": pdg}
    if detector is not None:
        attributes["detector"] = detector.to_toml()
    if provenance:
        attributes["provenance"] = json.dumps(dict(provenance))
    blocks = BlockWriter(
        path,
        attributes=attributes,
        request=dict(request or {})
        | {
            "format": form.name,
            "detector": None if detector is None else detector.hash,
            "particle": pdg,
            "kind": kind,
        },
        expected=expected,
        resume=resume,
        overwrite=overwrite,
        finish=form.finish,
    )
    return Writer(path, form.name, detector, pdg, kind, encode, blocks)
