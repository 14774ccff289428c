"""What every shower file has in common, whatever its layout.

A format is a module with a ``Reader`` and a function that turns showers into columns; ``registry`` finds them all.
Files that CaloForge writes carry the same root attributes in every format: ``detector`` (TOML), ``particle`` (PDG
id), ``provenance`` (JSON) and the state of the writer (``blocks``). Foreign files have none of them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, Readout, catalogue, detector_from_toml, load_detector, particle_id
from caloforge.errors import DetectorError, MissingDependencyError, ShowerFileError, UsageError
from caloforge.showers.filters import missing_filter
from caloforge.showers.hdf5 import Array, Column, closed_quietly, guarded, read_rows
from caloforge.showers.parts import Part
from caloforge.showers.showers import ShowerPoints, Showers

__all__ = [
    "Block",
    "Encoder",
    "Format",
    "Kind",
    "Reader",
    "UnbegunReader",
    "attribute",
    "dataset_of",
    "dimensions_of",
    "from_catalogue",
    "per_shower",
    "refuse_missing_filter",
]

Block = Showers | ShowerPoints
Kind = Literal["voxels", "points"]
Encoder = Callable[[Block], dict[Column, Array]]


class Reader(ABC):
    """An open shower file.

    Reading never needs more memory than the showers asked for. Readers are context managers.

    Attributes:
        path: the file.
        format: name of its format.
        kind: whether it holds voxels or points.
        detector: its detector, or None if the file does not say and none was named.
        particle: PDG id of the incident particles, 0 if the file does not say and none was named.
        provenance: where the showers come from, as its maker wrote it; empty if the file does not say.
        attributes: names of the root attributes.
        complete: false if its writer was interrupted or is still at work.
        expected: showers asked for, if known.
    """

    format: str
    kind: Kind
    _n: int

    def __init__(self, path: Path, file: h5py.File, detector: Detector | None, particle: int | None) -> None:
        self.path = path
        self.file = file
        with guarded(path):
            # In full, since h5py takes attributes that it cannot read for attributes that are not there.
            self.attributes = frozenset(file.attrs)
        self.detector = detector if detector is not None else self._own_detector()
        self.particle = particle if particle is not None else self._own_particle()
        self.provenance = self._own_provenance()
        self.complete = bool(attribute(self, "complete", True))
        self.expected = self._own_expected()
        self._parts = self._own_parts()
        self._setup()

    # ---- what a format has to say

    @abstractmethod
    def _setup(self) -> None:
        """Check the datasets, find ``_n`` and, where the layout allows it, an unnamed detector."""

    @abstractmethod
    def _read(self, start: int, stop: int) -> Block:
        """Showers from ``start`` to ``stop``, which are in range."""

    @abstractmethod
    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """Incident kinetic energies of some showers, float64 (stop - start,), MeV."""

    def directions_of(self, start: int, stop: int) -> NDArray[np.float32] | None:
        """Flight directions of some showers, unit vectors (stop - start, 3) in the local frame; None if it has none."""
        return self.directions("directions", start, stop) if self.has("directions") else None

    def content(self) -> dict[str, Any]:
        """What else the file holds, for people."""
        return {}

    # ---- what everyone may use

    def __len__(self) -> int:
        return self._n

    def read(self, start: int = 0, stop: int | None = None) -> Block:
        """Showers ``start`` to ``stop`` (as in a slice), checked.

        Raises:
            ShowerFileError: if the file is damaged or holds impossible values there, or no detector is known.
        """
        start, stop, _ = slice(start, stop).indices(self._n)
        stop = max(start, stop)
        block = self._read(start, stop)
        self.check_parts()
        try:
            return replace(block.check_values(first_row=start), provenance=self.provenance, detector=self.detector)
        except ShowerFileError as error:
            raise ShowerFileError(f"{self.path}: {error}") from None

    def blocks(self, size: int = 1000) -> Iterator[Block]:
        """All showers, ``size`` of them at a time."""
        for start in range(0, self._n, size):
            yield self.read(start, start + size)

    @property
    def readout(self) -> Readout:
        """The voxels that the showers are in.

        Raises:
            ShowerFileError: if no detector is known.
        """
        if self.detector is None:
            raise ShowerFileError(f"{self.path}: does not say which detector it belongs to, so one must be named")
        return self.detector.readout

    def close(self) -> None:
        """Close the file."""
        closed_quietly(self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- helpers of the formats

    def error(self, what: str) -> ShowerFileError:
        """An error about this file."""
        return ShowerFileError(f"{self.path}: {what}")

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows of a dataset."""
        return read_rows(self.path, self.file, name, start, stop)

    def float32(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows of a dataset as float32."""
        with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused by the checks
            return self.rows(name, start, stop).astype(np.float32, copy=False)

    def has(self, name: str) -> bool:
        """Whether there is a dataset or group of this name."""
        parent, _, leaf = name.rpartition("/")
        if parent and not self.has(parent):
            return False
        with guarded(self.path):
            # Listed in full, since h5py takes what it cannot find in a damaged group for something that is not there.
            group = self.file[parent] if parent else self.file
            return isinstance(group, h5py.Group) and leaf in list(group)

    def expect(self, name: str, shape: tuple[int | None, ...]) -> h5py.Dataset:
        """A dataset of numbers that must be there; None in its shape leaves a length open.

        Raises:
            ShowerFileError: if it is missing, holds something else, or has another shape.
        """
        return dataset_of(self, name, shape)

    def directions(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Directions, which must have unit length."""
        directions = self.float32(name, start, stop)
        length = np.linalg.norm(directions.astype(np.float64), axis=1)
        bad = np.flatnonzero(~(np.abs(length - 1) < 1e-3))
        if len(bad):
            raise self.error(f"the direction of shower {start + bad[0]} has the length {length[bad[0]]:g}, expected 1")
        return directions

    def overflow(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Overflow; files that hold it as a difference of sums are forgiven -1 eV for rounding."""
        overflow = self.float32(name, start, stop)
        rounding = (overflow < 0) & (overflow > -1e-6)
        return np.where(rounding, np.float32(0), overflow) if rounding.any() else overflow

    def _own_detector(self) -> Detector | None:
        text = attribute(self, "detector", None)
        if text is None:
            return None
        try:
            return detector_from_toml(str(text), where=f"{self.path}: its detector")
        except DetectorError as error:
            raise ShowerFileError(str(error)) from None

    def _own_particle(self) -> int:
        value = attribute(self, "particle", 0)
        if value == 0:
            return 0
        try:
            return particle_id(value if isinstance(value, str) else int(value))
        except (UsageError, ValueError, TypeError, OverflowError):
            raise self.error(f"its particle {value!r} is not known") from None

    def _own_expected(self) -> int | None:
        value = attribute(self, "showers_expected", None)
        if value is None or isinstance(value, int | np.integer):
            return None if value is None else int(value)
        raise self.error(f"its attribute 'showers_expected' is {str(value)[:40]!r}, expected a whole number")

    def stated_particle(self) -> int:
        """PDG id of the particle that the file itself states; 0 if it states none, or one that is not known."""
        try:
            return self._own_particle()
        except ShowerFileError:
            return 0

    def _own_provenance(self) -> dict[str, Any]:
        text = attribute(self, "provenance", "{}")
        try:
            provenance = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            provenance = None
        if not isinstance(provenance, dict):
            raise self.error("its provenance is not JSON, as it would have to be")
        return provenance

    def _own_parts(self) -> list[Path]:
        if self.complete:
            return []
        try:
            state = json.loads(attribute(self, "parts", ""))
            folder = self.path.parent / Path(state["folder"]).name
            return [folder / Part.from_dict(part).file for part in state["parts"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self.error("is incomplete, and the list of its parts is damaged") from None

    def check_parts(self) -> None:
        """Refuse lost parts, whose rows HDF5 would show as NaN.

        Raises:
            ShowerFileError: naming the part.
        """
        for part in self._parts:
            if not part.is_file():
                raise self.error(
                    f"its part '{part.parent.name}/{part.name}' is lost; if it is just being written, try again in a moment"
                )


class UnbegunReader(Reader):
    """A file whose writer was stopped before its first block was finished."""

    format = "native"

    def _setup(self) -> None:
        self._n = 0
        try:
            request = json.loads(attribute(self, "request", ""))
            self.format, self.kind = str(request["format"]), request["kind"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self.error("holds nothing, and what was to be written into it is damaged") from None

    def _read(self, start: int, stop: int) -> Block:
        raise self.error("holds no showers yet")

    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """See ``Reader``."""
        return np.empty(0)


def attribute(reader: Reader, name: str, default: Any) -> Any:
    """A root attribute: text, number or ``default``."""
    if name not in reader.attributes:
        return default
    with guarded(reader.path):
        value = reader.file.attrs[name]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if not isinstance(value, str | int | float | bool | np.generic | type(None)):
        raise reader.error(f"its attribute '{name}' is not a single value")
    return value


def dataset_of(reader: Reader, name: str, shape: tuple[int | None, ...]) -> h5py.Dataset:
    """See ``Reader.expect``."""
    with guarded(reader.path):
        item = reader.file.get(name)
        is_dataset = isinstance(item, h5py.Dataset)
        found, kind = (item.shape, item.dtype.kind) if is_dataset else (None, "")
    if item is None:
        raise reader.error(f"has no dataset '{name}', which a {reader.format} file needs")
    if not is_dataset or found is None:
        raise reader.error(f"'{name}' is not a dataset of numbers")
    if kind not in "fiu":
        raise reader.error(f"'{name}' holds no numbers")
    with guarded(reader.path):
        refuse_missing_filter(reader, name, item)
    if len(found) != len(shape) or any(n is not None and n != m for n, m in zip(shape, found, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise reader.error(f"'{name}' has shape {found}, expected ({wanted})")
    return item


def refuse_missing_filter(reader: Reader, name: str, dataset: h5py.Dataset) -> None:
    """Say what a dataset is compressed with, if that is not known here.

    Raises:
        MissingDependencyError: naming the filter and the package that has it.
    """
    lacking = missing_filter(dataset)
    if lacking:
        raise MissingDependencyError(
            f"{reader.path}: '{name}' is compressed with {lacking}, which plain HDF5 does not have: "
            "pip install 'caloforge[filters]'"
        )


def dimensions_of(reader: Reader, name: str) -> int:
    """Number of axes of a dataset; 0 if there is none, or it is something else."""
    with guarded(reader.path):
        item = reader.file.get(name)
        return len(item.shape or ()) if isinstance(item, h5py.Dataset) else 0


def per_shower(reader: Reader, name: str) -> int:
    """Length of a dataset that holds one number for each shower, as (N,) or (N, 1)."""
    return int(reader.expect(name, (None,) if dimensions_of(reader, name) == 1 else (None, 1)).shape[0])


def from_catalogue(fits: Callable[[Readout], bool]) -> Detector | None:
    """The only built-in detector whose readout fits, if there is exactly one."""
    fitting = [detector for detector in map(load_detector, catalogue()) if fits(detector.readout)]
    return fitting[0] if len(fitting) == 1 else None


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        name: as on the command line.
        title: one line for people.
        sniff: whether an open file has this layout.
        reader: opens it.
        kinds: what can be written in it; nothing for a format that is only read.
        encoder: given the readout (None for points), says how blocks become columns; refuses readouts that the layout has
            no place for.
        attributes: root attributes that mark the format.
        finish: turns the file of columns into the format at the very end, if the format is more than columns.
        rank: a file is held against formats of a lower rank first.
    """

    name: str
    title: str
    sniff: Callable[[h5py.File], bool]
    reader: type[Reader]
    kinds: tuple[Kind, ...] = ()
    encoder: Callable[[Readout | None], Encoder] | None = None
    attributes: Mapping[str, Any] | None = None
    finish: Callable[[Path, Path], None] | None = None
    rank: int = 50
