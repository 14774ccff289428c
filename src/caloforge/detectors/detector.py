"""A calorimeter described once: material, readout, gun, thresholds, symmetries.

Descriptions are TOML; the package's own are in ``catalogue/``, a user's own work the same way (docs/detectors.md lists
the keys). Lengths are mm, energies MeV (the gun's spectrum is written in GeV, as on the command line).

The local frame has its origin where the gun's axis enters the front face, and z points into the calorimeter.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import tomli_w
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from caloforge.detectors.binning_xml import read_binning_xml
from caloforge.detectors.description import Description, build
from caloforge.detectors.gun import Gun
from caloforge.detectors.readout import Readout
from caloforge.detectors.stack import Stack
from caloforge.detectors.symmetries import SymmetryName, symmetry_group, symmetry_permutation
from caloforge.errors import DetectorError
from caloforge.textfiles import read_text

__all__ = ["Detector", "catalogue", "detector_from_toml", "load_detector"]

_CATALOGUE = resources.files("caloforge.detectors") / "catalogue"


class Detector(Description):
    """One calorimeter.

    Attributes:
        name: short name, as on the command line.
        title: one line for people.
        reference: publication that the description follows.
        readout: layers and voxels.
        readouts: other segmentations of the same calorimeter, chosen as ``name/key``.
        stack: material for Geant4; None for a readout-only detector.
        gun: particles, energies, position and directions.
        sampling_fraction: share of the energy that active plates see; deposits are divided by it. None if they are not.
        readout_threshold: MeV per voxel, before division by the sampling fraction; applied by the simulation.
        analysis_threshold: MeV per voxel, in the units of the files; applied after sampling and by every evaluation.
        symmetries: voxel permutations under which showers are exactly as likely.
        approximate_symmetries: likewise, but only nearly so (flat rotations of a curved detector, say).
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
    title: str = ""
    reference: str = ""
    readout_threshold: Annotated[float, Field(ge=0)] = 0.0
    analysis_threshold: Annotated[float, Field(ge=0)] = 0.0
    sampling_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    symmetries: tuple[SymmetryName, ...] = ()
    approximate_symmetries: tuple[SymmetryName, ...] = ()
    gun: Gun | None = None
    stack: Stack | None = None
    readout: Readout
    readouts: dict[str, Readout] = Field(default_factory=dict)

    @field_validator("readouts")
    @classmethod
    def _plain_names(cls, value: dict[str, Readout]) -> dict[str, Readout]:
        for name in value:
            if "/" in name:
                raise ValueError(f"the readout '{name}' has a slash in its name")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            for name in (*self.symmetries, *self.approximate_symmetries):
                symmetry_permutation(self.readout, name)
        except DetectorError as error:
            raise ValueError(str(error)) from None
        if self.sampling_fraction is not None and self.stack is not None and self.stack.deposits == "all":
            raise ValueError("'sampling_fraction' makes no sense where every deposit is scored")
        if self.stack is not None and not len(self.readout.depths):
            raise ValueError("a detector with a stack needs the 'depth' of every readout layer")
        if self.stack is not None and self.gun is None:
            raise ValueError("a detector with a stack needs a 'gun'")
        return self

    def with_readout(self, key: str) -> Detector:
        """The same calorimeter with one of its other segmentations.

        Raises:
            DetectorError: if it has no readout of that name.
        """
        if key not in self.readouts:
            known = ", ".join(self.readouts) or "none"
            raise DetectorError(f"the detector '{self.name}' has no readout '{key}', its others are: {known}")
        chosen = self.readouts[key]
        symmetries = self.symmetries if chosen.has_voxels else ()
        description = self._description() | {"name": f"{self.name}/{key}", "readout": chosen.to_description()}
        description |= {"symmetries": symmetries} if symmetries else {}
        if not symmetries:
            description.pop("symmetries", None)
        description.pop("readouts", None)
        return build(Detector, description, where=f"readout '{key}' of '{self.name}'")

    def _description(self) -> dict[str, Any]:
        plain: dict[str, Any] = self.model_dump(exclude_none=True, exclude_defaults=True, mode="json")
        plain["readout"] = self.readout.to_description()
        if self.readouts:
            plain["readouts"] = {name: readout.to_description() for name, readout in self.readouts.items()}
        return plain

    def to_toml(self) -> str:
        """The description as TOML text; ``detector_from_toml`` reads it back."""
        return tomli_w.dumps(self._description())

    @cached_property
    def hash(self) -> str:
        """Fingerprint of everything that can change a shower: all but title, reference and the other readouts."""
        essential = self._description()
        for key in ("title", "reference", "readouts"):
            essential.pop(key, None)
        return hashlib.sha256(json.dumps(essential, sort_keys=True).encode()).hexdigest()[:16]

    def symmetry_group(self, *, approximate: bool = False) -> NDArray[np.int64]:
        """All voxel permutations that the symmetries generate, the identity first, shape (G, V)."""
        names = self.symmetries + (self.approximate_symmetries if approximate else ())
        return symmetry_group(self.readout, names)


def catalogue() -> list[str]:
    """Names of the built-in detectors, each followed by those of its other readouts."""
    names = []
    for entry in sorted(
        path.name.removesuffix(".toml") for path in _CATALOGUE.iterdir() if path.name.endswith(".toml")
    ):
        names.append(entry)
        names.extend(f"{entry}/{key}" for key in load_detector(entry).readouts)
    return names


def detector_from_toml(text: str, *, where: str) -> Detector:
    """Build a detector from TOML text.

    Args:
        text: the description.
        where: what to call it in an error, for example the file name.

    Raises:
        DetectorError: naming the key that is wrong and what was expected.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DetectorError(f"{where}: is not TOML ({error})") from None
    return build(Detector, data, where=where)


def load_detector(name: str | Path) -> Detector:
    """Load a detector by catalogue name, or from a TOML file, or from a CaloChallenge binning XML file.

    Args:
        name: ``calogan``, ``ild-ecal``, ``ild-ecal/10x10`` (another readout), ``my_detector.toml``, ``binning.xml``.

    Raises:
        DetectorError: if there is no such detector, or its description is wrong.
    """
    text = str(name)
    path = Path(name)
    if path.suffix in (".toml", ".xml"):
        if path.suffix == ".xml":
            return build(Detector, read_binning_xml(path), where=str(path))
        return detector_from_toml(read_text(path, DetectorError), where=str(path))
    base, _, key = text.partition("/")
    entry = _CATALOGUE / f"{base}.toml"
    if not base.replace("-", "").replace("_", "").isalnum() or not entry.is_file():
        raise DetectorError(
            f"the detector '{text}' is not known; built in are {', '.join(catalogue())}, and a .toml or .xml file works too"
        )
    detector = detector_from_toml(entry.read_text(encoding="utf-8"), where=base)
    return detector.with_readout(key) if key else detector
