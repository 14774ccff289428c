"""A detector's stack as calzone's geometry, and the way between Geant4's frame and the local one.

Geant4's frame: a planar stack stands in the middle of its world, its plates across z; cylinders lie around the z axis
and the gun's axis is x. calzone counts lengths in cm.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, Stack
from caloforge.errors import SimulationError
from caloforge.units import cm, mm

__all__ = ["Frame", "geometry_of", "material_name", "plate_layers", "volume_name"]

Floats = NDArray[np.float64]

_WORLD = "World"
_MARGIN = 100.0 * mm  # vacuum around a cylindrical stack
#: A plate may stick out of its readout layer by this much and still belong to it: edges are written with few digits.
_TOLERANCE = 1.0e-3 * mm


@dataclass(frozen=True)
class Frame:
    """Rotation and shift from the local frame (origin at the entry point, z inwards, mm) to Geant4's (cm).

    Attributes:
        axes: for each local axis the number of the Geant4 axis that it lies along.
        origin: the local origin in Geant4's frame, mm.
    """

    axes: tuple[int, int, int]
    origin: tuple[float, float, float]

    @classmethod
    def of(cls, stack: Stack) -> Frame:
        """The frame of a stack."""
        if stack.kind == "planar":
            return cls((0, 1, 2), (0.0, 0.0, -stack.thickness / 2))
        assert stack.inner_radius is not None  # the description guarantees it
        # Shower along +x: local (x, y, z) lie along Geant4's (y, z, x).
        return cls((1, 2, 0), (stack.inner_radius, 0.0, 0.0))

    def rotate(self, local: Floats) -> Floats:
        """Directions from the local frame to Geant4's, shape (N, 3)."""
        turned = np.empty_like(local)
        turned[:, self.axes] = local
        return turned

    def to_geant4(self, local: Floats) -> Floats:
        """Points (N, 3) from the local frame in mm to Geant4's in cm."""
        shifted: Floats = (self.rotate(local) + np.asarray(self.origin)) / cm
        return shifted

    def to_local(self, values: Floats, local_axis: int) -> Floats:
        """Coordinates of points in Geant4's frame (cm) along a local axis (0, 1, 2 = x, y, z), in mm, shape (M,)."""
        return values * cm - self.origin[self.axes[local_axis]]


def material_name(stack: Stack, name: str) -> str:
    """Name of a material in calzone: Geant4's own, or one that stands for the definition.

    calzone wants alphanumeric names that begin with a capital, and keeps definitions for the life of the process.
    """
    if name not in stack.materials:
        return name
    material = stack.materials[name]
    definition = f"{material.density!r} {sorted(material.composition.items())!r}"
    return "M" + hashlib.sha256(definition.encode()).hexdigest()[:16]


def volume_name(index: int) -> str:
    """Path in calzone of the plate with this number."""
    return f"{_WORLD}.P{index}"


def geometry_of(stack: Stack) -> dict[str, Any]:
    """The stack as calzone's geometry definition; plates whose deposits are scored record them."""
    if stack.kind == "planar":
        assert stack.world is not None  # the description guarantees it
        size = [width / cm for width in stack.world]
    else:
        assert stack.inner_radius is not None
        across = 2 * (stack.inner_radius + stack.thickness + _MARGIN) / cm
        size = [across, across, (stack.lateral[0] + 2 * _MARGIN) / cm]
    world: dict[str, Any] = {"box": size, "material": "G4_Galactic"}
    for plate in stack.plates:
        volume: dict[str, Any] = {"material": material_name(stack, plate.material)}
        if stack.kind == "planar":
            middle = plate.start + plate.thickness / 2 - stack.thickness / 2
            volume["box"] = [stack.lateral[0] / cm, stack.lateral[1] / cm, plate.thickness / cm]
            volume["position"] = [0.0, 0.0, middle / cm]
        else:
            assert stack.inner_radius is not None
            volume["cylinder"] = {
                "length": stack.lateral[0] / cm,
                "radius": (stack.inner_radius + plate.end) / cm,
                "thickness": plate.thickness / cm,
            }
        if plate.active or stack.deposits == "all":
            volume["role"] = "record_deposits"
        world[f"P{plate.index}"] = volume
    geometry: dict[str, Any] = {_WORLD: world}
    if stack.materials:
        geometry["materials"] = {
            "mixtures": {
                material_name(stack, name): {"density": material.density, "composition": dict(material.composition)}
                for name, material in stack.materials.items()
            }
        }
    return geometry


def plate_layers(detector: Detector) -> NDArray[np.int64] | None:
    """Readout layer of each plate, shape (plates,), where a deposit's layer is that of its plate.

    That is so if only active planar plates are scored and each lies inside one readout layer. None means that the
    layer of a deposit has to be found from its depth.

    Raises:
        SimulationError: if an active plate of such a detector lies in no readout layer or in two.
    """
    stack = detector.stack
    if stack is None or stack.kind != "planar" or stack.deposits != "active":
        return None
    layers = np.full(len(stack.plates), -1, dtype=np.int64)
    for plate in stack.plates:
        if not plate.active:
            continue
        start, end = detector.readout.depths.T
        inside = (start <= plate.start + _TOLERANCE) & (plate.end <= end + _TOLERANCE)
        if not inside.any():
            raise SimulationError(
                f"{detector.name}: the active plate from {plate.start:g} to {plate.end:g} mm lies in no readout layer; "
                "expected one layer around every active plate"
            )
        layers[plate.index] = int(np.flatnonzero(inside)[0])
    return layers
