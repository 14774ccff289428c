"""Showers by name: files of any known format, samples of the package, and the models that made them."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge import datasets
from caloforge.arguments import argument
from caloforge.detectors import Detector, load_detector
from caloforge.errors import ModelFileError, UsageError
from caloforge.evaluation.checks import AnyShowers
from caloforge.evaluation.classifiers.retraining import class_rows
from caloforge.models import pretrained_names, read_record, training_row_hashes
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.files import Reader, open_showers
from caloforge.showers.joining import joined_reader
from caloforge.showers.scratch import gathered

__all__ = ["UNKNOWN_MODEL", "Named", "Source", "differences", "find_model", "open_source", "rows_trained_on"]

#: Said of generated showers whose model is not at hand.
UNKNOWN_MODEL = (
    "The model that made the generated showers was not found here, so it is not known whether it was trained on the "
    "reference."
)
#: Showers read at a time when only some of a file's are wanted.
_BLOCK = 2000
#: What must agree between two Geant4 productions for one to be the floor of the other.
_PRODUCTION = {
    "geant4": "Geant4 version",
    "tables": "physics tables",
    "physics": "physics list",
    "production_cut_mm": "production cut (mm)",
    "field": "magnetic field",
    "readout_threshold_MeV": "readout threshold (MeV)",
}


@dataclass(frozen=True)
class Source:
    """Showers, and what their file says of itself.

    Attributes:
        label: what to call them: the file's name or that of the sample.
        showers: all of them, or as many as were wanted.
        detector: the detector that the file names, or that was named for it.
        path: the file, the first of several; None for showers in memory.
        total: number of showers in the file.
        complete: whether its writer finished it.
        provenance: where the showers come from, as their maker wrote it; empty if the file does not say.
        remarks: what was noticed on opening.
    """

    label: str
    showers: AnyShowers
    detector: Detector
    path: Path | None
    total: int
    complete: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def _open(path: Path, detector: Detector | str | Path | None, particle: int | str | None) -> Reader:
    """A reader that knows its detector and particle; what was named counts where the file itself is silent."""
    reader = open_showers(path)
    named = detector if reader.detector is None else None
    whose = particle if reader.particle == 0 else None
    if named is not None or whose is not None:
        reader.close()
        reader = open_showers(path, named if reader.detector is None else reader.detector, particle=whose)
    lacking = ""
    if reader.detector is None:
        lacking = f"does not say which detector it belongs to, so one must be named ({argument('detector')})"
    elif reader.particle == 0:
        lacking = f"does not say which particle made its showers, so one must be named ({argument('particle')})"
    if lacking:
        reader.close()
        raise UsageError(f"{path}: {lacking}")
    return reader


#: What can be judged or judged by: showers in memory, or by name: files, samples of the package, several of them as one.
Named = AnyShowers | str | Path | Sequence[str | Path]


def open_source(
    what: Named,
    *,
    detector: Detector | str | Path | None = None,
    particle: int | str | None = None,
    max_showers: int | None = None,
    streams: Streams,
) -> Source:
    """Read showers for an evaluation.

    Args:
        what: a file of any known format, a sample of the package as ``NAME:SPLIT``, several of these, or showers in memory.
        detector: for a file that does not say which detector it is from.
        particle: for a file that does not say which particle it holds.
        max_showers: at most so many, chosen at random (of points the first ones).
        streams: random numbers of that choice.

    Raises:
        UsageError: if there is no such file or sample, or it names no detector or particle and none is given.
        ShowerFileError: if a file is damaged, foreign or holds impossible values, or several do not belong together.
    """
    if isinstance(what, Showers | ShowerPoints):
        return _in_memory(what, detector, max_showers, streams)
    named = [datasets.locate(name) for name in ([what] if isinstance(what, str | Path) else what)]
    if not named:
        raise UsageError("no shower file was named")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        reader = joined_reader([partial(_open, path, detector, particle) for path, _ in named])
    with reader:
        assert reader.detector is not None  # _open sees to it
        return Source(
            label=", ".join(label for _, label in named),
            showers=_read(reader, max_showers, streams),
            detector=reader.detector,
            path=named[0][0],
            total=len(reader),
            complete=reader.complete,
            provenance=reader.provenance,
            remarks=tuple(dict.fromkeys(str(w.message) for w in caught)),
        )


def _in_memory(
    showers: AnyShowers, detector: Detector | str | Path | None, limit: int | None, streams: Streams
) -> Source:
    known = showers.detector
    if known is None and detector is not None:
        known = detector if isinstance(detector, Detector) else load_detector(detector)
    if known is None:
        raise UsageError("the showers do not say which detector they are of, so one must be named")
    total = len(showers)
    if limit is not None and limit < total:
        points = isinstance(showers, ShowerPoints)
        showers = showers[:limit] if points else showers[class_rows(total, limit, streams.generator(0))]
    return Source(f"{total} showers in memory", showers, known, None, total, True, showers.provenance)


def _read(reader: Reader, limit: int | None, streams: Streams) -> AnyShowers:
    if reader.kind == "points":
        return reader.read() if limit is None else reader.read(0, min(limit, len(reader)))
    everything = limit is None or limit >= len(reader)
    # Rows are picked while reading, so that a file larger than memory can be sampled.
    chosen = None if everything or limit is None else class_rows(len(reader), limit, streams.generator(0))
    return gathered(_blocks(reader, chosen), len(reader) if chosen is None else len(chosen))


def _blocks(reader: Reader, chosen: NDArray[np.int64] | None) -> Iterator[Showers]:
    """The chosen rows of a file, or all of them, block by block."""
    for start in range(0, len(reader), _BLOCK):
        inside = slice(None) if chosen is None else chosen[(chosen >= start) & (chosen < start + _BLOCK)] - start
        if isinstance(inside, slice) or len(inside):
            block = reader.read(start, min(start + _BLOCK, len(reader)))
            assert isinstance(block, Showers)  # the kind was looked at before
            yield block[inside]


def find_model(provenance: Mapping[str, Any], folder: Path | None = None) -> str | None:
    """The model that made some showers, if it can be found here.

    Generated showers hold the hash of their model's weights, and those of a file the command that made them. Every word of
    that command, and every model of the package, is a candidate; only the hash decides. Relative paths are tried from the
    working directory and from the folder of the file.

    Args:
        provenance: what the showers say of themselves.
        folder: where their file is.

    Returns:
        Its directory or name, or None.
    """
    wanted = provenance.get("model")
    if not isinstance(wanted, Mapping) or "sha256" not in wanted:
        return None
    try:
        words = shlex.split(str(provenance.get("command") or ""))
    except ValueError:
        words = []
    named = [str(wanted["directory"])] if "directory" in wanted else []
    folders = [*named, *words, *([] if folder is None else (str(folder / w) for w in words))]
    # A folder that is called like a model of the package needs a separator to be a folder.
    here = [f if f not in pretrained_names() else f"{os.curdir}/{f}" for f in folders if Path(f).is_dir()]
    for candidate in (*here, *pretrained_names()):
        try:
            if read_record(candidate).weights_sha256 == wanted["sha256"]:
                return candidate
        except ModelFileError:
            continue
    return None


def rows_trained_on(showers: AnyShowers) -> tuple[NDArray[np.uint64] | None, list[str]]:
    """The rows on which the models were trained that made some showers, as far as the showers name them.

    Returns:
        Hashes of the rows, or None if no model was found; and what a reader must know of models that were not found.
    """
    parts = showers.provenance.get("parts", ())
    origins = [showers.provenance, *(parts if isinstance(parts, list) else ())]
    makers = [origin for origin in origins if isinstance(origin, Mapping) and "model" in origin]
    found = [find_model(maker) for maker in makers]
    hashes = [training_row_hashes(model) for model in found if model is not None]
    return np.concatenate(hashes) if hashes else None, [UNKNOWN_MODEL] if None in found else []


def differences(generated: Source, reference: Source, floor: Source | None = None) -> list[str]:
    """What a reader should know of differences between the files, one sentence each."""
    found = [f"{s.label}: {r}" for s in (generated, reference, floor) if s is not None for r in s.remarks]
    found += [
        f"{s.label} is incomplete; only its {s.total} finished showers count."
        for s in (generated, reference, floor)
        if s is not None and not s.complete
    ]
    if generated.provenance.get("extrapolated"):
        found.append(f"{generated.label} was generated at energies outside the range that its model was trained for.")
    if floor is not None:
        found += _productions(reference, floor)
    sizes = {s.label: len(s.showers) for s in (generated, reference, floor) if s is not None}
    if len(set(sizes.values())) > 1:
        text = ", ".join(f"{label} {size:,}" for label, size in sizes.items())
        found.append(f"The samples differ in size ({text}); classifiers use equal numbers.")
    return found


def _brief(value: Any) -> str:
    return str(value.get("kind", value)) if isinstance(value, Mapping) else str(value)


def _productions(reference: Source, floor: Source) -> list[str]:
    one, two = reference.provenance, floor.provenance
    unequal = [
        f"{title} ({_brief(one[key])} and {_brief(two[key])})"
        for key, title in _PRODUCTION.items()
        if key in one and key in two and one[key] != two[key]
    ]
    if not unequal:
        return []
    return [f"Reference and floor are of different productions, so the floor is no pure one: {', '.join(unequal)}."]
