"""A calorimeter described once: material, field, readout, gun, thresholds, symmetries.

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

from caloforge import html
from caloforge.detectors.binning_xml import read_binning_xml
from caloforge.detectors.description import Description, build
from caloforge.detectors.gun import Gun
from caloforge.detectors.readout import Readout
from caloforge.detectors.stack import Stack
from caloforge.detectors.symmetries import SymmetryName, breaks_symmetry, symmetry_group, symmetry_permutation
from caloforge.errors import DetectorError, UsageError
from caloforge.textfiles import read_text

__all__ = ["Detector", "catalogue", "detector_from_toml", "load_detector"]

#: Tesla; more than any detector's magnet gives, and less than a field in gauss or millitesla by mistake.
_STRONGEST_FIELD = 20.0

_CATALOGUE = resources.files("caloforge.detectors") / "catalogue"


def _has_symmetry(readout: Readout, name: SymmetryName) -> bool:
    """Whether a symmetry of the calorimeter is one of these voxels: cells may lie beside the axis, and points have none."""
    try:
        symmetry_permutation(readout, name)
    except DetectorError:
        return False
    return readout.has_voxels


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
        field: uniform magnetic field, everywhere in Geant4's world, tesla, x, y, z of the local frame; None without one.
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
    field: tuple[float, float, float] | None = None
    stack: Stack | None = None
    readout: Readout
    readouts: dict[str, Readout] = Field(default_factory=dict)

    def _repr_html_(self) -> str:
        return html.page(self)

    @field_validator("readouts")
    @classmethod
    def _plain_names(cls, value: dict[str, Readout]) -> dict[str, Readout]:
        for name in value:
            if "/" in name:
                raise ValueError(f"the readout '{name}' has a slash in its name")
        return value

    @field_validator("field")
    @classmethod
    def _in_tesla(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and not 0 < np.linalg.norm(value) <= _STRONGEST_FIELD:
            raise ValueError(
                f"expected a magnetic field in tesla, x, y, z of the local frame, not zero and at most "
                f"{_STRONGEST_FIELD:g} T; leave it out where there is none"
            )
        return None if value is None else (value[0] + 0.0, value[1] + 0.0, value[2] + 0.0)  # no minus zeros

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            for name in (*self.symmetries, *self.approximate_symmetries):
                symmetry_permutation(self.readout, name)
        except DetectorError as error:
            raise ValueError(str(error)) from None
        for name in self.symmetries:
            if self.field is not None and breaks_symmetry(self.field, name):
                raise ValueError(f"the magnetic field breaks the symmetry '{name}'")
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
        symmetries = tuple(name for name in self.symmetries if _has_symmetry(chosen, name))
        description = self._description() | {"name": f"{self.name}/{key}", "readout": chosen.to_description()}
        description |= {"symmetries": symmetries} if symmetries else {}
        if not symmetries:
            description.pop("symmetries", None)
        description.pop("readouts", None)
        return build(Detector, description, where=f"readout '{key}' of '{self.name}'")

    def with_field(self, strength: float) -> Detector:
        """The same calorimeter with another strength of its magnetic field.

        Args:
            strength: tesla along the direction that the description gives; 0 for no field, below 0 against it.

        Raises:
            UsageError: if the description names no field that would give the direction, or the strength makes no sense.
        """
        if self.field is None:
            raise UsageError(
                f"the detector '{self.name}' names no direction of a magnetic field; "
                "write 'field = [Bx, By, Bz]' (tesla, local frame) into a description of your own"
            )
        if not abs(strength) <= _STRONGEST_FIELD:
            raise UsageError(f"the magnetic field is {strength:g} T, expected at most {_STRONGEST_FIELD:g} T")
        description = self._description()
        if strength == 0.0:
            del description["field"]
        elif strength != self.field_strength:
            description["field"] = [strength * (b / self.field_strength) for b in self.field]
        return build(Detector, description, where=f"'{self.name}' with a field of {strength:g} T")

    @property
    def field_strength(self) -> float:
        """Strength of the magnetic field, tesla."""
        return 0.0 if self.field is None else float(np.linalg.norm(self.field))

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

    @property
    def broken_symmetries(self) -> tuple[SymmetryName, ...]:
        """Approximate symmetries that the magnetic field breaks; the exact ones cannot be among them."""
        if self.field is None:
            return ()
        return tuple(name for name in self.approximate_symmetries if breaks_symmetry(self.field, name))

    def symmetry_group(self, *, approximate: bool = False) -> NDArray[np.int64]:
        """All voxel permutations that the symmetries generate, the identity first, shape (G, V).

        Args:
            approximate: with the approximate symmetries, but for those that the magnetic field breaks.
        """
        nearly = tuple(name for name in self.approximate_symmetries if name not in self.broken_symmetries)
        return symmetry_group(self.readout, self.symmetries + (nearly if approximate else ()))

    def rotations(self) -> NDArray[np.int64]:
        """Voxel permutations of the rotations alone, exact or approximate, the identity first, shape (G, V)."""
        names = [name for name in self.symmetries + self.approximate_symmetries if name not in self.broken_symmetries]
        return symmetry_group(self.readout, [name for name in names if name == "rotate-alpha"])


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
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DetectorError(f"{where}: is not TOML ({error})") from None
    return build(Detector, data, where=where)


def load_detector(name: str | Path, *, bin_: str | None = None) -> Detector:
    """Load a detector by catalogue name, or from a TOML file, or from a CaloChallenge binning XML file.

    Args:
        name: ``calogan``, ``ild-ecal``, ``ild-ecal/10x10`` (another readout), ``my_detector.toml``, ``binning.xml``.
        bin_: which bin of a binning file with several, see ``read_binning_xml``.

    Raises:
        DetectorError: if there is no such detector, or its description is wrong.
    """
    text = str(name)
    path = Path(name)
    if bin_ is not None and path.suffix != ".xml":
        raise DetectorError(f"a bin of '{text}' was chosen, but only binning files (.xml) have bins")
    if path.suffix in (".toml", ".xml"):
        if path.suffix == ".xml":
            return build(Detector, read_binning_xml(path, bin_), where=str(path))
        return detector_from_toml(read_text(path, DetectorError), where=str(path))
    base, _, key = text.partition("/")
    entry = _CATALOGUE / f"{base}.toml"
    if not base.replace("-", "").replace("_", "").isalnum() or not entry.is_file():
        raise DetectorError(
            f"the detector '{text}' is not known; built in are {', '.join(catalogue())}, and a .toml or .xml file works too"
        )
    detector = detector_from_toml(entry.read_text(encoding="utf-8"), where=base)
    return detector.with_readout(key) if key else detector
