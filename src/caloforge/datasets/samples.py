"""Real showers that come with the package, in disjoint splits.

Training uses ``train``; ``test`` is the reference of an evaluation, and ``floor`` a second, independent reference that
says what score a perfect model would get at this sample size. Neither of the two may ever be trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from caloforge.detectors import Detector
from caloforge.errors import UsageError
from caloforge.names import is_builtin, printable
from caloforge.showers import Reader, ShowerPoints, Showers
from caloforge.showers.convert import describe as describe_file
from caloforge.showers.files import open_showers
from caloforge.showers.joining import open_several

__all__ = [
    "Sample",
    "describe",
    "file_of",
    "load",
    "locate",
    "names",
    "open_named",
    "path",
    "refuse_references",
    "sample",
]


@dataclass(frozen=True)
class Sample:
    """A named sample.

    Attributes:
        name: as on the command line.
        title: one line for people.
        splits: names of its splits.
        trainable: the splits that may be trained on; all others are references.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    trainable: tuple[str, ...]


_SAMPLES = {
    s.name: s
    for s in (
        Sample(
            "calogan-gamma-sample",
            "Geant4 photons, 1-100 GeV uniform, in the CaloGAN calorimeter",
            ("train", "test", "floor"),
            ("train",),
        ),
        Sample(
            "ild-gamma-clouds",
            "Geant4 photons, 10-30 GeV uniform, any direction, points of 25 sub-cells per cell in ild-ecal",
            ("train", "test", "floor"),
            ("train",),
        ),
    )
}


def names() -> list[str]:
    """Names of all samples."""
    return list(_SAMPLES)


def sample(name: str) -> Sample:
    """One sample's facts.

    Raises:
        UsageError: if there is no sample of this name.
    """
    if name not in _SAMPLES:
        raise UsageError(f"the sample '{name}' is not known, expected one of {', '.join(_SAMPLES)}")
    return _SAMPLES[name]


def path(name: str, *, split: str = "train") -> Path:
    """The native file of one split.

    Raises:
        UsageError: if there is no such sample or split.
    """
    known = sample(name)
    if split not in known.splits:
        raise UsageError(f"the sample '{name}' has no split '{split}', expected one of {', '.join(known.splits)}")
    # Packages with data are installed as directories, so the resource is a real file.
    return Path(str(resources.files("caloforge.datasets") / "data" / f"{name}-{split}.h5"))


def locate(text: str | Path) -> tuple[Path, str]:
    """The file behind a name on the command line: a path, or a sample as ``NAME:SPLIT``; and what to call it.

    Raises:
        UsageError: if there is no such file or sample.
    """
    file, word = Path(text), text
    text = str(text)
    name, _, split = text.partition(":")
    known = [n for name in names() for n in (name, *(f"{name}:{s}" for s in sample(name).splits))]
    if not is_builtin(word, known, "sample") and file.exists():
        return file, printable(file.name)
    if name in names():
        if not split:
            choices = " or ".join(f"'{name}:{s}'" for s in sample(name).splits)
            raise UsageError(f"the sample '{name}' has several splits, expected {choices}")
        return path(name, split=split), text
    if file.suffix or "/" in text:
        raise UsageError(f"there is no shower file '{text}'")
    raise UsageError(f"'{text}' is neither a shower file nor a sample of the package (those are {', '.join(names())})")


def open_named(
    what: str | Path | Sequence[str | Path],
    detector: Detector | str | Path | None = None,
    *,
    particle: int | str | None = None,
    mixed: bool = False,
) -> Reader:
    """Open showers as people name them: a file, a sample as ``NAME:SPLIT``, or several of these as one.

    Args:
        what: the name or names.
        detector: for files that do not say which detector they are from.
        particle: for files that do not say which particle they hold.
        mixed: whether several may be of different particles; see :class:`caloforge.showers.joining.JoinedReader`.

    Raises:
        UsageError: if there is no such file or sample.
        ShowerFileError: if a file is damaged or foreign, or several do not belong together.
    """
    several = [what] if isinstance(what, str | Path) else list(what)
    return open_several([file_of(name) for name in several], detector, particle=particle, mixed=mixed)


def file_of(name: str | Path) -> Path:
    """The file of a sample as ``NAME:SPLIT``; any other name is that of a file, which need not be there.

    Raises:
        UsageError: if it is a sample without a split, or one that it does not have.
    """
    return locate(name)[0] if isinstance(name, str) and name.partition(":")[0] in names() else Path(name)


def from_anywhere(name: str | Path) -> str:
    """The name of a file or sample that means the same in other folders: absolute, if it is a file."""
    return str(Path(name).absolute()) if Path(name).exists() else str(name)


def refuse_references(what: Sequence[str | Path]) -> None:
    """Refuse to train on what an evaluation judges by.

    Raises:
        UsageError: if one of the names is a split of a sample that may not be trained on.
    """
    for text in what:
        name, _, split = str(text).partition(":")
        if isinstance(text, str) and name in names() and split and split not in sample(name).trainable:
            good = " or ".join(f"'{name}:{one}'" for one in sample(name).trainable)
            raise UsageError(f"'{text}' is a reference of evaluations and never trained on, expected {good}")


def load(name: str, *, split: str = "train") -> Showers | ShowerPoints:
    """The showers of one split, in memory.

    Example:
        >>> showers = load("calogan-gamma-sample", split="test")
        >>> showers.deposits.shape
        (3000, 504)

    Raises:
        UsageError: if there is no such sample or split.
    """
    with open_showers(path(name, split=split)) as reader:
        return reader.read()


def describe() -> list[dict[str, Any]]:
    """All splits of all samples: ``name``, ``title``, ``split``, ``trainable`` and what ``caloforge info`` says of a file."""
    return [
        {"name": s.name, "title": s.title, "split": split, "trainable": split in s.trainable}
        | describe_file(path(s.name, split=split))
        for s in _SAMPLES.values()
        for split in s.splits
    ]
