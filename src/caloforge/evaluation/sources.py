"""Showers by name: files of any known format, samples of the package, and the models that made them."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge import datasets
from caloforge.detectors import Detector
from caloforge.errors import ModelFileError, UsageError
from caloforge.evaluation.checks import AnyShowers
from caloforge.evaluation.classifiers.retraining import class_rows
from caloforge.models import pretrained_names, read_record, training_row_hashes
from caloforge.names import is_builtin, printable
from caloforge.random import Streams
from caloforge.showers import Showers
from caloforge.showers.files import Reader, open_showers

__all__ = ["UNKNOWN_MODEL", "Source", "differences", "find_model", "open_source", "rows_trained_on"]

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
        path: the file.
        total: number of showers in the file.
        complete: whether its writer finished it.
        provenance: where the showers come from, as their maker wrote it; empty if the file does not say.
        remarks: what was noticed on opening.
    """

    label: str
    showers: AnyShowers
    detector: Detector
    path: Path
    total: int
    complete: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def _locate(text: str | Path) -> tuple[Path, str]:
    """The file behind a name on the command line, and what to call it."""
    path, word = Path(text), text
    text = str(text)
    name, _, split = text.partition(":")
    known = [n for name in datasets.names() for n in (name, *(f"{name}:{s}" for s in datasets.sample(name).splits))]
    if not is_builtin(word, known, "sample") and path.exists():
        return path, printable(path.name)
    if name in datasets.names():
        if not split:
            choices = " or ".join(f"'{name}:{s}'" for s in datasets.sample(name).splits)
            raise UsageError(f"the sample '{name}' has several splits, expected {choices}")
        return datasets.path(name, split=split), text
    if path.suffix or "/" in text:
        raise UsageError(f"there is no shower file '{text}'")
    raise UsageError(
        f"'{text}' is neither a shower file nor a sample of the package (those are {', '.join(datasets.names())})"
    )


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
        lacking = "does not say which detector it belongs to, so one must be named (--detector)"
    elif reader.particle == 0:
        lacking = "does not say which particle made its showers, so one must be named (--particle)"
    if lacking:
        reader.close()
        raise UsageError(f"{path}: {lacking}")
    return reader


def open_source(
    text: str | Path,
    *,
    detector: Detector | str | Path | None = None,
    particle: int | str | None = None,
    max_showers: int | None = None,
    streams: Streams,
) -> Source:
    """Read showers for an evaluation.

    Args:
        text: a file of any known format, or a sample of the package as ``NAME:SPLIT``.
        detector: for a file that does not say which detector it is from.
        particle: for a file that does not say which particle it holds.
        max_showers: at most so many, chosen at random (of points the first ones).
        streams: random numbers of that choice.

    Raises:
        UsageError: if there is no such file or sample, or it names no detector or particle and none is given.
        ShowerFileError: if the file is damaged, foreign or holds impossible values.
    """
    path, label = _locate(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        reader = _open(path, detector, particle)
    with reader:
        assert reader.detector is not None  # _open sees to it
        return Source(
            label=label,
            showers=_read(reader, max_showers, streams),
            detector=reader.detector,
            path=path,
            total=len(reader),
            complete=reader.complete,
            provenance=reader.provenance,
            remarks=tuple(dict.fromkeys(str(w.message) for w in caught)),
        )


def _read(reader: Reader, limit: int | None, streams: Streams) -> AnyShowers:
    if limit is None or limit >= len(reader):
        return reader.read()
    if reader.kind == "points":
        return reader.read(0, limit)
    # Rows are picked while reading, so that a file larger than memory can be sampled.
    chosen = class_rows(len(reader), limit, streams.generator(0))
    parts = []
    for start in range(0, len(reader), _BLOCK):
        inside = chosen[(chosen >= start) & (chosen < start + _BLOCK)] - start
        if len(inside):
            block = reader.read(start, start + _BLOCK)
            assert isinstance(block, Showers)  # the kind was looked at above
            parts.append(block[inside])
    return Showers.concatenate(parts)


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
