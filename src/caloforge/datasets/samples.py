"""Real showers that come with the package, in disjoint splits.

Training uses ``train``; ``test`` is the reference of an evaluation, and ``floor`` a second, independent reference that
says what score a perfect model would get at this sample size. Neither of the two may ever be trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from caloforge.errors import UsageError
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.convert import describe as describe_file
from caloforge.showers.files import open_showers

__all__ = ["Sample", "describe", "load", "names", "path", "sample"]


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
            "Geant4 photons, 10-30 GeV uniform, points of 25 sub-cells per cell in ild-ecal",
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
