"""What stands in front of a calorimeter: plates of material that a particle crosses before it reaches the face."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from caloforge.detectors.description import Description, build
from caloforge.detectors.detector import Detector
from caloforge.detectors.stack import Material, Plate
from caloforge.errors import DetectorError
from caloforge.textfiles import read_text

__all__ = ["Upstream", "behind", "load_upstream"]

Length = Annotated[float, Field(ge=0)]


class Upstream(Description):
    """Plates in front of a calorimeter; see ``behind`` for where particles start.

    Attributes:
        title: one line for people.
        plates: from the front to the back, as wide as the calorimeter.
        gap: between the last plate and the face of the calorimeter, mm.
        gap_material: what fills it.
        materials: materials that are not in Geant4's own list.
    """

    title: str = ""
    plates: Annotated[tuple[Plate, ...], Field(min_length=1)]
    gap: Length = 0.0
    gap_material: str = "G4_Galactic"
    materials: dict[str, Material] = Field(default_factory=dict)

    @property
    def thickness(self) -> float:
        """Distance from the front of the first plate to the face of the calorimeter, mm."""
        return sum(plate.thickness for plate in self.plates) + self.gap


def load_upstream(path: str | Path) -> Upstream:
    """Read a description from a TOML file.

    Raises:
        DetectorError: if there is no such file, or it is not a description; the text names the key.
    """
    path = Path(path)
    try:
        data = tomllib.loads(read_text(path, DetectorError))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DetectorError(f"{path}: is not TOML: {error}") from None
    upstream = build(Upstream, data, where=str(path))
    for number, plate in enumerate(upstream.plates):
        if plate.active:
            raise DetectorError(f"{path}: plates[{number}].active: nothing is read out in front of the calorimeter")
    return upstream


def behind(detector: Detector, upstream: Upstream) -> Detector:
    """A calorimeter with material in front of it, as one stack whose local frame begins at the first plate.

    The readout lies as much deeper; no threshold is applied, since what a surrogate adds is not there yet. In front of cylinders
    plates are cylinders, too, and particles still start where the gun stands; else they start as far in front of the first plate.

    Args:
        detector: with a stack.
        upstream: the material.

    Raises:
        DetectorError: if the detector has no stack, there is no room inside its cylinders, or the two name different materials
            alike.
    """
    stack, gun = detector.stack, detector.gun
    if stack is None or gun is None:
        raise DetectorError(f"material can stand in front of a stack of plates only, and '{detector.name}' has none")
    for name in stack.materials.keys() & upstream.materials.keys():
        if stack.materials[name] != upstream.materials[name]:
            raise DetectorError(f"the material '{name}' is another one in front of '{detector.name}' than in it")
    depth = upstream.thickness
    front: list[dict[str, Any]] = [plate.model_dump() for plate in upstream.plates]
    if upstream.gap:
        front.append({"material": upstream.gap_material, "thickness": upstream.gap})
    description = detector.model_dump(exclude_none=True, mode="json", exclude={"readout", "readouts", "stack"})
    for key in ("symmetries", "approximate_symmetries"):
        description.pop(key)
    place: dict[str, Any] = {}
    if stack.inner_radius is not None:
        if depth >= stack.inner_radius:
            raise DetectorError(
                f"{depth:g} mm of material do not fit into the cylinders of '{detector.name}', whose inner radius is "
                f"{stack.inner_radius:g} mm"
            )
        place["inner_radius"] = stack.inner_radius - depth
        x, y, z = gun.position
        description["gun"] = description["gun"] | {"position": [x, y, z + depth]}
    if stack.world is not None:
        width, height, length = stack.world
        place["world"] = [width, height, length + 2 * depth]
    description |= {
        "name": detector.name,
        "title": f"{detector.title} behind {upstream.title or 'other material'}",
        "readout_threshold": 0.0,
        "stack": stack.model_dump(exclude_none=True, mode="json")
        | place
        | {
            "groups": [{"plates": front}, *(group.model_dump(mode="json") for group in stack.groups)],
            "materials": {
                name: material.model_dump(mode="json")
                for name, material in (stack.materials | upstream.materials).items()
            },
        },
        "readout": {"layers": [_deeper(layer, depth) for layer in detector.readout.to_description()["layers"]]},
    }
    return build(Detector, description, where=f"'{detector.name}' behind other material")


def _deeper(layers: dict[str, Any], depth: float) -> dict[str, Any]:
    moved = dict(layers)
    if "depth" in moved:
        moved["depth"] = [edge + depth for edge in moved["depth"]]
    if "depths" in moved:
        moved["depths"] = [[edge + depth for edge in pair] for pair in moved["depths"]]
    return moved
